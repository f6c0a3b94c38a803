"""Runs: resumed ones end as uninterrupted ones do, and answers of different things are never mixed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from mplug_owl import EvalError, ImagePart, Message, Owl, TextPart, VideoPart
from mplug_owl.eval.endpoints import OwlEndpoint
from mplug_owl.eval.report import markdown
from mplug_owl.eval.run import run
from mplug_owl.eval.task import Example, Task


@dataclass(frozen=True)
class Sums(Task):
    name: ClassVar[str] = "sums"
    about: ClassVar[str] = "additions"
    needs: ClassVar[str] = "nothing"

    count: int = 20
    twice: bool = False

    def examples(self) -> Iterator[Example]:
        for number in range(self.count):
            name = f"sum/{0 if self.twice else number}"
            yield Example(name, (Message("user", f"{number} + 1?"),), (str(number + 1),), {"number": number})


@dataclass(frozen=True)
class Differences(Sums):
    """Asks the same, but takes other answers for right."""

    def examples(self) -> Iterator[Example]:
        return (replace(example, answers=("1",)) for example in super().examples())


@dataclass
class Adder:
    """Adds, but for what it gets wrong; falls down after some answers."""

    wrong: tuple[int, ...] = ()
    falls_after: int = 10**9
    weights: str = "w"
    asked: list[str] = field(default_factory=list)

    def card(self) -> dict[str, Any]:
        return {"name": "adder", "weights": self.weights}

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[str]:
        for count, messages in enumerate(conversations):
            if count == self.falls_after:
                raise KeyboardInterrupt
            self.asked.append(messages[-1].text)
            number = int(messages[-1].text.split()[0])
            yield "\u2028no\x85idea \u0109" if number in self.wrong else f"{number + 1}."


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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
    assert set(files(tmp_path)) == {"results.json", "results.md", "sums/samples.jsonl", "sums/settings.json"}


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
        def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[str]:
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


def test_an_owl_answers_the_same_in_any_batches(owl: Owl, tmp_path: Path) -> None:
    pages = []
    for batch_size in (1, 8):
        out = tmp_path / str(batch_size)
        run(OwlEndpoint(owl, "tiny-owl2", batch_size), [Sums(count=9)], out)
        pages.append(files(out))
    assert pages[0] == pages[1]
    model = json.loads(pages[0]["results.json"])["model"]
    assert model["name"] == "tiny-owl2" and len(model["weights"]) == 64 and model["dtype"] == "float32"
