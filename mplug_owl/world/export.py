"""The world's rows as files that data sets are made of: lines of JSON with pictures beside them, or tars.

Conversations are written in the project's own form, captions as caption and picture. Which files are read back how is
decided in the data unit.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from tqdm import tqdm

from mplug_owl.errors import RequestError
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart, media, to_openai
from mplug_owl.world.scene import MOVES, PAIRS
from mplug_owl.world.sets import Row, RowSet

Format = Literal["jsonl", "tar"]
_FOLDER = 1000  # rows whose pictures share a folder
_SHARD = 5000  # rows of a tar


def writable(chosen: RowSet, format: Format) -> RowSet:
    """The set without the kinds that files of the format cannot hold. Raises: RequestError where none is left."""
    if chosen.set == "prose":
        raise RequestError("prose has neither question nor picture, and so no form of its own in a file; leave it out")
    # A caption is of one picture; tars hold no lists of frames.
    left_out = (*(PAIRS if chosen.set == "captions" else ()), *(MOVES if format == "tar" else ()))
    kinds = tuple(kind for kind in chosen.kinds if kind not in left_out)
    if chosen.kinds and not kinds:
        raise RequestError(f"{chosen.name} cannot be written as {format}; choose other kinds, or another format")
    return replace(chosen, kinds=kinds)


def export(chosen: RowSet, folder: Path, format: Format = "jsonl") -> list[Path]:
    """Write the rows of a set, as far as it is `writable`, and return the files to open as data."""
    name = re.sub(r"\W+", "-", chosen.name)
    chosen = writable(chosen, format)
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(chosen), unit="row", desc=chosen.name, disable=None) as bar:
        if format == "jsonl":
            return [_json_lines(chosen, folder, name, bar)]
        starts = range(0, len(chosen), _SHARD)
        return [_tar(chosen, folder / f"{name}-{start // _SHARD:05d}.tar", start, bar) for start in starts]


def _json_lines(chosen: RowSet, folder: Path, name: str, bar: Any) -> Path:
    out = folder / f"{name}.jsonl"
    unfinished = out.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as stream:
        for number in range(len(chosen)):
            row = chosen.row(number)
            base = f"{name}/{number // _FOLDER:04d}/{number:07d}"
            placed = [_saved(part, folder, f"{base}-{place}") for place, part in enumerate(media(row.messages))]
            stream.write(json.dumps({"id": f"world:{row.id}", **_record(row, placed)}, ensure_ascii=False) + "\n")
            bar.update()
    unfinished.replace(out)  # so that a file of this name is whole
    return out


def _record(row: Row, placed: list[str]) -> dict[str, Any]:
    if row.kind == "caption":
        [shown] = media(row.messages)
        return {"image" if isinstance(shown, ImagePart) else "video": placed[0], "caption": row.messages[-1].text}
    sources = iter(placed)
    written = [Message(message.role, [_at(part, sources) for part in message.content]) for message in row.messages]
    return {"messages": to_openai(written), "skills": [question.skill for question in row.questions]}


def _at(part: Part, sources: Iterator[str]) -> Part:
    return part if isinstance(part, TextPart) else replace(part, source=next(sources))


def _saved(part: ImagePart | VideoPart, folder: Path, name: str) -> str:
    """Save a picture, or a video as a folder of frames, and return its path inside `folder`."""
    if isinstance(part, ImagePart):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(part.source.picture()))
        return f"{name}.png"
    (folder / name).mkdir(parents=True, exist_ok=True)
    for place, frame in enumerate(part.source):
        (folder / name / f"{place}.png").write_bytes(_png(frame.picture()))
    return name


def _tar(chosen: RowSet, out: Path, start: int, bar: Any) -> Path:
    """A shard as webdataset has it: the members of a row share their name up to the first dot."""
    unfinished = out.with_suffix(".part")
    with tarfile.open(unfinished, "w") as tar:
        for number in range(start, min(start + _SHARD, len(chosen))):
            for ending, content in _members(chosen.row(number)):
                member = tarfile.TarInfo(f"{number:09d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            bar.update()
    unfinished.replace(out)
    return out


def _members(row: Row) -> Iterator[tuple[str, bytes]]:
    shown = media(row.messages)
    for place, part in enumerate(shown):
        yield (f"{place}.png" if len(shown) > 1 else "png"), _png(part.source.picture())
    if row.kind == "caption":
        yield "txt", row.messages[-1].text.encode()
    else:  # parts without a source are filled from the pictures beside them
        yield "json", json.dumps({"messages": [_sourceless(message) for message in row.messages]}).encode()


def _sourceless(message: Message) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image"} for p in message.content
    ]
    return {"role": message.role, "content": parts}


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
