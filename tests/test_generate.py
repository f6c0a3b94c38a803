"""`generate` over every kind of cache, beams, sampling, saving and adapters: the same answers
whichever way.
"""

import itertools
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, CompileConfig

from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlForConditionalGeneration
from owls import TINY, Row, Rows, batch, random_owl

NEW = 8


@pytest.fixture(scope="module", params=TINY)
def owl(request: pytest.FixtureRequest) -> OwlForConditionalGeneration:
    return random_owl(request.param, torch.float32)


def three_rows(owl: OwlForConditionalGeneration) -> list[Row]:
    rows = Rows(owl)
    return [rows.row(4, "image", 3, "image", 2), rows.row("image", ("video", 2), 5), rows.row(6)]


def answer(owl: OwlForConditionalGeneration, rows: list[Row], **kwargs) -> torch.Tensor:
    """The new ids only."""
    kwargs = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW} | kwargs
    return owl.generate(**batch(rows), **kwargs)[:, -NEW:]


def compiled(mode: str = "default") -> CompileConfig:
    config = CompileConfig(fullgraph=True, dynamic=False, mode=mode)
    config._compile_all_devices = True  # the library compiles on a CPU only when told so
    return config


def test_left_padded_batch_answers_like_each_row_alone(owl: OwlForConditionalGeneration) -> None:
    rows = three_rows(owl)
    together = answer(owl, rows)
    assert len({tuple(row) for row in together.tolist()}) == 3
    for row, ids in zip(rows, together, strict=True):
        assert torch.equal(answer(owl, [row])[0], ids)


def test_dynamic_static_chunked_and_no_cache_agree(owl: OwlForConditionalGeneration) -> None:
    rows = three_rows(owl)
    dynamic = answer(owl, rows)
    static = answer(owl, rows, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, dynamic)
    assert torch.equal(answer(owl, rows, use_cache=False), dynamic)
    assert torch.equal(answer(owl, rows, prefill_chunk_size=5), dynamic)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("family", [pytest.param(n, marks=[] if n == "tiny-owl2" else pytest.mark.slow) for n in TINY])
def test_compiled_decoding_and_compiled_forward_agree_with_eager(family: str) -> None:
    owl = random_owl(family, torch.float32)
    rows = three_rows(owl)
    torch.compiler.reset()
    kwargs = {"cache_implementation": "static", "compile_config": compiled()}
    assert torch.equal(answer(owl, rows, **kwargs), answer(owl, rows))
    inputs = batch(rows)
    with torch.inference_mode():
        expected = owl(**inputs).logits
        got = torch.compile(owl, fullgraph=True, dynamic=False)(**inputs).logits
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(got[kept], expected[kept], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sequences", [1, 3])
def test_beams_equal_each_row_alone(owl: OwlForConditionalGeneration, sequences: int) -> None:
    rows = three_rows(owl)
    kwargs = {"num_beams": 3, "num_return_sequences": sequences}
    together = answer(owl, rows, **kwargs)
    alone = torch.cat([answer(owl, [row], **kwargs) for row in rows])
    assert torch.equal(together, alone)


def test_several_samples_of_a_row_see_that_rows_pictures(owl: OwlForConditionalGeneration) -> None:
    """Greedy 'samples' (top-k 1): three copies a row must all equal the row's own greedy answer."""
    rows = three_rows(owl)
    greedy = answer(owl, rows)
    copies = answer(owl, rows, do_sample=True, top_k=1, num_return_sequences=3)
    assert torch.equal(copies, greedy.repeat_interleave(3, 0))


def test_sampling_with_a_seed_repeats(owl: OwlForConditionalGeneration) -> None:
    rows = three_rows(owl)

    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return answer(owl, rows, do_sample=True, temperature=1.5, top_k=0)

    assert torch.equal(sample(7), sample(7))
    assert any(not torch.equal(sample(7), sample(seed)) for seed in (8, 9, 10))


def test_media_ids_are_never_answered_and_penalties_survive_them(owl: OwlForConditionalGeneration) -> None:
    rows = three_rows(owl)
    ids = answer(owl, rows, repetition_penalty=1.3, no_repeat_ngram_size=2, top_k=3, do_sample=True)
    assert ids.max() < owl.config.image_token_id
    for row in ids.tolist():
        pairs = list(itertools.pairwise(row))
        assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("max_shard_size", ["50GB", "200KB"])
def test_saved_and_reloaded_gives_the_same_logits(
    owl: OwlForConditionalGeneration, tmp_path: Path, max_shard_size: str
) -> None:
    owl.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if max_shard_size == "50GB" else pytest.approx(10, abs=8))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(again) is OwlForConditionalGeneration
    assert again.config.to_dict().keys() == owl.config.to_dict().keys()
    inputs = batch(three_rows(owl))
    with torch.inference_mode():
        assert torch.equal(again(**inputs).logits, owl(**inputs).logits)
    assert torch.equal(answer(again, three_rows(owl)), answer(owl, three_rows(owl)))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # asked for by peft
@pytest.mark.parametrize("family", TINY)
def test_merged_adapter_equals_adapter(family: str) -> None:
    owl = random_owl(family)  # float64
    names = {
        n.rpartition(".")[2] for n, m in owl.model.language_model.named_modules() if isinstance(m, torch.nn.Linear)
    }
    targets = f".*language_model.*({'|'.join(sorted(names))})"
    adapted = get_peft_model(owl, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    generator = torch.Generator().manual_seed(5)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data.copy_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    inputs = batch(three_rows(owl))
    with torch.inference_mode():
        expected = adapted(**inputs).logits
        with adapted.disable_adapter():
            assert (adapted(**inputs).logits - expected).abs().max() > 1e-3
        merged = adapted.merge_and_unload()
        kept = inputs["attention_mask"].bool()
        torch.testing.assert_close(merged(**inputs).logits[kept], expected[kept], rtol=0, atol=1e-9)
    assert type(merged) is OwlForConditionalGeneration


# Beyond `seq_length` Owl2.1 stretches the rotary base by the prompt and scales queries by their
# real position.


@pytest.fixture(scope="module")
def long_owl() -> OwlForConditionalGeneration:
    config = FAMILIES["tiny-owl2.1"].config()
    config.text_config.seq_length = 16
    return random_owl(config)


@pytest.fixture(scope="module")
def long_rows(long_owl: OwlForConditionalGeneration) -> list[Row]:
    rows = Rows(long_owl)
    return [rows.row("image", "image", 4), rows.row("image", 40), rows.row(4)]


def test_alpha(long_owl: OwlForConditionalGeneration) -> None:
    alpha = long_owl.model.language_model.ntk_alpha(torch.tensor([1, 15, 16, 17, 32, 33, 64, 65]))
    assert alpha.tolist() == [1, 1, 1, 3, 3, 7, 7, 15]


def test_every_cache_agrees_beyond_seq_length(long_owl: OwlForConditionalGeneration, long_rows: list[Row]) -> None:
    expected = torch.cat([answer(long_owl, [row]) for row in long_rows])
    for kwargs in (
        {},
        {"cache_implementation": "static", "disable_compile": True},
        {"prefill_chunk_size": 7},
        {"use_cache": False},
    ):
        assert torch.equal(answer(long_owl, long_rows, **kwargs), expected), kwargs


@torch.inference_mode()
def test_a_loop_of_ones_own_keeps_the_prompts_alpha(
    long_owl: OwlForConditionalGeneration, long_rows: list[Row]
) -> None:
    inputs = batch(long_rows[1:2])
    expected = answer(long_owl, long_rows[1:2])[0].tolist()
    out, got = long_owl(**inputs, use_cache=True), []
    for _ in range(NEW):
        got.append(int(out.logits[0, -1].argmax()))
        out = long_owl(input_ids=torch.tensor([got[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    assert got == expected


@torch.inference_mode()
def test_training_knows_neither(long_owl: OwlForConditionalGeneration, long_rows: list[Row]) -> None:
    inputs = batch(long_rows[1:2])
    evaluated = long_owl(**inputs).logits
    decoder = long_owl.model.language_model
    try:
        long_owl.train()
        trained = long_owl(**inputs).logits
        long_owl.eval()
        decoder.config.use_dynamic_ntk = decoder.config.use_logn_attn = False
        plain = long_owl(**inputs).logits
    finally:
        long_owl.eval()
        decoder.config.use_dynamic_ntk = decoder.config.use_logn_attn = True
    torch.testing.assert_close(trained, plain, rtol=0, atol=1e-9)
    assert (trained - evaluated).abs().max() > 1e-3
