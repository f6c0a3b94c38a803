"""The bytes behind a source: a path, a member of a tar, bytes, a data URL or an http(s) address."""

import base64
import binascii
import io
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mplug_owl.errors import DataError
from mplug_owl.media.download import download
from mplug_owl.media.limits import Limits, check_bytes


@dataclass(frozen=True)
class TarMember:
    """A file inside a local tar that is not compressed, found by its place."""

    path: Path
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    def read(self) -> bytes:
        """Its bytes. Raises: DataError where the tar is gone or shorter than it was."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                found = stream.read(self.size)
        except OSError as error:
            raise DataError(f"{self} cannot be read ({error.strerror})") from None
        if len(found) < self.size:
            raise DataError(f"{self} has {len(found)} of {self.size} bytes; the tar is cut short")
        return found


def named(source: Any) -> str:
    """What to call a source in a message: never a page of base64."""
    if isinstance(source, bytes):
        return f"media of {len(source)} bytes"
    text = str(source)
    return "data URL" if text.startswith("data:") else repr(text[:200])


@contextmanager
def opened(source: Any, limits: Limits) -> Iterator[IO[bytes]]:
    """A local file stays on disk, for videos may be large; anything else is read."""
    if _is_path(source):
        with _file(source, limits).open("rb") as stream:
            yield stream
    else:
        yield io.BytesIO(read(source, limits))


def is_folder(source: Any, limits: Limits) -> bool:
    """Whether the source is a local folder that may be opened."""
    try:
        return limits.allow_local and _is_path(source) and Path(source).is_dir()
    except OSError:  # a name too long
        return False


def _is_path(source: Any) -> bool:
    address = str(source).startswith(("data:", "http://", "https://"))
    return isinstance(source, str | Path) and not address


def _file(source: str | Path, limits: Limits) -> Path:
    if not limits.allow_local:
        raise DataError(f"{named(source)} is a local path; expected an address or a data URL")
    try:
        path = Path(source)
        found = path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        found = False
    if not found:
        raise DataError(f"{named(source)} is no file; expected a path, an address or a data URL")
    return path


def read(source: Any, limits: Limits) -> bytes:
    """All of it, if it is not too much."""
    if isinstance(source, bytes):
        check_bytes(len(source), limits, named(source))
        return source
    if isinstance(source, TarMember):
        _file(source.path, limits)
        check_bytes(source.size, limits, named(source))
        return source.read()
    if _is_path(source):
        path = _file(source, limits)
        check_bytes(path.stat().st_size, limits, named(source))
        return path.read_bytes()
    if not isinstance(source, str):
        found = type(source).__name__
        raise DataError(f"media of type {found}; expected a path, an address or bytes")
    return _data_url(source, limits) if source.startswith("data:") else download(source, limits)


def _data_url(url: str, limits: Limits) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise DataError("a data URL without data; expected data:image/png;base64,...")
    check_bytes(len(body) * 3 // 4, limits, "data URL")
    if not head.endswith(";base64"):
        return urllib.parse.unquote_to_bytes(body)
    try:
        return base64.b64decode(urllib.parse.unquote(body), validate=True)
    except (binascii.Error, ValueError):
        raise DataError("a data URL that is no base64; expected data:image/png;base64,...") from None
