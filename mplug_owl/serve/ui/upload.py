"""A file that somebody gave to a page: looked into once, known by its hash, read again when an owl is asked about it.

Where such files lie and how long is Gradio's business.
"""

import hashlib
import mimetypes
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import UnidentifiedImageError

from mplug_owl.engine.talk import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mplug_owl.errors import DataError, RequestError
from mplug_owl.media import Limits, load_video
from mplug_owl.media.images import decoding, open_image
from mplug_owl.messages import ImagePart, VideoPart

SUFFIXES = sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES)


@dataclass(frozen=True)
class Upload:
    path: Path
    kind: Literal["image", "video"]
    sha256: str
    size: int

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def mime(self) -> str:
        """What it calls itself; a picture that moves is a picture to a browser."""
        return mimetypes.guess_type(self.name)[0] or f"{self.kind}/*"

    def part(self) -> ImagePart | VideoPart:
        """What an owl is shown; the content itself, for a server opens no paths that come with questions.

        Raises: DataError where the file is gone.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            raise DataError(f"{self.name} is not kept any longer; show it again in a new conversation") from None
        return ImagePart(content) if self.kind == "image" else VideoPart(content)

    def shown(self) -> dict[str, Any]:
        """The part of a message in a page."""
        file = {"path": str(self.path), "orig_name": self.name, "mime_type": self.mime}
        return {"type": "file", "file": file, "alt_text": self.name}

    def record(self) -> dict[str, Any]:
        """What is written down of it."""
        return {"kind": self.kind, "name": self.name, "sha256": self.sha256, "bytes": self.size}

    def keep(self, folder: Path) -> None:
        """Copy it into a folder under a name that tells its content, unless it is there.

        Raises: DataError where it cannot be copied.
        """
        name = f"{self.sha256}{self.path.suffix.lower()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                half = folder / f".{name}.{os.getpid()}-{threading.get_ident()}"
                shutil.copyfile(self.path, half)
                half.replace(folder / name)
        except OSError as error:
            raise DataError(f"{self.name} cannot be kept in {folder} ({error.strerror})") from None


def looked_into(paths: Sequence[str], limits: Limits) -> tuple[Upload, ...]:
    """Find out what files are. Raises: DataError, which names the one that cannot be used."""
    return tuple(_looked_into(Path(path), limits) for path in paths)


def _looked_into(path: Path, limits: Limits) -> Upload:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path.name} is no image or video; expected one of {', '.join(SUFFIXES)}")
    try:
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise DataError(f"{path.name} has {size / 2**20:.0f} MiB; at most {limits.max_bytes / 2**20:.0f} are taken")
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return Upload(path, _kind(path, limits), sha256, size)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}); upload it again") from None


def _kind(path: Path, limits: Limits) -> Literal["image", "video"]:
    """By what it holds, whatever it is called; an animation is a video."""
    with path.open("rb") as stream, decoding(path.name):
        try:
            picture = open_image(stream, limits, path.name)
        except UnidentifiedImageError:
            stream.seek(0)
            _check_video(stream.read(), path.name, limits)
            return "video"
        if getattr(picture, "n_frames", 1) > 1 and picture.format in ("GIF", "WEBP", "AVIF", "PNG"):
            return "video"
        picture.load()
        return "image"


def _check_video(content: bytes, name: str, limits: Limits) -> None:
    try:
        load_video(content, 1, limits)
    except DataError as error:
        raise DataError(f"{name} cannot be used: {error}") from None


def check_counts(uploads: Sequence[Upload], max_images: int, max_videos: int) -> None:
    """Raises: RequestError where a conversation shows too much."""
    for kind, most in (("image", max_images), ("video", max_videos)):
        found = sum(upload.kind == kind for upload in uploads)
        if found > most:
            raise RequestError(f"{found} {kind}s in one conversation; at most {most} are looked at: begin a new one")
