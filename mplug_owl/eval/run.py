"""A run: every example of some tasks asked once, every answer kept, then scored and summed up.

In the folder of a run, each task has `settings.json`, written first, and `samples.jsonl`, a line for each answer as it
comes; a run that was stopped asks only what is not answered there. `results.json` and `results.md` come last. They hold
no times: an interrupted run ends with the bytes of one that was not. Who answers and what is right is not known here.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

import mplug_owl
from mplug_owl.errors import EvalError
from mplug_owl.eval.endpoints import Endpoint
from mplug_owl.eval.report import markdown, plain
from mplug_owl.eval.task import Example, Record, Task

SETTINGS, SAMPLES, RESULTS, PAGE = "settings.json", "samples.jsonl", "results.json", "results.md"
_LIBRARIES = ("torch", "transformers", "pillow")


def run(endpoint: Endpoint, tasks: Sequence[Task], out: Path, *, new: bool = False) -> dict[str, Any]:
    """Ask, score, write; the contents of `results.json`.

    With `new`, a folder that holds a run already is refused.

    Raises:
        EvalError: the folder holds answers to other questions, of another model or under other settings.
    """
    model = endpoint.card()
    if new and any((out / task.name).exists() for task in tasks):
        raise EvalError(f"{out} holds a run already; give another folder, or go on with it without --new")
    results: dict[str, Any] = {"model": model, "tasks": {}, "versions": _versions()}
    for task in tasks:
        examples = list(task.examples())
        settings = _settings(task, examples)
        folder = out / task.name
        _agree(folder, {"model": model, "versions": results["versions"], **settings})
        answers = _answered(folder / SAMPLES, examples)
        _ask(endpoint, task, [example for example in examples if example.id not in answers], folder, answers)
        records = [_record(task, example, answers[example.id]) for example in examples]
        _write(folder / SAMPLES, "".join(map(_line, records)))
        results["tasks"][task.name] = {**settings, "tables": [plain(table) for table in task.aggregate(records)]}
    _write(out / RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
    _write(out / PAGE, markdown(results))
    return results


def _ask(endpoint: Endpoint, task: Task, examples: list[Example], folder: Path, answers: dict[str, str]) -> None:
    """Add the answers to `answers`, each written down before the next."""
    total = len(answers) + len(examples)
    said = endpoint.answers([example.messages for example in examples], task.max_new_tokens)
    with (
        (folder / SAMPLES).open("a", encoding="utf-8") as file,
        tqdm(total=total, initial=len(answers), desc=task.name, unit="question", disable=None) as bar,
    ):
        for example, answer in zip(examples, said, strict=True):
            file.write(_line(_record(task, example, answer)))
            file.flush()
            answers[example.id] = answer
            bar.update()


def _record(task: Task, example: Example, answer: str) -> Record:
    return Record(example, answer, task.score(example, answer))


def _line(record: Record) -> str:
    example = record.example
    row = {
        "id": example.id,
        "prompt": example.said(),
        "reference": list(example.answers),
        "answer": record.answer,
        **dataclasses.asdict(record.score),
        "meta": example.meta,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


# ---- what a number depends on --------------------------------------------------------------------


def _versions() -> dict[str, str]:
    return {"mplug_owl": mplug_owl.__version__, **{library: version(library) for library in _LIBRARIES}}


def _settings(task: Task, examples: Sequence[Example]) -> dict[str, Any]:
    """The settings of a task, with a hash of all that it asks and takes for right."""
    names = Counter(example.id for example in examples)
    if not names or max(names.values()) > 1:
        wrong = f"{names.most_common(1)[0][0]!r} is the id of several examples" if names else "there are no examples"
        raise EvalError(f"task {task.name}: {wrong}; expected examples with an id each")
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.id, example.said(), example.answers]).encode())
    fields = json.loads(json.dumps(dataclasses.asdict(task)))  # type: ignore[call-overload]
    return {"settings": fields, "data": digest.hexdigest()[:16], "max_new_tokens": task.max_new_tokens}


def _agree(folder: Path, settings: dict[str, Any]) -> None:
    """Write down what this run is, or see that what lies there is the same."""
    path = folder / SETTINGS
    if not path.exists():
        if (folder / SAMPLES).exists():
            raise EvalError(f"{folder} holds answers, but no {SETTINGS} that says to what; give another folder")
        _write(path, json.dumps(settings, indent=1, sort_keys=True) + "\n")
        return
    try:
        found = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise EvalError(f"{path} cannot be read ({error}); give another folder") from None
    asked = dict(_leaves(settings))
    for name in asked | found:
        if found.get(name) != asked.get(name):
            raise EvalError(
                f"{folder} holds answers with {name} {found.get(name)!r}, now it is {asked.get(name)!r}; "
                "answers of both make no one number: give another folder"
            )


def _leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


# ---- files ---------------------------------------------------------------------------------------


def _answered(path: Path, examples: Sequence[Example]) -> dict[str, str]:
    """The answers that are there by id. A last line cut short by a crash is taken away."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        _write(path, whole)
    known = {example.id for example in examples}
    answers: dict[str, str] = {}
    for number, line in enumerate(whole.split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            name, answer = row["id"], row["answer"]
        except (ValueError, KeyError, TypeError):
            raise EvalError(f"{path}:{number} is no answer; take the line away, or give another folder") from None
        if name not in known or name in answers:
            wrong = "answered twice" if name in answers else "none of this task's examples"
            raise EvalError(f"{path}:{number}: {name!r} is {wrong}; give another folder")
        answers[name] = answer
    return answers


def _write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
