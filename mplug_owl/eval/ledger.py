"""A file of JSON lines that is only ever added to, by any number of processes: a line is on the disk before it counts.

What the lines say is not known here.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError


@dataclass(frozen=True)
class Ledger:
    path: Path

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a line down; when this returns it is on the disk."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise EvalError(f"{self.path} cannot be written ({error.strerror}); give another file") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            _drop_torn_line(handle)
            _write_all(handle, line.encode("utf-8"))
            os.fsync(handle)
        finally:
            os.close(handle)

    def rows(self) -> list[tuple[str, dict[str, Any]]]:
        """All lines, each with where it stands; a last line that a crash cut short is none.

        Raises: EvalError where a line is no object.
        """
        if not self.path.exists():
            return []
        try:
            whole = self.path.read_bytes()
        except OSError as error:
            raise EvalError(f"{self.path} cannot be read ({error.strerror}); give another file") from None
        lines = whole[: whole.rfind(b"\n") + 1].split(b"\n")
        return [_row(f"{self.path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _row(where: str, line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise EvalError(f"{where} is no JSON ({error}); mend the line or take it away") from None
    if not isinstance(row, dict):
        raise EvalError(f"{where} is a {type(row).__name__}, expected an object; mend the line or take it away")
    return where, row


def _drop_torn_line(handle: int) -> None:
    """Take away what follows the last line end: nobody was told that it is written."""
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        os.ftruncate(handle, os.pread(handle, size, 0).rfind(b"\n") + 1)


def _write_all(handle: int, line: bytes) -> None:
    while line:
        line = line[os.write(handle, line) :]
