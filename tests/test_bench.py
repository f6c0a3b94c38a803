"""The benchmark: its lines are complete and its sides do the same work. How fast is not tested."""

import json
import math
from pathlib import Path

import pytest
import torch

from mplug_owl import cli
from mplug_owl.bench import model as stopwatch
from mplug_owl.bench.model import measure
from mplug_owl.bench.plan import Plan
from mplug_owl.bench.sides import (
    LLAVA,
    build_sides,
    bytes_of_step,
    decoder_inputs,
    flops_of_prefill,
)
from mplug_owl.errors import EvalError, RequestError

TINY = Plan(shape="tiny", positions=24, visual=8).quick()


def test_saved_lines_are_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "model.jsonl"
    command = ["bench", "model", "--quick", "--positions", "24", "--visual", "8"]
    assert cli.main([*command, "--save", str(file)]) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]

    beside = {(line["what"], line["ours"], line["baseline"]) for line in lines}
    assert len(beside) == len(lines)
    for what, limit in (("prefill", "matrix peak"), ("decode", "copy bandwidth")):
        pairs = (("owl", LLAVA), ("owl2", LLAVA), ("owl2", "owl"), ("owl", limit), ("owl2", limit))
        assert {(what, *pair) for pair in pairs} <= beside
    for line in lines:
        assert line["shape"] == "tiny" and line["runs"] == 2 and line["threads"] == 1
        assert line["median_ms_ours"] > 0 and math.isfinite(line["load"])
        assert set(line["machine"]) == {"cpu", "cores", "ram_gib", "gpu"}
        assert set(line["versions"]) == {"torch", "transformers", "mplug_owl"}
        assert line["date"].endswith("+00:00") and "commit" in line
        if line["what"] == "abstractor":  # LLaVA has none
            assert line["baseline"] is line["ratio"] is line["ratio_quartiles"] is None
        else:
            low, high = line["ratio_quartiles"]
            assert 0 < low <= line["ratio"] <= high < math.inf
            assert line["median_ms_baseline"] > 0
    shown = capsys.readouterr().out
    assert "llava" in shown and "tokens/s" in shown and "8 visual of 24 positions" in shown


def test_saving_appends(tmp_path: Path) -> None:
    file = tmp_path / "model.jsonl"
    file.write_text("{}\n")
    assert cli.main(["bench", "model", "--quick", "--dtype", "bfloat16", "--save", str(file)]) == 0
    first, *rest = map(json.loads, file.read_text().splitlines())
    assert first == {} and {line["dtype"] for line in rest} == {"bfloat16"}


def test_sides_share_one_decoder_and_agree() -> None:
    torch.manual_seed(0)
    sides = build_sides(TINY)
    inputs = decoder_inputs(sides, TINY)
    plain = sides[LLAVA].model.language_model
    with torch.inference_mode():
        expected = plain(**inputs[LLAVA]).last_hidden_state
        for name in ("owl", "owl2"):
            decoder = sides[name].model.language_model
            for key, weight in plain.named_parameters():
                assert decoder.get_parameter(key).data_ptr() == weight.data_ptr()
            torch.testing.assert_close(decoder(**inputs[name]).last_hidden_state, expected)


def test_visual_branch_runs_on_memory_of_its_own() -> None:
    torch.manual_seed(0)
    owl2 = build_sides(TINY)["owl2"]
    decoder = owl2.model.language_model
    layer = decoder.layers[0].self_attn
    assert layer.visual_k_proj.weight.data_ptr() != layer.k_proj.weight.data_ptr()
    inputs = decoder_inputs({LLAVA: owl2}, TINY)[LLAVA]
    with torch.inference_mode():
        before = decoder(**inputs).last_hidden_state
        layer.visual_v_proj.weight.zero_()
        assert not torch.equal(decoder(**inputs).last_hidden_state, before)


def test_sides_that_compute_different_things_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(plan: Plan) -> dict[str, torch.nn.Module]:
        sides = build_sides(plan)
        sides["owl2"].model.language_model.layers[0].self_attn.visual_v_proj.weight.data.zero_()
        return sides

    monkeypatch.setattr(stopwatch, "build_sides", spoilt)
    with pytest.raises(EvalError, match=r"owl2 and llava differ by .* in prefill"):
        measure(TINY)


def test_limits_count_the_work() -> None:
    sides = build_sides(TINY)
    owl, owl2 = sides["owl"], sides["owl2"]
    width, inner, layers, vocabulary = 64, 176, 2, 256
    matrices = layers * (4 * width**2 + 3 * width * inner)
    norms = (2 * layers + 1) * width
    cache = 2 * layers * width * TINY.positions
    read = 4 * (matrices + norms + width * vocabulary + cache)
    # A step reads no visual weight, so both owls read the same.
    assert bytes_of_step(owl, TINY) == bytes_of_step(owl2, TINY) == read
    attention = 2 * layers * width * TINY.positions**2
    products = 2 * (matrices * TINY.positions + width * vocabulary)
    assert flops_of_prefill(owl, TINY) == products + attention
    visual = 2 * layers * 2 * width**2 * TINY.visual
    assert flops_of_prefill(owl2, TINY) == products + attention + visual


def test_each_round_begins_with_another_side() -> None:
    order = ""

    def note(name: str) -> stopwatch.Job:
        def run() -> None:
            nonlocal order
            order += name

        return stopwatch.Job(run)

    times = stopwatch.interleave({"a": note("a"), "b": note("b")}, TINY, lambda: None)
    assert order == "abbaab"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rounds": 1}, "at least 2 rounds"),
        ({"positions": 64, "visual": 64}, "visual=64 of positions=64"),
    ],
)
def test_impossible_plans(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Plan(**wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "model", "--quick", "--device", "cuda"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


@pytest.mark.gpu
def test_measures_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    found = measure(Plan(shape="tiny", device="cuda", dtype="bfloat16").quick())
    assert all(m.machine["gpu"] and m.median_ms_ours > 0 for m in found)
