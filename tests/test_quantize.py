"""Weights of few bits: how near they stay, that the engine answers as `generate` does, and what they cost."""

import sys

import pytest
import torch
from torch import nn

import mplug_owl
from asking import answers, endless, generated, request
from mplug_owl import ConfigError
from mplug_owl.engine.engine import Engine
from mplug_owl.engine.quantize import Int4Linear, Int8Linear, cost, four_bits, language_bytes, measured, quantize
from owls import TINY, Rows, batch


def linear(inputs: int, outputs: int, bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize(("kind", "error"), [(Int8Linear, 0.01), (Int4Linear, 0.1)])
@torch.inference_mode()
def test_products_stay_near(kind: type[nn.Module], error: float, rows: int, dtype: torch.dtype) -> None:
    for outputs, bias in ((64, False), (37, True)):
        full = linear(96, outputs, bias, dtype)
        x = torch.randn(2, rows, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
        got, expected = kind(full)(x), full(x)
        assert got.shape == expected.shape
        assert got.dtype == dtype
        assert (got - expected).float().norm() < error * expected.float().norm()


def test_four_bits_hit_what_four_bits_can_say_and_beat_the_plain_range() -> None:
    levels = torch.arange(16.0).repeat(2, 4)[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    quarters, scales = four_bits(0.1 * levels - 0.4)
    weight = (quarters.unflatten(1, (2, 32)) - 8) * scales[..., 0].T[..., None] + scales[..., 1].T[..., None]
    torch.testing.assert_close(weight.flatten(1), 0.1 * levels - 0.4)
    noise = torch.randn(8, 320, generator=torch.Generator().manual_seed(1))
    quarters, scales = four_bits(noise)
    got = ((quarters.unflatten(1, (10, 32)) - 8) * scales[..., 0].T[..., None] + scales[..., 1].T[..., None]).flatten(1)
    groups = noise.unflatten(1, (10, 32))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    plain = (((groups - low) / (high - low) * 15).round() / 15 * (high - low) + low).flatten(1)
    assert (got - noise).norm() < 0.98 * (plain - noise).norm()


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("family", TINY)
def test_the_engine_answers_as_generate_does_with_the_same_weights(family: str, scheme: str) -> None:
    owl = endless(family)
    rows = Rows(owl)
    asked = [rows.row(4, "image", 3), rows.row(("video", 2), 9), rows.row(30)]
    before = [generated(owl, row) for row in asked]
    quantize(owl, scheme)
    expected = [generated(owl, row) for row in asked]
    assert answers(Engine(owl), [request(owl, row) for row in asked]) == expected
    assert scheme == "int8" or expected != before


def test_cost_says_what_was_saved_and_lost() -> None:
    found = {}
    for scheme in ("int8", "int4"):
        owl = endless("tiny-owl2")
        rows = Rows(owl)
        prompts = [batch([rows.row("image", 5)]), batch([rows.row(9)])]
        found[scheme] = measured = cost(owl, prompts, scheme, tokens=20)
        assert measured.tokens == 40
        assert measured.bytes_after == language_bytes(owl) < measured.bytes_before
        assert f"{scheme}: decoder and head 0." in str(measured)
    assert found["int4"].bytes_after < found["int8"].bytes_after
    assert 0 <= found["int8"].divergence < found["int4"].divergence
    assert found["int8"].agreement > 0.9


def test_a_model_can_be_opened_with_few_bits() -> None:
    owl = mplug_owl.load("tiny-owl2", device="cpu", quantize="int4")
    assert owl.model.dtype == torch.bfloat16
    assert isinstance(owl.model.lm_head, Int4Linear)
    assert owl.chat("Hi", max_new_tokens=5) is not None


def test_what_an_owl_loses_is_measured_on_questions_of_its_own() -> None:
    owl = mplug_owl.load("tiny-owl2", device="cpu")
    found = measured(owl, "int4")
    assert 6 < found.tokens <= 6 * 48
    assert isinstance(owl.model.lm_head, Int4Linear)
    assert owl.chat("Hi", max_new_tokens=3) is not None


def test_unknown_schemes_and_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    owl = endless("tiny-owl2")
    with pytest.raises(ConfigError, match="quantize='int5'; did you mean 'int"):
        quantize(owl, "int5")
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setattr(type(owl), "device", torch.device("cuda"))
    with pytest.raises(ConfigError, match="pip install torchao"):
        quantize(owl, "int8")
