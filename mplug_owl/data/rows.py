"""Records by number from files of every kind, as dicts; what they mean is read in formats.py.

Lines and lists are found by byte offsets and tables are mapped, so a file is never held in memory whole: worker
processes would each copy it. COCO's caption files, small and nested, are the one exception.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mplug_owl.data.cache import derived
from mplug_owl.data.formats import document_records
from mplug_owl.errors import DataError

_CHUNK = 2**24
_TABLE_ROWS = 64  # rows of a mapped table that are looked up together
_SPACE = re.compile(r"[ \t\r\n]*")
_HEADER = ("caption", "text", "title", "image", "filepath", "file_name")


class Rows(Protocol):
    """The records of one file or folder."""

    path: Path

    def __len__(self) -> int: ...

    def record(self, row: int) -> Mapping[str, Any]: ...


class SpanRows:
    """Records that each stand between two bytes of a text file."""

    def __init__(self, path: Path, spans: np.ndarray, parse: Callable[[bytes], Any]) -> None:
        self.path = path
        self.spans = spans
        self.parse = parse

    def __len__(self) -> int:
        return len(self.spans)

    def record(self, row: int) -> Mapping[str, Any]:
        start, end = map(int, self.spans[row])
        with self.path.open("rb") as stream:
            stream.seek(start)
            record = self.parse(stream.read(end - start))
        if not isinstance(record, Mapping):
            raise DataError(f"a {type(record).__name__}; expected an object")
        return record


class HeldRows:
    """Records in memory."""

    def __init__(self, path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        self.path = path
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def record(self, row: int) -> Mapping[str, Any]:
        return self.records[row]


class TableRows:
    """The rows of Arrow files, mapped into memory."""

    def __init__(self, path: Path, files: Sequence[Path], streams: bool) -> None:
        pyarrow = _pyarrow()
        self.path = path
        self.batches: list[Any] = []
        for file in files:
            opened = pyarrow.ipc.open_stream if streams else pyarrow.ipc.open_file
            try:
                self.batches += opened(pyarrow.memory_map(str(file))).read_all().to_batches()
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise DataError(f"{file} is no Arrow file or damaged ({error})") from None
        self.ends = list(accumulate(batch.num_rows for batch in self.batches))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def record(self, row: int) -> Mapping[str, Any]:
        number = bisect_right(self.ends, row)
        first = self.ends[number] - self.batches[number].num_rows
        return dict(self.batches[number].slice(row - first, 1).to_pylist()[0])


def json_lines(path: Path) -> SpanRows:
    """jsonl: one object a line; empty lines are none."""
    return SpanRows(path, _lines(path), _json)


def json_document(path: Path, format: str | None) -> Rows:
    """A json list of records, one of COCO's caption files, or lines under the wrong name."""
    text = path.read_bytes()
    opening = text[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    try:
        if opening == b"[":
            return SpanRows(path, _list_spans(text.decode()), _json)
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and opening == b"{":
            return json_lines(path)
        raise DataError(f"{path} is no JSON: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no UTF-8 text; expected JSON") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} holds a {type(document).__name__}; expected a list of records")
    try:
        return HeldRows(path, document_records(document, format))
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {error}") from None


def separated(path: Path) -> SpanRows:
    """TSV: caption and image without a header, or columns named by one."""
    spans = _lines(path)
    columns, names = ["caption", "image"], []
    if len(spans):
        with path.open("rb") as stream:
            stream.seek(int(spans[0, 0]))
            first = stream.read(int(spans[0, 1] - spans[0, 0]))
        names = first.decode(errors="replace").strip().split("\t")
    if len(names) > 1 and set(names) & set(_HEADER) and len(set(names)) == len(names):
        columns, spans = names, spans[1:]

    def parse(line: bytes) -> dict[str, str]:
        try:
            cells = line.decode().rstrip("\r\n").split("\t")
        except UnicodeDecodeError:
            raise DataError("a line that is no UTF-8 text") from None
        if len(cells) < 2:
            raise DataError(f"a line of {len(cells)} column; expected {' and '.join(columns)}")
        return dict(zip(columns, cells, strict=False))

    return SpanRows(path, spans, parse)


def parquet(path: Path) -> TableRows:
    """Parquet can only be read by large groups of rows, so it is laid out by row once."""
    return TableRows(path, [derived(path, _lay_out)], streams=False)


def saved_dataset(folder: Path) -> TableRows:
    """A folder that `save_to_disk` of Hugging Face datasets wrote."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            raise DataError(f"{folder} holds the splits {', '.join(splits)}; name one of them")
        state = json.loads((folder / "state.json").read_text())
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{folder} is no data set that save_to_disk wrote ({error})") from None
    return TableRows(folder, files, streams=True)


def _lay_out(path: Path, out: Path) -> None:
    pyarrow = _pyarrow()
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
        with pyarrow.ipc.new_file(str(out), table.schema_arrow) as writer:
            for batch in table.iter_batches(batch_size=_TABLE_ROWS):
                writer.write_batch(batch)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is no parquet file or damaged ({error})") from None


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise DataError("parquet files and saved data sets need pyarrow; pip install 'mplug_owl[train]'") from None
    return pyarrow


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"no JSON ({error})") from None


def _lines(path: Path) -> np.ndarray:
    """[lines, 2]: the first byte and the end of each line that is not empty."""
    ends: list[np.ndarray] = []
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + (size + 1))
            size += len(chunk)
    edges = np.unique(np.concatenate([[0], *ends, [size]]).astype(np.int64))
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    short = np.flatnonzero(spans[:, 1] - spans[:, 0] <= 2)
    empty = []
    with path.open("rb") as stream:
        for row in short:
            stream.seek(int(spans[row, 0]))
            if not stream.read(int(spans[row, 1] - spans[row, 0])).strip():
                empty.append(row)
    return np.delete(spans, empty, axis=0)


def _list_spans(text: str) -> np.ndarray:
    """[items, 2]: the first byte and the end of each item of a json list."""
    spans = []
    at = character = 0
    for start, end in _items(text):
        first = at + len(text[character:start].encode())
        at = first + len(text[start:end].encode())
        character = end
        spans.append((first, at))
    return np.array(spans, np.int64).reshape(-1, 2)


def _items(text: str) -> Iterator[tuple[int, int]]:
    decoder = json.JSONDecoder()

    def after_space(at: int) -> int:
        found = _SPACE.match(text, at)
        assert found is not None
        return found.end()

    at = after_space(text.index("[") + 1)
    if text[at : at + 1] == "]":
        return
    while True:
        _, end = decoder.raw_decode(text, at)
        yield at, end
        at = after_space(end)
        if text[at : at + 1] == "]":
            return
        if text[at : at + 1] != ",":
            raise json.JSONDecodeError("Expected ',' or ']'", text, at)
        at = after_space(at + 1)
