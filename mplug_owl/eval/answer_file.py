"""Files of answers that another program gave: JSON lines, a JSON list, or one JSON object of ids and answers.

The usual names of fields are known; what the answers are worth is not.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError

IDS = ("id", "question_id", "qid", "image_id")
ANSWERS = ("answer", "text", "prediction", "response", "output", "caption")


def card(path: Path, name: str | None = None) -> dict[str, Any]:
    """Whose answers these are, as a run's results say it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": name or path.stem, "answers": path.name, "sha256": digest}


def read(path: Path) -> dict[str, str]:
    """The answers by id; where a run could not answer, there is none.

    Raises:
        EvalError: it cannot be read, or answers something twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"answers {str(path)!r} cannot be read ({error})") from None
    found: dict[str, str] = {}
    for where, row in _rows(path, text):
        if not isinstance(row, dict):
            raise EvalError(f"{where} is a {type(row).__name__}; expected an object with an id and an answer")
        if "error" in row:
            continue  # a line of a run, whose question has no answer
        name, answer = _field(where, row, IDS), _field(where, row, ANSWERS)
        if not isinstance(answer, str | int | float):
            raise EvalError(f"{where} has an answer of type {type(answer).__name__}; expected text")
        if str(name) in found:
            raise EvalError(f"{where}: {name!r} is answered twice; expected each id once")
        found[str(name)] = str(answer)
    if not found:
        raise EvalError(f"{path} holds no answers; expected lines such as " + '{"id": "1", "answer": "red"}')
    return found


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file with the place of each."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and not any(name in whole for name in IDS):
        yield from ((f"{path}: {name}", {"id": name, "answer": answer}) for name, answer in whole.items())
    elif isinstance(whole, list):
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(whole, start=1))
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except ValueError:
                    raise EvalError(f"{path}:{number} is no JSON; expected lines, a list or an object") from None


def _field(where: str, row: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise EvalError(f"{where} has {', '.join(row) or 'nothing'}; expected one of {', '.join(names)}")
