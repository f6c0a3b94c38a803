"""The page of a study's results: what was asked, the table, and in words what holds of what a paper found.

It knows `results.json` alone, and no recipe or model. Shares are percent here.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mplug_owl.lab.judgement import Verdict

Results = Mapping[str, Any]
_WIDTH = 120


def markdown(results: Results, plot: str) -> str:
    """The whole page; `plot` is the picture's place beside it."""
    blocks = [
        f"# {results['name']}",
        results["question"],
        f"After {results['source']}. {_seeds(results)}",
        f"![scores of {results['name']}]({plot})",
        _table(results),
        "Percent, with 95% intervals. The columns:",
        _list(f"**{name}**: {found['about']} ({found['n']})" for name, found in results["columns"].items()),
        "The variants:",
        _list(f"**{each['name']}**: {each['about']} ({' > '.join(each['stages'])})" for each in results["variants"]),
        "## What holds of the paper's findings",
        _tally(results),
        _list(_sentence(finding) for finding in results["findings"]),
    ]
    if results["notes"]:
        blocks += ["## What stands for what", _list(results["notes"])]
    blocks += [
        f"Written by `owl lab {results['name']}`; the exact recipes are in `recipes.json`, scores of every seed in "
        "`results.json`, what it took and where in `machine.json`."
    ]
    return "\n\n".join(block if block.startswith(("|", "- ")) else _filled(block) for block in blocks if block) + "\n"


def _seeds(results: Results) -> str:
    seeds, asked = results["seeds"], results["evaluation"]
    said = f"{asked['count']} questions each of {', '.join(asked['skills'])} ({asked['split']} split), greedy. "
    if len(seeds) == 1:
        return said + (
            f"**One seed** ({seeds[0]}): intervals are over questions, and say nothing of how another training run "
            "would differ."
        )
    return said + (
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}): intervals reach as far as those over seeds and those over "
        "questions."
    )


def _table(results: Results) -> str:
    names = list(results["columns"])
    rows = [["", *names]]
    rows += [[each["name"], *(_cell(each["scores"][name]) for name in names)] for each in results["variants"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cell(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['score']:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def _tally(results: Results) -> str:
    findings = results["findings"]
    counts = {verdict: sum(each["verdict"] == verdict for each in findings) for verdict in get_args(Verdict)}
    said = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
    alone = (
        " One seed speaks of these owls; others of the same making may differ." if len(results["seeds"]) == 1 else ""
    )
    return (
        f"Of {len(findings)}: {said}. Each is judged by itself: it holds where the whole interval of its difference "
        "lies above 0, or above the loss that is allowed; it does not hold where all of it lies below, so the opposite "
        f"was found; anything else decides nothing, neither for nor against.{alone}"
    )


def _sentence(finding: Mapping[str, Any]) -> str:
    """The verdict first, then the numbers it rests on."""
    (ours, theirs), found = finding["scores"], finding["difference"]
    low, high = found["interval"]
    allowed = f", {100 * finding['margin']:.0f} less allowed" if finding["expected"] == "not worse" else ""
    return (
        f"**{finding['verdict']}**: {finding['claim']}. {_named(finding['first'])} {100 * ours:.1f}, "
        f"{_named(finding['second'])} {100 * theirs:.1f} on {', '.join(finding['columns'])}: "
        f"{100 * found['score']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}{allowed}). The paper: {finding['paper']}."
    )


def _named(variants: Sequence[str]) -> str:
    return " and ".join(variants)


def _list(items: Any) -> str:
    return "\n".join(_filled(item, first="- ", further="  ") for item in items)


def _filled(text: str, first: str = "", further: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False, break_long_words=False
    )
