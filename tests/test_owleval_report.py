"""The report of OwlEval: the published figure to the number, and the same made from grades of people and judges."""

import argparse
import csv
import io
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mplug_owl.data.ledger import Ledger
from mplug_owl.errors import EvalError
from mplug_owl.eval.grades import LETTERS, Grade, GradeLog, consensus, digest
from mplug_owl.eval.judging import note
from mplug_owl.eval.owleval.answers import System, read_systems
from mplug_owl.eval.owleval.command import add_arguments, run
from mplug_owl.eval.owleval.page import Grid, Heading, Picture, Points, Share, Words, markdown, page, table_of_all
from mplug_owl.eval.owleval.plots import bars, radar
from mplug_owl.eval.owleval.questions import Questions, read_questions
from mplug_owl.eval.owleval.tally import NOT_GRADED, Tally, abilities, matching, read_published, tally
from mplug_owl.eval.scoring import wilson
from mplug_owl.eval.verdicts import MODES, Verdict
from owlevals import ROWS, make_answers, make_folder, official

# What the bars of the paper's figure say, from the left: A, B, C, D of each system.
FIGURE = {
    "single_turn": {
        "OpenFlamingo": (5, 5, 15, 25),
        "BLIP-2": (13, 13, 9, 15),
        "LLaVA": (23, 12, 13, 2),
        "MiniGPT-4": (35, 3, 10, 2),
        "mPLUG-Owl": (32, 10, 8, 0),
    },
    "multi_turn": {
        "OpenFlamingo": (4, 4, 16, 28),
        "BLIP-2": (13, 10, 17, 12),
        "LLaVA": (16, 17, 19, 0),
        "MiniGPT-4": (25, 6, 21, 0),
        "mPLUG-Owl": (31, 8, 13, 0),
    },
}


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(words)))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


# ---- the published figure ------------------------------------------------------------------------


def test_the_published_counts_are_those_of_the_figure() -> None:
    published = read_published()
    assert "mPLUG_Owl_compare_result" in published.source
    for view, expected in FIGURE.items():
        tallies = published.views[view]  # type: ignore[index]
        assert {each.system: tuple(each.counts[letter] for letter in LETTERS) for each in tallies} == expected
        assert {each.n for each in tallies} == {50 if view == "single_turn" else 52}
    owl = published.views["single_turn"][-1]
    assert owl.share("AB") == 42 / 50 and owl.share("D") == 0
    assert owl.interval("AB") == wilson(42 / 50, 50)


def test_a_file_of_counts_gives_the_same_figure() -> None:
    assert read_published(official() / "human_counts.json").views == read_published().views


def test_the_bars_are_as_high_and_labelled_as_the_counts() -> None:
    published = read_published()
    figure = bars(published.views, "OwlEval")
    for panel, expected in zip(figure.axes, FIGURE.values(), strict=True):
        assert [label.get_text() for label in panel.get_xticklabels()] == list(expected)
        for container, counts in zip(panel.containers, zip(*expected.values(), strict=True), strict=True):
            assert tuple(bar.get_height() for bar in container) == counts
        told = [text.get_text() for text in panel.texts]
        assert told == [str(count or "") for counts in zip(*expected.values(), strict=True) for count in counts]


def test_counts_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    found = {"source": "s", "single_turn_3": {"x": {"A": 1, "B": 1, "C": 0, "D": 0}}, "multi_turn_0": {}}
    for content, what in (
        (json.dumps(found), "the counts of x in single_turn_3 add up to 2"),
        (json.dumps({"source": "s"}), "no counts of single_turn"),
        ("[]", "no file of counts"),
        ("{", "no file of counts"),
    ):
        path.write_text(content)
        with pytest.raises(EvalError, match=what):
            read_published(path)
    with pytest.raises(EvalError, match="cannot be read"):
        read_published(tmp_path / "none.json")


# ---- counting ------------------------------------------------------------------------------------


@pytest.fixture
def questions(tmp_path: Path) -> Questions:
    return read_questions(make_folder(tmp_path / "data"))


@pytest.fixture
def systems(tmp_path: Path, questions: Questions) -> list[System]:
    lost = {id: "\u65e0\u6cd5\u56de\u6eaf" for id in (1, 6)}
    files = [make_answers(tmp_path / "answers" / f"{name}.jsonl", name) for name in ("first", "second")]
    files.append(make_answers(tmp_path / "answers" / "third.jsonl", "third", lost))
    return read_systems(list(map(str, files)), questions)


def grade(system: System, id: int, letter: str, shown: str = "", rater: str = "ada") -> Grade:
    text = system.answers[id].text
    return Grade(rater, system.name, id, next(x for x in LETTERS if x == letter), tuple(shown), digest(text), "")


def test_nothing_is_left_out_silently(questions: Questions, systems: list[System]) -> None:
    third = systems[2]
    given = consensus([grade(third, 2, "A"), grade(third, 3, "C"), grade(third, 1, "A")])
    found = tally(third, questions, given)
    assert found.counts == {"A": 1, "B": 0, "C": 1, "D": 0}
    reason = third.answers[1].flag
    assert reason is not None
    assert found.left_out == {reason.reason: 2, NOT_GRADED: 2}
    assert (found.n, found.total, found.share("AB")) == (2, 6, 0.5)
    assert tally(systems[0], questions, given).share("AB") is None


def test_an_ability_is_shown_where_it_was_asked(questions: Questions, systems: list[System]) -> None:
    first = systems[0]
    given = consensus([grade(first, id, "B", shown) for id, shown in ((1, "abe"), (2, "a"), (3, "a"), (6, "abdf"))])
    found = abilities(first, questions, given)
    counts = {letter: (shown.count, shown.n) for letter, shown in found.items()}
    assert counts == {"a": (4, 4), "b": (2, 3), "c": (0, 2), "d": (1, 1), "e": (1, 2), "f": (1, 2)}


def test_grades_of_other_answers_do_not_count(systems: list[System]) -> None:
    right = grade(systems[0], 1, "A")
    wrong = Grade("ada", "first", 2, "A", (), digest("an older answer"), "")
    stranger = Grade("ada", "nobody", 2, "A", (), digest("whatever"), "")
    assert matching([right, wrong, stranger], systems) == ([right], 1)


# ---- pages ---------------------------------------------------------------------------------------


def test_pieces_say_the_same_in_every_form(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    bars({"view": [Tally("x", dict.fromkeys(LETTERS, 1), {"lost": 2})]}, "t").savefig(picture)
    table = Grid("numbers", [{"system": "a<b", "n": 3, "share": Share(1 / 3, 3), "none": None, "part": 0.25}])
    pieces = [Heading("Title", 1), Words("Some words."), Points(["one", "two"]), table, Picture(picture, "a plot")]
    text = markdown(pieces)
    assert text.startswith("# Title\n\nSome words.\n\n- one\n- two\n\n| system | n | share")
    assert "| a<b    | 3 | 33.3 (3) |      | 25.0 |" in text and "![a plot](p.png)" in text
    whole = page("Title", pieces)
    assert "a&lt;b" in whole and "33.3 (3)" in whole
    assert not re.findall(r'(?:src|href)="(?!data:)', whole)
    assert table_of_all(pieces) == (
        "table,row,column,value,n\nnumbers,a<b,n,3,\nnumbers,a<b,share,0.333333,3\nnumbers,a<b,part,0.250000,\n"
    )


def test_a_radar_has_the_abilities_that_all_systems_were_graded_on() -> None:
    figure = radar({"x": {"a": 1.0, "b": 0.5, "c": None}, "y": {"a": 0.0, "b": 0.25, "c": 1.0}}, "t")
    [panel] = figure.axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["a", "b"]
    values = {line.get_label(): list(line.get_ydata()) for line in panel.get_lines()}
    assert values == {"x": [100, 50, 100], "y": [0, 25, 0]}


# ---- the command ---------------------------------------------------------------------------------


def test_without_grades_the_report_is_the_published_figure(
    questions: Questions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert command("--data", str(questions.folder), "--out", str(out)) == 0
    names = ("owleval.md", "owleval.html", "owleval.csv", "published.png")
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    found = {(row["table"], row["row"], row["column"]): row["value"] for row in rows_of(out / "owleval.csv")}
    for view, expected in FIGURE.items():
        for system, counts in expected.items():
            name = f"published {view.replace('_', '-')}"
            assert tuple(int(found[name, system, letter]) for letter in LETTERS) == counts
    assert "not the published file" in (out / "owleval.md").read_text()


def test_grades_make_figures_tables_and_a_comparison_on_what_was_answered(
    questions: Questions, systems: list[System], tmp_path: Path
) -> None:
    random = Random(0)
    log = GradeLog(tmp_path / "grades.jsonl")
    for rater in ("ada", "bob"):
        for system in systems:
            for answer in system.gradable():
                shown = "".join(letter for letter in questions[answer.question].abilities if random.random() < 0.7)
                log.append(grade(system, answer.question, random.choice("ABCD"), shown, rater))
    out, data = tmp_path / "report", str(questions.folder)
    words = ["--data", data, "--answers", str(tmp_path / "answers"), "--grades", str(log.path), "--out", str(out)]
    assert command(*words) == 0
    text = (out / "owleval.md").read_text()
    for said in ("raters: ada, bob", "Krippendorff's alpha over 16 answers", "weighted kappa", "## Notes"):
        assert said in text
    assert "### on the 4 questions that third answered" in text
    assert "- third: the published file says that the answer could not be traced, so nobody grades it" in text
    table = [row for row in rows_of(out / "owleval.csv") if row["table"] == "people all"]
    counts = {
        name: sum(int(row["value"]) for row in table if row["row"] == name and row["column"] in LETTERS)
        for name in ("first", "second", "third")
    }
    assert counts == {"first": 6, "second": 6, "third": 4}
    assert (out / "people-grades.png").exists() and (out / "people-abilities.png").exists()
    first = (out / "owleval.html").read_bytes()
    assert command(*words) == 0
    assert (out / "owleval.html").read_bytes() == first


def verdict(mode: str, names: tuple[str, ...], id: int, raw: str, *answers: str) -> dict[str, Any]:
    asked = next(known for known in MODES if known == mode)
    return Verdict(asked, names, id, "judge", tuple(map(digest, answers)), "", "", raw).row()


def test_a_judge_stands_beside_people_and_the_published_figure(tmp_path: Path, questions: Questions) -> None:
    files = [make_answers(tmp_path / "answers" / f"{name}.jsonl", name) for name in ("LLaVA", "other")]
    systems = read_systems(list(map(str, files)), questions)
    log = GradeLog(tmp_path / "grades.jsonl")
    for id, answer in systems[0].answers.items():
        raw = "no grade" if id == 6 else f"Grade: {'A' if id < 4 else 'D'}\nShows: a"
        Ledger(tmp_path / "judge" / "verdicts.jsonl").append(verdict("grade", ("LLaVA",), id, raw, answer.text))
        log.append(grade(systems[0], id, "A"))
    note(tmp_path / "judge", {"name": "judge", "mode": "grade", "against": None}, {})
    words = ["--data", str(questions.folder), "--answers", *map(str, files), "--grades", str(log.path)]
    assert command(*words, "--judge", str(tmp_path / "judge"), "--out", str(tmp_path / "report")) == 0
    text = (tmp_path / "report" / "owleval.md").read_text()
    assert "judge judge: 6 asked, 5 verdicts" in text
    assert "1 reply holds no verdict and counts nowhere: LLaVA on 6" in text
    found = {(r["table"], r["row"], r["column"]): r for r in rows_of(tmp_path / "report" / "owleval.csv")}
    assert found["judge judge all", "LLaVA", "graded"]["value"] == "5"
    assert found["judge and people", "the raters' middle grade", "same grade"]["value"] == f"{3 / 5:.6f}"
    beside = found["judge beside published single_turn", "LLaVA", "judge"]
    assert (beside["value"], beside["n"]) == (f"{2 / 3:.6f}", "3")
    assert found["people all", "other", "graded"]["value"] == "0"


def test_text_alone_is_a_score_in_percent_of_another(tmp_path: Path, questions: Questions) -> None:
    folder = tmp_path / "text"
    for id in (1, 2, 3):
        for names, raw in ((("mine", "theirs"), "6 8\nSo."), (("theirs", "mine"), "9 6" if id < 3 else "So.")):
            Ledger(folder / "verdicts.jsonl").append(verdict("score", names, id, raw, *names))
    note(folder, {"name": "judge", "mode": "score", "against": "theirs"}, {})
    assert command("--data", str(questions.folder), "--text", str(folder), "--out", str(tmp_path / "report")) == 0
    rows = [row for row in rows_of(tmp_path / "report" / "owleval.csv") if row["table"] == "text alone"]
    found = {row["column"]: row["value"] for row in rows}
    assert found["score"] == "24 : 34" and found["percent"] == f"{24 / 34:.6f}"
    assert (found["questions"], found["losses"], found["unread"]) == ("2", "2", "1")
    note(folder, {"name": "judge", "mode": "grade", "against": None}, {})
    with pytest.raises(EvalError, match="compares nobody"):
        command("--data", str(questions.folder), "--text", str(folder))


def test_what_is_not_there_is_said(questions: Questions, tmp_path: Path) -> None:
    data = str(questions.folder)
    with pytest.raises(EvalError, match="without --answers"):
        command("--data", data, "--grades", "g.jsonl")
    answers = str(make_answers(tmp_path / "one.jsonl", "one"))
    with pytest.raises(EvalError, match=r"g.jsonl is not there"):
        command("--data", data, "--answers", answers, "--grades", "g.jsonl")
    with pytest.raises(EvalError, match="expected the folder of owl judge"):
        command("--data", data, "--answers", answers, "--judge", str(tmp_path / "none"))


def test_all_made_up_questions_are_counted_in_their_views(questions: Questions) -> None:
    assert len(questions) == len(ROWS)
    assert [len(questions.view(view)) for view in ("single_turn", "multi_turn")] == [3, 5]
