"""A model as judge: what it is shown, what its words mean, that nothing is lost or made up, and whether people agree.

The judge is a server that speaks OpenAI's protocol over HTTP and answers what the test tells it to.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mplug_owl.errors import EvalError
from mplug_owl.eval.endpoints import Endpoint
from mplug_owl.eval.grades import LETTERS, MEANINGS, Grade, GradeLog, digest
from mplug_owl.eval.judge import Brief, Case, cases, judge, prompt_text
from mplug_owl.eval.judge_command import add_arguments, run
from mplug_owl.eval.judging import begin, note, read_judging
from mplug_owl.eval.openai_endpoint import OpenAIEndpoint
from mplug_owl.eval.owleval.answers import System, read_systems
from mplug_owl.eval.owleval.judged import comparing, grading, standing
from mplug_owl.eval.owleval.page import Grid, table_of_all
from mplug_owl.eval.owleval.questions import Questions, read_questions
from mplug_owl.eval.verdicts import (
    MODES,
    Verdict,
    duels,
    grades_of,
    read_abilities,
    read_letter,
    read_scores,
    read_side,
    read_verdicts,
)
from mplug_owl.messages import ImagePart
from owlevals import ROWS, make_answers, make_folder
from scripted import Answer, Body, Drop, Refusal, Reply, Scripted, said, scripted

GOOD, FAIR, BAD = "a full and right answer", "an answer with slips", "something else"
WORTH = {GOOD: "A", FAIR: "B", BAD: "D"}


@pytest.fixture
def questions(tmp_path: Path) -> Questions:
    return read_questions(make_folder(tmp_path / "data"))


@pytest.fixture
def systems(tmp_path: Path, questions: Questions) -> list[System]:
    """One whose answers are good, one whose are bad, and one whose are good but for two."""
    told = {
        "good": {id: f"{GOOD} to {id}" for id, *_ in ROWS},
        "bad": {id: f"{BAD} than {id}" for id, *_ in ROWS},
        "mixed": {id: f"{FAIR if id < 3 else GOOD}, {id}" for id, *_ in ROWS},
    }
    files = [make_answers(tmp_path / "answers" / f"{name}.jsonl", name, answers) for name, answers in told.items()]
    return read_systems([f"{path.stem}={path}" for path in files], questions)


def endpoint(url: str, **options: object) -> Endpoint:
    return OpenAIEndpoint(url, "judge", **{"backoff": 0.01, "concurrency": 4, **options})  # type: ignore[arg-type]


def worth(text: str) -> str:
    return next(letter for words, letter in WORTH.items() if words in text)


def grader(body: Body, before: int) -> Reply:
    """Grades the last answer by its words."""
    return Answer(f"It is so.\nGrade: {worth(said(body).split('[Answer to grade]')[1])}\nShows: a", usage=(100, 10))


def scorer(body: Body, before: int) -> Reply:
    first, second = said(body).split("[Assistant 1]")[1].split("[Assistant 2]")
    points = {"A": 9, "B": 7, "D": 2}
    return Answer(f"{points[worth(first)]} {points[worth(second)]}\nFor these reasons.")


def ask(
    reply: Callable[[Body, int], Reply], asked: list[Case], path: Path, port: int = 0, again: bool = False
) -> tuple[list[Verdict], Scripted]:
    with scripted(reply, port) as server:
        return judge(endpoint(server.url), "judge", asked, path, again=again), server


# ---- what a judge is shown -----------------------------------------------------------------------


def test_a_grading_shows_picture_dialogue_and_answer_but_not_whose(questions: Questions, systems: list[System]) -> None:
    found = cases(Brief("grade"), questions, systems)
    assert [case.key for case in found[:3]] == [("grade", (name,), 1) for name in ("good", "bad", "mixed")]
    assert len(found) == 18
    last = next(case for case in found if case.question == 6 and case.systems == ("mixed",))
    system, user = last.messages
    assert all(meaning in system.text for meaning in MEANINGS.values())
    assert "a (instruction understanding), b (visual understanding), d (knowledge transfer), f" in system.text
    assert isinstance(user.content[0], ImagePart)
    parts = ("Where is the disc?", f"{GOOD}, 4", "Where is the man?", f"{GOOD}, 6")
    places = [user.text.index(words) for words in parts]
    assert places == sorted(places)
    for case in found:
        text = " ".join(message.text for message in case.messages)
        assert "$" not in text and "==" not in text
        assert not any(f"{name} " in text.replace(GOOD, "").replace(FAIR, "") for name in ("mixed",))


def test_a_judge_may_see_a_reference_in_place_of_the_picture(questions: Questions, systems: list[System]) -> None:
    brief = Brief("grade", sight=False, reference=systems[0], abilities=False)
    for case in cases(brief, questions, systems[1:]):
        system, user = case.messages
        assert f"[Reference answer, taken to be right]\n{GOOD} to {case.question}" in user.text
        assert "You do not see the picture" in system.text and "Shows:" not in system.text
        assert not any(isinstance(part, ImagePart) for part in user.content)


def test_two_answers_are_shown_in_both_orders(questions: Questions, systems: list[System]) -> None:
    found = cases(Brief("pair", against="bad"), questions, systems)
    assert len(found) == 2 * 2 * 6
    first, second = found[:2]
    assert (first.systems, second.systems) == (("good", "bad"), ("bad", "good"))
    text = first.messages[1].text
    assert text.index(f"[Assistant 1]\n{GOOD}") < text.index(f"[Assistant 2]\n{BAD}")
    with pytest.raises(EvalError, match="'nobody' among good, bad, mixed"):
        cases(Brief("pair", against="nobody"), questions, systems)


@pytest.mark.parametrize("mode", MODES)
def test_prompts_are_plain_files(mode: str) -> None:
    text = prompt_text(mode)  # type: ignore[arg-type]
    assert text.isascii() and all(len(line) <= 120 for line in text.splitlines())
    assert {"== system ==", "== user ==", "== picture ==", "== reference =="} <= set(text.splitlines())


# ---- what its words mean -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "letter"),
    [
        ("Because.\nGrade: B", "B"),
        ("**Grade: A**\nShows: a", "A"),
        ("grade - d.", "D"),
        ("C", "C"),
        ("It is [[A]]", "A"),
        ("Grade: B\nI repeat.\nGrade: B", "B"),
        ("Grade: A\nGrade: B", None),
        ("Grade: A or B", None),
        ("Grade: X", None),
        ("A fine answer", None),
        ("A: good\nB: bad", None),
        ("", None),
    ],
)
def test_a_grade_is_read_or_it_is_none(raw: str, letter: str | None) -> None:
    assert read_letter(raw) == letter


@pytest.mark.parametrize(
    ("raw", "abilities"),
    [
        ("Grade: A\nShows: a, b and e", ("a", "b", "e")),
        ("**Shows: c**", ("c",)),
        ("Shows: -", ()),
        ("Shows: none", ()),
        ("It shows a dog", None),
        ("Shows: everything", None),
        ("Shows: " + "a " * 2_000 + "?!x", None),
    ],
)
def test_abilities_are_read_or_unknown(raw: str, abilities: tuple[str, ...] | None) -> None:
    assert read_abilities(raw) == abilities


@pytest.mark.parametrize(
    ("raw", "scores"),
    [
        ("8 7\ntext", (8, 7)),
        ("8.5 9\n", (8.5, 9)),
        ("\n6,6\nok", (6, 6)),
        ("10 10", (10, 10)),
        ("8\n7", None),
        ("Scores: 8 7", None),
        ("7 8 9", None),
        ("11 5", None),
        ("nine 8", None),
        ("nan 8", None),
        ("", None),
    ],
)
def test_scores_are_the_first_line_or_none(raw: str, scores: tuple[float, float] | None) -> None:
    assert read_scores(raw) == scores


@pytest.mark.parametrize(
    ("raw", "side"),
    [
        ("So.\nVerdict: 1", "first"),
        ("**Verdict: tie**", "tie"),
        ("2", "second"),
        ("Verdict: 1\nVerdict: 2", None),
        ("Verdict: both", None),
    ],
)
def test_a_side_is_read_or_it_is_none(raw: str, side: str | None) -> None:
    assert read_side(raw) == side


# ---- asking --------------------------------------------------------------------------------------


def test_every_case_is_asked_once_and_its_reply_kept(
    questions: Questions, systems: list[System], tmp_path: Path
) -> None:
    asked = cases(Brief("grade"), questions, systems)
    verdicts, server = ask(grader, asked, tmp_path / "verdicts.jsonl")
    assert len(server.bodies) == len(asked) == len(verdicts)
    assert all(body["messages"][1]["content"][0]["type"] == "image_url" for body in server.bodies)
    assert read_verdicts(tmp_path / "verdicts.jsonl") == verdicts
    rows = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in rows] == [worth(systems_answer(systems, case)) for case in asked]
    assert all(row["raw"].startswith("It is so.") for row in rows)
    again, server = ask(grader, asked, tmp_path / "verdicts.jsonl", server.port)
    assert (again, server.bodies) == (verdicts, [])


def systems_answer(systems: list[System], case: Case) -> str:
    return next(system.answers[case.question].text for system in systems if system.name == case.systems[0])


def test_a_busy_server_and_a_lost_connection_are_tried_again(
    questions: Questions, systems: list[System], tmp_path: Path
) -> None:
    def busy(body: Body, before: int) -> Reply:
        tries: tuple[Reply, ...] = (Refusal(429, "slow down", {"Retry-After": "0"}), Drop(), Refusal(503))
        return tries[before] if before < len(tries) else grader(body, before)

    verdicts, server = ask(busy, cases(Brief("grade"), questions, systems[:1]), tmp_path / "verdicts.jsonl")
    assert [verdict.letter for verdict in verdicts] == ["A"] * 6
    assert len(server.bodies) == 4 * 6


def test_replies_without_a_verdict_are_kept_and_counted(
    questions: Questions, systems: list[System], tmp_path: Path
) -> None:
    def babbler(body: Body, before: int) -> Reply:
        return Answer("What a lovely day") if "Where is the man?" in said(body) else grader(body, before)

    asked = cases(Brief("grade"), questions, systems)
    path = tmp_path / "verdicts.jsonl"
    verdicts, server = ask(babbler, asked, path)
    # Question 5 itself, and question 6, in whose dialogue it is.
    assert [v.question for v in verdicts if v.read is None] == [5, 5, 5, 6, 6, 6]
    first, second = standing(verdicts)
    assert first == "judge judge: 18 asked, 12 verdicts"
    assert second.startswith("6 replies hold no verdict and count nowhere: good on 5, bad on 5")
    tables = [piece for piece in grading(verdicts, questions, systems, []) if isinstance(piece, Grid)]
    assert [(row["questions"], row["graded"]) for row in tables[1].rows] == [(5, 3)] * 3
    _, server = ask(grader, asked, path, server.port)
    assert server.bodies == []  # nobody asks a deterministic judge twice unless told to
    verdicts, server = ask(grader, asked, path, server.port, again=True)
    assert len(server.bodies) == 6 and all(verdict.read for verdict in verdicts)


def test_a_refused_case_fails_alone_and_is_asked_again(
    questions: Questions, systems: list[System], tmp_path: Path
) -> None:
    def choosy(body: Body, before: int) -> Reply:
        return Refusal(400, "too long") if "What is odd" in said(body) else grader(body, before)

    asked = cases(Brief("grade"), questions, systems)
    verdicts, server = ask(choosy, asked, tmp_path / "verdicts.jsonl")
    assert [verdict.error is not None for verdict in verdicts] == [case.question == 1 for case in asked]
    assert "3 could not be asked: good on 1, bad on 1, mixed on 1" in standing(verdicts)[1]
    assert "too long" in standing(verdicts)[1]
    verdicts, server = ask(grader, asked, tmp_path / "verdicts.jsonl", server.port)
    assert len(server.bodies) == 3 and all(verdict.read for verdict in verdicts)


def test_a_server_that_goes_down_loses_nothing(questions: Questions, systems: list[System], tmp_path: Path) -> None:
    asked = cases(Brief("grade"), questions, systems)
    path = tmp_path / "verdicts.jsonl"
    count = 0

    def dying(body: Body, before: int) -> Reply:
        nonlocal count
        count += 1
        return grader(body, before) if count <= 5 else Refusal(401, "no more credit")

    with scripted(dying) as server, pytest.raises(EvalError, match="the same command goes on"):
        judge(endpoint(server.url, concurrency=1), "judge", asked, path)
    assert sum(verdict.read is not None for verdict in read_verdicts(path)) == 5
    # The server comes back at the same address.
    with scripted(grader, port=server.port) as server:
        verdicts = judge(endpoint(server.url), "judge", asked, path)
    assert len(server.bodies) == 13 and all(verdict.read for verdict in verdicts)


def test_verdicts_of_another_judge_or_prompt_are_not_gone_on_with(
    questions: Questions, systems: list[System], tmp_path: Path
) -> None:
    path = tmp_path / "verdicts.jsonl"
    asked = cases(Brief("grade"), questions, systems[:1])
    with scripted(grader) as server:
        judge(endpoint(server.url), "judge", asked, path)
        for other, name in (
            (asked, "another"),
            (cases(Brief("grade", abilities=False), questions, systems[:1]), "judge"),
        ):
            with pytest.raises(EvalError, match=r"asked otherwise .*give another --out"):
                judge(endpoint(server.url), name, other, path)
        picture = questions[1].picture
        assert picture is not None
        picture.write_bytes(questions[2].picture.read_bytes())  # type: ignore[union-attr]
        with pytest.raises(EvalError, match="question 1 and good that was asked otherwise"):
            judge(endpoint(server.url), "judge", asked, path)


# ---- two answers ---------------------------------------------------------------------------------


def test_duels_count_what_both_orders_say(questions: Questions, systems: list[System], tmp_path: Path) -> None:
    asked = cases(Brief("score", against="mixed"), questions, systems)
    verdicts, _ = ask(scorer, asked, tmp_path / "verdicts.jsonl")
    good, bad = duels(verdicts, "mixed")
    assert (good.system, good.n, good.wins, good.losses, good.ties, good.split) == ("good", 6, 2, 0, 4, 0)
    assert (bad.system, bad.n, bad.wins, bad.losses, bad.ties, bad.split) == ("bad", 6, 0, 6, 0, 0)
    assert good.scores == (2 * 6 * 9, 2 * (2 * 7 + 4 * 9))
    assert good.relative == pytest.approx(108 / 100)


def test_a_judge_that_always_prefers_the_first_prefers_nobody(
    questions: Questions, systems: list[System], tmp_path: Path
) -> None:
    asked = cases(Brief("pair", against="bad"), questions, systems[:2])
    verdicts, _ = ask(lambda body, before: Answer("Verdict: 1"), asked, tmp_path / "verdicts.jsonl")
    [duel] = duels(verdicts, "bad")
    assert (duel.n, duel.split, duel.wins, duel.losses, duel.unread) == (6, 6, 0, 0, 0)


def test_an_order_without_a_verdict_is_said(questions: Questions, systems: list[System], tmp_path: Path) -> None:
    def half(body: Body, before: int) -> Reply:
        first = said(body).split("[Assistant 1]")[1]
        return Answer("Hm.") if first.strip().startswith(BAD) else scorer(body, before)

    asked = cases(Brief("score", against="bad"), questions, systems[:2])
    verdicts, _ = ask(half, asked, tmp_path / "verdicts.jsonl")
    [duel] = duels(verdicts, "bad")
    assert (duel.n, duel.unread, duel.scores) == (0, 6, None)


# ---- people --------------------------------------------------------------------------------------


def people(systems: list[System], letters: dict[str, str], rater: str = "ada") -> list[Grade]:
    return [
        Grade(rater, system.name, id, next(x for x in LETTERS if x == letters[system.name]), (), digest(a.text), "")
        for system in systems
        for id, a in system.answers.items()
    ]


def test_agreement_with_people_is_reported(questions: Questions, systems: list[System], tmp_path: Path) -> None:
    verdicts, _ = ask(grader, cases(Brief("grade"), questions, systems), tmp_path / "verdicts.jsonl")
    # Two of eighteen differ: people give A where the judge gives B.
    theirs = people(systems, {"good": "A", "bad": "D", "mixed": "A"})
    [*_, table] = [piece for piece in grading(verdicts, questions, systems, theirs) if isinstance(piece, Grid)]
    [row] = table.rows
    assert row["answers"] == 18
    csv = table_of_all([table])
    assert f"same grade,{16 / 18:.6f},18" in csv
    # Judge A 10, B 2, D 6; people A 12, D 6: 1 - 18 * 2 / (18 * 18 - 10 * 12 - 6 * 6).
    assert row["kappa"] == f"{1 - 18 * 2 / (18 * 18 - 10 * 12 - 6 * 6):.3f}"
    theirs += people(systems, {"good": "B", "bad": "D", "mixed": "A"}, "bob")
    two = grading(verdicts, questions, systems, theirs)
    [*_, table] = [piece for piece in two if isinstance(piece, Grid)]
    assert [row["judge beside"] for row in table.rows] == [
        *("the raters' middle grade", "ada", "(between people: ada and the others)"),
        *("bob", "(between people: bob and the others)"),
    ]


def test_without_people_nothing_is_claimed(questions: Questions, systems: list[System], tmp_path: Path) -> None:
    verdicts, _ = ask(grader, cases(Brief("grade"), questions, systems), tmp_path / "verdicts.jsonl")
    strangers = [Grade("ada", "good", 1, "A", (), digest("another answer"), "")]
    for given in ([], strangers):
        said_of = [str(piece) for piece in grading(verdicts, questions, systems, given)]
        assert any("nothing says what its grades are worth" in text for text in said_of)


def test_people_may_prefer_the_same_answer(questions: Questions, systems: list[System], tmp_path: Path) -> None:
    verdicts, _ = ask(scorer, cases(Brief("score", against="mixed"), questions, systems), tmp_path / "v.jsonl")
    theirs = people(systems, {"good": "A", "bad": "D", "mixed": "B"})
    [*_, table] = [piece for piece in comparing(verdicts, "mixed", theirs) if isinstance(piece, Grid)]
    [row] = table.rows
    assert row["pairs"] == 12
    # The judge finds good and mixed alike on four questions; people prefer good on all six.
    assert str(row["same"]) == f"Share(value={8 / 12}, n=12)"


def test_verdicts_become_grades_of_a_rater(questions: Questions, systems: list[System], tmp_path: Path) -> None:
    verdicts, _ = ask(grader, cases(Brief("grade"), questions, systems), tmp_path / "verdicts.jsonl")
    made = grades_of(verdicts)
    assert {(grade.rater, grade.abilities) for grade in made} == {("judge", ("a",))}
    assert [grade.answer for grade in made[:1]] == [digest(f"{GOOD} to 1")]


# ---- the command ---------------------------------------------------------------------------------


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(words)))


def test_the_command_judges_bills_and_goes_on(
    questions: Questions, systems: list[System], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "out", GradeLog(tmp_path / "grades.jsonl")
    for grade in people(systems, {"good": "A", "bad": "D", "mixed": "A"}):
        log.append(grade)
    with scripted(grader) as server:
        words = [f"{s.name}={tmp_path / 'answers' / s.name}.jsonl" for s in systems]
        words += ["--data", str(questions.folder), "--judge", f"openai:{server.url}#big/judge", "--out", str(out)]
        words += ["--grades", str(log.path), "--price", "2,10"]
        assert command(*words) == 0
        page = capsys.readouterr().out
        assert "judge judge: 18 asked, 18 verdicts" in page
        assert "18 requests, 0 of them repeated; 1800 tokens read, 180 written; cost 0.0054" in page
        assert "the raters' middle grade" in page
        written = (out / "verdicts.jsonl").read_bytes()
        assert command(*words) == 0
        assert (out / "verdicts.jsonl").read_bytes() == written and len(server.bodies) == 18
        assert capsys.readouterr().out == page
        with pytest.raises(EvalError, match="sees_pictures True, now it is False"):
            command(*words, "--no-picture", "--reference", words[0])
    assert [verdict.judge for verdict in read_judging(out).verdicts] == ["judge"] * 18


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--against", "good"], "compares nobody"),
        (["--no-picture"], "sees neither judges nothing"),
        (["--mode", "pair", "--against", "nobody"], "nobody to compare with"),
        (["--reference", "ANSWERS"], "holds 3 systems"),
    ],
)
def test_wishes_that_contradict_are_refused(
    questions: Questions, systems: list[System], tmp_path: Path, more: list[str], what: str
) -> None:
    words = [
        str(tmp_path / "answers"),
        "--data",
        str(questions.folder),
        "--judge",
        "openai:http://127.0.0.1:9/v1#judge",
    ]
    words += [word.replace("ANSWERS", str(tmp_path / "answers")) for word in more]
    with pytest.raises(EvalError, match=what):
        command(*words, "--out", str(tmp_path / "out"))


def test_a_folder_remembers_what_it_is(tmp_path: Path) -> None:
    about = {"name": "judge", "mode": "grade", "against": None}
    assert begin(tmp_path, about) == {}
    note(tmp_path, about, {"requests": 3})
    assert begin(tmp_path, about) == {"requests": 3}
    with pytest.raises(EvalError, match="mode 'grade', now it is 'pair'"):
        begin(tmp_path, {**about, "mode": "pair"})
    with pytest.raises(EvalError, match="expected the folder of owl judge"):
        read_judging(tmp_path / "elsewhere")
    with pytest.raises(EvalError, match=r"holds no verdicts.jsonl"):
        read_judging(tmp_path)


def test_a_bad_line_among_verdicts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text('{"mode": "grade"}\n')
    with pytest.raises(EvalError, match=r"verdicts.jsonl:1 is no verdict"):
        read_verdicts(path)
