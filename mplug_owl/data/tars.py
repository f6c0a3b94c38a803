"""Samples in tars as img2dataset and webdataset write them, read by number without unpacking.

Members whose names agree up to the first dot are one sample and stand together. An index holds the byte at which each
sample starts; it is made once, several tars at a time. A tar that is cut short keeps its whole samples, and one row
more that says what is lost.
"""

import json
import struct
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from mplug_owl.data.cache import derived, derived_path
from mplug_owl.errors import DataError
from mplug_owl.media import TarMember

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
_VIDEOS = ("mp4", "webm", "mkv", "mov", "avi")
_MEDIA = {**dict.fromkeys(_IMAGES, "image"), **dict.fromkeys(_VIDEOS, "video")}
_NUMBER = struct.Struct("<Q")
_MAX_TEXT = 2**24  # bytes of a caption or json member


class TarRows:
    """The samples of one tar as records: the keys of the json member, and over them `id`, `caption`, `image`, `video`
    from the names and the other members.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = derived(path, write_index)
        # n samples have n + 1 edges; a last number says whether what follows them is damaged.
        self.whole = self.index.stat().st_size // _NUMBER.size - 2
        self.damaged = bool(_numbers(self.index, self.whole + 1, 1)[0])

    def __len__(self) -> int:
        return self.whole + self.damaged

    def record(self, row: int) -> dict[str, Any]:
        if row == self.whole:
            end = _numbers(self.index, row, 1)[0]
            raise DataError(
                f"the tar is cut short or damaged at byte {end}, after {self.whole} whole samples; fetch it again"
            )
        start, end = _numbers(self.index, row, 2)
        with self.path.open("rb") as stream:
            members = [m for m in _members(stream, start, end) if m.isfile()]
            if stream.seek(0, 2) < end or not members:
                raise DataError("the tar is no longer what it was when it was opened; start anew")
            return _sample(self.path, stream, members)


def index_tars(paths: Sequence[Path]) -> None:
    """Make the indexes that are missing, on all cores."""
    missing = [path for path in paths if not derived_path(path).exists()]
    if len(missing) < 2:
        return
    with ProcessPoolExecutor() as pool:
        made = pool.map(_index, missing, chunksize=4)
        for _ in tqdm(made, desc="indexing tars", total=len(missing), disable=None):
            pass


def _index(path: Path) -> None:
    derived(path, write_index)


def write_index(path: Path, out: Path) -> None:
    """The first byte of each sample, the byte after the last one, and whether damage follows."""
    edges: list[int] = []
    key, end = None, 0
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        for member in _members(stream, 0, size):
            after = member.offset_data + (member.size + 511) // 512 * 512
            if after > size:
                break
            if member.isfile() and _key(member.name) != key:
                key = _key(member.name)
                edges.append(end)
            end = after
        stream.seek(end)
        # A whole tar ends in blocks of zeros.
        damaged = stream.read(512) != bytes(512)
    if damaged and edges:
        # Members of the last sample may be missing.
        end = edges.pop()
    numbers = [*edges, end, damaged]
    out.write_bytes(b"".join(map(_NUMBER.pack, numbers)))


def _numbers(index: Path, first: int, count: int) -> list[int]:
    with index.open("rb") as stream:
        stream.seek(first * _NUMBER.size)
        return [number for (number,) in _NUMBER.iter_unpack(stream.read(count * _NUMBER.size))]


def _members(stream: IO[bytes], start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """The members between two bytes of a tar, as far as they can be read."""
    stream.seek(start)
    try:
        tar = tarfile.TarFile(fileobj=stream)
        while (member := tar.next()) is not None and member.offset < end:
            yield member
    except tarfile.TarError:
        return


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _sample(path: Path, stream: IO[bytes], files: Sequence[tarfile.TarInfo]) -> dict[str, Any]:
    media: dict[str, list[TarMember]] = {"image": [], "video": []}
    texts = {"txt": "", "json": "{}"}
    for member in files:
        ending = member.name.rpartition(".")[2].lower()
        if ending in _MEDIA:
            found = TarMember(path, member.offset_data, member.size, member.name)
            media[_MEDIA[ending]].append(found)
        elif ending in texts and member.size <= _MAX_TEXT:
            stream.seek(member.offset_data)
            texts[ending] = _decoded(stream.read(member.size), member.name)
    try:
        record = json.loads(texts["json"])
    except (ValueError, RecursionError) as error:
        raise DataError(f"the json of {_key(files[0].name)!r} is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise DataError(f"the json of {_key(files[0].name)!r} is no object; expected one")
    record |= {kind: found for kind, found in media.items() if found}
    if texts["txt"]:
        record["caption"] = texts["txt"]
    return record | {"id": _key(files[0].name)}


def _decoded(text: bytes, name: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise DataError(f"{name!r} is no UTF-8 text") from None
