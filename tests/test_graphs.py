"""Decode steps of fixed shape: the same answers, nothing in them that could not be recorded, and what ends a recording.

Where there is no GPU a step is "recorded" by keeping the computation and doing it again; what a GPU would refuse is
looked for in other ways. Tests marked gpu record real CUDA graphs.
"""

import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asking import answers, endless, generated, mixed, request, staggered
from mplug_owl.engine import graphs
from mplug_owl.engine import step as steps
from mplug_owl.engine.engine import Engine
from mplug_owl.engine.forward import Chunk, Forward, scoring, store_for
from mplug_owl.engine.graphs import Computation, Shape, coarse
from mplug_owl.engine.options import EngineOptions
from mplug_owl.engine.quantize import quantize
from mplug_owl.engine.request import Token
from mplug_owl.errors import ConfigError
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlForConditionalGeneration
from owls import TINY, Rows, random_owl

Recorded = list[Computation]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Makes CPUs record, and tells what was recorded."""
    made: Recorded = []

    def record(compute: Computation) -> Computation:
        made.append(compute)
        return compute

    monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: record)
    return made


@pytest.fixture(scope="module", params=[*TINY, "owlet-nano"])
def owl(request: pytest.FixtureRequest) -> OwlForConditionalGeneration:
    return endless(request.param)


@pytest.fixture(scope="module")
def owl2() -> OwlForConditionalGeneration:
    return endless("tiny-owl2")


def stretched_owl() -> OwlForConditionalGeneration:
    """An Owl2.1 whose prompts differ in their rotary stretch, and whose queries are scaled from early on."""
    config = FAMILIES["tiny-owl2.1"].config()
    config.text_config.seq_length = 16
    owl = random_owl(config, torch.float32)
    owl.generation_config.eos_token_id = None
    return owl


# ---- the same ids --------------------------------------------------------------------------------


def test_fixed_steps_answer_as_generate_does(owl: OwlForConditionalGeneration, recorded: Recorded) -> None:
    rows = mixed(owl)
    engine = Engine(owl)
    assert engine.forward.graphs is not None
    assert answers(engine, [request(owl, row) for row in rows]) == [generated(owl, row) for row in rows]
    assert recorded


def test_staggered_requests_with_aborts(owl: OwlForConditionalGeneration, recorded: Recorded) -> None:
    """Slots are left, taken and moved between steps, and the cache grows."""
    engine = Engine(owl, EngineOptions(slots=6, chunk=24, media=40))
    staggered(owl, engine)
    assert engine.counts["ended_abort"] > 3
    shapes = engine.forward.graphs.recordings
    assert {shape.rows for shape in shapes} >= {2, 4}
    assert len(recorded) < engine.counts["decode_forwards"] / 5


def test_every_row_keeps_its_own_rotary_stretch(recorded: Recorded) -> None:
    owl = stretched_owl()
    rows = [Rows(owl).row(length) for length in (4, 40, 20, 70)]
    engine = Engine(owl)
    assert len({engine.forward.alpha(len(row.ids)) for row in rows}) == 4
    assert answers(engine, [request(owl, row) for row in rows]) == [generated(owl, row) for row in rows]
    assert recorded


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("family", TINY)
def test_weights_of_few_bits(family: str, scheme: str, recorded: Recorded) -> None:
    owl = endless(family)
    quantize(owl, scheme)
    rows = mixed(owl)
    assert answers(Engine(owl), [request(owl, row) for row in rows]) == [generated(owl, row) for row in rows]
    assert recorded


def test_packed_matrices_are_recorded_like_others(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_WORTH_PACKING", {torch.float32: 1})
    owl = endless("tiny-owl2")
    engine = Engine(owl)
    assert isinstance(engine.forward.head, steps.Packed)
    rows = mixed(owl)
    assert answers(engine, [request(owl, row) for row in rows]) == [generated(owl, row) for row in rows]
    assert recorded


# ---- what a recording may and may not do ---------------------------------------------------------


def opened(owl: OwlForConditionalGeneration, lengths: tuple[int, ...] = (3, 30, 11), slots: int = 4) -> Forward:
    """A cache with so many prompts in its first slots, and noise in the others."""
    forward = Forward(owl, store_for(owl))
    forward.store.reshape(slots, 300)
    for pair in forward.store.pairs:
        pair.normal_(generator=torch.Generator().manual_seed(0))
    for slot, length in enumerate(lengths):
        ids = torch.randint(3, 250, (length,), generator=torch.Generator().manual_seed(slot)).tolist()
        forward.prefill(slot, [Chunk(ids, 0, [], forward.alpha(length), True)])
    return forward


def held(forward: Forward) -> list[Tensor]:
    return [pair.clone() for pair in forward.store.pairs]


@torch.inference_mode()
def test_nobody_else_s_slot_is_touched(owl: OwlForConditionalGeneration, recorded: Recorded) -> None:
    """Three rows in a shape of four: each writes one position, and the fourth slot stays to the last bit."""
    forward, lengths = opened(owl), [3, 30, 11]
    before = held(forward)
    alphas = [forward.alpha(length) for length in lengths]
    got = forward.graphs([5, 6, 7], lengths, alphas)
    after = held(forward)
    forward.graphs = None
    torch.testing.assert_close(got, forward.decode(0, [5, 6, 7], lengths, alphas), atol=1e-4, rtol=1e-4)
    for old, new in zip(before, after, strict=True):
        changed = (old != new).any(dim=-1).any(dim=2).any(dim=0)  # [S, C]
        assert changed.nonzero().tolist() == [[0, 3], [1, 30], [2, 11]]
    assert len(recorded) == 1


@torch.inference_mode()
def test_recording_writes_nothing(owl2: OwlForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a recorder tries the computation out, and if it then fails."""

    def record(compute: Computation) -> Computation:
        compute()
        compute()
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: record)
    forward = opened(owl2)
    before = held(forward)
    with pytest.raises(
        graphs.Unrecordable, match=r"4 rows of 256 keys cannot be recorded: operation not .* capturing$"
    ):
        forward.graphs([5, 6, 7], [3, 30, 11], [None] * 3)
    assert all(map(torch.equal, before, held(forward)))


class Sealed(TorchDispatchMode):
    """Nothing but what lies on the device takes part."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            assert not isinstance(tensor, Tensor) or tensor.is_meta, f"{func} reaches outside"
        return out


class NothingBrought(TorchFunctionMode):
    """Numbers become tensors by being brought to the device, which a recording cannot do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy), f"{func} brings a tensor"
        return func(*args, **(kwargs or {}))


def on_no_device(owl: OwlForConditionalGeneration) -> tuple[Forward, Callable[[], Tensor]]:
    """A step where tensors hold nothing: whatever asks what is in them fails."""
    owl = owl.to("meta")
    forward = Forward(owl, store_for(owl), "eager")
    forward.store.reshape(4, 64)
    ids_B, lengths_B = torch.zeros(2, 4, dtype=torch.long, device="meta")
    alpha_B = torch.ones(4, dtype=torch.float64, device="meta")
    bias, score = forward.step.bias(64, owl.dtype), scoring(owl, forward.step, forward.head)

    def step() -> Tensor:
        with torch.inference_mode(), NothingBrought(), Sealed():
            return score(ids_B, lengths_B, alpha_B, 64, bias)

    return forward, step


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@pytest.mark.parametrize("family", [*TINY, "owlet-nano"])
def test_a_step_looks_into_no_tensor_and_brings_none(family: str, scheme: str | None) -> None:
    owl = endless(family, torch.bfloat16)
    if scheme is not None:
        quantize(owl, scheme)
    _, step = on_no_device(owl)
    assert step().shape == (4, owl.config.text_config.vocab_size)


LOOKS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda places: float(places.max().item()),
    "branch": lambda places: 2.0 if places.sum() > 0 else 1.0,
    "list": lambda places: float(places.tolist()[0]),
    "choice": lambda places: places[places > 3].sum(),
    "brought": lambda places: torch.tensor(2.0, device=places.device),
    "left elsewhere": lambda places: torch.ones(()),
}
"""What somebody might write into a step."""


@pytest.mark.parametrize("look", LOOKS)
def test_a_step_that_did_would_be_found(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, step = on_no_device(endless("tiny-owl2"))
    monkeypatch.setattr(forward.step, "query_scale", lambda x_BD, places_B: LOOKS[look](places_B))
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        step()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[set[str]]]:
    """Steps are traced, whole, before they are done again; tells what each trace calls."""
    found: list[set[str]] = []

    def note(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        found.append({str(node.target) for node in graph.graph.nodes if node.op.startswith("call_")})
        return graph.forward

    def record(compute: Computation) -> Computation:
        return torch.compile(compute, fullgraph=True, dynamic=False, backend=note)

    monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: record)
    yield found
    torch._dynamo.reset()


@torch.inference_mode()
def test_a_step_is_traced_whole(owl: OwlForConditionalGeneration, traced: list[set[str]]) -> None:
    forward = opened(owl)
    before, lengths = held(forward), [3, 30, 11]
    alphas = [forward.alpha(length) for length in lengths]
    got = [forward.graphs([5 + turn, 6, 7], [n + turn for n in lengths], alphas) for turn in range(2)]
    assert len(traced) == 1  # one trace serves both steps
    assert "item" not in traced[0]
    forward.graphs, forward.store.pairs[:] = None, before
    for turn, scores in enumerate(got):
        expected = forward.decode(0, [5 + turn, 6, 7], [n + turn for n in lengths], alphas)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("look", ["item", "branch"])
@torch.inference_mode()
def test_a_trace_shows_where_a_step_would_wait(
    look: str, owl2: OwlForConditionalGeneration, traced: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = opened(owl2)
    monkeypatch.setattr(forward.step, "query_scale", lambda x_BD, places_B: LOOKS[look](places_B))
    if look == "branch":
        with pytest.raises(torch._dynamo.exc.Unsupported):
            forward.graphs([5, 6, 7], [3, 30, 11], [None] * 3)
    else:
        forward.graphs([5, 6, 7], [3, 30, 11], [None] * 3)
        assert "item" in traced[0]


# ---- shapes, and when recordings are void --------------------------------------------------------


def test_few_shapes_serve_all() -> None:
    made = [coarse(keys) for keys in range(1, 8193)]
    assert made == sorted(made)
    assert all(0 <= found - keys < max(256, keys / 4 + 1) for keys, found in enumerate(made, 1))
    assert all(found % 256 == 0 for found in made)
    assert len(set(made)) <= 16


@torch.inference_mode()
def test_shapes_grow_with_rows_and_keys_and_fit_the_cache(
    owl2: OwlForConditionalGeneration, recorded: Recorded
) -> None:
    forward = opened(owl2, (3,), slots=3)
    for rows, keys, shape in ((1, 4, (1, 256)), (2, 256, (2, 256)), (3, 9, (3, 256)), (1, 257, (1, 300))):
        assert forward.graphs.shape(rows, keys) == Shape(*shape)
    for length in (3, 9, 254, 255):
        forward.graphs([4], [length], [None])
    assert len(recorded) == 1
    forward.graphs([4], [256], [None])
    assert list(forward.graphs.recordings) == [Shape(1, 256), Shape(1, 300)]


def test_a_cache_elsewhere_and_other_weights_are_recorded_anew(recorded: Recorded) -> None:
    owl = endless("tiny-owl2", seed=5)
    row, longer = Rows(owl).row("image", 6), Rows(owl).row(150)
    engine = Engine(owl)
    for asked in (row, longer, row):
        assert answers(engine, [request(owl, asked)]) == [generated(owl, asked)]
    made, first = len(recorded), engine.forward.graphs
    with torch.no_grad():
        owl.model.language_model.layers[0].mlp.up_proj.weight.mul_(3)
    assert answers(engine, [request(owl, row)]) == [generated(owl, row)]
    assert engine.forward.graphs is not first
    assert len(recorded) > made >= 2


@torch.inference_mode()
def test_recordings_go_with_whom_they_were_made_for(owl2: OwlForConditionalGeneration, recorded: Recorded) -> None:
    """At once, not when garbage is collected: they hold memory of the device."""
    forward = opened(owl2)
    forward.graphs([5, 6], [3, 30], [None] * 2)
    recorded.clear()
    gone = weakref.ref(forward.graphs)
    del forward
    assert gone() is None


@torch.inference_mode()
def test_scores_are_the_caller_s_own(owl2: OwlForConditionalGeneration, recorded: Recorded) -> None:
    forward = opened(owl2)
    one = forward.graphs([5], [3], [None])
    kept = one.clone()
    forward.graphs([9, 9], [4, 30], [None] * 2)
    assert torch.equal(one, kept)


# ---- where nothing can be recorded ---------------------------------------------------------------


def test_a_step_that_cannot_be_recorded_is_said_once_and_done_otherwise(
    owl2: OwlForConditionalGeneration, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def record(compute: Computation) -> Computation:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: record)
    rows = mixed(owl2)
    engine = Engine(owl2)
    with caplog.at_level(logging.WARNING):
        assert answers(engine, [request(owl2, row) for row in rows]) == [generated(owl2, row) for row in rows]
    [message] = caplog.messages
    assert message.startswith("decode steps are not recorded any more: ")
    assert message.endswith("rows of 128 keys cannot be recorded: operation not permitted when stream is capturing")


def test_a_decoder_without_a_step_of_its_own_is_said(
    owl2: OwlForConditionalGeneration,
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("mplug_owl.engine.forward.step_of", lambda *parts: None)
    row = mixed(owl2)[0]
    assert answers(Engine(owl2), [request(owl2, row)]) == [generated(owl2, row)]
    assert caplog.messages == ["decode steps are not recorded: AdaptiveLlamaModel has no step of its own"]
    assert not recorded


def test_how_steps_are_decoded_can_be_asked_for(
    owl2: OwlForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Engine(owl2).forward.graphs is None
    with pytest.raises(ConfigError, match=r"decode='graph' on 'cpu'; steps are recorded on cuda, .* 'auto' or 'eager'"):
        Engine(owl2, EngineOptions(decode="graph"))
    with pytest.raises(ConfigError, match="decode='graf' for the engine; did you mean 'graph'"):
        EngineOptions(decode="graf")
    monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: lambda compute: compute)
    for decode, records in (("auto", True), ("graph", True), ("eager", False)):
        assert (Engine(owl2, EngineOptions(decode=decode)).forward.graphs is not None) is records


# ---- on a GPU ------------------------------------------------------------------------------------


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=gpu) for name in (*TINY, "owlet-nano")])
def gpu_owl(request: pytest.FixtureRequest) -> OwlForConditionalGeneration:
    return endless(request.param).to("cuda")


def test_graphs_answer_as_eager_steps_and_generate_do(gpu_owl: OwlForConditionalGeneration) -> None:
    rows = mixed(gpu_owl)
    expected = [generated(gpu_owl, row) for row in rows]
    for decode in ("graph", "eager"):
        engine = Engine(gpu_owl, EngineOptions(decode=decode))
        assert answers(engine, [request(gpu_owl, row) for row in rows]) == expected
        assert (engine.forward.graphs is None) is (decode == "eager")
        assert decode == "eager" or engine.forward.graphs.recordings


def test_graphs_while_slots_come_and_go(gpu_owl: OwlForConditionalGeneration) -> None:
    engine = Engine(gpu_owl, EngineOptions(slots=6, chunk=24, media=40))
    staggered(gpu_owl, engine)
    assert engine.forward.graphs is not None
    assert {shape.rows for shape in engine.forward.graphs.recordings} >= {2, 4}


@pytest.mark.parametrize("family", [pytest.param(name, marks=gpu) for name in TINY])
@torch.inference_mode()
def test_graphs_score_in_sixteen_bits_as_eager_steps_do(family: str) -> None:
    owl = endless(family, torch.bfloat16).to("cuda")
    scores = []
    for decode in ("graph", "eager"):
        forward = Forward(owl, store_for(owl), decode)
        forward.store.reshape(4, 600)
        for slot, length in enumerate((3, 300, 11)):
            ids = torch.randint(3, 250, (length,), generator=torch.Generator().manual_seed(slot)).tolist()
            forward.prefill(slot, [Chunk(ids, 0, [], forward.alpha(length), True)])
        alphas = [forward.alpha(length) for length in (3, 300, 11)]
        scores.append(
            [forward.decode(0, [5, 6, 7], [3 + turn, 300 + turn, 11 + turn], alphas).float() for turn in range(3)]
        )
        assert (forward.graphs is None) is (decode == "eager")
    for graph, eager in zip(*scores, strict=True):
        assert (graph - eager).abs().max() < 0.05 * eager.abs().max()


@pytest.mark.parametrize("look", [pytest.param(name, marks=gpu) for name in ("item", "branch", "brought")])
def test_a_capture_that_breaks_off_does_no_harm(
    look: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The device refuses it, one line says so, and the answers are those of a step done kernel by kernel."""
    owl = endless("tiny-owl2").to("cuda")
    rows = mixed(owl)
    answered = []
    for decode in ("graph", "eager"):
        engine = Engine(owl, EngineOptions(decode=decode))
        monkeypatch.setattr(engine.forward.step, "query_scale", lambda x_BD, places_B: 1.0 + 0 * LOOKS[look](places_B))
        answered.append(answers(engine, [request(owl, row) for row in rows]))
        assert engine.forward.graphs is None
    assert answered[0] == answered[1]
    assert len([message for message in caplog.messages if "not recorded any more" in message]) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_two_engines_record_side_by_side() -> None:
    owls = [endless("tiny-owl2", seed=seed).to("cuda") for seed in (1, 2)]
    engines = [Engine(owl) for owl in owls]
    row = mixed(owls[0])[2]
    handles = [engine.submit(request(owl, row, 40)) for owl, engine in zip(owls, engines, strict=True)]
    for owl, handle in zip(owls, handles, strict=True):
        assert [event.id for event in handle if isinstance(event, Token)] == generated(owl, row, 40)
