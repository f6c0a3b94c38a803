"""What a source of media may cost and where it may lie. Each check names the limit it enforces."""

import time
from dataclasses import dataclass
from typing import IO, Any

from mplug_owl.errors import DataError


@dataclass(frozen=True)
class Limits:
    """What a source may cost, and where it may lie."""

    max_pixels: int = 80_000_000
    """Pixels of one picture or frame."""
    max_total_pixels: int = 2**31
    """Pixels of all frames that are taken of one video; a `Tally` may stretch it over several sources."""
    max_bytes: int = 256 * 2**20
    """Bytes of what is read into memory."""
    max_frames: int = 200_000
    """Frames of one video."""
    timeout: float = 60.0
    """Seconds for one download, and for decoding one picture or video."""
    allow_local: bool = True
    """Whether paths are opened; a server turns this off."""
    allow_remote: bool = False
    """Whether http(s) addresses are fetched, from public hosts only."""
    trusted_hosts: tuple[str, ...] = ()
    """Host names that may be fetched from although their address is private."""


USUAL = Limits()


def check_pixels(size: tuple[int, int], limits: Limits, name: str) -> None:
    if size[0] * size[1] > limits.max_pixels:
        raise DataError(
            f"{name} is {size[0]}x{size[1]} pixels; at most {limits.max_pixels} in all are read (Limits.max_pixels)"
        )


class Clocked:
    """A stream that is read until its time is over: a small file may send its reader back and forth for ever."""

    def __init__(self, stream: IO[bytes], limits: Limits, called: str) -> None:
        self.stream, self.called = stream, called  # decoders look for a `name`, and guess by its ending
        self.deadline = time.monotonic() + limits.timeout

    def read(self, size: int = -1, /) -> bytes:
        self.check()
        return self.stream.read(size)

    def check(self) -> None:
        if time.monotonic() > self.deadline:
            raise DataError(f"{self.called} takes longer to decode than allowed (Limits.timeout)")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def check_frames(total: int, limits: Limits, name: str) -> None:
    if total > limits.max_frames:
        raise DataError(f"{name} has over {limits.max_frames} frames (Limits.max_frames)")


def check_bytes(size: int, limits: Limits, name: str) -> None:
    if size > limits.max_bytes:
        raise DataError(f"{name} has over {limits.max_bytes} bytes (Limits.max_bytes)")


class Tally:
    """Adds up the pixels of what is decoded together: of one video, or of a whole conversation."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pixels = 0

    def check(self, size: tuple[int, int], name: str, count: int = 1) -> int:
        """The sum with so many more pictures of a size. Raises: DataError where one is too large, or all are."""
        check_pixels(size, self.limits, name)
        pixels = self.pixels + size[0] * size[1] * count
        if pixels > self.limits.max_total_pixels:
            raise DataError(
                f"{name} makes {pixels} pixels in all; at most {self.limits.max_total_pixels} are read together "
                "(Limits.max_total_pixels): take fewer frames, or smaller pictures"
            )
        return pixels

    def add(self, size: tuple[int, int], name: str) -> None:
        self.pixels = self.check(size, name)
