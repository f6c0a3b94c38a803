"""The world as a task: who sees gets all, who guesses gets chance, and controls show what the picture was worth."""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mplug_owl import EvalError, Message, VideoPart
from mplug_owl.eval import command
from mplug_owl.eval.run import run
from mplug_owl.eval.scoring import normal
from mplug_owl.eval.task import Example
from mplug_owl.eval.tasks import TASKS, open_task
from mplug_owl.eval.tasks.world import CONTROLS, GREY, WorldTask
from mplug_owl.eval.tasks.world_skills import REQUIRED, WANTED, asked_type, sterner
from mplug_owl.media import load_image, load_video
from mplug_owl.messages import media
from mplug_owl.world.scene import SKILLS

COUNT = 12


@pytest.fixture(scope="module")
def task() -> WorldTask:
    return WorldTask(count=COUNT)


@pytest.fixture(scope="module")
def examples(task: WorldTask) -> list[Example]:
    return list(task.examples())


def key(messages: Sequence[Message]) -> str:
    return json.dumps(Example("", tuple(messages), ()).said())


@dataclass
class Guided:
    """Answers each conversation as it was told to."""

    by_key: dict[str, str]

    @classmethod
    def told(cls, examples: Sequence[Example], answer: Callable[[Example], str]) -> "Guided":
        return cls({key(example.messages): answer(example) for example in reversed(examples)})

    def card(self) -> dict[str, Any]:
        return {"name": "guided"}

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[str]:
        return (self.by_key[key(messages)] for messages in conversations)


def rows(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in results["tasks"]["world"]["tables"][0]["rows"]}


def test_every_skill_is_asked_and_looks_twice_more_where_it_looks(examples: list[Example]) -> None:
    own = [example for example in examples if example.meta["control"] is None]
    assert Counter(example.meta["skill"] for example in own) == dict.fromkeys(SKILLS, COUNT)
    looking = [example.id for example in own if example.meta["looks"]]
    for control in CONTROLS:
        assert [e.id for e in examples if e.meta["control"] == control] == [f"{name}/{control}" for name in looking]
    for example in own:
        assert example.messages[-1].role == "user" and example.answers and all(example.answers)
        assert bool(media(example.messages)) or not example.meta["looks"]
        assert len(example.messages) == 1 or example.meta["skill"] == "turns"
    assert not any(example.meta["looks"] for example in own if example.meta["skill"] == "text")
    assert all(example.meta["looks"] for example in own if example.meta["skill"] in ("existence", "video", "clocks"))
    assert len({key(example.messages) for example in own}) == len(own)


def test_examples_repeat(task: WorldTask, examples: list[Example]) -> None:
    again = list(task.examples())
    assert [(e.id, key(e.messages), e.answers, e.meta) for e in again] == [
        (e.id, key(e.messages), e.answers, e.meta) for e in examples
    ]
    json.dumps([example.meta for example in examples])


def test_controls_show_grey_or_another_question_s_picture(examples: list[Example]) -> None:
    by_id = {example.id: example for example in examples}
    shown = {key((Message("user", media(e.messages)),)): e for e in examples if e.meta["control"] is None}
    unlike = []
    for example in examples:
        control = example.meta["control"]
        if control is None:
            continue
        own = by_id[example.id.removesuffix(f"/{control}")]
        assert [m.text for m in example.messages] == [m.text for m in own.messages]
        assert example.answers == own.answers
        if control == "other":
            stranger = shown[key((Message("user", media(example.messages)),))]
            assert stranger.id != own.id and stranger.meta["skill"] == own.meta["skill"]
            unlike.append(normal(stranger.answers[0]) != normal(own.answers[0]))
        elif example.id.startswith(("video/0", "pairs/0", "existence/0", "clocks/0")):
            for grey, real in zip(media(example.messages), media(own.messages), strict=True):
                assert type(grey) is type(real)
                load = (lambda p: load_video(p.source, p.num_frames)) if isinstance(real, VideoPart) else None
                greys, reals = ([*load(p)] if load else [load_image(p.source)] for p in (grey, real))
                assert [g.size for g in greys] == [r.size for r in reals]
                assert all(g.getcolors() == [(g.width * g.height, GREY)] for g in greys)
    assert sum(unlike) > 0.95 * len(unlike)


def test_who_sees_gets_all_and_meets_every_goal(task: WorldTask, examples: list[Example], tmp_path: Path) -> None:
    endpoint = Guided.told(examples, lambda e: "no idea" if e.meta["control"] else e.answers[-1])
    results = run(endpoint, [task], tmp_path)
    found = rows(results)
    assert list(found) == [*SKILLS, "all"]
    for skill in SKILLS:
        row = found[skill]
        assert (row["n"], row["score"], row["met"], row["gpu_met"]) == (COUNT, 1.0, True, True)
        assert row["sees"] is (None if skill == "text" else True)
        assert 0 < row["chance"] <= 1
    notes = results["tasks"]["world"]["tables"][0]["notes"]
    assert notes[0] == "required: 8 of 8 met" and notes[1] == "wanted: 10 of 10 met"
    abilities = results["tasks"]["world"]["tables"][1]["rows"]
    assert {row["name"] for row in abilities} == {
        "instruction",
        "vision",
        "ocr",
        "knowledge",
        "reasoning",
        "multi-turn",
    }


def test_who_guesses_gets_chance_and_sees_nothing(task: WorldTask, examples: list[Example], tmp_path: Path) -> None:
    guesses: dict[str, Counter[str]] = {}
    own = [example for example in examples if example.meta["control"] is None]
    for example in own:
        guesses.setdefault(f"{example.meta['skill']} {asked_type(example)}", Counter()).update(
            map(normal, example.answers)
        )

    def guess(example: Example) -> str:
        return guesses[f"{example.meta['skill']} {asked_type(example)}"].most_common(1)[0][0]

    found = rows(run(Guided.told(examples, guess), [task], tmp_path))
    for skill in SKILLS:
        row = found[skill]
        if skill != "form":  # whose answers must have their form
            assert row["score"] == pytest.approx(row["chance"], abs=1e-6)
        if row["gap"] is not None:
            assert row["gap"] == 0 and row["sees"] is False and row["met"] is False


def test_goals_are_those_asked_for() -> None:
    assert set(REQUIRED) | set(WANTED) == set(SKILLS) and not set(REQUIRED) & set(WANTED)
    assert sterner(0.9) == pytest.approx(0.95) and sterner(0.7) == pytest.approx(0.85)


def test_a_limit_keeps_questions_beside_their_controls(task: WorldTask, tmp_path: Path) -> None:
    examples = list(task.examples())
    results = run(Guided.told(examples, lambda e: e.answers[0]), [task], tmp_path, limit=40)
    found = rows(results)
    assert found["all"]["n"] == 40 and 10 < len(found) - 1 <= len(SKILLS)
    assert all(row["n"] > 0 and row["score"] == 1 for row in found.values())
    assert all("grey" in found[skill] and "other" in found[skill] for skill in ("existence", "dice", "video"))
    lines = (tmp_path / "world/samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    names = {json.loads(line)["id"] for line in lines}
    assert all(name.removesuffix("/grey").removesuffix("/other") in names for name in names)


def test_without_controls_nobody_knows_who_sees(tmp_path: Path) -> None:
    task = WorldTask(skills=("existence", "text"), count=4, controls=())
    found = rows(run(Guided.told(list(task.examples()), lambda e: e.answers[0]), [task], tmp_path))
    assert (found["existence"]["sees"], found["existence"]["met"]) == (None, None)
    assert found["text"]["met"] is True


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"skills": ("existense",)}, "did you mean 'existence'"),
        ({"controls": ("gray",)}, "did you mean 'grey'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"count": 0}, "count=0"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(EvalError, match=word):
        open_task("world", settings)
    with pytest.raises(EvalError, match="did you mean 'world'"):
        open_task("word", {})


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_lists_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parsed("--list")) == 0
    page = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{page}" for name in TASKS) and "drawn when asked" in page


def test_the_command_asks_an_owl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "tiny-owl2", "--device", "cpu", "--out", str(tmp_path), "--skills", "existence,video"]
    assert command.run(parsed(*words, "--count", "3", "--controls", "grey")) == 0
    page = capsys.readouterr().out
    assert "| existence" in page and "| grey" in page and f"written to {tmp_path}" in page
    with pytest.raises(EvalError, match=r"settings\.count 3, now it is 4"):
        command.run(parsed(*words, "--count", "4", "--controls", "grey"))
