"""A file that only grows: one JSON record a line, written whole or not at all, by several users and processes at once.

What the records say is not known here.
"""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mplug_owl.errors import DataError


class Ledger:
    """Records in the order they came; what a crash cut short is passed over when they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record with the time; when this returns it is on the disk.

        Raises: DataError where it cannot be written.
        """
        timed = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **record}
        line = json.dumps(timed, ensure_ascii=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)  # until it is closed; also among threads, for each opens it anew
                if stream.seek(0, os.SEEK_END):
                    stream.seek(-1, os.SEEK_END)
                    if stream.read(1) != b"\n":  # the last writer was stopped in the middle of a line
                        line = b"\n" + line
                os.write(stream.fileno(), line)
                os.fsync(stream.fileno())
        except OSError as error:
            raise DataError(f"{self.path} cannot be written ({error.strerror}); nothing was recorded") from None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records that are whole. Raises: DataError where the file is there and cannot be read."""
        try:
            with self.path.open("rb") as stream:
                for line in stream:
                    try:
                        record = json.loads(line)
                    except ValueError:  # cut short, or not text at all
                        continue
                    if isinstance(record, dict):
                        yield record
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror})") from None

    def keep(self, files: Iterable[tuple[Path, str]]) -> None:
        """Copy files into a folder beside the records, under names that tell their content; each is copied once.

        Raises: DataError where one cannot be copied.
        """
        folder = self.path.parent / f"{self.path.stem}-media"
        for source, name in files:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / name).exists():
                    half = folder / f".{name}.{os.getpid()}-{threading.get_ident()}"
                    shutil.copyfile(source, half)
                    half.replace(folder / name)
            except OSError as error:
                raise DataError(f"{source.name} cannot be kept in {folder} ({error.strerror})") from None
