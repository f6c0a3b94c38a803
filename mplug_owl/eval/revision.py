"""What a number depends on besides the model: what was asked, what was taken for right, of which files, under which
settings, with which versions. Two runs that agree in all of it may be compared, and one may go on where it stopped.

Nothing is asked or scored here.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

import mplug_owl
from mplug_owl.errors import EvalError
from mplug_owl.eval.samples import SAMPLES, groups, write
from mplug_owl.eval.task import Example, Task
from mplug_owl.messages import ImagePart, VideoPart, media

SETTINGS = "settings.json"
_LIBRARIES = ("torch", "transformers", "pillow")
_DIGITS = 16


def versions() -> dict[str, str]:
    return {"mplug_owl": mplug_owl.__version__, **{library: version(library) for library in _LIBRARIES}}


def settings(task: Task, examples: Sequence[Example], limit: int | None = None) -> dict[str, Any]:
    """The settings of a task, with hashes of all that it asks and takes for right.

    Raises:
        EvalError: there are no examples, their ids are not their own, or their pictures are not there.
    """
    if not examples:
        raise EvalError(f"task {task.name}: there are no examples; expected at least one")
    try:
        groups(examples)
    except EvalError as error:
        raise EvalError(f"task {task.name}: {error}") from None
    shown = _shown(task, examples)
    fields = {key: value for key, value in dataclasses.asdict(task).items() if key != "data"}  # type: ignore[call-overload]
    return {
        "settings": json.loads(json.dumps(fields)) | ({"limit": limit} if limit is not None else {}),
        "split": task.split,
        "data": _digest([e.id, e.answers, e.follows, shown[e.id]] for e in examples),
        "files": {_place(path, task.data): _hash(path) for path in task.files()},
        "prompts": _digest([e.id, e.said(task.data)] for e in examples),
        "prompt": examples[0].said(task.data),
        "decoding": "greedy",
        "max_new_tokens": task.max_new_tokens,
        "verified": task.verified,
        "source": task.source,
        "licence": task.licence,
    }


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()[:_DIGITS]


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:_DIGITS]


def _place(path: Path, root: Path | None) -> str:
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else path.name


def _shown(task: Task, examples: Sequence[Example]) -> dict[str, list[int | str]]:
    """What each example shows: the bytes of files, and hashes of what lies in memory.

    All files are looked for before anything is asked.
    """
    missing: list[str] = []
    found: dict[str, list[int | str]] = {}
    for example in examples:
        mine = found[example.id] = []
        for source in _sources(media(example.messages)):
            if isinstance(source, bytes | Image.Image):
                content = source if isinstance(source, bytes) else source.tobytes()
                mine.append(hashlib.sha256(content).hexdigest()[:_DIGITS])
            elif _is_local(source):
                try:
                    path = Path(source)
                    mine.append(path.stat().st_size if path.is_file() else len(list(path.iterdir())))
                except OSError:
                    missing.append(str(source))
    if missing:
        raise EvalError(
            f"task {task.name}: {len(missing)} pictures or videos are not there, the first one {missing[0]}; it needs "
            f"{task.needs} (from {task.source})"
        )
    return found


def _sources(parts: Iterable[ImagePart | VideoPart]) -> Iterator[Any]:
    for part in parts:
        yield from part.source if isinstance(part.source, list | tuple) else [part.source]


def _is_local(source: Any) -> bool:
    return isinstance(source, str | Path) and not str(source).startswith(("data:", "http://", "https://"))


def agree(folder: Path, found: Mapping[str, Any]) -> None:
    """Write down what a run is, or see that what lies there is the same.

    Raises: EvalError where it is not.
    """
    path = folder / SETTINGS
    if not path.exists():
        if any(folder.glob("samples*.jsonl")):
            raise EvalError(f"{folder} holds {SAMPLES}, but no {SETTINGS} that says to what; give another folder")
        write(path, json.dumps(found, indent=1, sort_keys=True) + "\n")
        return
    same(folder, read(path), found)


def read(path: Path) -> dict[str, Any]:
    """Raises: EvalError where it is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        reason = f"it holds a {type(found).__name__}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise EvalError(f"{path} cannot be read ({reason}); give another folder")


def same(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises: EvalError that names the first thing in which two trees of settings differ."""
    before, now = dict(_leaves(there)), dict(_leaves(asked))
    for name in now | before:
        if before.get(name) != now.get(name):
            raise EvalError(
                f"{folder} holds answers with {name} {before.get(name)!r}, now it is {now.get(name)!r}; "
                "answers of both make no one number: give another folder"
            )


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value
