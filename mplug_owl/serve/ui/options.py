"""What the pages keep and allow, beside what the server does. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from mplug_owl.errors import ConfigError


@dataclass(frozen=True)
class PageOptions:
    votes: Path = Path("runs", "ui", "votes.jsonl")
    """Where votes of comparisons are appended."""
    thumbs: Path = Path("runs", "ui", "thumbs.jsonl")
    """Where thumbs up and down are appended."""
    keep_media: bool = False
    """Whether what was shown is copied beside the votes and thumbs; its hash is kept anyway."""
    max_upload_mib: float = 64.0
    """Of one file."""
    upload_room_mib: float = 2048.0
    """Of all files that are held at a time; each is dropped after a day."""
    seed: int | None = None
    """Makes the pairs of the blind comparison repeat; chance decides unless given."""

    def __post_init__(self) -> None:
        for name in ("max_upload_mib", "upload_room_mib"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name}={value} for the pages; expected more than 0")
        if self.upload_room_mib < self.max_upload_mib:
            raise ConfigError(
                f"upload_room_mib={self.upload_room_mib} is less than max_upload_mib={self.max_upload_mib}; "
                "expected room for one file at least"
            )

    @property
    def max_upload(self) -> int:
        """Bytes of one file."""
        return int(self.max_upload_mib * 2**20)

    @property
    def upload_room(self) -> int:
        """Bytes of all files."""
        return int(self.upload_room_mib * 2**20)
