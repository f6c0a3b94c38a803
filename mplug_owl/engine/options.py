"""What an engine may take of the machine, and in what portions it works. It knows nothing of models."""

from dataclasses import dataclass

from mplug_owl.errors import ConfigError, did_you_mean

DECODE = ("auto", "eager", "graph")


@dataclass(frozen=True)
class EngineOptions:
    slots: int = 64
    """Conversations at once, at most; memory may allow fewer."""
    queue: int = 1024
    """Requests that may wait."""
    chunk: int = 256
    """Positions of prompts that are read between two tokens of an answer."""
    media: int = 1024
    """Tokens of the vision model that are encoded between two tokens of an answer; at least one picture or clip."""
    context: int | None = None
    """Positions of one conversation; the model's own limit unless given."""
    memory: int | None = None
    """Bytes for the cache and the features; a share of what is free unless given."""
    decode: str = "auto"
    """Decode steps kernel by kernel (eager), or recorded and replayed (graph); auto records them on NVIDIA GPUs."""

    def __post_init__(self) -> None:
        for name in ("slots", "queue", "chunk", "media", "context", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} for the engine; expected 1 or more")
        if self.decode not in DECODE:
            raise ConfigError(f"decode={self.decode!r} for the engine{did_you_mean(self.decode, DECODE)}")
