"""Conversations by number from files, folders and globs: `open_source`.

A source is random access over records of one format; media keep their place and stay unopened. Whatever is wrong with
a row is a DataError that starts with `file:row`. The order in which rows are used is decided in mixture.py.
"""

import glob
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mplug_owl.data.conversation import Conversation
from mplug_owl.data.drawn import SCHEME, DrawnSource
from mplug_owl.data.formats import FORMATS, recognise
from mplug_owl.data.rows import Rows, json_document, json_lines, parquet, saved_dataset, separated
from mplug_owl.data.tars import TarRows, index_tars
from mplug_owl.errors import ConfigError, DataError, did_you_mean
from mplug_owl.messages import Message, Part, TextPart, media

_OPENERS: dict[str, Callable[[Path, str | None], Rows]] = {
    ".tar": lambda path, _: TarRows(path),
    ".parquet": lambda path, _: parquet(path),
    ".jsonl": lambda path, _: json_lines(path),
    ".json": json_document,
    ".tsv": lambda path, _: separated(path),
}
_FIRST_ROWS = 20  # tried to recognise the format of a source, for some rows may be bad


class Source(Protocol):
    """Conversations by number; `open_source` makes one."""

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def identity(self) -> str:
        """A hash of what it holds: whether a run that goes on sees the data it started with."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> Conversation:
        """Raises: DataError, starting with `file:row`, where the record cannot be used."""

    def origin(self, row: int) -> str:
        """`file:row` of a row, whether or not it can be used."""

    def shows_media(self) -> np.ndarray:
        """[rows] bool: whether there are images or videos in it; false for rows that cannot be used."""


class FileSource:
    """Records of files, folders or tars."""

    def __init__(self, name: str, parts: Sequence[Rows], format: str, root: Path | None) -> None:
        self.name = name
        self.format = format
        self.parts = parts
        self.root = root
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: int) -> Conversation:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {self.name}, which has {len(self)}")
        part, inside = self._find(row)
        origin = f"{part.path}:{inside + 1}"
        try:
            record = part.record(inside)
            form = FORMATS[self.format]
            messages = form.read(record)
            _check_taught(messages)
            root = self.root or (part.path if part.path.is_dir() else part.path.parent)
            placed = tuple(_placed(message, root) for message in messages)
        except DataError as error:
            raise DataError(f"{origin}: {error}") from None
        except OSError as error:
            raise DataError(f"{origin}: the file cannot be read ({error.strerror})") from None
        name = record.get("id")
        name = f"{part.path.name}:{inside + 1}" if name is None else str(name)
        return Conversation(name, placed, form.kind, origin)

    def origin(self, row: int) -> str:
        part, inside = self._find(row)
        return f"{part.path}:{inside + 1}"

    @property
    def identity(self) -> str:
        """A hash of the format and of the names and sizes of the files, wherever they lie."""
        files = [(part.path.name, len(part), _size(part.path)) for part in self.parts]
        return hashlib.sha256(repr((self.format, files)).encode()).hexdigest()[:16]

    def shows_media(self) -> np.ndarray:
        """Reads every record, unless captions show them anyway."""
        if FORMATS[self.format].kind == "caption":
            return np.ones(len(self), bool)
        return np.fromiter((self._row_shows_media(row) for row in range(len(self))), bool)

    def _row_shows_media(self, row: int) -> bool:
        try:
            return bool(media(self[row].messages))
        except DataError:
            return False

    def _find(self, row: int) -> tuple[Rows, int]:
        number = bisect_right(self._ends, row)
        return self.parts[number], row - (self._ends[number] - len(self.parts[number]))

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers that are spawned open the files anew rather than being sent what is mapped.
        return open_source, (self.name, self.format, self.root)


def open_source(path: str | Path, format: str | None = None, image_root: str | Path | None = None) -> Source:
    """A file, a folder, a glob, or a set of the drawn world ("world:questions") as a source of conversations.

    `format` is recognised unless named; media paths are relative to `image_root`, by default the folder of the data
    file.

    Raises: DataError where there is nothing, no rows, or nothing that can be recognised.
    """
    if str(path).startswith(SCHEME):
        if format is not None or image_root is not None:
            raise ConfigError(
                f"format={format!r}, image_root={image_root!r} of {path!r}; the world is drawn: leave both out"
            )
        return DrawnSource(str(path))
    if format is not None and format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    root = Path(image_root) if image_root is not None else None
    if root is not None and not root.is_dir():
        raise DataError(f"image_root {str(root)!r} is no folder; expected that of the media")
    try:
        parts = [part for part in _opened(_files(str(path)), format) if len(part)]
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error})") from None
    if not parts:
        raise DataError(f"{str(path)!r} holds no rows")
    return FileSource(str(path), parts, format or _recognised(parts[0]), root)


def _opened(files: Sequence[Path], format: str | None) -> list[Rows]:
    if files[0].is_dir():
        return [saved_dataset(folder) for folder in files]
    index_tars([file for file in files if file.suffix == ".tar"])
    return [_OPENERS[file.suffix](file, format) for file in files]


def _files(path: str) -> list[Path]:
    """The data files, all of one kind, or the folders of saved data sets."""
    folder = Path(path)
    if folder.is_dir():
        if any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return [folder]
        found = sorted(file for file in folder.iterdir() if file.suffix in _OPENERS)
        # img2dataset writes a table and statistics beside each tar.
        found = [file for file in found if file.suffix == ".tar"] or found
    elif folder.is_file():
        found = [folder]
    else:
        found = sorted(map(Path, glob.glob(path, recursive=True)))
    known = ", ".join(_OPENERS)
    if not found:
        raise DataError(f"no data at {path!r}; expected {known}, a saved data set, or a glob")
    kinds = {file.suffix if not file.is_dir() else "folder" for file in found}
    if len(kinds) > 1:
        raise DataError(
            f"{path!r} holds files of {len(kinds)} kinds ({', '.join(sorted(kinds))}); name one "
            f"with a glob, such as {str(folder / ('*' + found[0].suffix))!r}"
        )
    if found[0].is_file() and found[0].suffix not in _OPENERS:
        raise DataError(f"{str(found[0])!r} is of no known kind; expected {known}")
    return found


def _recognised(rows: Rows) -> str:
    """The format of the first row that can be read; the others must be of the same."""
    errors = []
    for row in range(min(len(rows), _FIRST_ROWS)):
        try:
            return recognise(rows.record(row))
        except DataError as error:
            errors.append(error)
    raise DataError(f"{rows.path}:1: {errors[0]}; or name the format")


def _check_taught(messages: Sequence[Message]) -> None:
    answers = [message for message in messages if message.role == "assistant"]
    if not any(answer.text.strip() for answer in answers):
        found = f"{len(answers)} empty answer(s)" if answers else "no answer"
        raise DataError(f"a conversation with {found}; expected one to learn")


def _placed(message: Message, root: Path) -> Message:
    return Message(message.role, [_placed_part(part, root) for part in message.content])


def _placed_part(part: Part, root: Path) -> Part:
    return part if isinstance(part, TextPart) else replace(part, source=_place(part.source, root))


def _place(source: Any, root: Path) -> Any:
    if isinstance(source, list | tuple):
        return [_place(frame, root) for frame in source]
    if isinstance(source, str) and not source.startswith(("data:", "http://", "https://")):
        return str(root / source)
    return source


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.glob("*.arrow")
    return sum(file.stat().st_size for file in files)
