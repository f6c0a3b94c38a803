"""The benchmark: its lines are complete and its sides do the same work. How fast is not tested."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mplug_owl import cli
from mplug_owl.bench import data, model, stopwatch, train
from mplug_owl.bench.model import measure
from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.sides import LLAVA, build_sides, bytes_of_step, decoder_inputs, flops_of_prefill
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
    assert "llava" in shown and "per s" in shown and "positions 24, visual 8" in shown


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

    monkeypatch.setattr(model, "build_sides", spoilt)
    with pytest.raises(EvalError, match=r"owl2 and llava differ by .* in prefill"):
        measure(TINY)


def test_limits_count_the_work() -> None:
    sides = build_sides(TINY)
    owl, owl2 = sides["owl"], sides["owl2"]
    width, inner, layers, vocabulary = 64, 176, 2, 320
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


COMMON = {"what", "ours", "baseline", "median_ms_ours", "median_ms_baseline", "ratio", "ratio_quartiles"}
COMMON |= {"runs", "load", "machine", "versions", "commit", "date", "threads"}
SHAPE = {"shape", "dtype", "device"}


def pairs(lines: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(line["what"], line["ours"], line["baseline"]) for line in lines}


def saved(target: str, tmp_path: Path) -> list[dict[str, Any]]:
    """The lines of a quick run, whose sides have then computed the same thing."""
    file = tmp_path / "lines.jsonl"
    assert cli.main(["bench", target, "--quick", "--save", str(file)]) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        assert set(line) >= COMMON and line["runs"] == 2
        assert line["median_ms_ours"] > 0 and line["median_ms_baseline"] > 0
        low, high = line["ratio_quartiles"]
        assert 0 < low <= line["ratio"] <= high < math.inf
    return lines


def test_lines_of_data(tmp_path: Path) -> None:
    lines = saved("data", tmp_path)
    ways = {("picture", mode, beside) for mode in ("exact", "fast") for beside in ("PIL bicubic", "transformers")}
    assert pairs(lines) == {("token", "packed", "padded"), *ways}
    for line in lines:
        more = {"samples", "micro", "max_length", "useful_tokens", *SHAPE}
        assert set(line) - COMMON == (more if line["what"] == "token" else {"picture", "side"})


def test_lines_of_train(tmp_path: Path) -> None:
    lines = saved("train", tmp_path)
    beside = ("Trainer owl", "Trainer llava", "matrix peak")
    assert pairs(lines) == {("data", "wait", "step"), *(("step", "loop", name) for name in beside)}
    for line in lines:
        assert set(line) - COMMON == {*SHAPE, "rows", "positions" if line["what"] == "step" else "workers"}


def test_layouts_with_different_samples_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(data.Loader):
        def step(self, step: int) -> list[data.MicroBatch]:
            found = super().step(step)
            return found if self.settings.pack else found[1:]

    monkeypatch.setattr(data, "Loader", Short)
    with pytest.raises(EvalError, match="expected the same"):
        data.measure(TINY)


def test_a_trainer_with_another_loss_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(folder: Path) -> list[dict[str, Any]]:
        return [{"loss": 1.0}]

    monkeypatch.setattr(train, "logged", spoilt)
    with pytest.raises(EvalError, match=r"loop and Trainer differ by .* in the first loss"):
        train.measure(TINY)


@pytest.mark.parametrize(("name", "by", "said"), [("exact", 1.0, "exact differs"), ("fast", 3.0, "fast pictures")])
def test_pictures_must_be_pillows(name: str, by: float, said: str) -> None:
    level = torch.full((3, 4, 4), 100.0)
    data.check_pixels({"exact": level, "fast": level + 2}, level)
    with pytest.raises(EvalError, match=said):
        data.check_pixels({name: level + by}, level)


def test_a_line_says_its_setting_beside_the_rest() -> None:
    times = {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]}
    (found,) = stopwatch.compare("step", times, [("a", "b", 2.0)], {"threads": 1})
    assert isinstance(found, Measurement)
    assert (found.ratio, found.median_ms_baseline, found.runs) == (0.5, 4.0, 3)
    assert set(json.loads(found.line())) == COMMON


def test_each_round_begins_with_another_side() -> None:
    order = ""

    def note(name: str) -> stopwatch.Job:
        def run() -> None:
            nonlocal order
            order += name

        return stopwatch.Job(run)

    times = stopwatch.interleave({"a": note("a"), "b": note("b")}, TINY)
    assert order == "abbaab"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"rounds": 1}, "at least 2 rounds"), ({"positions": 64, "visual": 64}, "visual=64 of positions=64")],
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
