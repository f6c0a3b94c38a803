"""Results to be read: what a run found, as JSON and as Markdown.

It knows tables of means and intervals, and no task. Shares are shares in JSON and percent for the eye.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mplug_owl.eval.task import Row, Table

_DIGITS = 6


def plain(table: Table) -> dict[str, Any]:
    """A table as JSON."""
    return {"title": table.title, "rows": [_plain_row(row) for row in table.rows], "notes": list(table.notes)}


def _plain_row(row: Row) -> dict[str, Any]:
    values = {"name": row.name, "n": row.n, "score": row.score, "interval": row.interval, "chance": row.chance}
    return {name: _rounded(value) for name, value in (values | row.more).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    return [_rounded(part) for part in value] if isinstance(value, tuple | list) else value


def markdown(results: Mapping[str, Any]) -> str:
    """The page of a `results.json`."""
    model, lines = results["model"], ["# Evaluation", ""]
    lines += [f"{', '.join(f'{name} {value}' for name, value in model.items())}", ""]
    for name, task in results["tasks"].items():
        settings = ", ".join(f"{key} {_listed(value)}" for key, value in task["settings"].items())
        lines += [f"## {name}", "", f"{settings}; data {task['data']}; greedy, at most {task['max_new_tokens']} tokens"]
        for table in task["tables"]:
            lines += ["", f"### {table['title']}", "", *_grid(table["rows"])]
            lines += ["", *(f"- {note}" for note in table["notes"])] if table["notes"] else []
        lines.append("")
    lines.append("Percent; intervals are 95%. " + ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + ".")
    return "\n".join(lines) + "\n"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _grid(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Aligned, so that it can be read in a terminal too; columns without a value are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    kept = [name for name in names if any(row.get(name) is not None for row in rows)]
    cells = [[name.replace("_", " ") for name in kept], *([_cell(row.get(name)) for name in kept] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return ("no", "yes")[value]
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    return " to ".join(map(_cell, value)) if isinstance(value, list) else str(value)
