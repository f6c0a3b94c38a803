"""Runs: resumed ones end as uninterrupted ones do, and answers of different things are never mixed."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from eval_tasks import Adder, Chains, Pictures, Sums, files
from mplug_owl import EvalError, ImagePart, Message, Owl, TextPart, VideoPart
from mplug_owl.eval.endpoints import Failure, OwlEndpoint, Said
from mplug_owl.eval.report import markdown
from mplug_owl.eval.run import run, score
from mplug_owl.eval.samples import Shard, limited
from mplug_owl.eval.scoring import Interval
from mplug_owl.eval.task import Example, Published, Record, Row, Table


@dataclass(frozen=True)
class Differences(Sums):
    """Asks the same, but takes other answers for right."""

    def examples(self) -> Iterator[Example]:
        return (replace(example, answers=("1",)) for example in super().examples())


def test_a_run_keeps_every_answer_and_says_how_sure_it_is(tmp_path: Path) -> None:
    results = run(Adder(wrong=(3, 4)), [Sums()], tmp_path)
    (row,) = results["tasks"]["sums"]["tables"][0]["rows"]
    assert (row["n"], row["score"]) == (20, 0.9)
    assert row["interval"] == pytest.approx([0.699, 0.972], abs=1e-3)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    samples = (tmp_path / "sums/samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in samples]
    assert [row["id"] for row in rows] == [f"sum/{number}" for number in range(20)]
    assert sum(row["correct"] for row in rows) == 18
    assert rows[2]["reference"] == ["3"] and rows[2]["answer"] == "3." and rows[2]["read"] == "3"
    assert rows[2]["prompt"] == [{"role": "user", "text": "2 + 1?"}]
    page = (tmp_path / "results.md").read_text()
    assert page == markdown(results) and "90.0" in page and "69.9 to 97.2" in page
    names = ("rows.json", "samples.jsonl", "settings.json")
    assert set(files(tmp_path)) == {"results.json", "results.md", *(f"sums/{name}" for name in names)}
    places = json.loads((tmp_path / "sums/rows.json").read_text())
    assert places == {"sums": {"sums": list(range(20))}}
    told = results["tasks"]["sums"]
    assert (told["n"], told["failed"], told["verified"], told["split"]) == (20, 0, True, "test")
    assert told["prompt"] == rows[0]["prompt"] and told["decoding"] == "greedy" and told["max_new_tokens"] == 8


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(Adder(wrong=(3,)), [Sums()], whole)
    with pytest.raises(KeyboardInterrupt):
        run(Adder(wrong=(3,), falls_after=7), [Sums()], broken)
    assert not (broken / "results.json").exists()
    samples = broken / "sums/samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-5])  # the machine fell down while it wrote
    again = Adder(wrong=(3,))
    run(again, [Sums()], broken)
    assert again.asked == [f"{number} + 1?" for number in range(6, 20)]
    assert files(broken) == files(whole)
    last = Adder()
    run(last, [Sums()], broken)
    assert last.asked == [] and files(broken) == files(whole)


@pytest.mark.parametrize(
    ("endpoint", "task", "word"),
    [
        (Adder(weights="v"), Sums(), "model.weights 'w', now it is 'v'"),
        (Adder(), Sums(count=10), "settings.count 20, now it is 10"),
        (Adder(), Differences(), "data '"),
        (Adder(), Sums(twice=True), "'sum/0' is the id of several"),
        (Adder(), Sums(count=0), "there are no examples"),
    ],
)
def test_what_differs_is_not_mixed(endpoint: Adder, task: Sums, word: str, tmp_path: Path) -> None:
    run(Adder(), [Sums()], tmp_path)
    before = files(tmp_path)
    with pytest.raises(EvalError, match=word):
        run(endpoint, [task], tmp_path)
    assert files(tmp_path) == before and endpoint.asked == []


def test_tasks_asked_one_after_the_other_are_one_run(tmp_path: Path) -> None:
    run(Adder(), [Sums(), Chains()], tmp_path / "together")
    for task in (Chains(), Sums()):
        run(Adder(), [task], tmp_path / "apart")
    assert files(tmp_path / "apart") == files(tmp_path / "together")
    run(Adder(), [Sums(), Chains()], tmp_path / "together")
    assert files(tmp_path / "apart") == files(tmp_path / "together")
    with pytest.raises(EvalError, match=r"apart holds answers with model\.weights 'w', now it is 'v'"):
        run(Adder(weights="v"), [Pictures()], tmp_path / "apart")


def test_folders_that_cannot_be_gone_on_with(tmp_path: Path) -> None:
    run(Adder(), [Sums()], tmp_path)
    with pytest.raises(EvalError, match="holds a run already"):
        run(Adder(), [Sums()], tmp_path, new=True)
    samples = tmp_path / "sums/samples.jsonl"
    lines = samples.read_text().splitlines(keepends=True)
    for text, word in (
        ("".join([*lines, lines[0]]), ":21: 'sum/0' is answered twice"),
        (lines[0].replace("sum/0", "sum/x"), "'sum/x' is none"),
        ("nonsense\n", ":1 is no answer"),
        ("[1]\n", ":1 is no answer"),
    ):
        samples.write_text(text)
        with pytest.raises(EvalError, match=word):
            run(Adder(), [Sums()], tmp_path)
    (tmp_path / "sums/settings.json").write_text("{")
    with pytest.raises(EvalError, match="cannot be read"):
        run(Adder(), [Sums()], tmp_path)
    (tmp_path / "sums/settings.json").unlink()
    with pytest.raises(EvalError, match=r"no settings\.json"):
        run(Adder(), [Sums()], tmp_path)


def test_an_endpoint_that_answers_too_little_is_met(tmp_path: Path) -> None:
    class Lazy(Adder):
        def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[Said]:
            return super().answers(conversations[:-1], max_new_tokens)

    with pytest.raises(ValueError, match="shorter"):
        run(Lazy(), [Sums()], tmp_path)


def test_media_are_named_in_the_records() -> None:
    parts = (ImagePart("a.png"), ImagePart(b"1234"), VideoPart(["b.png", "c.png"], 2), TextPart("What?"))
    example = Example("x", (Message("user", parts), Message("user", [ImagePart(Image.new("L", (3, 2)))])), ("a",))
    assert [row["text"] for row in example.said()] == [
        "[a.png] [4 bytes] [2 frames, first: b.png] What?",
        "[picture of 3x2]",
    ]


def test_files_are_named_from_the_folder_of_the_data(tmp_path: Path) -> None:
    example = Example("x", (Message("user", [ImagePart(str(tmp_path / "a/b.png")), TextPart("What?")]),), ("a",))
    assert example.said(tmp_path)[0]["text"] == "[a/b.png] What?"


# ---- owls ----------------------------------------------------------------------------------------


def test_an_owl_answers_the_same_in_any_batches_and_shards(owl: Owl, tmp_path: Path) -> None:
    pages = []
    for batch_size in (1, 8):
        run(OwlEndpoint(owl, "tiny-owl2", batch_size), [Pictures(9)], tmp_path / str(batch_size))
        pages.append(files(tmp_path / str(batch_size)))
    for number in (1, 0):
        run(OwlEndpoint(owl, "tiny-owl2", 3), [Pictures(9)], tmp_path / "shards", shard=Shard(number, 2))
    assert pages[0] == pages[1] == files(tmp_path / "shards")
    model = json.loads(pages[0]["results.json"])["model"]
    assert model["name"] == "tiny-owl2" and len(model["weights"]) == 64 and model["dtype"] == "float32"
    assert "QUESTION" in model["prompt"]


def test_what_an_owl_cannot_be_asked_fails_alone(owl: Owl, tmp_path: Path) -> None:
    good = [example.messages for example in Pictures(4).examples()]
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG")
    bad = (Message("user", (ImagePart(str(torn)), TextPart("What?"))),)
    long = (Message("user", "word " * 5000),)
    endpoint = OwlEndpoint(owl, "tiny-owl2", 2)
    expected = list(endpoint.answers(good, 5))
    found = list(endpoint.answers([bad, *good[:3], long, bad, good[3], long], 5))
    assert found[1:4] + found[6:7] == expected
    assert all(isinstance(found[place], Failure) for place in (0, 4, 5, 7))
    assert "torn.png" in found[0].reason and "positions" in found[4].reason


# ---- workers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_shards_in_any_order_make_the_whole(order: tuple[int, ...], tmp_path: Path) -> None:
    run(Adder(wrong=(3, 11)), [Sums(), Chains()], tmp_path / "whole")
    asked = []
    for place, number in enumerate(order):
        adder = Adder(wrong=(3, 11))
        results = run(adder, [Sums(), Chains()], tmp_path / "parts", shard=Shard(number, 3))
        assert (results is not None) == (place == 2)
        assert (tmp_path / "parts/results.json").exists() == (place == 2)
        asked += adder.asked
    assert len(asked) == 20 + 12
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_workers_come_and_go(tmp_path: Path) -> None:
    """A run of two workers that both fell down is finished by one."""
    run(Adder(), [Sums()], tmp_path / "whole")
    for number in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(Adder(falls_after=4), [Sums()], tmp_path / "parts", shard=Shard(number, 2))
    torn = tmp_path / "parts/sums/samples-1-of-2.jsonl"
    torn.write_bytes(torn.read_bytes()[:-9])  # which another worker might still be writing
    last = Adder()
    assert run(last, [Sums()], tmp_path / "parts") is not None
    assert len(last.asked) == 20 - 7
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_workers_who_disagree_are_met(tmp_path: Path) -> None:
    run(Adder(), [Sums()], tmp_path, shard=Shard(0, 2))
    mine = tmp_path / "sums/samples-0-of-2.jsonl"
    other = mine.read_text(encoding="utf-8").replace('"answer": "1."', '"answer": "2."')
    mine.with_name("samples-0-of-3.jsonl").write_text(other, encoding="utf-8")
    with pytest.raises(EvalError, match="'sum/0' is answered otherwise"):
        run(Adder(), [Sums()], tmp_path, shard=Shard(1, 2))


def test_shards_of_words_and_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Shard.read("2/4") == Shard(2, 4) and str(Shard(2, 4)) == "2/4"
    for text in ("4/4", "-1/2", "1", "a/b", "1/0", ""):
        with pytest.raises(EvalError, match="expected"):
            Shard.read(text)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Shard.of_environment() == Shard()
    monkeypatch.setenv("RANK", "1")
    assert Shard.of_environment() == Shard(1, 3)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from eval_tasks import Adder, Sums
from mplug_owl.eval.run import run

class Mortal(Adder):
    def answers(self, conversations, max_new_tokens):
        for count, answer in enumerate(super().answers(conversations, max_new_tokens)):
            if count == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield answer

run(Mortal(wrong=(5,)), [Sums()], Path(sys.argv[1]))
"""
    run(Adder(wrong=(5,)), [Sums()], tmp_path / "whole")
    for count in ("9", "6", "99"):
        words = [sys.executable, "-c", code, str(tmp_path / "killed"), count]
        ended = subprocess.run(words, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
        assert ended.returncode == (0 if count == "99" else -signal.SIGKILL)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


# ---- failures, dialogues, limits -----------------------------------------------------------------


def test_failures_are_kept_shown_and_asked_again(tmp_path: Path) -> None:
    run(Adder(), [Sums()], tmp_path / "whole")
    with pytest.raises(EvalError, match="2 of 20 questions have no answer, the first one 'sum/3' of sums: it has no"):
        run(Adder(silent=(3, 8)), [Sums()], tmp_path / "failed")
    assert not (tmp_path / "failed/results.json").exists()
    results = run(Adder(silent=(3, 8)), [Sums()], tmp_path / "failed", allow_failures=True)
    assert results is not None
    told = results["tasks"]["sums"]
    (row,) = told["tables"][0]["rows"]
    assert (told["n"], told["failed"], row["n"], row["score"]) == (20, 2, 20, 0.9)
    assert "2 of them without an answer" in (tmp_path / "failed/results.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "failed/sums/samples.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [line["id"] for line in lines if line.get("error") == "it has no words"] == ["sum/3", "sum/8"]
    again = Adder()
    run(again, [Sums()], tmp_path / "failed")
    assert again.asked == ["3 + 1?", "8 + 1?"]
    assert files(tmp_path / "failed") == files(tmp_path / "whole")


def test_dialogues_go_on_from_the_model_s_own_answers(tmp_path: Path) -> None:
    adder = Adder()
    results = run(adder, [Chains(2)], tmp_path / "right")
    assert results is not None and results["tasks"]["chains"]["tables"][0]["rows"][0]["score"] == 1
    assert adder.asked == ["0 + 1?", "1 + 1?"] + ["and one more?"] * 4
    lines = [json.loads(line) for line in (tmp_path / "right/chains/samples.jsonl").read_text().splitlines()]
    assert [turn["text"] for turn in lines[5]["prompt"]] == ["1 + 1?", "2.", "and one more?", "3.", "and one more?"]
    with pytest.raises(EvalError, match="6 of 12 questions have no answer"):
        run(Adder(silent=(2,)), [Chains()], tmp_path / "broken")  # of three dialogues the last turn, two turns and all
    mended = Adder()
    run(mended, [Chains()], tmp_path / "broken")
    run(Adder(), [Chains()], tmp_path / "whole")
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_a_turn_must_come_after_the_one_it_follows(tmp_path: Path) -> None:
    class Backwards(Chains):
        def examples(self) -> Iterator[Example]:
            return iter(list(super().examples())[::-1])

    with pytest.raises(EvalError, match="which does not come before it"):
        run(Adder(), [Backwards()], tmp_path)


def test_a_limit_takes_whole_groups_from_everywhere(tmp_path: Path) -> None:
    examples = list(Chains(10).examples())
    assert [e.id for e in limited(examples, 3)] == [f"chain/{n}/{turn}" for n in (0, 3, 6) for turn in range(3)]
    assert limited(examples, 10) == limited(examples, 99) == examples
    results = run(Adder(), [Sums()], tmp_path / "five", limit=5)
    assert results is not None and results["tasks"]["sums"]["n"] == 5
    assert results["tasks"]["sums"]["settings"]["limit"] == 5
    with pytest.raises(EvalError, match=r"settings\.limit 5, now it is 6"):
        run(Adder(), [Sums()], tmp_path / "five", limit=6)
    with pytest.raises(EvalError, match="limit of 0"):
        run(Adder(), [Sums()], tmp_path / "none", limit=0)


# ---- what a number depends on --------------------------------------------------------------------


@dataclass(frozen=True)
class Filed(Sums):
    """Reads its questions from a file, and shows pictures beside it."""

    data: Path | None = None

    def files(self) -> Sequence[Path]:
        return [self.data / "numbers.txt"] if self.data else []

    def examples(self) -> Iterator[Example]:
        assert self.data is not None
        for number in (self.data / "numbers.txt").read_text().split():
            parts = (ImagePart(str(self.data / "pictures" / f"{number}.png")), TextPart(f"{number} + 1?"))
            yield Example(number, (Message("user", parts),), (str(int(number) + 1),))

    def published(self) -> Sequence[Published]:
        return [Published("abacus", 99.5, "a book", note="by hand")]


@pytest.fixture
def filed(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    (folder / "numbers.txt").write_text("1 2 3")
    for number in range(1, 4):
        Image.new("L", (number, 1)).save(folder / "pictures" / f"{number}.png")
    return folder


def test_the_place_of_the_data_is_no_setting_but_its_contents_are(filed: Path, tmp_path: Path) -> None:
    results = run(Adder(), [Filed(data=filed)], tmp_path / "out")
    assert results is not None
    told = results["tasks"]["sums"]
    assert list(told["files"]) == ["numbers.txt"] and "data" not in told["settings"]
    assert told["published"][0]["value"] == 99.5 and "abacus: 99.5 accuracy; a book; by hand" in markdown(results)
    moved = filed.rename(tmp_path / "moved")
    assert run(Adder(), [Filed(data=moved)], tmp_path / "out") == results
    (moved / "numbers.txt").write_text("1 2  3")
    with pytest.raises(EvalError, match=r"files\.numbers\.txt"):
        run(Adder(), [Filed(data=moved)], tmp_path / "out")


def test_missing_pictures_are_met_before_anything_is_asked(filed: Path, tmp_path: Path) -> None:
    (filed / "pictures/2.png").unlink()
    adder = Adder()
    with pytest.raises(EvalError, match=r"1 pictures or videos are not there, the first one .*2\.png"):
        run(adder, [Filed(data=filed)], tmp_path / "out")
    assert adder.asked == [] and not (tmp_path / "out").exists()


def test_points_are_no_percent(tmp_path: Path) -> None:
    class Points(Sums):
        verified = False

        def aggregate(self, records: Sequence[Record]) -> list[Table]:
            row = Row("total", len(records), 1450.19, Interval(1400.0, 1500.0), metric="score", unit="points")
            return [Table("points", (row,))]

    results = run(Adder(), [Points()], tmp_path)
    assert results is not None
    page = markdown(results)
    assert "1450.19" in page and "1400.00 to 1500.00" in page and "points" in page
    assert "scorer not verified against the official one" in page


# ---- answers of others ---------------------------------------------------------------------------


def test_answers_of_others_are_scored_alike(tmp_path: Path) -> None:
    results = run(Adder(wrong=(3,)), [Sums()], tmp_path / "run")
    assert results is not None
    given = {f"sum/{number}": "no" if number == 3 else f"{number + 1}" for number in range(20)}
    scored = score(given, {"name": "somebody"}, Sums(), tmp_path / "score")
    assert scored["tasks"]["sums"]["tables"] == results["tasks"]["sums"]["tables"]
    assert scored["model"] == {"name": "somebody"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sum/99": "1"}, "1 of 21 ids are none of task sums, the first one 'sum/99'.*another split"),
        ({"sum/4": None}, "1 of 20 questions have no answer, the first one 'sum/4'"),
    ],
)
def test_answers_of_others_that_do_not_fit(change: dict[str, str | None], word: str, tmp_path: Path) -> None:
    given = {f"sum/{number}": str(number + 1) for number in range(20)}
    changed = {name: answer for name, answer in (given | change).items() if answer is not None}
    with pytest.raises(EvalError, match=word):
        score(changed, {"name": "somebody"}, Sums(), tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_missing_answers_of_others_may_count_as_wrong(tmp_path: Path) -> None:
    given = {f"sum/{number}": str(number + 1) for number in range(15)}
    results = score(given, {"name": "somebody"}, Sums(), tmp_path, allow_failures=True)
    told = results["tasks"]["sums"]
    assert (told["n"], told["failed"], told["tables"][0]["rows"][0]["score"]) == (20, 5, 0.75)


def test_a_limit_leaves_out_answers_of_others(tmp_path: Path) -> None:
    given = {f"sum/{number}": str(number + 1) for number in range(20)}
    told = score(given, {"name": "somebody"}, Sums(), tmp_path, limit=5)["tasks"]["sums"]
    assert (told["n"], told["failed"], told["tables"][0]["rows"][0]["score"]) == (5, 0, 1)
