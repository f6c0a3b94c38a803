"""A report as one HTML page that needs no network: what was found, histograms, rendered samples.

Everything that comes from data is escaped.
"""

from collections.abc import Sequence
from html import escape

from mplug_owl.data.report import Bin, Finding, Kind, Report, Sample, listed

_LISTED = 100  # rows of a kind that the page names

_STYLE = """
:root { color-scheme: light dark; --edge: #8886; --bar: #4a7fb5; --learnt: #2e9e5b44 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .7rem; text-align: right }
td:first-child, th:first-child { text-align: left }
thead, .bars tr { border-bottom: 1px solid var(--edge) } .bars { width: 100% }
table, details { margin-bottom: .6rem }
.verdict { font-weight: 600 } .error { color: #c0392b } .warning { color: #b9770e }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem }
.card { border: 1px solid var(--edge); border-radius: .5rem; padding: .8rem; overflow: auto }
.card pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0 0 }
.bar { background: var(--bar); height: .8rem; min-width: 1px } .bars td:last-child { width: 60% }
.learnt { background: var(--learnt); border-bottom: 2px solid #2e9e5b }
.medium { border: 1px dashed; border-radius: .3rem; padding: 0 .3rem; opacity: .7 }
img { margin-right: .4rem; border-radius: .3rem } li { overflow-wrap: anywhere }
"""


def page(report: Report) -> str:
    """The page."""
    severity = ("", "warning", "error")[report.status]
    noted = "" if report.max_length else " No model was given, so these are characters."
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>owl doctor</title>',
        f"<style>{_STYLE}</style></head><body><h1>owl doctor</h1>",
        f'<p class="verdict {severity}">{escape(report.verdict)}</p>',
        f"<p>{report.learnt_share:.1%} of the {report.unit} are learnt from.{noted}</p>",
        _sources(report),
        *(_kind(name, kind, found) for name, kind, found in report.by_kind()),
        "<h2>Histograms</h2>",
        f'<div class="grid">{"".join(_histogram(*each) for each in report.histograms.items())}</div>',
    ]
    if report.samples:
        parts += [
            '<h2>Samples</h2><p><span class="learnt">Coloured</span> text is learnt.</p>',
            f'<div class="grid">{"".join(map(_sample, report.samples))}</div>',
        ]
    return "\n".join([*parts, "</body></html>\n"])


def _sources(report: Report) -> str:
    head, *body = report.table()
    names = "".join(f"<th>{name}</th>" for name in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"


def _kind(name: str, kind: Kind, found: Sequence[Finding]) -> str:
    rows = "".join(f"<li>{escape(line)}</li>" for line in listed(found, _LISTED))
    return (
        f'<details id="{name}"><summary><span class="{kind.severity}">{kind.severity}</span>: '
        f"{len(found):,} {escape(kind.title)}; {escape(kind.advice)}</summary><ul>{rows}</ul></details>"
    )


def _histogram(title: str, bins: Sequence[Bin]) -> str:
    most = max(each.count for each in bins)
    rows = "".join(
        f"<tr><td>{each.label}</td><td>{each.count:,}</td>"
        f'<td><div class="bar" style="width:{each.count / most:.1%}"></div></td></tr>'
        for each in bins
    )
    return f'<div class="card"><b>{escape(title)}</b><table class="bars">{rows}</table></div>'


def _sample(sample: Sample) -> str:
    pictures = "".join(
        f'<img src="{address}" alt="">' if address else "<i>unreadable</i> " for address in sample.pictures
    )
    text = "".join(
        f'<span class="medium">{piece.kind} {piece.text}</span>'
        if piece.kind in ("image", "video")
        else f'<span class="{piece.kind}">{escape(piece.text)}</span>'
        for piece in sample.pieces
    )
    return f'<div class="card"><b>{escape(sample.where)}</b> {escape(sample.id)}<br>{pictures}<pre>{text}</pre></div>'
