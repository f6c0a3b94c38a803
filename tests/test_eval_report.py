"""Runs side by side: the numbers are those of the runs, pairs are of the same samples, and differences are said."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval_tasks import Adder, Chains, Sums
from mplug_owl import EvalError
from mplug_owl.eval import report_command
from mplug_owl.eval.comparison import Comparison, compare
from mplug_owl.eval.comparison_html import page
from mplug_owl.eval.comparison_page import as_csv, leaderboard, markdown
from mplug_owl.eval.run import run
from mplug_owl.eval.scoring import difference, mcnemar, wilson
from mplug_owl.eval.task import Published, Record, Row, Table, mean


@dataclass(frozen=True)
class Graded(Sums):
    """Sums by size, with numbers from elsewhere that contradict each other."""

    name = "graded"
    chance = 0.25
    kind = "Arithmetic"

    def published(self) -> Sequence[Published]:
        return [Published("abacus", 31.1, "a book"), Published("abacus", 9.45, "its errata", note="another judge")]

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        small = [record for record in records if record.example.meta["number"] < 8]
        total = Row("points", len(records), 2.0 * len(records), None, metric="score", unit="points")
        return [Table("sizes", (mean("small", small), mean("all", records, 0.25), total))]


ONE, TWO = tuple(range(12)), (0, 1, 19)  # what each gets wrong


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    for name, wrong in (("one", ONE), ("two", TWO)):
        adder = Adder(wrong=wrong, weights=name)
        adder.card = lambda name=name: {"name": name, "weights": name * 9}  # type: ignore[method-assign]
        run(adder, [Graded()], tmp_path / name)
    return [tmp_path / "one", tmp_path / "two"]


@pytest.fixture
def found(runs: list[Path]) -> Comparison:
    return compare(runs)


def test_scores_are_those_of_the_runs(found: Comparison) -> None:
    (sheet,) = found.sheets
    lines = {line.name: line for line in sheet.tables["sizes"]}
    assert list(lines) == ["small", "all", "points"] and sheet.headline is lines["all"]
    assert [row["score"] for row in lines["all"].scores if row] == [0.4, 0.85]
    assert [row["score"] for row in lines["small"].scores if row] == [0.0, 0.75]
    assert [number["value"] for number in lines["all"].published] == [31.1, 9.45]
    assert lines["small"].published == () and lines["all"].chance == 0.25
    assert sheet.warnings == ()


def test_pairs_are_of_the_same_samples(found: Comparison) -> None:
    lines = {line.name: line for line in found.sheets[0].tables["sizes"]}
    assert lines["points"].pairs == ()  # it is the mean of no samples
    (pair,) = lines["all"].pairs
    first, second = ([float(n not in wrong) for n in range(20)] for wrong in (ONE, TWO))
    assert (pair.first, pair.second, pair.n, pair.test) == ("one", "two", 20, "McNemar, exact")
    assert pair.difference == pytest.approx(0.4 - 0.85) and pair.interval == difference(first, second)
    assert pair.p == mcnemar([value == 1 for value in first], [value == 1 for value in second])
    assert lines["small"].pairs[0].n == 8


def test_runs_that_are_alike_are_not_thought_alike_for_certain(runs: list[Path], tmp_path: Path) -> None:
    run(Adder(wrong=ONE, weights="other"), [Graded()], tmp_path / "alike")
    (pair,) = compare([runs[0], tmp_path / "alike"]).sheets[0].headline.pairs
    assert (pair.difference, pair.p) == (0, 1) and pair.interval.high == -pair.interval.low == wilson(0.0, 20).high


def test_only_what_was_asked_of_both_is_paired(runs: list[Path], tmp_path: Path) -> None:
    samples = runs[1] / "graded/samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").split("\n")[:-1]]
    rows[4]["prompt"][0]["text"] = "otherwise?"
    rows[5]["reference"] = ["7"]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = {line.name: line for line in compare(runs).sheets[0].tables["sizes"]}
    assert lines["all"].pairs[0].n == 18 and lines["small"].pairs[0].n == 6


def test_dialogues_are_paired_although_models_said_other_things(tmp_path: Path) -> None:
    run(Adder(), [Chains()], tmp_path / "one")
    run(Adder(wrong=(1,)), [Chains()], tmp_path / "two")
    (pair,) = compare([tmp_path / "one", tmp_path / "two"]).sheets[0].headline.pairs
    assert pair.n == 12 and pair.difference > 0


def test_runs_that_did_not_do_the_same_are_warned_of(runs: list[Path], tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Otherwise(Graded):
        max_new_tokens = 9
        verified = False
        split = "val"

    run(Adder(silent=(3,)), [Otherwise(count=30)], tmp_path / "other", allow_failures=True)
    (sheet,) = compare([runs[0], tmp_path / "other"]).sheets
    said = "\n".join(sheet.warnings)
    for words in (
        "one and adder differ in splits: 'test' and 'val'",
        "one and adder differ in questions or references",
        "one and adder differ in prompts",
        "one and adder differ in lengths of answers: 8 and 9",
        "one and adder differ in settings: count 20 and 30",
        "1 of 30 questions have no answer of adder; they count as wrong",
        "scorer not verified against the official one",
    ):
        assert words in said
    assert "> warning: one and adder differ in splits" in markdown(compare([runs[0], tmp_path / "other"]))


def test_the_page_for_people(found: Comparison) -> None:
    text = markdown(found)
    assert "| all " in text and "40.0 (21.9 to 61.3)" in text and "85.0 (64.0 to 94.8)" in text
    assert "31.1 abacus; 9.45 abacus" in text and "abacus: 9.45 accuracy; its errata; another judge" in text
    assert "-45.0" in text and "McNemar, exact" in text and "chance 25.0" in text
    assert re.search(r"\| points +\| score .* 40\.00 ", text)


def test_the_table_for_programs(found: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert len(rows) == 6
    (mine,) = [row for row in rows if (row["model"], row["row"]) == ("two", "all")]
    assert (float(mine["score"]), int(mine["n"]), mine["split"], mine["verified"]) == (0.85, 20, "test", "True")
    assert 0.63 < float(mine["low"]) < 0.65 and float(mine["chance"]) == 0.25


def test_rows_for_leaderboards(found: Comparison) -> None:
    rows = [json.loads(line) for line in leaderboard(found).splitlines()]
    (mine,) = [row for row in rows if (row["model"], row["dataset"]) == ("two", "graded")]
    assert (mine["task"], mine["metric"], mine["value"], mine["n"]) == ("Arithmetic", "accuracy", 85.0, 20)
    assert {row["dataset"] for row in rows} == {"graded", "graded (small)", "graded (points)"}
    assert [row["value"] for row in rows if row["dataset"] == "graded (points)"] == [40.0, 40.0]


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_page_is_whole_and_fetches_nothing(found: Comparison) -> None:
    text = page(replace(found, runs=tuple(replace(run, name=f"<{run.name}>") for run in found.runs)))
    elements = Elements()
    elements.feed(text)
    assert not elements.open
    assert not any({"src", "href", "srcset"} & attributes.keys() for _, attributes in elements.seen)
    assert "url(" not in text and "@import" not in text and "&lt;one&gt;" in text
    (plot,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    # Two rows in percent: a point for each run, rings for the two published numbers, and the legend.
    assert plot.count("<circle") == 2 * 2 + 2 + 2
    assert "two&gt;: 85.0" in plot


def test_the_plot_puts_scores_where_they_belong(found: Comparison) -> None:
    text = page(found)
    places = {
        about: float(x)
        for x, about in re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="4" fill="[^"]+"><title>([^<]+)<', text)
    }
    zero, middle, high = places["one: 0.0"], places["one: 40.0"], places["two: 85.0"]
    assert (middle - zero) / (high - zero) == pytest.approx(40 / 85, abs=1e-3)


def test_the_command_writes_what_it_says(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    report_command.add_arguments(parser)
    out = tmp_path / "report"
    assert report_command.run(parser.parse_args([*map(str, runs), "--out", str(out)])) == 0
    said = capsys.readouterr().out
    assert (out / "report.md").read_text() in said and f"written to {out}" in said
    assert {path.name for path in out.iterdir()} == {"report.md", "report.csv", "report.html", "leaderboard.jsonl"}


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(Adder(weights=name), [Sums()], tmp_path / name)
    assert [each.name for each in compare([tmp_path / "a", tmp_path / "b"]).runs] == ["adder (a)", "adder (b)"]


def test_folders_that_are_no_runs(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="holds no run; expected"):
        compare([tmp_path / "nothing"])
    with pytest.raises(EvalError, match="given twice"):
        compare([runs[0], runs[0]])
    (runs[0] / "results.json").unlink()
    with pytest.raises(EvalError, match="holds a run that is not finished"):
        compare(runs)
    (runs[0] / "results.json").write_text("{")
    with pytest.raises(EvalError, match="cannot be read"):
        compare(runs)
