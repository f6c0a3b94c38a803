"""A few frames of a video, an animation, a folder of pictures or a list of them.

Frames are found by presentation time, seeking from key frame to key frame, or by counting where a file does not tell
times. A damaged file is an error, never a shorter video.
"""

import re
import time
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image, UnidentifiedImageError

from mplug_owl.errors import DataError
from mplug_owl.media.images import decoding, load_image, open_image
from mplug_owl.media.limits import USUAL, Limits, check_frames, check_pixels
from mplug_owl.media.source import is_folder, named, opened

# Containers that hold their own data; others (playlists) would open further addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,h264,hevc,m4v"
_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


def frame_indices(total: int, count: int) -> list[int]:
    """Which `count` of `total` frames a video is seen by; short videos repeat frames."""
    if total < 1 or count < 1:
        raise DataError(f"{count} frames of a video of {total}; expected at least one of each")
    step = (total - 1) / count
    return [int(step / 2) + round(step * index) for index in range(count)]


def load_video(source: Any, num_frames: int, limits: Limits = USUAL) -> list[Image.Image]:
    """`num_frames` RGB frames of a video, an animation, a folder of pictures or a list of them.

    Raises: DataError where the source cannot be had, is no video, is damaged or too large.
    """
    if is_folder(source, limits):
        source = _pictures(Path(source))
    if isinstance(source, list | tuple):
        check_frames(len(source), limits, "list of frames")
        # As many pictures as are asked for are all shown; the published rule would repeat one and lose one.
        whole = len(source) == num_frames
        chosen = source if whole else [source[index] for index in frame_indices(len(source), num_frames)]
        return [load_image(frame, limits).convert("RGB") for frame in chosen]
    name = named(source)
    with opened(source, limits) as stream, decoding(name):
        try:
            animation = open_image(stream, limits, name)
        except UnidentifiedImageError:
            stream.seek(0)
            return _video_frames(stream, num_frames, limits, name)
        total = getattr(animation, "n_frames", 1)
        check_frames(total, limits, name)
        frames = []
        for index in frame_indices(total, num_frames):
            animation.seek(index)
            frames.append(animation.convert("RGB"))
        return frames


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in the order people number them: 2 before 10."""

    def numbered(path: Path) -> list[tuple[int, str]]:
        return [(int(d or -1), t) for d, t in re.findall(r"(\d*)(\D*)", path.name)]

    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in _PICTURES), key=numbered)
    if not paths:
        raise DataError(f"{folder} holds no pictures; expected frames as {', '.join(_PICTURES)}")
    return paths


def _video_frames(stream: IO[bytes], count: int, limits: Limits, name: str) -> list[Image.Image]:
    """Sample by presentation time, seeking; where that fails, by counting every frame."""
    deadline = time.monotonic() + limits.timeout
    sampled = _sampled_by_time(stream, count, limits, name, deadline)
    if sampled is not None:
        return sampled
    total = sum(1 for _ in _every_frame(stream, limits, name, deadline))
    if not total:
        raise DataError(f"{name} holds no frames; expected a video")
    wanted = frame_indices(total, count)
    numbered = enumerate(_every_frame(stream, limits, name, deadline))
    kept = {index: frame.to_image() for index, frame in numbered if index in wanted}
    return [kept[index] for index in wanted]


def _container(stream: IO[bytes], limits: Limits, name: str) -> tuple[Any, Any]:
    """The container and its first video track."""
    import av

    stream.seek(0)
    container = av.open(stream, options={"format_whitelist": _CONTAINERS})
    if not container.streams.video:
        container.close()
        raise DataError(f"{name} holds no video track; expected a video")
    track = container.streams.video[0]
    check_pixels((track.codec_context.width, track.codec_context.height), limits, name)
    return container, track


def _sampled_by_time(
    stream: IO[bytes], count: int, limits: Limits, name: str, deadline: float
) -> list[Image.Image] | None:
    """Frames found by their presentation times, which the packets tell without decoding.

    None where times are missing or ambiguous, or a seek does not lead to a sound frame.
    """
    container, track = _container(stream, limits, name)
    with container:
        packets = [
            (packet.pts, packet.is_keyframe)
            for packet in _before(deadline, container.demux(track), name)
            if packet.size and not packet.is_discard
        ]
        times = sorted(pts for pts, _ in packets if pts is not None)
        check_frames(len(packets), limits, name)
        if not times or len(set(times)) != len(packets):
            return None
        keys = sorted(pts for pts, is_key in packets if is_key)
        wanted = [times[index] for index in frame_indices(len(times), count)]
        found: dict[int, Image.Image] = {}
        decoded: Iterator[Any] = iter(())
        position = None
        for target in sorted(set(wanted)):
            before = bisect_right(keys, target)
            if not before:
                return None
            if position is None or keys[before - 1] > position:
                container.seek(keys[before - 1], stream=track)
                decoded = _before(deadline, container.decode(track), name)
            frame = next((frame for frame in decoded if (frame.pts or 0) >= target), None)
            if frame is None or frame.pts != target or frame.is_corrupt:
                return None
            position = target
            found[target] = frame.to_image()
        return [found[target] for target in wanted]


def _every_frame(stream: IO[bytes], limits: Limits, name: str, deadline: float) -> Iterator[Any]:
    container, track = _container(stream, limits, name)
    with container:
        for index, frame in enumerate(_before(deadline, container.decode(track), name)):
            check_frames(index + 1, limits, name)
            yield frame


def _before(deadline: float, items: Iterator[Any], name: str) -> Iterator[Any]:
    for item in items:
        if time.monotonic() > deadline:
            raise DataError(f"{name} takes longer to decode than allowed (Limits.timeout)")
        yield item
