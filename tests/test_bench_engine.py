"""The engine's benchmark: complete lines, and nothing timed that answers wrongly. How fast is not tested."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mplug_owl import cli
from mplug_owl.bench import engine
from mplug_owl.bench.plan import PLANS, Plan
from mplug_owl.engine import graphs
from mplug_owl.engine import step as steps
from mplug_owl.errors import EvalError

QUICK = PLANS["engine"].quick()


@pytest.mark.parametrize("records", [False, True])
def test_saved_lines_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: bool) -> None:
    """Where decode steps are recorded, the engine stands beside one that does not record them."""
    if records:
        monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: lambda compute: compute)
    monkeypatch.setattr(engine, "AT_ONCE", (1, 3))
    monkeypatch.setitem(engine.PAIRS, "chats x3", engine.PAIRS["chats x4"])
    file = tmp_path / "engine.jsonl"
    assert cli.main(["bench", "engine", "--quick", "--dtype", "float32", "--save", str(file)]) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = {(line["what"], line["ours"], line["baseline"]) for line in lines}
    pairs = {(what, *pair) for what in ("decode", "first token", "chats x1", "chats x3") for pair in engine.PAIRS[what]}
    assert found == {pair for pair in pairs if records or engine.EAGER not in pair}
    assert all(line["ratio"] > 0 and line["steps"] == 2 and line["runs"] == 2 for line in lines)


@pytest.mark.parametrize("records", [False, True])
def test_the_limit_is_what_a_step_multiplies(monkeypatch: pytest.MonkeyPatch, records: bool) -> None:
    """Each matrix as often as in a step, in the same memory and the same layout."""
    if records:
        monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: lambda compute: compute)
    monkeypatch.setattr(steps, "_WORTH_PACKING", {torch.float32: 1})
    multiplied: Counter[int] = Counter()
    multiply = steps.Packed.__call__

    def note(matrix: steps.Packed, x: Tensor) -> Tensor:
        multiplied[id(matrix)] += 1
        return multiply(matrix, x)

    monkeypatch.setattr(steps.Packed, "__call__", note)
    with torch.inference_mode():
        plan = Plan(shape="tiny", dtype="float32", steps=3)
        one = engine.both_ways(engine.Chats(plan))[engine.ENGINE]
        run = engine.stepper(one, plan)
        run()  # where a step is recorded, it is tried out first
        multiplied.clear()
        run()
        in_steps = multiplied.copy()
        multiplied.clear()
        engine.products(one, plan)()
    layers = one.model.config.text_config.num_hidden_layers
    assert sorted(in_steps.values()) == [3] * (7 * layers + 1)
    assert multiplied == in_steps


def test_every_chat_is_new() -> None:
    chats = engine.Chats(QUICK)
    one, other = chats.request(3), chats.request(3, pictures=2)
    assert one.ids[-5:] != other.ids[-5:]
    assert len({medium.key for medium in (*one.media, *other.media)}) == 3


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.Chats, "generate", lambda self, request: [0] * 8)
    with pytest.raises(EvalError, match="4 of 4 chats unlike generate"):
        engine.measure(Plan(shape="tiny", dtype="float32", rounds=2, steps=2))


def test_a_turn_counts_its_own_time_only() -> None:
    assert engine.Turn(lambda: 12.5).time("cpu") == 12.5
    assert torch.get_num_threads() == 1
