"""What a source of media may cost and where it may lie. Each check names the limit it enforces."""

from dataclasses import dataclass

from mplug_owl.errors import DataError


@dataclass(frozen=True)
class Limits:
    """What a source may cost, and where it may lie."""

    max_pixels: int = 80_000_000
    """Pixels of one picture or frame."""
    max_bytes: int = 256 * 2**20
    """Bytes of what is read into memory."""
    max_frames: int = 200_000
    """Frames of one video."""
    timeout: float = 60.0
    """Seconds for one download, and for decoding one video."""
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


def check_frames(total: int, limits: Limits, name: str) -> None:
    if total > limits.max_frames:
        raise DataError(f"{name} has over {limits.max_frames} frames (Limits.max_frames)")


def check_bytes(size: int, limits: Limits, name: str) -> None:
    if size > limits.max_bytes:
        raise DataError(f"{name} has over {limits.max_bytes} bytes (Limits.max_bytes)")
