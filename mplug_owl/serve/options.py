"""What a server allows, and where it listens. It knows no models and imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from mplug_owl.errors import ConfigError


@dataclass(frozen=True)
class ServeOptions:
    """How a server behaves; one for all of its models."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes one that is free."""
    max_body_mib: float = 32.0
    """Of one request; pictures in data URLs count four thirds of their bytes."""
    max_messages: int = 512
    max_images: int = 16
    """Of one request, over all of its messages; so for videos."""
    max_videos: int = 4
    max_frames: int = 64
    """Frames that a request may have taken of one video."""
    max_pixels: int = 40_000_000
    """Of one picture or frame, read from its header."""
    max_choices: int = 8
    """Answers to one request (`n`)."""
    max_new_tokens: int = 1024
    """Tokens of one answer, at most."""
    default_new_tokens: int = 256
    """Tokens of one answer where the request does not say."""
    request_timeout: float = 300.0
    """Seconds from the whole request to the end of the answer."""
    media_timeout: float = 20.0
    """Seconds to fetch, and seconds to decode, one image or video."""
    openers: int = 4
    """Threads that open media and make prompts."""
    remote_media: bool = False
    """Whether http(s) addresses of media are fetched, from public hosts only."""
    trusted_hosts: tuple[str, ...] = ()
    """Hosts that media may be fetched from although their address is private."""
    keys: Path | None = None
    """File of the keys; without one, whoever reaches the server may use it."""
    rate: float | None = None
    """Requests a minute for each key, or for each address where there are no keys."""
    concurrent: int | None = None
    """Requests at a time for each of these."""
    log_contents: bool = False
    """Whether the log holds what was asked and answered."""
    drain: float = 30.0
    """Seconds that running answers may take after the word to stop."""
    ui: bool = False
    """Whether the pages are served beside the API."""

    def __post_init__(self) -> None:
        for name in (
            *("max_messages", "max_images", "max_videos", "max_frames", "max_pixels", "max_choices"),
            *("max_new_tokens", "default_new_tokens", "openers", "concurrent"),
        ):
            value = getattr(self, name)
            least = 0 if name in ("max_images", "max_videos") else 1
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} for the server; expected {least} or more")
        for name in ("max_body_mib", "request_timeout", "media_timeout", "rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value} for the server; expected more than 0")
        if self.drain < 0:
            raise ConfigError(f"drain={self.drain} for the server; expected 0 seconds or more")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port={self.port} for the server; expected 0 (any that is free) to 65535")
        if self.default_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"default_new_tokens={self.default_new_tokens} is more than max_new_tokens={self.max_new_tokens}; "
                "expected no more"
            )

    @property
    def max_body(self) -> int:
        """Bytes of one request."""
        return int(self.max_body_mib * 2**20)
