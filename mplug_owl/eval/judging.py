"""The folder of a judging: what the judge was asked to do, its verdicts, and what that took so far.

Who judges and how is not known here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.samples import write
from mplug_owl.eval.verdicts import MODES, Verdict, read_verdicts

VERDICTS, ABOUT, PAGE = "verdicts.jsonl", "judge.json", "judge.md"
SPENT = "spent"


@dataclass(frozen=True)
class Judging:
    """The verdicts of one judge in one run."""

    name: str
    verdicts: Sequence[Verdict]
    against: str | None = None
    """Whom the other systems were compared with; none where answers were graded alone."""


def read_judging(folder: Path) -> Judging:
    """Raises: EvalError where the folder holds no judging."""
    about = _read(folder / ABOUT)
    if about["mode"] not in MODES:
        raise EvalError(f"{folder} holds labels of answers to yes-or-no questions; expected grades or comparisons")
    verdicts = read_verdicts(folder / VERDICTS)
    if not verdicts:
        raise EvalError(f"{folder} holds no {VERDICTS}; expected the folder of owl judge")
    return Judging(str(about["name"]), verdicts, about["against"])


def begin(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write down what a judging is, or see that what lies there is the same; what it took so far.

    Raises: EvalError where it is another one.
    """
    if not (folder / ABOUT).exists():
        note(folder, about, {})
        return {}
    there = _read(folder / ABOUT)
    spent: dict[str, Any] = there.pop(SPENT)
    now = json.loads(json.dumps(about))
    for name in there | now:
        if there.get(name) != now.get(name):
            raise EvalError(
                f"{folder} holds verdicts with {name} {there.get(name)!r}, now it is {now.get(name)!r}; "
                "give another --out"
            )
    return spent


def note(folder: Path, about: Mapping[str, Any], spent: Mapping[str, Any]) -> None:
    """Write down what a judging is and what it took so far."""
    write(folder / ABOUT, json.dumps({**about, SPENT: dict(spent)}, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not {"name", "mode", "against", SPENT} <= found.keys():
            raise ValueError("it names no judge")
    except (OSError, ValueError, AttributeError) as error:
        raise EvalError(f"{path} cannot be read ({error}); expected the folder of owl judge") from None
    return dict(found)
