"""All benchmarks alike: tiny files in their official layouts are read, right answers get full marks, wrong ones none,
and whatever is missing is said in words.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmark_files import NAMES, hub_rows, write, write_hub
from mplug_owl.errors import EvalError
from mplug_owl.eval.run import run
from mplug_owl.eval.scores import meteor
from mplug_owl.eval.task import Example, Record, Task
from mplug_owl.eval.tasks import TASKS, fields, open_task
from mplug_owl.eval.tasks.hub import TablePicture
from mplug_owl.messages import Message, media

SCORED = [name for name in NAMES if name not in ("vicuna_bench", "mmvet")]


@pytest.fixture(autouse=True)
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR starts a program that takes its time."""
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)


def opened(name: str, folder: Path, **settings: Any) -> Task:
    if name == "mmmu":
        pytest.importorskip("pyarrow")
    return open_task(name, {"data": write(name, folder), **settings})


def right(example: Example) -> str:
    """An answer that is right, in the form that its benchmark wants."""
    if example.id.startswith("math/"):
        return f"It is ${example.answers[0]}$"
    return "".join(example.answers) if example.id.startswith("gaokao-physics") else (*example.answers, "words")[0]


def records(task: Task, examples: Sequence[Example], answer: str | None = None) -> list[Record]:
    said = {example.id: right(example) if answer is None else answer for example in examples}
    return [Record(example, said[example.id], task.score(example, said[example.id])) for example in examples]


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_read_and_shown(name: str, tmp_path: Path) -> None:
    task = opened(name, tmp_path)
    examples = list(task.examples())
    assert examples and len({example.id for example in examples}) == len(examples)
    assert examples == list(task.examples())
    assert task.files() and all(path.is_file() for path in task.files())
    for example in examples:
        json.dumps(example.meta)
        assert example.messages[-1].role == "user" and example.messages[-1].text.strip()
        for part in media(example.messages):
            assert isinstance(part.source, bytes | TablePicture) or Path(part.source).is_file()


@pytest.mark.parametrize("name", SCORED)
def test_right_answers_get_full_marks_and_wrong_ones_none(name: str, tmp_path: Path) -> None:
    task = opened(name, tmp_path)
    examples = list(task.examples())
    best = task.aggregate(records(task, examples))
    head = best[0].rows[0]
    if name == "mme":
        assert [row.score for row in best[0].rows] == [2000.0, 800.0]
    elif name in ("coco", "flickr30k"):  # two captions leave little to weigh; those of one's own are the best there are
        assert head.metric == "CIDEr" and head.score > 1
    else:
        assert head.score == 1.0, best
    worst = task.aggregate(records(task, examples, "\u00a7"))[0].rows[0]
    expected = {"pope": 0.5, "mme": 0.0}.get(name, 0.0)  # what does not say no says yes, to POPE
    assert worst.score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_said(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    with pytest.raises(EvalError, match=r"no folder is given; give --data DIR"):
        list(open_task(name, {}).examples())
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvalError, match=rf"task {name}") as caught:
        list(open_task(name, {"data": tmp_path / "empty"}).examples())
    assert task.source in str(caught.value) or task.source.split(" ")[0] in str(caught.value)
    assert "empty" in str(caught.value) and "\n" not in str(caught.value)


PICTURED = [name for name in NAMES if name not in ("mmbench", "mmmu", "bbh", "agieval", "vicuna_bench", "mmlu")]
PICTURED = [name for name in PICTURED if not name.startswith("arc")]


@pytest.mark.parametrize("name", PICTURED)
def test_a_missing_picture_is_never_left_out(name: str, tmp_path: Path) -> None:
    task = opened(name, tmp_path)
    shown = next(part.source for example in task.examples() for part in media(example.messages))
    Path(shown).unlink()
    with pytest.raises(EvalError, match=Path(shown).stem):
        list(task.examples())


@pytest.mark.parametrize("name", NAMES)
def test_broken_and_foreign_files_are_met(name: str, tmp_path: Path) -> None:
    task = opened(name, tmp_path)
    for path in task.files():
        kept = path.read_bytes()
        for content in (b"{", b"[]", b'[{"foreign": 1}]', b"{}", b"a,b\n"):
            path.write_bytes(content)
            with pytest.raises(EvalError, match=f"task {name}"):
                list(task.examples())
        path.write_bytes(kept)
    assert list(task.examples())


def test_every_task_says_what_it_is() -> None:
    for name, task in TASKS.items():
        assert task.name == name and task.about and task.needs and task.source and task.licence
        assert isinstance(task.needs, str) and isinstance(task.about, str)
        assert task.chance is None or 0 < task.chance < 1
        assert "data" in fields(name) or name == "world"
    unverified = {name for name, task in TASKS.items() if not task.verified}
    videos = {"msvd_qa", "msrvtt_qa", "tgif_qa"}
    assert unverified == {"gqa", "seedbench", "qbench", "mmvet", "mmlu", "arc_challenge", "arc_easy"} | videos


def test_published_numbers_stand_beside_rows_that_exist(tmp_path: Path) -> None:
    for name in NAMES:
        task = opened(name, tmp_path / name)
        rows = {row.name: row for row in task.aggregate(records(task, list(task.examples())))[0].rows}
        head = next(iter(rows.values()))
        for number in task.published():
            row = rows[number.row] if number.row else head
            assert row.metric == number.metric, number
            assert number.model and number.source and number.value > 0
    numbers = {(each.row, each.value) for each in open_task("hallusionbench", {}).published()}
    assert {("qAcc", 9.45), ("qAcc", 2.36)} <= numbers
    assert [each.value for each in open_task("egoschema", {}).published()] == [31.1]


@dataclass
class Knower:
    """Knows all answers by their questions' place."""

    answers_to: dict[str, list[str]]

    def card(self) -> dict[str, Any]:
        return {"name": "knower"}

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[str]:
        waiting = {text: list(answers) for text, answers in self.answers_to.items()}
        return (waiting["".join(m.text for m in messages)].pop(0) for messages in conversations)


@pytest.mark.parametrize("name", NAMES)
def test_runs_end_to_end(name: str, tmp_path: Path) -> None:
    task = opened(name, tmp_path / "data")
    known: dict[str, list[str]] = {}
    for example in task.examples():
        known.setdefault("".join(message.text for message in example.messages), []).append(right(example))
    out = tmp_path / "out"
    results = run(Knower(known), [task], out)
    assert results is not None and results["tasks"][name]["n"] == len(list(task.examples()))
    kept = json.loads((out / "results.json").read_text())
    assert kept["tasks"][name]["verified"] is task.verified and str(tmp_path) not in (out / "results.json").read_text()
    assert kept["tasks"][name]["tables"][0]["rows"][0]["n"] > 0


def test_settings_are_part_of_a_task(tmp_path: Path) -> None:
    folder = write("scienceqa", tmp_path / "scienceqa")
    asked = {alone: open_task("scienceqa", {"data": folder, "images_only": alone}) for alone in (True, False)}
    assert [example.id for example in asked[True].examples()] == ["1"]
    assert [example.id for example in asked[False].examples()] == ["1", "2"]
    with pytest.raises(EvalError, match="expected subset"):
        open_task("egoschema", {"split": "test"})
    with pytest.raises(EvalError, match=r"no split 'tset'.*"):
        list(open_task("scienceqa", {"data": folder, "split": "tset"}).examples())


@pytest.mark.parametrize("name", hub_rows())
def test_tables_of_the_hub_do_as_well(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    task: Any = open_task(name, {"data": write_hub(name, tmp_path)})
    examples = list(task.examples())
    assert examples == list(task.examples()) and task.hub
    assert [path.suffix for path in task.files()] == [".parquet"]
    shown: list[Any] = [part.source for example in examples for part in media(example.messages)]
    assert all(source.picture().size == (4, 3) for source in shown)
    assert "parquet:1:image" in examples[0].said()[0]["text"]
    head = task.aggregate(records(task, examples))[0].rows[0]
    assert head.score == (2000.0 if name == "mme" else 1.0)


def test_damaged_tables_are_met(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    task = open_task("pope", {"data": write_hub("pope", tmp_path)})
    task.files()[0].write_bytes(b"no table")
    with pytest.raises(EvalError, match=r"task pope: .*damaged"):
        list(task.examples())


# ---- what is not alike ---------------------------------------------------------------------------


def edited(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_vqa_files_of_two_splits_are_not_mixed(tmp_path: Path) -> None:
    task = opened("vqav2", tmp_path)
    asked, told = task.files()
    edited(told, lambda content: content["annotations"].pop())
    with pytest.raises(EvalError, match=r"1 of the 2 ids of v2_OpenEnded.* are not in v2_mscoco.*same split"):
        list(task.examples())
    write("vqav2", tmp_path)
    edited(asked, lambda content: content["questions"].append(content["questions"][0]))
    with pytest.raises(EvalError, match="'9' is the id of several entries"):
        list(task.examples())


def test_vqa_accuracy_is_that_of_people(tmp_path: Path) -> None:
    task = opened("vqav2", tmp_path)
    first, second = task.examples()
    # 7 said brown, 3 "the brown one": left out one at a time, 3 of the others agree 7 times in 10.
    assert task.score(first, "Brown.").correct == 1.0
    assert task.score(first, "brown one").correct == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert task.score(second, " 2\n").correct == 1.0
    assert task.score(second, "two").correct == 0.0  # all agree, so texts are compared as they stand
    assert first.messages[0].text == "What colour is the owl? Answer the question using a single word or phrase."


def test_mme_counts_pictures_with_both_right(tmp_path: Path) -> None:
    task = opened("mme", tmp_path)
    examples = list(task.examples())
    assert "Please answer yes or no." not in examples[0].messages[0].text
    perception, cognition = task.aggregate(records(task, examples, "Yes"))[0].rows
    assert (perception.score, cognition.score) == (500.0, 200.0)  # half of the answers, no picture
    assert examples[0].group == examples[1].group != examples[2].group


def test_mme_files_must_be_two_questions(tmp_path: Path) -> None:
    task = opened("mme", tmp_path)
    task.files()[0].write_text("Is it?\tYes\n")
    with pytest.raises(EvalError, match="two lines"):
        list(task.examples())


def test_pope_says_how_often_yes_is_said(tmp_path: Path) -> None:
    task = opened("pope", tmp_path)
    rows = task.aggregate(records(task, list(task.examples()), "Yes"))[0].rows
    assert [row.name for row in rows] == ["pope", "random", "popular", "adversarial"]
    assert rows[1].more["yes_ratio"] == 1.0 and rows[1].more["recall"] == 1.0 and rows[0].score == 0.5


def test_a_circular_question_needs_all_passes(tmp_path: Path) -> None:
    task = opened("mmbench", tmp_path)
    examples = list(task.examples())
    assert [example.group for example in examples] == ["7", "7", "7", "8", "8", "8"]
    assert [example.answers for example in examples[:3]] == [("A",), ("C",), ("B",)]
    found = records(task, examples)
    found[1] = Record(examples[1], "B", task.score(examples[1], "B"))
    circular, passes = task.aggregate(found)
    assert (circular.rows[0].score, circular.rows[0].n) == (0.5, 2)
    assert circular.rows[0].chance == pytest.approx(1 / 27)
    assert passes.rows[0].score == pytest.approx(5 / 6)
    alone = task.aggregate(found[:1])[0]
    assert any("plain accuracy" in note for note in alone.notes)


def test_hallusionbench_with_a_judge(tmp_path: Path) -> None:
    task = opened("hallusionbench", tmp_path)
    examples = list(task.examples())
    plain = {row.name: row.score for row in task.aggregate(records(task, examples, "Unsure."))[0].rows}
    # Where there is no figure, not to know is right.
    assert plain["aAcc"] == pytest.approx(2 / 10) and plain["qAcc"] == 0.0
    labels = tmp_path / "labels.jsonl"
    rows = [{"id": example.id, "judgement": "1", "same": "0"} for example in examples]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = open_task("hallusionbench", {"data": tmp_path, "judgements": str(labels)})
    table = judged.aggregate(records(judged, examples, "Unsure."))[0]
    assert [row.score for row in table.rows] == [1.0] * 5 and "judge" in table.notes[0]
    labels.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(EvalError, match="says nothing of"):
        records(open_task("hallusionbench", {"data": tmp_path, "judgements": str(labels)}), examples)
    labels.write_text("nonsense")
    with pytest.raises(EvalError, match="holds no judgements"):
        records(open_task("hallusionbench", {"data": tmp_path, "judgements": str(labels)}), examples)


def test_mmmu_counts_unread_answers_as_wrong_and_says_so(tmp_path: Path) -> None:
    task = opened("mmmu", tmp_path)
    examples = list(task.examples())
    assert len(examples) == 30 and len(media(examples[0].messages)) == 1
    (table,) = task.aggregate(records(task, examples, "nothing at all"))
    assert table.rows[0].score == 0.0 and table.notes[0].startswith("29 answers name no option")


def test_egoschema_scores_what_is_public_and_exports_all(tmp_path: Path) -> None:
    write("egoschema", tmp_path)
    subset, full = (open_task("egoschema", {"data": tmp_path, "split": split}) for split in ("subset", "full"))
    assert [example.id for example in subset.examples()] == ["u-1"]
    found = records(full, list(full.examples()), "D.")
    (table,) = full.aggregate(found)
    assert (table.rows[0].n, table.rows[0].score) == (1, 1.0) and "upload" in table.notes[1]
    assert json.loads(full.exports(found)["egoschema-upload.json"]) == {"u-1": 3, "u-2": 3}
    assert subset.exports(found[:1]) == {}
    edited(tmp_path / "subset_answers.json", lambda content: content.update({"v": 1}))
    with pytest.raises(EvalError, match="answers 'v', which"):
        list(subset.examples())


def test_captions_are_of_the_split_and_say_what_is_missing(tmp_path: Path) -> None:
    task = opened("coco", tmp_path)
    examples = list(task.examples())
    assert len(examples) == 2
    (table,) = task.aggregate(records(task, examples))
    assert [row.metric for row in table.rows] == ["CIDEr", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L"]
    assert "no METEOR: no java on the PATH" in table.notes
    with pytest.raises(EvalError, match="no split 'tset'; it has test, train"):
        list(open_task("coco", {"data": tmp_path, "split": "tset"}).examples())


def test_bbh_counts_sizes_of_one_task_once(tmp_path: Path) -> None:
    task = opened("bbh", tmp_path)
    examples = list(task.examples())
    found = records(task, examples)
    found[1] = Record(examples[1], "True", task.score(examples[1], "True"))
    row = task.aggregate(found)[0].rows[0]
    assert (row.score, row.more["parts"]) == (0.75, 2)
    steps = open_task("bbh", {"data": tmp_path, "steps": True})
    example = next(iter(steps.examples()))
    assert example.messages[0].text.startswith("Think.") and "canary" not in example.messages[0].text
    assert steps.score(example, "It is. So the answer is False.").correct == 1.0


def test_agieval_is_asked_in_the_language_of_its_exam(tmp_path: Path) -> None:
    task = opened("agieval", tmp_path)
    asked = {example.id: example.messages[0].text for example in task.examples()}
    assert asked["lsat-ar/0"].endswith("A: Among A through B, the answer is")
    assert not asked["gaokao-physics/0"].isascii() and asked["math/0"].endswith("The answer is")
    (table,) = task.aggregate(records(task, list(task.examples()), "A"))
    assert "without lsat-lr" in table.notes[0]


def test_what_a_judge_grades_is_only_kept(tmp_path: Path) -> None:
    task = opened("mmvet", tmp_path)
    found = records(task, list(task.examples()), "x is -1")
    (table,) = task.aggregate(found)
    assert table.rows[0].metric == "answered" and "Evaluator" in table.notes[0]
    assert json.loads(task.exports(found)["mmvet-upload.json"]) == {"v1_0": "x is -1"}


def test_the_page_tells_of_every_task() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs/tasks.md").read_text(encoding="utf-8")
    for name, task in TASKS.items():
        scorer = "verified" if task.verified else "not verified"
        chance = "-" if task.chance is None else f"{100 * task.chance:g}%"
        hub = getattr(task, "hub", "")
        other = f"; or Parquet files: https://huggingface.co/datasets/{hub}" if hub else ""
        assert f"| {scorer} | {chance} | {task.licence} |" in page, name
        assert f"| {name} | {task.about} | {task.needs} | {task.source}{other} |" in page, name
