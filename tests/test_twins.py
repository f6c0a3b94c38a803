"""Modality-adaptive decoders of every layout: untrained they are the plain decoder, trained they are two."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, DynamicCache

import mplug_owl.models  # noqa: F401 - registers the Auto classes
from backbones import LANGUAGES, TWINNED, made
from mplug_owl.errors import ConfigError
from mplug_owl.models.built import LANGUAGE
from mplug_owl.models.decoders import DECODERS, REFUSED, branched, decoder, language_model, settled
from mplug_owl.models.twins import text_twin

every = pytest.mark.parametrize("kind", TWINNED)
# Llama's twin spells eager attention out for itself, in float64 where the model is: no library's is that exact.
attentions = [
    (kind, way)
    for kind in TWINNED
    for way in ("sdpa", "eager")
    if (kind, way) not in (("llama", "eager"), ("smollm", "eager"))
]


def pair(kind: str, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> tuple[Any, Any]:
    """A plain decoder and its untrained twin."""
    whole = made(kind)
    config = settled(whole.config)
    text = whole.model.state_dict()
    models = []
    for adaptive in (False, True):
        model = language_model(branched(copy.deepcopy(config), adaptive))
        wanted = model.state_dict()
        model.load_state_dict({n: text[n] if n in text else text_twin(n, text, t.shape) for n, t in wanted.items()})
        model.set_attn_implementation(attention)
        models.append(model.to(dtype).eval())
    return models[0], models[1]


def rows(dtype: torch.dtype = torch.float64, batch: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randn(batch, length, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


INDEX = torch.tensor([2, 3, 4, 13, 14])
TEXT = [place for place in range(22) if place not in INDEX.tolist()]


def states(model: Any, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).last_hidden_state


@pytest.mark.parametrize(("kind", "attention"), attentions)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_text_an_untrained_twin_is_the_decoder_bit_for_bit(kind: str, attention: str, dtype: torch.dtype) -> None:
    plain, twin = pair(kind, dtype, attention)
    x, nothing = rows(dtype), torch.empty(0, dtype=torch.long)
    expected = states(plain, inputs_embeds=x)
    assert torch.equal(states(twin, inputs_embeds=x), expected)
    assert torch.equal(states(twin, inputs_embeds=x, visual_index=nothing), expected)


@pytest.mark.parametrize(("kind", "attention"), attentions)
def test_with_pictures_an_untrained_twin_is_the_decoder(kind: str, attention: str) -> None:
    plain, twin = pair(kind, attention=attention)
    mask = torch.ones(2, 11, dtype=torch.long)
    if attention == "sdpa":  # spelled out, a row that sees nothing is no number, with the library's decoders too
        mask[0, :2] = 0
    expected = states(plain, inputs_embeds=rows(), attention_mask=mask)
    found = states(twin, inputs_embeds=rows(), attention_mask=mask, visual_index=INDEX)
    assert (found - expected)[mask.bool()].abs().max() < 1e-12


@every
def test_the_visual_branch_is_used_for_visual_rows_alone(kind: str) -> None:
    _, twin = pair(kind)
    before = states(twin, inputs_embeds=rows(), visual_index=INDEX)
    names = [name for name, _ in twin.named_parameters() if "visual_" in name]
    generator = torch.Generator().manual_seed(5)
    for name in names:
        weights = dict(twin.named_parameters())
        kept = weights[name].detach().clone()
        with torch.no_grad():
            weights[name].add_(0.3 * torch.randn(kept.shape, generator=generator, dtype=kept.dtype))
        after = states(twin, inputs_embeds=rows(), visual_index=INDEX)
        last = "layers.2." in name
        changed = (after - before).abs().amax(-1).flatten()
        assert changed.max() > 1e-6, name
        first_text = [place for place in TEXT if place in (0, 1, 11, 12)]  # before any picture
        assert changed[first_text].max() == 0, name
        if last and "post_attention" in name:  # nothing reads the last layer's output but the row itself
            assert changed[TEXT].max() == 0, name
        with torch.no_grad():
            weights[name].copy_(kept)
    assert len(names) == 3 * len({name.partition(".")[2].partition(".")[2] for name in names})
    kinds = {part for name in names for part in name.split(".") if part.startswith("visual_")}
    norms = {"visual_input_layernorm", "visual_post_attention_layernorm"}
    both = {"visual_kv_proj"} if kind == "phi3" else {"visual_k_proj", "visual_v_proj"}
    assert kinds == norms | both | ({"visual_k_norm"} if kind == "qwen3" else set())


@every
def test_steps_with_a_cache_are_the_whole(kind: str) -> None:
    _, twin = pair(kind)
    whole = states(twin, inputs_embeds=rows(batch=1), visual_index=INDEX[:3])
    cache = DynamicCache(config=twin.config)
    with torch.no_grad():
        head = twin(inputs_embeds=rows(batch=1)[:, :7], visual_index=INDEX[:3], past_key_values=cache, use_cache=True)
        tail = twin(inputs_embeds=rows(batch=1)[:, 7:], past_key_values=cache, use_cache=True)
    found = torch.cat((head.last_hidden_state, tail.last_hidden_state), dim=1)
    assert (found - whole).abs().max() < 1e-6  # norms compute in float32


@every
def test_every_parameter_takes_part_even_without_a_picture(kind: str) -> None:
    _, twin = pair(kind, torch.float32)
    nothing = torch.empty(0, dtype=torch.long)
    twin(inputs_embeds=rows(torch.float32), visual_index=nothing).last_hidden_state.square().sum().backward()
    for name, weight in twin.named_parameters():
        if name == "embed_tokens.weight":
            continue
        assert weight.grad is not None, name
        assert bool(weight.grad.any()) != ("visual_" in name), name
    twin.zero_grad()
    twin(inputs_embeds=rows(torch.float32), visual_index=INDEX).last_hidden_state.square().sum().backward()
    assert all(w.grad.abs().max() > 0 for name, w in twin.named_parameters() if "visual_" in name)


@every
def test_it_saves_and_loads_by_its_kind(kind: str, tmp_path: Path) -> None:
    _, twin = pair(kind, torch.float32)
    twin.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(twin) and again.takes_visual_index
    for name, weight in twin.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    x = rows(torch.float32)
    assert torch.equal(
        states(again, inputs_embeds=x, visual_index=INDEX), states(twin, inputs_embeds=x, visual_index=INDEX)
    )
    copied = pickle.loads(pickle.dumps(twin))
    assert type(copied) is type(twin) and type(copied.config) is type(twin.config)
    assert torch.equal(states(copied, inputs_embeds=x), states(twin, inputs_embeds=x))
    plain = branched(twin.config, False)
    assert plain.model_type == {"smollm": "llama"}.get(kind, kind)
    assert type(branched(plain, True)) is type(twin.config) and branched(plain, False) is plain


@every
def test_its_parts_are_named_and_recorded(kind: str) -> None:
    _, twin = pair(kind, torch.float32, attention="eager")
    (layer,) = {type(layer) for layer in twin.layers}
    assert set(twin._no_split_modules) == {layer.__name__} and layer.__name__.startswith("Adaptive")
    with torch.no_grad():
        found = twin(inputs_embeds=rows(torch.float32), output_attentions=True, output_hidden_states=True)
    assert len(found.attentions) == len(twin.layers) and len(found.hidden_states) == len(twin.layers) + 1


def test_windows_reach_as_far_as_they_reach() -> None:
    config = settled(made("mistral").config)
    assert (config.sliding_window, config.max_position_embeddings) == (None, 300)
    qwen = copy.deepcopy(made("qwen2").config)
    qwen.use_sliding_window, qwen.sliding_window, qwen.layer_types = True, 64, ["sliding_attention"] * 3
    config = settled(qwen)
    assert (config.sliding_window, config.max_position_embeddings) == (None, 64)
    assert config.layer_types == ["full_attention"] * 3 and not config.use_sliding_window


def test_a_decoder_that_does_not_fit_is_refused_with_what_it_lacks() -> None:
    for kind, said in (
        ("t5", "encoder with a decoder"),
        ("gemma2", "caps its scores"),
        ("mixtral", "mixture of experts"),
        ("lama", "did you mean 'llama'"),
    ):
        with pytest.raises(ConfigError, match=said):
            decoder(kind)
    with pytest.raises(ConfigError, match=r"'opt' lacks RMS norms and rotary positions.*take one of llama, mistral"):
        branched(settled(made("opt").config), True)
    stretched = copy.deepcopy(made("llama").config)
    stretched.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ConfigError, match="stretch with the longest row"):
        settled(stretched)
    narrow = copy.deepcopy(made("opt").config)
    narrow.word_embed_proj_dim = 16
    with pytest.raises(ConfigError, match="word_embed_proj_dim=16 differs"):
        settled(narrow)
    assert not set(REFUSED) & set(DECODERS)


def test_the_table_has_a_tiny_twin_of_every_row() -> None:
    kinds = {made(name).config.model_type for name in LANGUAGES}
    assert kinds == set(DECODERS)
    assert LANGUAGE.endswith(".")
