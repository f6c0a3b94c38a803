"""A file of JSON lines that only grows, by any number of threads and processes: a line is on the disk before it counts.

What a crash cut short was told to nobody, so it is passed over, and taken away by the next line. What the lines say is
not known here.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from mplug_owl.errors import DataError


@dataclass(frozen=True)
class Ledger:
    path: Path

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a line down; when this returns it is on the disk.

        Raises: DataError where it cannot be written.
        """
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)  # until it is closed; also among threads, for each opens it anew
                _end_last_line(stream)
                while line:
                    line = line[stream.write(line) :]
                os.fsync(stream.fileno())
        except OSError as error:
            said = f"{self.path} cannot be written ({error.strerror}), so nothing was recorded; give another file"
            raise DataError(said) from None

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All lines, each with where it stands.

        Raises: DataError where the file is there and cannot be read, or a line is no object.
        """
        for where, line in self._lines():
            yield where, _row(where, line)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The lines that are objects, whatever else somebody put between them.

        Raises: DataError where the file is there and cannot be read.
        """
        for where, line in self._lines():
            with suppress(DataError):
                yield _row(where, line)

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        try:
            with self.path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip() and (line.endswith(b"\n") or _is_whole(line)):
                        yield f"{self.path}:{number}", line
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror}); give another file") from None


def now() -> str:
    """The time, as a line tells it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _row(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON ({error}); mend the line or take it away") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is a {type(row).__name__}, expected an object; mend the line or take it away")
    return row


def _is_whole(line: bytes) -> bool:
    """Whether a line without an end says all it was to say; some editors write no last line end."""
    with suppress(DataError):
        _row("", line)
        return True
    return False


def _end_last_line(stream: FileIO) -> None:
    """Give the last line its end, or take it away where it was cut short."""
    size = stream.seek(0, os.SEEK_END)
    if not size or os.pread(stream.fileno(), 1, size - 1) == b"\n":
        return
    whole = os.pread(stream.fileno(), size, 0)
    start = whole.rfind(b"\n") + 1
    if _is_whole(whole[start:]):
        stream.write(b"\n")
    else:
        stream.truncate(start)
