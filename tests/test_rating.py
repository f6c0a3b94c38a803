"""Blind rating: the order, what a rater gets to see, where grades go, and going on after a stop."""

from collections import Counter
from pathlib import Path

import pytest

from mplug_owl.errors import EvalError
from mplug_owl.eval.grades import GradeLog, latest
from mplug_owl.eval.owleval.answers import read_systems
from mplug_owl.eval.owleval.questions import read_questions
from mplug_owl.eval.rate_command import add_arguments, run
from mplug_owl.eval.rating import Desk, Sheet, Sitting
from owlevals import ROWS, make_answers, make_folder


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    questions = read_questions(make_folder(tmp_path / "data"))
    # Answers that do not tell whose they are, as the systems' names stand in none.
    files = [
        make_answers(tmp_path / "answers" / f"{name}.jsonl", name, {id: f"{word} {id}" for id, *_ in ROWS})
        for name, word in (("alpha", "left"), ("beta", "right"), ("gamma", "up"))
    ]
    return Desk(questions, read_systems(list(map(str, files)), questions), GradeLog(tmp_path / "grades.jsonl"))


def sheet_of(sitting: Sitting) -> Sheet:
    sheet = sitting.sheet()
    assert sheet is not None
    return sheet


def all_sheets(sitting: Sitting) -> list[Sheet]:
    found = []
    while (sheet := sitting.sheet()) is not None:
        found.append(sheet)
        assert sitting.grade(sheet.token, "B", [])
    return found


def test_everything_is_shown_once_and_dialogues_stay_in_order(desk: Desk) -> None:
    sheets = all_sheets(desk.sitting("ada"))
    assert Counter(sheet.question for sheet in sheets) == {text: 3 for _, _, text, _, _ in ROWS}
    assert len({sheet.answer for sheet in sheets}) == 18
    questions = list(dict.fromkeys(sheet.question for sheet in sheets))
    for turns in (["Is there text in the picture?", "Why is it funny?"], ["Where is the disc?", "Where is the man?"]):
        first = questions.index(turns[0])
        assert questions[first : first + 2] == turns


def test_a_sheet_does_not_tell_whose_answer_it_is(desk: Desk) -> None:
    for sheet in all_sheets(desk.sitting("ada")):
        for system in desk.systems:
            assert system.name not in repr(sheet)
        word = sheet.answer.split()[0]
        assert all(answer.split()[0] == word for _, answer in sheet.earlier)  # the same system's own


def test_raters_see_other_orders_and_the_same_one_again(desk: Desk, tmp_path: Path) -> None:
    def order(rater: str, seed: int = 0) -> list[str]:
        empty = Desk(desk.questions, desk.systems, GradeLog(tmp_path / f"{rater}{seed}.jsonl"), seed)
        return [sheet.answer for sheet in all_sheets(empty.sitting(rater))]

    ada, bob, other = order("ada"), order("bob"), order("ada", 1)
    assert sorted(ada) == sorted(bob) == sorted(other)
    assert ada != bob and ada != other
    (tmp_path / "ada0.jsonl").unlink()
    assert order("ada") == ada


def test_a_sitting_goes_on_where_it_stopped(desk: Desk) -> None:
    sitting = desk.sitting("ada")
    seen = []
    for _ in range(7):
        sheet = sheet_of(sitting)
        seen.append(sheet.answer)
        sitting.grade(sheet.token, "C", [])
    with desk.log.path.open("ab") as file:
        file.write(b'{"rater": "ada", "sys')  # a crash in the middle of a line
    again = desk.sitting("  ada ")
    assert again.progress == (7, 18)
    assert sheet_of(again).answer == sheet_of(sitting).answer
    seen += [sheet.answer for sheet in all_sheets(again)]
    assert len(set(seen)) == len(seen) == 18
    assert desk.sitting("ada").sheet() is None
    assert desk.sitting("bob").progress == (0, 18)


def test_a_grade_is_for_the_sheet_that_was_shown(desk: Desk) -> None:
    sitting = desk.sitting("ada")
    first = sheet_of(sitting)
    assert sitting.grade(first.token, "A", list(first.abilities))
    assert not sitting.grade(first.token, "D", [])  # a key pressed twice
    assert sitting.progress == (1, 18)
    [written] = desk.log.read()
    assert (written.grade, written.abilities) == ("A", tuple(first.abilities))


def test_back_grades_again_and_the_last_one_counts(desk: Desk) -> None:
    sitting = desk.sitting("ada")
    first = sheet_of(sitting)
    sitting.grade(first.token, "A", ["a"])
    sitting.back()
    again = sheet_of(sitting)
    assert (again.answer, again.grade, again.reflected) == (first.answer, "A", ("a",))
    assert sitting.grade(again.token, "D", [])
    assert sitting.progress == (1, 18)
    assert [each.grade for each in desk.log.read()] == ["A", "D"]
    assert [each.grade for each in latest(desk.log.read())] == ["D"]
    assert sheet_of(sitting).answer != first.answer


def test_what_is_no_grade_is_refused_and_nothing_written(desk: Desk) -> None:
    sitting = desk.sitting("ada")
    sheet = sheet_of(sitting)
    with pytest.raises(EvalError, match="expected one of A, B, C, D"):
        sitting.grade(sheet.token, "E", [])
    with pytest.raises(EvalError, match="ability 'z'"):
        sitting.grade(sheet.token, "A", ["z"])
    assert desk.log.read() == [] and sheet_of(sitting) == sheet
    with pytest.raises(EvalError, match="without a name"):
        desk.sitting(" ")


def test_grades_of_other_answers_are_not_gone_on_with(desk: Desk, tmp_path: Path) -> None:
    all_sheets(desk.sitting("ada"))
    path = make_answers(tmp_path / "answers" / "alpha.jsonl", "alpha")
    changed = Desk(desk.questions, read_systems([str(path)], desk.questions), desk.log)
    with pytest.raises(EvalError, match="a grade of another answer by alpha"):
        changed.sitting("ada")


def test_answers_that_nobody_knows_are_not_rated(desk: Desk, tmp_path: Path) -> None:
    answers = {1: "\u65e0\u6cd5\u56de\u6eaf", 2: "\u6a21\u578b\u62d2\u7edd\u56de\u7b54"}
    path = make_answers(tmp_path / "delta.jsonl", "delta", answers)
    alone = Desk(desk.questions, read_systems([str(path)], desk.questions), GradeLog(tmp_path / "other.jsonl"))
    sheets = all_sheets(alone.sitting("ada"))
    assert len(sheets) == 5
    assert [sheet.answer for sheet in sheets if sheet.question.startswith("Is there text")] == ["(no answer)"]


def test_the_command_opens_the_page_or_says_how_far_raters_are(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [str(tmp_path / "answers"), "--data", str(tmp_path / "data"), "--out", str(desk.log.path)]
    opened: list[tuple[Desk, str | None, str, int]] = []
    assert run(parser.parse_args([*given, "--rater", "ada"]), lambda *asked: opened.append(asked)) == 0
    [(found, rater, host, port)] = opened
    assert (rater, host, port) == ("ada", "127.0.0.1", 7861)
    all_sheets(found.sitting("ada"))
    all_sheets(found.sitting("bob"))
    capsys.readouterr()
    assert run(parser.parse_args([*given, "--status"]), lambda *asked: opened.append(asked)) == 0
    said = capsys.readouterr().out
    assert len(opened) == 1
    assert "6 questions, 3 systems, 18 answers to rate" in said
    assert "ada: 18 of 18 rated" in said and "bob: 18 of 18 rated" in said
    assert "18 answers rated by two or more; Krippendorff's alpha (ordinal) undefined" in said


def test_a_sheet_is_drawn_with_everything_as_plain_text(desk: Desk, tmp_path: Path) -> None:
    from mplug_owl.serve.ui.rate import drawn

    answers = {id: f"<script>alert({id})</script> & more" for id, *_ in ROWS}
    path = make_answers(tmp_path / "sly.jsonl", "sly", answers)
    alone = Desk(desk.questions, read_systems([str(path)], desk.questions), GradeLog(tmp_path / "other.jsonl"))
    for sheet in all_sheets(alone.sitting("ada")):
        page = drawn(sheet)
        assert "<script" not in page and "&lt;script&gt;" in page and "&amp; more" in page
        assert 'src="data:image/jpeg;base64,' in page
        assert ("Earlier" in page) == bool(sheet.earlier)
        assert str(tmp_path) not in page
