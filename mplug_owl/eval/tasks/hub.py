"""A data set as Hugging Face's hub keeps it: Parquet files whose cells hold pictures.

Texts are read at once, a picture when it is looked at. What the columns mean is known to the tasks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mplug_owl.errors import DataError
from mplug_owl.media import load_image

if TYPE_CHECKING:
    from mplug_owl.data.rows import TableRows


@dataclass(frozen=True)
class TablePicture:
    """A picture in a cell of a table."""

    path: Path
    row: int
    column: str

    def picture(self) -> Image.Image:
        return load_image(self.content())

    def content(self) -> bytes:
        """The bytes of its file."""
        cell = _table(self.path).record(self.row)[self.column]
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if not isinstance(content, bytes):
            raise DataError(f"{self} is empty; expected the bytes of a picture")
        return content

    def __str__(self) -> str:
        return f"{self.path.name}:{self.row + 1}:{self.column}"


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file; cells with the bytes of a picture are left closed.

    Raises:
        DataError: the file is damaged.
    """
    number = 0
    for batch in _table(path).batches:
        pictures = [field.name for field in batch.schema if _holds_bytes(field.type)]
        texts = batch.select([name for name in batch.schema.names if name not in pictures])
        shown = {name: batch.column(name).is_valid().to_pylist() for name in pictures}
        for place, row in enumerate(texts.to_pylist()):
            for name in pictures:
                row[name] = TablePicture(path, number, name) if shown[name][place] else None
            number += 1
            yield row


def _holds_bytes(kind: Any) -> bool:
    """Whether cells are bytes, or {"bytes", "path"} as `datasets` writes pictures."""
    return str(kind) == "binary" or str(kind).startswith("struct<bytes: binary")


@lru_cache(maxsize=64)
def _table(path: Path) -> "TableRows":
    from mplug_owl.data.rows import parquet

    return parquet(path)
