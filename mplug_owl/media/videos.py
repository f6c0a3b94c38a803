"""A few frames of a video, an animation, a folder of pictures or a list of them.

Frames are found by presentation time, seeking from key frame to key frame, or by counting where a file does not tell
times. A damaged file is an error, never a shorter video.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mplug_owl.errors import DataError
from mplug_owl.media.images import decoding, load_image, open_image
from mplug_owl.media.limits import USUAL, Clocked, Limits, Tally, check_frames
from mplug_owl.media.source import is_folder, named, opened

# Containers that hold their own data; others (playlists) would open further addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,h264,hevc,m4v"
# What cameras, editors and sites write. A decoder nobody uses is one whose faults nobody has found.
_CODECS = (
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv", "theora"),
    *("msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "wmv3", "vc1", "vp6f", "mjpeg", "png", "rawvideo", "ffv1", "huffyuv"),
    *("dvvideo", "prores", "dnxhd"),
)
_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


def frame_indices(total: int, count: int) -> list[int]:
    """Which `count` of `total` frames a video is seen by; short videos repeat frames."""
    if total < 1 or count < 1:
        raise DataError(f"{count} frames of a video of {total}; expected at least one of each")
    step = (total - 1) / count
    return [int(step / 2) + round(step * index) for index in range(count)]


def load_video(source: Any, num_frames: int, limits: Limits = USUAL, tally: Tally | None = None) -> list[Image.Image]:
    """`num_frames` RGB frames of a video, an animation, a folder of pictures or a list of them.

    They count on the tally, if there is one.

    Raises: DataError where the source cannot be had, is no video, is damaged or too large.
    """
    name, tally = named(source), tally or Tally(limits)
    if num_frames > limits.max_frames:
        raise DataError(f"{num_frames} frames of a video; at most {limits.max_frames} are read (Limits.max_frames)")
    if is_folder(source, limits):
        source = _pictures(Path(source))
    if isinstance(source, list | tuple):
        return _listed_frames(source, num_frames, limits, tally)
    with opened(source, limits) as found, decoding(name):
        stream = Clocked(found, limits, name)
        try:
            animation = open_image(stream, limits, name)
        except UnidentifiedImageError:
            return _video_frames(stream, num_frames, tally)
        return _animation_frames(animation, num_frames, stream, tally)


def _listed_frames(source: Sequence[Any], count: int, limits: Limits, tally: Tally) -> list[Image.Image]:
    check_frames(len(source), limits, "list of frames")
    # As many pictures as are asked for are all shown; the published rule would repeat one and lose one.
    whole = len(source) == count
    chosen = source if whole else [source[index] for index in frame_indices(len(source), count)]
    pictures = [load_image(frame, limits, tally) for frame in chosen]
    return [picture if picture.mode == "RGB" else picture.convert("RGB") for picture in pictures]


def _animation_frames(animation: Image.Image, count: int, stream: Clocked, tally: Tally) -> list[Image.Image]:
    """Frames of an animation, each of which is drawn upon the one before."""
    total = getattr(animation, "n_frames", 1)
    check_frames(total, tally.limits, stream.called)
    tally.check(animation.size, stream.called, count)
    wanted = frame_indices(total, count)
    kept: dict[int, Image.Image] = {}
    for index in range(wanted[-1] + 1):
        stream.check()
        animation.seek(index)
        tally.check(animation.size, stream.called)  # a frame may be larger than the header says
        if index in wanted:
            tally.add(animation.size, stream.called)
            kept[index] = animation.convert("RGB")
    return [kept[index] for index in wanted]


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in the order people number them: 2 before 10."""

    def numbered(path: Path) -> list[tuple[int, str]]:
        return [(int(d or -1), t) for d, t in re.findall(r"(\d*)(\D*)", path.name)]

    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in _PICTURES), key=numbered)
    if not paths:
        raise DataError(f"{folder} holds no pictures; expected frames as {', '.join(_PICTURES)}")
    return paths


def _video_frames(stream: Clocked, count: int, tally: Tally) -> list[Image.Image]:
    """Sample by presentation time, seeking; where that fails, by counting every frame."""
    counted = tally.pixels
    sampled = _sampled_by_time(stream, count, tally)
    if sampled is not None:
        return sampled
    tally.pixels = counted
    total = sum(1 for _ in _every_frame(stream, count, tally))
    if not total:
        raise DataError(f"{stream.called} holds no frames; expected a video")
    wanted = frame_indices(total, count)
    numbered = enumerate(_every_frame(stream, count, tally))
    kept = {index: _picture(frame, tally, stream) for index, frame in numbered if index in wanted}
    return [kept[index] for index in wanted]


def _picture(frame: Any, tally: Tally, stream: Clocked) -> Image.Image:
    tally.add((frame.width, frame.height), stream.called)  # which may change on the way
    picture: Image.Image = frame.to_image()
    return picture


def _container(stream: Clocked, count: int, tally: Tally) -> tuple[Any, Any]:
    """The container and its first video track, of which `count` frames will be taken."""
    import av

    stream.seek(0)
    name, limits = stream.called, tally.limits
    most = {"max_pixels": str(limits.max_pixels)}  # for the decoder, before it takes memory for a frame
    container = av.open(stream, options={"format_whitelist": _CONTAINERS, "codec_whitelist": ",".join(_CODECS), **most})
    if not container.streams.video:
        container.close()
        raise DataError(f"{name} holds no video track; expected a video")
    track = container.streams.video[0]
    codec = track.codec_context
    if codec is None or codec.name not in _CODECS:
        container.close()
        found = "unknown" if codec is None else codec.name
        raise DataError(f"{name} is a video in the codec {found}, which is not read; expected h264, vp9 or the like")
    codec.options = most
    tally.check((codec.width, codec.height), name, count)
    return container, track


def _sampled_by_time(stream: Clocked, count: int, tally: Tally) -> list[Image.Image] | None:
    """Frames found by their presentation times, which the packets tell without decoding.

    None where times are missing or ambiguous, or a seek does not lead to a sound frame.
    """
    container, track = _container(stream, count, tally)
    with container:
        packets = [
            (packet.pts, packet.is_keyframe)
            for packet in _in_time(stream, container.demux(track))
            if packet.size and not packet.is_discard
        ]
        times = sorted(pts for pts, _ in packets if pts is not None)
        check_frames(len(packets), tally.limits, stream.called)
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
                decoded = _in_time(stream, container.decode(track))
            frame = next((frame for frame in decoded if (frame.pts or 0) >= target), None)
            if frame is None or frame.pts != target or frame.is_corrupt:
                return None
            position = target
            found[target] = _picture(frame, tally, stream)
        return [found[target] for target in wanted]


def _every_frame(stream: Clocked, count: int, tally: Tally) -> Iterator[Any]:
    container, track = _container(stream, count, tally)
    with container:
        for index, frame in enumerate(_in_time(stream, container.decode(track))):
            check_frames(index + 1, tally.limits, stream.called)
            yield frame


def _in_time(stream: Clocked, items: Iterator[Any]) -> Iterator[Any]:
    """What has been read may still take long to decode."""
    for item in items:
        stream.check()
        yield item
