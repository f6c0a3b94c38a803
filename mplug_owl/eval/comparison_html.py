"""A comparison as one HTML file: nothing in it is fetched from anywhere, and its plots are drawn in it."""

from collections.abc import Sequence
from html import escape

from mplug_owl.eval.comparison import Comparison, Line
from mplug_owl.eval.comparison_page import NOTE, conditions, models, pair_table, score_table
from mplug_owl.eval.report import cell, published

COLOURS = ("#2563a8", "#c4561b", "#2e8b57", "#8e44ad", "#a8892b", "#3b8ea5", "#b03a5b", "#5f6b2e")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .8em 0; display: block; overflow-x: auto; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #888; }
.warning { background: #fff3d6; border-left: 4px solid #d99a00; padding: .3em .8em; margin: .3em 0; }
svg { max-width: 100%; height: auto; }
"""
_LEFT, _WIDTH, _LINE, _GAP, _TOP = 190, 620, 11, 14, 26  # of a plot: margin, plot, a run, between rows, scale


def page(comparison: Comparison) -> str:
    body = ["<h1>Runs side by side</h1>", _list(models(comparison))]
    for sheet in comparison.sheets:
        body += [f"<h2>{escape(sheet.name)}</h2>", _list(conditions(sheet))]
        body += [f'<p class="warning">{escape(warning)}</p>' for warning in sheet.warnings]
        for title, table in sheet.tables.items():
            body += [f"<h3>{escape(title)}</h3>", plot(table, [run.name for run in comparison.runs])]
            body.append(_table(score_table(comparison, table)))
            if compared := pair_table(table):
                body += ["<p>On the same samples:</p>", _table(compared)]
        if given := [published(number) for number in sheet.facts["published"]]:
            body += ["<p>Given elsewhere:</p>", _list(given)]
    head = f'<meta charset="utf-8"><title>Runs side by side</title><style>{STYLE}</style>'
    content = "\n".join([*body, f"<p>{escape(NOTE)} In plots a bar is chance, a ring a number given elsewhere.</p>"])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = ("".join(f"<{tag}>{escape(text)}</{tag}>" for text in row) for tag, row in _tagged(rows))
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rest) + "</table>"


def _tagged(rows: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return [("th" if number == 0 else "td", row) for number, row in enumerate(rows)]


# ---- plots ---------------------------------------------------------------------------------------


def plot(table: Sequence[Line], runs: Sequence[str]) -> str:
    """A line for each row and run: the score as a point in its interval; chance as a bar, other people's as rings."""
    shares = [line for line in table if line.unit == "percent"]
    if not shares:
        return ""  # points of different rows have no scale in common
    most = max(1.0, *(row["score"] for line in shares for row in line.scores if row is not None))
    height, marks = _TOP, [_scale(most)]
    for line in shares:
        rows = [(number, row) for number, row in enumerate(line.scores) if row is not None]
        middle = height + _LINE * len(rows) / 2
        marks.append(f'<text x="{_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(line.name)}</text>')
        foot = height + _LINE * len(rows)
        if line.chance is not None:
            x = _x(line.chance, most)
            marks.append(f'<path d="M{x:.1f} {height}V{foot}" stroke="#999" stroke-width="3"/>')
        for given in line.published:
            about = escape(published(given))
            marks.append(
                f'<circle cx="{_x(given["value"] / 100, most):.1f}" cy="{middle:.1f}" r="5" fill="none" stroke="#555">'
                f"<title>{about}</title></circle>"
            )
        for place, (number, row) in enumerate(rows):
            y, colour = height + _LINE * (place + 0.5), COLOURS[number % len(COLOURS)]
            if row["interval"] is not None:
                low, high = (_x(bound, most) for bound in row["interval"])
                marks.append(f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{colour}" stroke-width="2"/>')
            about = escape(f"{runs[number]}: {cell(float(row['score']))}")
            x = _x(row["score"], most)
            marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{about}</title></circle>')
        height = foot + _GAP
    for number, run in enumerate(runs):
        y, colour = height + 16 * number + 8, COLOURS[number % len(COLOURS)]
        marks.append(f'<circle cx="{_LEFT}" cy="{y}" r="4" fill="{colour}"/>')
        marks.append(f'<text x="{_LEFT + 10}" y="{y + 4}">{escape(run)}</text>')
    size = f"{_LEFT + _WIDTH + 30} {height + 16 * len(runs)}"
    wide = f'width="{_LEFT + _WIDTH + 30}" viewBox="0 0 {size}" font-size="12" fill="#333"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {wide}>' + "".join(marks) + "</svg>"


def _x(share: float, most: float) -> float:
    return _LEFT + _WIDTH * max(0.0, min(share, most)) / most


def _scale(most: float) -> str:
    """The ticks above the plot, five of them, in percent."""
    marks = []
    for fifth in range(6):
        share = most * fifth / 5
        x = _x(share, most)
        marks.append(f'<text x="{x:.1f}" y="14" text-anchor="middle" fill="#777">{100 * share:.0f}</text>')
    return "".join(marks)
