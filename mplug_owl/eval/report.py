"""The results of one run to be read: as JSON and as Markdown.

It knows tables of scores and intervals, and no task. Shares are shares in JSON and percent for the eye.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mplug_owl.eval.task import Row, Table

UNVERIFIED = "scorer not verified against the official one"
_DIGITS = 6
_USUAL = {"metric": "accuracy", "unit": "percent"}


def plain(table: Table) -> dict[str, Any]:
    """A table as JSON."""
    return {"title": table.title, "rows": [_plain_row(row) for row in table.rows], "notes": list(table.notes)}


def _plain_row(row: Row) -> dict[str, Any]:
    values = {"name": row.name, "metric": row.metric, "unit": row.unit, "n": row.n, "score": row.score}
    values |= {"interval": row.interval, "chance": row.chance}
    return {name: _rounded(value) for name, value in (values | row.more).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    return [_rounded(part) for part in value] if isinstance(value, tuple | list) else value


def markdown(results: Mapping[str, Any]) -> str:
    """The page of a `results.json`."""
    lines = ["# Evaluation", ""]
    lines += [f"- {name}: {_listed(value)}" for name, value in results["model"].items()]
    for name, task in results["tasks"].items():
        lines += ["", f"## {name}", "", *_conditions(task)]
        for table in task["tables"]:
            lines += ["", f"### {table['title']}", "", *grid(table["rows"])]
            lines += ["", *(f"- {note}" for note in table["notes"])] if table["notes"] else []
        if task["published"]:
            lines += ["", "Given elsewhere:", "", *(f"- {published(number)}" for number in task["published"])]
    versions = ", ".join(f"{library} {version}" for library, version in results["versions"].items())
    return "\n".join([*lines, "", f"Percent unless said otherwise; intervals are 95%. {versions}."]) + "\n"


def _conditions(task: Mapping[str, Any]) -> list[str]:
    """What the numbers of a task hold under."""
    settings = ", ".join(f"{key} {_listed(value)}" for key, value in task["settings"].items())
    failed = f"; {task['failed']} of them without an answer, which count as wrong" if task["failed"] else ""
    lines = [
        f"{task['n']} questions of split {task['split']}{failed}; {task['decoding']}, at most "
        f"{task['max_new_tokens']} tokens; data {task['data']}, prompts {task['prompts']}",
        *([settings] if settings else []),
        *(f"{name} {revision}" for name, revision in task["files"].items()),
        f"asked like this: {asked(task)!r}",
    ]
    return [f"- {line}" for line in (*lines, *([UNVERIFIED] if not task["verified"] else []))]


def asked(task: Mapping[str, Any]) -> str:
    """The first question of a task as one line of text."""
    return " / ".join(turn["text"] for turn in task["prompt"])


def published(number: Mapping[str, Any]) -> str:
    """A number that somebody else gave, in words."""
    row = f" ({number['row']})" if number["row"] else ""
    note = f"; {number['note']}" if number["note"] else ""
    return f"{number['model']}{row}: {number['value']:g} {number['metric']}; {number['source']}{note}"


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)


def grid(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Aligned, so that it can be read in a terminal too; columns that say nothing are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    kept = [name for name in names if any(row.get(name) not in (None, _USUAL.get(name)) for row in rows)]
    cells = [[name.replace("_", " ") for name in kept]]
    cells += [[cell(row.get(name), row.get("unit", "percent")) for name in kept] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def cell(value: Any, unit: str = "percent") -> str:
    """A value of a row for the eye: what is a fraction in JSON is percent here, unless it counts points."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return ("no", "yes")[value]
    if isinstance(value, float):
        return f"{100 * value:.1f}" if unit == "percent" else f"{value:.2f}"
    return " to ".join(cell(part, unit) for part in value) if isinstance(value, list) else str(value)
