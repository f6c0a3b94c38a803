"""A comparison to be read: as Markdown, as CSV and as rows for a leaderboard. It computes nothing."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mplug_owl.eval.comparison import Comparison, Line, Pair, Sheet
from mplug_owl.eval.report import asked, cell, published

COLUMNS = (
    *("model", "task", "split", "table", "row", "metric", "unit", "n", "score", "low", "high", "chance"),
    *("failed", "verified", "data", "prompts"),
)
NOTE = (
    "Percent unless said otherwise, with 95% intervals. A difference is that of two runs on the same samples; its p is "
    "not corrected for how many are looked at."
)


def markdown(comparison: Comparison) -> str:
    lines = ["# Runs side by side", "", *(f"- {line}" for line in models(comparison))]
    for sheet in comparison.sheets:
        lines += ["", f"## {sheet.name}", "", *(f"- {line}" for line in conditions(sheet))]
        lines += ["", *(f"> warning: {warning}" for warning in sheet.warnings)] if sheet.warnings else []
        for title, table in sheet.tables.items():
            lines += ["", f"### {title}", "", *_grid(score_table(comparison, table))]
            if compared := pair_table(table):
                lines += ["", "On the same samples:", "", *_grid(compared)]
        if given := [published(number) for number in sheet.facts["published"]]:
            lines += ["", "Given elsewhere:", "", *(f"- {line}" for line in given)]
    return "\n".join([*lines, "", NOTE]) + "\n"


def models(comparison: Comparison) -> list[str]:
    """Who was asked, with what tells two models apart."""
    lines = []
    for run in comparison.runs:
        card = run.results["model"]
        facts = [f"{name} {str(card[name])[:12]}" for name in ("weights", "sha256", "dtype", "device") if name in card]
        lines.append(f"{run.name}: {', '.join(facts) or 'nothing more is known of it'}")
    return lines


def conditions(sheet: Sheet) -> list[str]:
    facts = sheet.facts
    chance = "" if facts["chance"] is None else f"; chance {100 * facts['chance']:.1f}"
    return [
        f"split {facts['split']}, data {facts['data']}, prompts {facts['prompts']}; {facts['decoding']}, at most "
        f"{facts['max_new_tokens']} tokens{chance}",
        f"asked like this: {asked(facts)!r}",
        f"from {facts['source']}; licence: {facts['licence']}",
    ]


def score_table(comparison: Comparison, table: Sequence[Line]) -> list[list[str]]:
    """A head and a row for each line; columns that say nothing are left out."""
    head = ["", "metric", "n", "chance", *(run.name for run in comparison.runs), "given elsewhere"]
    rows = []
    for line in table:
        counts = {row["n"] for row in line.scores if row is not None}
        numbers = "; ".join(f"{number['value']:g} {number['model']}" for number in line.published)
        cells = [line.name, line.metric, str(counts.pop()) if len(counts) == 1 else "", cell(line.chance, line.unit)]
        rows.append([*cells, *(score(row, n=len(counts) > 0) for row in line.scores), numbers])
    kept = [place for place in range(len(head)) if place == 0 or {row[place] for row in rows} - {"", "accuracy"}]
    return [[row[place] for place in kept] for row in [head, *rows]]


def score(row: Mapping[str, Any] | None, *, n: bool = False) -> str:
    """A score with its interval, and with its n where that is not the same for all."""
    if row is None:
        return ""
    unit = row["unit"]
    spread = f" ({cell(row['interval'], unit)})" if row["interval"] is not None else ""
    return cell(float(row["score"]), unit) + spread + (f", n {row['n']}" if n else "")


def pair_table(table: Sequence[Line]) -> list[list[str]]:
    found = [[line.name, *_pair(pair)] for line in table for pair in line.pairs]
    return [["", "first", "second", "n", "difference", "interval", "p", "test"], *found] if found else []


def _pair(pair: Pair) -> list[str]:
    low, high = (f"{100 * bound:+.1f}" for bound in pair.interval)
    difference = f"{100 * pair.difference:+.1f}"
    p = "< 0.0001" if pair.p < 1e-4 else f"{pair.p:.4f}"
    return [pair.first, pair.second, str(pair.n), difference, f"{low} to {high}", p, pair.test]


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    clean = [[text.replace("|", "\\|") for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in clean]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


# ---- for programs --------------------------------------------------------------------------------


def as_csv(comparison: Comparison) -> str:
    """A line for each score, in shares as `results.json` has them."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for sheet, title, line, run, row in _scores(comparison):
        facts = run.results["tasks"][sheet.name]
        low, high = row["interval"] or ("", "")
        own = {name: facts[name] for name in ("split", "failed", "verified", "data", "prompts")}
        place = {"task": sheet.name, "table": title, "row": line.name, "model": run.name, "low": low, "high": high}
        writer.writerow({**{name: row[name] for name in ("metric", "unit", "n", "score", "chance")}, **own, **place})
    return out.getvalue()


def leaderboard(comparison: Comparison) -> str:
    """A JSON line for each score of each first table, as leaderboards show it: percent, or points."""
    lines = []
    for sheet, title, line, run, row in _scores(comparison):
        if title != next(iter(sheet.tables)):
            continue
        facts = run.results["tasks"][sheet.name]
        times = 100 if line.unit == "percent" else 1
        found = {
            "task": facts["kind"],
            "dataset": sheet.name if line is sheet.headline else f"{sheet.name} ({line.name})",
            "split": facts["split"],
            "metric": line.metric,
            "value": round(times * row["score"], 4),
            "model": run.name,
            "n": row["n"],
            "interval": row["interval"] and [round(times * bound, 4) for bound in row["interval"]],
            "verified": facts["verified"],
        }
        lines.append(json.dumps(found, ensure_ascii=False) + "\n")
    return "".join(lines)


def _scores(comparison: Comparison) -> Iterator[tuple[Sheet, str, Line, Any, Mapping[str, Any]]]:
    for sheet in comparison.sheets:
        for title, table in sheet.tables.items():
            for line in table:
                for run, row in zip(comparison.runs, line.scores, strict=True):
                    if row is not None:
                        yield sheet, title, line, run, row
