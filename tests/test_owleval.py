"""OwlEval's questions and the answers of systems, as published and made up."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mplug_owl.errors import EvalError
from mplug_owl.eval.owleval.answers import (
    EMPTY,
    GAVE_UP,
    LOST,
    PUBLISHED,
    REFUSED,
    SCREENSHOT,
    UNANSWERED,
    UNREADABLE,
    read_systems,
)
from mplug_owl.eval.owleval.questions import ABILITIES, read_any, read_questions
from mplug_owl.eval.task import Record
from mplug_owl.eval.tasks.owleval import OwlEvalTask
from mplug_owl.messages import ImagePart
from owlevals import ROWS, make_answers, make_folder, official

# ---- as published --------------------------------------------------------------------------------


def test_published_questions_have_the_numbers_that_the_paper_gives() -> None:
    questions = read_questions(official())
    assert questions.official
    assert list(questions.by_id) == list(range(1, 83))
    assert len({question.picture for question in questions}) == 50
    assert len(questions.view("single_turn")) == 50
    assert len(questions.view("multi_turn")) == 52
    counts = Counter(letter for question in questions for letter in question.abilities)
    assert counts == {"a": 82, "b": 63, "c": 30, "d": 24, "e": 35, "f": 20}


def test_published_dialogues_are_in_order_and_open_in_both_views() -> None:
    questions = read_questions(official())
    last = [q for q in questions.view("multi_turn") if not any(other.after == q.id for other in questions)]
    lengths = Counter(len(questions.dialogue(question.id)) for question in last)
    assert lengths == {2: 16, 3: 1, 4: 1, 5: 1, 8: 1}
    assert [turn.id for turn in questions.dialogue(22)] == list(range(15, 23))
    openings = {questions.dialogue(question.id)[0].id for question in last}
    assert openings == {q.id for q in questions if len(q.views) == 2}


def test_published_answers_load_and_their_placeholders_are_flagged() -> None:
    folder = official()
    systems = {system.name: system for system in read_systems([str(folder / "answer")], read_questions(folder))}
    assert systems.keys() == set(PUBLISHED.values())
    flagged = {
        name: {flag: [a.question for a in s.flagged() if a.flag is flag] for flag in {a.flag for a in s.flagged()}}
        for name, s in systems.items()
    }
    lost = [1, 34, 35, 39, 40, 41, 42, 49, 53, 54, 55, 56, 72, 73]
    assert flagged["MM-REACT"] == {LOST: lost, SCREENSHOT: [32]}
    assert flagged["BLIP-2"] == {LOST: [12, 32]}
    for name in ("LLaVA", "MiniGPT-4", "mPLUG-Owl"):
        assert flagged[name] == {SCREENSHOT: [32, 43]}
    assert flagged["OpenFlamingo"] == {GAVE_UP: list(range(15, 23)), REFUSED: [48], UNREADABLE: [78]}
    assert [len(systems[name].gradable()) for name in ("MM-REACT", "BLIP-2", "LLaVA", "OpenFlamingo")] == [
        67,
        80,
        80,
        82,
    ]


# ---- the layout ----------------------------------------------------------------------------------


def test_a_dialogue_is_the_turns_about_one_picture(tmp_path: Path) -> None:
    questions = read_questions(make_folder(tmp_path))
    assert not questions.official
    assert [question.after for question in questions] == [None, None, 2, None, 4, 5]
    assert [question.id for question in questions.dialogue(6)] == [4, 5, 6]
    shown = [any(isinstance(part, ImagePart) for part in q.message().content) for q in questions]
    assert shown == [True, True, False, True, False, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question_id": "1"}, "whole number"),
        ({"question_id": 2}, "there already"),
        ({"question": " "}, "expected its text"),
        ({"image": "../1.jpg"}, "name of a file"),
        ({"image": "lost.jpg"}, "lacks 1 of the pictures"),
        ({"ability": None}, "has no ability"),
        ({"ability": "a,z"}, "letters of a,b,c,d,e,f"),
        ({"category": "single_turn"}, "single_turn and multi_turn"),
    ],
)
def test_another_layout_is_explained(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = make_folder(tmp_path) / "questions.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **change}), *rest]))
    with pytest.raises(EvalError, match=said):
        read_questions(tmp_path)


def test_a_missing_or_broken_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"questions.jsonl cannot be read .*github.com/X-PLUG/mPLUG-Owl"):
        read_questions(tmp_path)
    for content, said in ((b"", "is empty"), (b"[1]\n", "expected an object"), (b"{\n", "no JSON"), (b"\xff", "UTF-8")):
        (tmp_path / "questions.jsonl").write_bytes(content)
        with pytest.raises(EvalError, match=said):
            read_questions(tmp_path)


# ---- answers -------------------------------------------------------------------------------------


def test_answers_are_joined_by_the_number_alone(tmp_path: Path) -> None:
    questions = read_questions(make_folder(tmp_path / "data"))
    path = make_answers(tmp_path / "one.jsonl", "one")
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))).replace("the man?", "the man"))
    [system] = read_systems([str(path)], questions)
    assert system.name == "one"
    assert [answer.text for answer in system.answers.values()] == [f"one says {id}" for id, *_ in ROWS]


def test_what_is_no_answer_is_flagged(tmp_path: Path) -> None:
    questions = read_questions(make_folder(tmp_path / "data"))
    answers = {1: " \n", 2: "\ufffd", 3: None, 4: "\u65e0\u6cd5\u56de\u6eaf. ", 5: "web", 6: "website of a man"}
    [system] = read_systems([str(make_answers(tmp_path / "one.jsonl", "one", answers))], questions)
    flags = [answer.flag for answer in system.answers.values()]
    assert flags == [EMPTY, UNREADABLE, UNANSWERED, LOST, None, None]  # no page was asked for, so "web" is an answer
    assert [answer.question for answer in system.gradable()] == [1, 2, 5, 6]
    assert system.answers[2].shown == "(no answer)"


def test_a_run_is_read_whichever_workers_wrote_it(tmp_path: Path) -> None:
    questions = read_questions(make_folder(tmp_path / "data"))
    folder = tmp_path / "run" / "owleval"
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": str(id), "answer": f"said {id}"}) for id, *_ in ROWS]
    lines[5] = json.dumps({"id": "6", "answer": "", "error": "too long"})
    (folder / "samples-0-of-2.jsonl").write_text("\n".join(lines[:3]) + "\n")
    (folder / "samples-1-of-2.jsonl").write_text("\n".join(lines[3:]) + "\n")
    [system] = read_systems([f"mine={tmp_path / 'run'}"], questions)
    assert system.name == "mine"
    assert system.answers[3].text == "said 3"
    flag = system.answers[6].flag
    assert flag is not None and "too long" in flag.reason and not flag.gradable


def test_answers_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    questions = read_questions(make_folder(tmp_path / "data"))
    path = make_answers(tmp_path / "one.jsonl", "one")
    lines = path.read_text().splitlines(keepends=True)
    for kept, said in (
        (lines[:4], r"lacks the answers to 2 of 6 questions \(5, 6\)"),
        ([*lines, lines[0]], "answered twice"),
        ([*lines, lines[0].replace('"question_id": 1', '"question_id": 99')], "no question 99"),
        ([lines[0].replace('"one says 1"', "7"), *lines[1:]], "expected a text"),
        ([lines[0].replace('"model_id": "one"', '"model_id": "other"'), *lines[1:]], "mixes answers of one and other"),
    ):
        path.write_text("".join(kept))
        with pytest.raises(EvalError, match=said):
            read_systems([str(path)], questions)


def test_answers_to_something_else_are_refused(tmp_path: Path) -> None:
    questions = read_questions(make_folder(tmp_path / "data"))
    path = make_answers(tmp_path / "one.jsonl", "one")
    rows = [json.loads(line) | {"question": "Which bird sings at night?"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EvalError, match="6 of 6 lines ask something else"):
        read_systems([str(path)], questions)


def test_systems_need_names_of_their_own(tmp_path: Path) -> None:
    questions = read_questions(make_folder(tmp_path / "data"))
    path = make_answers(tmp_path / "one.jsonl", "one")
    with pytest.raises(EvalError, match="2 systems are called 'one'"):
        read_systems([str(path), str(path)], questions)
    assert [system.name for system in read_systems([str(path), f"again={path}"], questions)] == ["one", "again"]
    path.unlink()
    with pytest.raises(EvalError, match="holds no answers"):
        read_systems([str(tmp_path)], questions)


def test_questions_of_text_alone_have_the_same_form(tmp_path: Path) -> None:
    row = {"question_id": 7, "category": "generic", "turns": ["How does one sleep well?"]}
    (tmp_path / "question.jsonl").write_text(json.dumps(row) + "\n")
    [question] = read_any(tmp_path)
    assert (question.id, question.text, question.picture) == (7, "How does one sleep well?", None)
    answers = tmp_path / "answers.jsonl"
    for said in ({"text": "Early."}, {"choices": [{"turns": ["Early."]}]}):
        answers.write_text(json.dumps({"question_id": 7, "model_id": "m", **said}) + "\n")
        [system] = read_systems([str(answers)], read_any(tmp_path))
        assert system.answers[7].text == "Early."


# ---- the task ------------------------------------------------------------------------------------


def test_the_task_asks_each_turn_behind_the_one_before(tmp_path: Path) -> None:
    task = OwlEvalTask(data=make_folder(tmp_path))
    examples = list(task.examples())
    assert [(example.id, example.follows, example.group) for example in examples] == [
        *(("1", None, "1"), ("2", None, "2"), ("3", "2", "2")),
        *(("4", None, "4"), ("5", "4", "4"), ("6", "5", "4")),
    ]
    assert set(ABILITIES) >= {letter for example in examples for letter in example.meta["abilities"]}
    records = [
        Record(example, text, task.score(example, text)) for example, text in zip(examples, "ab cde", strict=True)
    ]
    [table] = task.aggregate(records)
    found = {row.name: (row.n, row.score) for row in table.rows}
    assert found == {"owleval": (6, 5 / 6), "single-turn": (3, 1.0), "multi-turn": (5, 4 / 5)}


def test_the_task_says_what_it_needs() -> None:
    with pytest.raises(EvalError, match="--data DIR"):
        list(OwlEvalTask().examples())
