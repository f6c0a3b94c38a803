"""The benchmark of servers: complete lines, and nothing timed that answers wrongly. How fast is not tested."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the serve extra is not installed")
pytest.importorskip("openai", reason="the library's server needs it")

from mplug_owl.bench import serving
from mplug_owl.bench.clients import Heard
from mplug_owl.bench.plan import PLANS
from mplug_owl.bench.serving import Chats, Cores, between_pieces, first_piece, percentile, worded
from mplug_owl.errors import EvalError


@pytest.mark.slow
def test_lines_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "AT_ONCE", (1, 3))
    plan = replace(PLANS["serving"].quick(), dtype="float32", steps=8)
    lines = [json.loads(measurement.line()) for measurement in serving.measure(plan)]
    found = {(line["what"], line["ours"], line["baseline"]) for line in lines}
    expected: set[tuple[str, str, Any]] = {("first token", "follow-up", "first turn"), ("ready", "serve", None)}
    for number in (1, 3):
        expected |= {(f"chats x{number}", "serve", other) for other in ("generate", "transformers", "engine")}
        expected |= {(f"{what} x{number}", f"p{p}", None) for what in ("first", "between") for p in (50, 95, 99)}
    assert found == expected and len(lines) == len(found)
    assert all(line["median_ms_ours"] > 0 and line["steps"] == 8 for line in lines)
    assert all(line["ratio"] > 0 for line in lines if line["baseline"])


@pytest.mark.slow
def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chats, "generate", lambda self, messages: "something else")
    with pytest.raises(EvalError, match="serve answers 4 of 4 chats unlike generate"):
        serving.measure(PLANS["serving"].quick())


def test_every_chat_is_new(tmp_path: Path) -> None:
    torch.manual_seed(0)
    chats = Chats(replace(PLANS["serving"].quick(), dtype="float32", steps=16), tmp_path)
    one, other = chats.messages(), chats.messages(2)
    urls = [part["image_url"]["url"] for [said] in (one, other) for part in said["content"][:-1]]
    assert len(set(urls)) == 3 and one[0]["content"][-1] != other[0]["content"][-1]
    assert chats.engine([one, other]) == [chats.generate(one), chats.generate(other)]
    assert chats.generate(one) != chats.generate(other)


def test_every_id_can_be_said_and_none_beyond_bytes_is_read() -> None:
    tokenizer = worded(400)
    assert tokenizer.decode([3 + ord("a") - 33, 399])[1:] == "399 "
    assert max(tokenizer("399 abc").input_ids) < 259


def test_percentiles_and_pieces() -> None:
    heard = Heard("abc", [10.0, 12.0, 15.0], 16.0, {})
    assert first_piece(heard) == [10.0] and between_pieces(heard) == [2.0, 3.0]
    values = [float(value) for value in range(101)]
    assert [percentile(values, share) for share in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert percentile([3.0], 99) == 3.0


def test_clients_have_the_cores_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert Cores.shared_out(1) == Cores((0,), (1, 2))
    assert Cores.shared_out(3) == Cores((0, 1, 2), (0, 1, 2))
