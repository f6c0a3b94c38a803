"""What is made once from a large file and kept: offset indexes, tables that can be read by row.

It lies in OWL_CACHE, by default the user's cache folder, so data folders stay as they are. A file whose size or time
changed is no longer the file something was made from, and it is made anew.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mplug_owl.errors import DataError


def cache_folder() -> Path:
    """OWL_CACHE, or mplug_owl in the user's cache folder."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mplug_owl"
    return Path(os.environ.get("OWL_CACHE") or usual)


def derived_path(path: Path) -> Path:
    """Where what is made from a file lies; the name holds the file's place, size and time."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / place / f"{stat.st_size}-{stat.st_mtime_ns}"


def derived(path: Path, make: Callable[[Path, Path], None]) -> Path:
    """What `make(path, out)` wrote, now or at an earlier time."""
    kept = derived_path(path)
    if kept.exists():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Moved into place when whole, so that ranks may do this at the same time and be killed.
        with tempfile.TemporaryDirectory(dir=kept.parent) as work:
            new = Path(work) / kept.name
            make(path, new)
            for old in kept.parent.iterdir():
                if old.is_file() and old != kept:
                    old.unlink(missing_ok=True)
            os.replace(new, kept)
    except OSError as error:
        raise DataError(
            f"what is made from {path} cannot be kept in {kept.parent} ({error}); set OWL_CACHE to a folder with room"
        ) from None
    return kept
