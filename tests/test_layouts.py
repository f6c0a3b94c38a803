"""The full-size families on the meta device have exactly the published tensor names and shapes.

The expectations are written out here from the description of the original files, not derived from
the code under test.
"""

from collections.abc import Iterator

import pytest
import torch

from mplug_owl.models.families import FAMILIES
from mplug_owl.models.layouts import published_name
from mplug_owl.models.owl import OwlForConditionalGeneration

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def linear(name: str, out: int, inner: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (out, inner)
    if bias:
        yield f"{name}.bias", (out,)


def norm(name: str, width: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (width,)
    if bias:
        yield f"{name}.bias", (width,)


def vision(
    prefix: str, c: int = 1024, f: int = 4096, layers: int = 24, tokens: int | None = 257, temporal: bool = False
) -> Shapes:
    yield f"{prefix}embeddings.patch_embed.weight", (c, 3, 14, 14)
    if tokens:
        yield f"{prefix}embeddings.cls_token", (1, 1, c)
        yield f"{prefix}embeddings.position_embedding", (1, tokens, c)
        yield from norm(f"{prefix}post_layernorm", c)
    else:
        yield f"{prefix}embeddings.position_embedding", (256, c)
    yield from norm(f"{prefix}embeddings.pre_layernorm", c)
    for i in range(layers):
        layer = f"{prefix}encoder.layers.{i}."
        yield from norm(layer + "input_layernorm", c)
        yield from norm(layer + "post_attention_layernorm", c)
        yield from linear(layer + "self_attn.query_key_value", 3 * c, c)
        yield from linear(layer + "self_attn.dense", c, c)
        yield from linear(layer + "mlp.fc1", f, c)
        yield from linear(layer + "mlp.fc2", c, f)
        if temporal:
            yield from norm(layer + "temporal.ln", c)
            yield layer + "temporal.down_proj.weight", (c // 2, c, 1, 1, 1)
            yield layer + "temporal.down_proj.bias", (c // 2,)
            yield layer + "temporal.conv.weight", (c // 2, 1, 3, 1, 1)
            yield layer + "temporal.conv.bias", (c // 2,)
            yield layer + "temporal.up_proj.weight", (c, c // 2, 1, 1, 1)
            yield layer + "temporal.up_proj.bias", (c,)


def abstractor(prefix: str, c: int = 1024, tables: int | None = None) -> Shapes:
    for i in range(6):
        layer = f"{prefix}encoder.layers.{i}.crossattention."
        for name in ("query", "key", "value"):
            yield from linear(layer + f"attention.{name}", c, c)
        if tables:
            yield layer + "attention.q_pos_embed", (64, c)
            yield layer + "attention.k_pos_embed", (tables, c)
        yield from norm(layer + "norm1", c)
        yield from norm(layer + "normk", c)
        yield from linear(layer + "output.out_proj", c, c)
        yield from norm(layer + "output.norm2", c)
        yield from linear(layer + "output.mlp.w1", 2816, c)
        yield from linear(layer + "output.mlp.w2", c, 2816)
        yield from linear(layer + "output.mlp.w3", 2816, c)
        yield from norm(layer + "output.mlp.ffn_ln", 2816)
    yield from linear(prefix + "visual_fc", 4096, c)
    yield prefix + "vit_eos", (1, 1, 4096)


def owl1_vision() -> Shapes:
    yield from vision("vision_model.")
    yield from abstractor("abstractor.")
    yield "query_tokens", (1, 64, 1024)


def llama(prefix: str) -> Shapes:
    yield f"{prefix}model.embed_tokens.weight", (32000, 4096)
    yield f"{prefix}model.norm.weight", (4096,)
    yield f"{prefix}lm_head.weight", (32000, 4096)
    for i in range(32):
        layer = f"{prefix}model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}self_attn.{name}.weight", (4096, 4096)
        yield f"{layer}mlp.gate_proj.weight", (11008, 4096)
        yield f"{layer}mlp.up_proj.weight", (11008, 4096)
        yield f"{layer}mlp.down_proj.weight", (4096, 11008)
        yield f"{layer}input_layernorm.weight", (4096,)
        yield f"{layer}post_attention_layernorm.weight", (4096,)


def owl() -> Shapes:
    yield from owl1_vision()
    yield from llama("language_model.")


def owl_video() -> Shapes:
    yield from vision("vision_model.", temporal=True)
    yield from abstractor("abstractor.")
    yield from linear("abstractor.temporal_visual_fc", 4096, 1024)
    yield "query_tokens", (1, 64, 1024)
    yield "temporal_query_tokens", (1, 64, 1024)
    yield from llama("language_model.")


def owl_bloomz() -> Shapes:
    yield from owl1_vision()
    stem = "language_model.transformer."
    yield "language_model.lm_head.weight", (250880, 4096)
    yield stem + "word_embeddings.weight", (250880, 4096)
    yield from norm(stem + "word_embeddings_layernorm", 4096)
    yield from norm(stem + "ln_f", 4096)
    for i in range(30):
        layer = f"{stem}h.{i}."
        yield from norm(layer + "input_layernorm", 4096)
        yield from norm(layer + "post_attention_layernorm", 4096)
        yield from linear(layer + "self_attention.query_key_value", 3 * 4096, 4096)
        yield from linear(layer + "self_attention.dense", 4096, 4096)
        yield from linear(layer + "mlp.dense_h_to_4h", 4 * 4096, 4096)
        yield from linear(layer + "mlp.dense_4h_to_h", 4096, 4 * 4096)


def owl2() -> Shapes:
    yield from vision("model.vision_model.", tokens=1025)
    yield from abstractor("model.visual_abstractor.", tables=1025)
    yield "model.visual_abstractor.query_embeds", (1, 64, 1024)
    split = ("input_layernorm", "post_attention_layernorm", "k_proj", "v_proj")
    for name, shape in llama(""):
        module = name.removesuffix(".weight")
        if module.endswith(split):
            yield f"{module}.multiway.0.weight", shape
            yield f"{module}.multiway.1.weight", shape
        else:
            yield name, shape


def owl2_1() -> Shapes:
    c = 1664  # the likely tower; the loader takes it from the file
    yield from vision("transformer.vision_model.", c=c, f=8192, layers=48, tokens=None)
    yield from abstractor("transformer.visual_abstractor.", c=c, tables=1024)
    yield "transformer.visual_abstractor.query_embeds", (1, 64, c)
    yield "transformer.wte.weight", (151851, 4096)
    yield "lm_head.weight", (151851, 4096)
    yield "transformer.ln_f.weight", (4096,)
    for i in range(32):
        layer = f"transformer.h.{i}."
        yield layer + "ln_1.weight", (4096,)
        yield layer + "ln_2.weight", (4096,)
        for way in (0, 1):
            yield from linear(f"{layer}attn.c_attn.multiway.{way}", 3 * 4096, 4096)
        yield layer + "attn.c_proj.weight", (4096, 4096)
        yield layer + "mlp.w1.weight", (11008, 4096)
        yield layer + "mlp.w2.weight", (11008, 4096)
        yield layer + "mlp.c_proj.weight", (4096, 11008)


PUBLISHED = {
    "owl-7b": ("owl", owl, 7.12e9),
    "owl-7b-video": ("owl", owl_video, 7.15e9),
    "owl-bloomz-7b": ("owl", owl_bloomz, 7.45e9),
    "owl2-7b": ("owl2", owl2, 8.20e9),
    "owl2.1": ("owl2.1", owl2_1, 11.33e9),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_full_size_names_shapes_and_parameters(family: str) -> None:
    layout, expected, parameters = PUBLISHED[family]
    config = FAMILIES[family].config()
    with torch.device("meta"):
        model = OwlForConditionalGeneration(config)
    model.tie_weights()
    state = model.state_dict()
    names = {published_name(native, config, layout): tuple(t.shape) for native, t in state.items()}
    assert len(names) == len(state), "two native tensors share a published name"
    assert names == dict(expected())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.002)


def test_an_owl21_that_is_not_adaptive_has_one_projection() -> None:
    config = FAMILIES["tiny-owl2.1"].config()
    config.text_config.adaptive = False
    with torch.device("meta"):
        state = OwlForConditionalGeneration(config).state_dict()
    names = {published_name(native, config, "owl2.1") for native in state}
    assert "transformer.h.0.attn.c_attn.weight" in names
    assert not any("multiway" in name for name in names)
