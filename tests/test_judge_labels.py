"""A judge's labels for HallusionBench: what the judge is shown, that its words become scores, and that nothing is lost.

The judge is a server that answers what the test tells it to; at the end, a small owl in this process.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark_files import document, picture_bytes, write
from mplug_owl import cli
from mplug_owl.errors import EvalError
from mplug_owl.eval.judge_labels import LABELS, label_cases, labels, read_run, summary
from mplug_owl.eval.judging import read_judging
from mplug_owl.eval.run import score
from mplug_owl.eval.scores.hallusion import check_reading, same_reading
from mplug_owl.eval.task import Example, Record, Score
from mplug_owl.eval.tasks.hallusionbench import FILE, HallusionBench
from mplug_owl.eval.verdicts import read_verdicts
from scripted import Answer, Body, Refusal, Reply, Scripted, said, scripted

WORDS = ("Yes.", "No, it is not.", "Hard to say.")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten questions with pictures that can be looked at, each with words of its own and a reference that answers."""
    folder = write("hallusionbench", tmp_path / "data")
    rows = json.loads((folder / FILE).read_text())
    for number, row in enumerate(rows):
        row["question"] = f"Is bar {number} the longest?"
        row["gt_answer_details"] = "Yes, it is." if row["gt_answer"] == "1" else "No, it is not."
    document(folder / FILE, rows)
    for path in folder.rglob("*.png"):
        path.write_bytes(picture_bytes())
    return folder


@pytest.fixture
def examples(data: Path) -> list[Example]:
    return list(HallusionBench(data=data).examples())


@pytest.fixture
def answers(examples: list[Example]) -> dict[str, str]:
    """Right, wrong and open ones in turn."""
    return {example.id: WORDS[number % 3] for number, example in enumerate(examples)}


def run_of(answers: dict[str, str], path: Path) -> Path:
    path.write_text("".join(json.dumps({"id": name, "answer": text}) + "\n" for name, text in answers.items()))
    return path


def first_words(text: str) -> list[str]:
    """Of the two texts that a prompt holds, after its last colons."""
    return [found.split()[0].strip(".,").lower() for found in re.findall(r"(?:answer): (.+)", text)]


def teacher(body: Body, before: int) -> Reply:
    """Goes by yes and no alone, in words as judges choose them."""
    one, other = first_words(said(body))
    if "Second answer" in said(body):
        return Answer("Same" if one == other else "They are different.")
    return Answer("unclear" if other == "hard" else "Correct." if one == other else "That is incorrect")


def judged(run: Path, data: Path, server: Scripted, out: Path, *more: str) -> int:
    words = [str(run), "--data", str(data), "--mode", "label", "--judge", f"openai:{server.url}#teacher"]
    return cli.main(["judge", *words, "--out", str(out), *more])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / LABELS).read_text().splitlines()]


# ---- what it is shown, and what its words mean ---------------------------------------------------


def test_a_judge_sees_words_alone_and_each_figure_beside_the_original(
    examples: list[Example], answers: dict[str, str]
) -> None:
    found = label_cases(examples, answers)
    checks, sames = ([case for case in found if case.mode == mode] for mode in ("check", "same"))
    assert [case.question for case in checks] == [example.id for example in examples]
    assert {case.question for case in sames} == {e.id for e in examples if e.meta["figure_id"] != "0"}
    for case, example in zip(checks, examples, strict=True):
        (message,) = case.messages
        assert message.role == "user" and [part.text for part in message.content] == [message.text]  # type: ignore[union-attr]
        for shown in (f"Question: {example.meta['question']}\n", example.meta["reference"], answers[example.id]):
            assert shown in message.text
        assert "single word or phrase" not in message.text and "$" not in message.text
    originals = {(e.meta["category"], e.meta["question_id"]): answers[e.id] for e in examples if e.id[-3] == "0"}
    for case in sames:
        category, *_, question = str(case.question).split("/")
        text = case.messages[0].text
        assert f"First answer: {answers[str(case.question)]}" in text and "longest" not in text
        assert f"Second answer: {originals[category, question]}" in text


@pytest.mark.parametrize(
    ("reply", "label", "same"),
    [
        ("correct", "1", None),
        ("**Incorrect**.", "0", None),
        ("It is incorrect, not correct", "0", None),
        ("UNCLEAR", "2", None),
        ("The two are the same", None, True),
        ("Different", None, False),
        ("not the same but different", None, True),  # as the official code has it
        ("", None, None),
        ("B", None, None),
    ],
)
def test_words_are_read_as_the_official_code_reads_them(reply: str, label: str | None, same: bool | None) -> None:
    assert (check_reading(reply), same_reading(reply)) == (label, same)


# ---- from answers to scores ----------------------------------------------------------------------


def test_a_judge_that_goes_by_the_words_gives_the_scores_of_the_words(
    data: Path, answers: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = run_of(answers, tmp_path / "run.jsonl"), tmp_path / "judged"
    with scripted(teacher) as server:
        assert judged(run, data, server, out, "--price", "1,1") == 0
        assert len(server.bodies) == 16
        page = capsys.readouterr().out
        assert "10 of 10 answers labelled: " in page and "16 requests" in page
        assert "of 7 answers that say yes or no, 7 are labelled as these words are" in page
        before = (out / LABELS).read_bytes()
        assert judged(run, data, server, out) == 0 and len(server.bodies) == 16
        assert (out / LABELS).read_bytes() == before
    tables = []
    for name, settings in (("plain", {}), ("judged", {"judgements": str(out / LABELS)})):
        results = score(answers, {"name": "x"}, HallusionBench(data=data, **settings), tmp_path / name)
        tables.append(results["tasks"]["hallusionbench"]["tables"][0])
    assert tables[0]["rows"] == tables[1]["rows"]
    assert 0 < tables[0]["rows"][-1]["score"] < 1
    assert "judged by a judge" in tables[1]["notes"] and "without a judge" in tables[0]["notes"][0]


def test_replies_without_a_verdict_are_counted_and_asked_again_on_request(
    data: Path, answers: dict[str, str], examples: list[Example], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def babbler(body: Body, before: int) -> Reply:
        return teacher(body, before) if "bar 3" not in said(body) else Answer("What a lovely chart!")

    run, out = run_of(answers, tmp_path / "run.jsonl"), tmp_path / "judged"
    with scripted(babbler) as server:
        assert judged(run, data, server, out) == 0
    assert "1 of 16 replies hold none of the words asked for" in capsys.readouterr().out
    found = {row["id"]: row for row in rows_of(out)}
    assert len(found) == 10
    assert [name for name, row in found.items() if row.get("unread")] == [examples[3].id]
    assert found[examples[3].id]["judgement"] == "2"
    task = HallusionBench(data=data, judgements=str(out / LABELS))
    (table,) = score(answers, {"name": "x"}, task, tmp_path / "score")["tasks"]["hallusionbench"]["tables"]
    assert "whose replies to 1 of 10 held no verdict" in table["notes"][0]
    with scripted(teacher, server.port) as server:
        assert judged(run, data, server, out, "--again") == 0 and len(server.bodies) == 1
    assert not any("unread" in row for row in rows_of(out))


def test_a_judge_that_goes_down_loses_nothing_and_unlabelled_answers_are_not_scored(
    data: Path, answers: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, count = run_of(answers, tmp_path / "run.jsonl"), tmp_path / "judged", 0

    def dying(body: Body, before: int) -> Reply:
        nonlocal count
        count += 1
        return teacher(body, before) if count <= 5 else Refusal(401, "no more credit")

    with scripted(dying) as server:
        assert judged(run, data, server, out, "--concurrency", "1") == 2
    assert "the same command goes on" in capsys.readouterr().err
    assert sum(verdict.error is None for verdict in read_verdicts(out / "verdicts.jsonl")) == 5

    def choosy(body: Body, before: int) -> Reply:
        return Refusal(400, "too long") if "bar 9 " in said(body) else teacher(body, before)

    with scripted(choosy, server.port) as server:
        assert judged(run, data, server, out) == 0
    assert "1 could not be asked, and their answers have no label" in capsys.readouterr().out
    task = HallusionBench(data=data, judgements=str(out / LABELS))
    with pytest.raises(EvalError, match="says nothing of 'VD/chart/0/1/1'"):
        score(answers, {"name": "x"}, task, tmp_path / "score")
    with scripted(teacher, server.port) as server:
        assert judged(run, data, server, out) == 0 and len(server.bodies) == 1
    assert len(rows_of(out)) == 10


def labelled(
    examples: list[Example], answers: dict[str, str], path: Path, reply: Callable[[Body, int], Reply] = teacher
) -> Path:
    """A file of judgements."""
    from mplug_owl.eval.judge import judge
    from mplug_owl.eval.openai_endpoint import OpenAIEndpoint

    with scripted(reply) as server:
        endpoint = OpenAIEndpoint(server.url, "teacher")
        verdicts = judge(endpoint, "teacher", label_cases(examples, answers), path.with_suffix(".verdicts"))
    path.write_text("".join(json.dumps(row) + "\n" for row in labels(examples, answers, verdicts)))
    return path


def test_judgements_belong_to_their_answers(
    data: Path, examples: list[Example], answers: dict[str, str], tmp_path: Path
) -> None:
    file = labelled(examples, answers, tmp_path / "labels.jsonl")
    others = answers | {examples[2].id: "Yes, surely."}
    with pytest.raises(EvalError, match=f"judges another answer to '{examples[2].id}'"):
        score(others, {"name": "x"}, HallusionBench(data=data, judgements=str(file)), tmp_path / "score")
    for wrong in ("nonsense", "[1]", '{"id": "x"}'):
        file.write_text(wrong)
        with pytest.raises(EvalError, match="holds no judgements"):
            list(HallusionBench(data=data, judgements=str(file)).examples())
    with pytest.raises(EvalError, match="holds no judgements"):
        list(HallusionBench(data=data, judgements=str(tmp_path / "nowhere")).examples())


def test_what_was_never_answered_is_wrong_with_a_judge_and_without(
    data: Path, examples: list[Example], tmp_path: Path
) -> None:
    """Where there is no figure, not to know is right; to have no answer is not."""
    open_ones = {e.id: "Hard to say." if e.meta["visual_input"] == "0" else e.answers[0] for e in examples}
    file = labelled(examples, open_ones, tmp_path / "labels.jsonl")
    for task in (HallusionBench(data=data), HallusionBench(data=data, judgements=str(file))):
        first, *rest = (Record(e, open_ones[e.id], task.score(e, open_ones[e.id])) for e in examples)
        (table,) = task.aggregate([first, *rest])
        (failed,) = task.aggregate([Record(first.example, "", Score(0.0, ""), "unreadable"), *rest])
        easy, fewer = (next(row.score for row in each.rows if row.name == "easy aAcc") for each in (table, failed))
        assert fewer < easy
        assert failed.rows[-1].score == pytest.approx(table.rows[-1].score - 1 / 10)


def test_a_part_of_the_answers_is_said_to_be_one(examples: list[Example], answers: dict[str, str]) -> None:
    few = dict(list(answers.items())[:4])
    assert summary(examples, few, [], [])[-1] == "6 questions have no answer here"


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--against", "x"], "--against with --mode label"),
        (["--no-abilities"], "--no-abilities with --mode label"),
        (["RUN"], "2 systems with --mode label"),
    ],
)
def test_wishes_that_contradict_are_refused(
    data: Path, answers: dict[str, str], tmp_path: Path, more: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(run_of(answers, tmp_path / "run.jsonl"))
    words = [run, *[word.replace("RUN", run) for word in more], "--data", str(data), "--judge", "openai:http://x/v1#j"]
    assert cli.main(["judge", *words, "--mode", "label", "--out", str(tmp_path / "out")]) == 2
    assert what in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_answers_of_another_task_and_folders_without_any_are_refused(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="'7' is no question of hallusionbench; expected ids such as 'VS/chart"):
        read_run(run_of({"7": "yes"}, tmp_path / "run.jsonl"), examples)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvalError, match="the folder of a finished run of task hallusionbench"):
        read_run(tmp_path / "empty", examples)


def test_an_owl_answers_another_judges_and_the_scores_say_how_little_that_is_worth(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From pictures to scores with owls of random weights: their words are worth nothing, but none is lost."""
    run, out = tmp_path / "run", tmp_path / "judged"
    assert (
        cli.main(["eval", "--model", "tiny-owl2", "--tasks", "hallusionbench", "--data", str(data), "--out", str(run)])
        == 0
    )
    judge = ["judge", str(run), "--data", str(data), "--mode", "label", "--judge", "tiny-owl2", "--out", str(out)]
    assert cli.main([*judge, "--max-new-tokens", "4"]) == 0
    told = capsys.readouterr().out
    assert "16 of 16 replies hold none of the words asked for" in told
    command = next(line for line in told.splitlines() if line.startswith("owl score "))
    assert cli.main([*command.split()[1:], "--out", str(tmp_path / "score")]) == 0
    assert "whose replies to 10 of 10 held no verdict" in capsys.readouterr().out
    assert all(row["judgement"] == "2" and row["unread"] for row in rows_of(out))
    with pytest.raises(EvalError, match="labels of answers to yes-or-no questions"):
        read_judging(out)
