"""A report in pieces - words, tables, pictures - written as Markdown, as one HTML file and as CSV.

Shares are percent for the eye and shares in CSV. What the pieces say is not known here.
"""

import base64
import csv
import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .75rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } img { background: white; } }
"""


@dataclass(frozen=True)
class Share:
    """A share with the number that it is of."""

    value: float | None
    n: int


Cell = str | int | float | Share | None


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Points:
    items: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table; the first column names its rows."""

    name: str
    rows: Sequence[Mapping[str, Cell]]


@dataclass(frozen=True)
class Picture:
    file: Path
    text: str


Piece = Heading | Words | Points | Grid | Picture


def markdown(pieces: Sequence[Piece]) -> str:
    return "\n\n".join(map(_markdown, pieces)) + "\n"


def _markdown(piece: Piece) -> str:
    match piece:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Words(text):
            return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
        case Points(items):
            return "\n".join(f"- {item}" for item in items)
        case Picture(file, text):
            return f"![{text}]({file.name})"
        case Grid():
            lines = _cells(piece)
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            made = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
            return "\n".join([made[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *made[1:]])


def page(title: str, pieces: Sequence[Piece]) -> str:
    """One HTML file that needs no other."""
    body = "\n".join(map(_html, pieces))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n{_STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html(piece: Piece) -> str:
    match piece:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Words(text):
            return f"<p>{html.escape(text)}</p>"
        case Points(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Picture(file, text):
            data = base64.b64encode(file.read_bytes()).decode()
            return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'
        case Grid():
            head, *lines = _cells(piece)
            rows = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
            rows += ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines]
            return "<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"


def table_of_all(pieces: Sequence[Piece]) -> str:
    """Every value of every table as CSV: a line each, shares with the number that they are of."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("table", "row", "column", "value", "n"))
    for grid in pieces:
        if isinstance(grid, Grid):
            for row in grid.rows:
                (_, name), *cells = row.items()
                for column, cell in cells:
                    value, n = (cell.value, cell.n) if isinstance(cell, Share) else (cell, "")
                    if value is not None:
                        said = f"{value:.6f}" if isinstance(value, float) else value
                        writer.writerow((grid.name, name, column, said, n))
    return out.getvalue()


def _cells(grid: Grid) -> list[list[str]]:
    names = list(dict.fromkeys(name for row in grid.rows for name in row))
    return [names, *([_cell(row.get(name)) for name in names] for row in grid.rows)]


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Share):
        return "" if cell.value is None else f"{100 * cell.value:.1f} ({cell.n})"
    return f"{100 * cell:.1f}" if isinstance(cell, float) else str(cell)
