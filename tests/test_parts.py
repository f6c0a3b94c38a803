"""Owls from parts: a CLIP tower and a Llama stay what they were; picture sizes can change."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import mplug_owl.models as models
from mplug_owl.errors import CheckpointError, ConfigError, OwlError
from mplug_owl.models import parts
from mplug_owl.models.families import build
from mplug_owl.models.tokenizers import byte_tokenizer
from owls import TINY, Rows, batch

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "layer_norm_eps": 1e-3,
}
DECODER = {
    "vocab_size": 259,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
}


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """Weights far from their initial values: a wrong norm or bias would show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if weight.ndim == 1 else 0.25 * noise)
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPVisionModel, Path]:
    folder = tmp_path_factory.mktemp("clip")
    model = shaken(CLIPVisionModel(CLIPVisionConfig(hidden_act="gelu", **TOWER)))
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, Path]:
    folder = tmp_path_factory.mktemp("llama")
    model = shaken(LlamaForCausalLM(LlamaConfig(**DECODER)))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model, folder


def pixels(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_vision_model_is_the_clip_tower(clip: tuple[CLIPVisionModel, Path], attention: str) -> None:
    tower, folder = clip
    model, _ = parts.assemble("tiny-owl2", vision=folder)
    vision = model.model.vision
    vision.set_attn_implementation(attention)
    tower.set_attn_implementation(attention)
    with torch.no_grad():
        ours = vision(pixels(56), output_hidden_states=True)
        theirs = tower(pixels(56), output_hidden_states=True)
        normed = tower.post_layernorm(theirs.last_hidden_state)
    assert model.config.vision_config.hidden_act == "gelu"
    assert model.config.vision_config.layer_norm_eps == 1e-3
    pairs = zip(ours.hidden_states[1:], theirs.hidden_states[1:], strict=False)
    for mine, other in pairs:
        assert mine.shape == other.shape  # every token, cls included
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.last_hidden_state, normed, atol=1e-5, rtol=1e-5)


def test_a_larger_picture_gets_resampled_positions(clip: tuple[CLIPVisionModel, Path]) -> None:
    tower, folder = clip
    model, _ = parts.assemble("tiny-owl2", vision=folder, image_size=112)
    with torch.no_grad():
        ours = model.model.vision(pixels(112)).last_hidden_state
        theirs = tower(pixels(112), interpolate_pos_encoding=True).last_hidden_state
        theirs = tower.post_layernorm(theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert model.config.abstractor_config.position_grid == 8


def test_a_whole_clip_is_taken_for_its_vision_half(clip: tuple[CLIPVisionModel, Path], tmp_path: Path) -> None:
    tower, folder = clip
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = CLIPConfig(vision_config={**TOWER, "hidden_act": "gelu"}, text_config=text)
    whole = CLIPModel(config)
    stem = "" if hasattr(whole.vision_model, "embeddings") else "vision_model."
    whole.vision_model.load_state_dict({stem + k: v for k, v in tower.state_dict().items()})
    whole.save_pretrained(tmp_path)
    half, _ = parts.assemble("tiny-owl", vision=folder, seed=5)
    same, _ = parts.assemble("tiny-owl", vision=tmp_path, seed=5)
    for name, weight in half.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], weight, atol=0, rtol=0)


def text_logits(model: nn.Module) -> torch.Tensor:
    ids = torch.randint(3, 250, (2, 17), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl-video", "tiny-owl2"])
def test_the_decoder_is_the_llama_on_text(llama: tuple[LlamaForCausalLM, Path], family: str) -> None:
    plain, folder = llama
    model, _ = parts.assemble(family, language=folder)
    torch.testing.assert_close(text_logits(model), text_logits(plain), atol=1e-5, rtol=1e-5)


def test_the_visual_branch_starts_as_a_copy(llama: tuple[LlamaForCausalLM, Path]) -> None:
    plain, folder = llama
    model, _ = parts.assemble("tiny-owl2", language=folder)
    weights = dict(model.named_parameters())
    copies = [name for name in weights if "visual_" in name and "visual_fc" not in name]
    assert len(copies) == 2 * 4  # layers x (two norms, keys, values)
    for name in copies:
        original = weights[name.replace("visual_", "")]
        assert torch.equal(weights[name], original)
        assert weights[name].data_ptr() != original.data_ptr()
    inputs = batch([Rows(model).row(3, "image", 5)])
    features = {"image": model.get_image_features(inputs["pixel_values"]).pooler_output}
    embeds = model.model.embed(inputs["input_ids"], features)
    with torch.no_grad():  # so a picture first passes as if its rows were words
        ours, theirs = model(**inputs).logits, plain(inputs_embeds=embeds).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_bloom_and_a_tied_llama_fit_too(tmp_path: Path) -> None:
    bloom = shaken(BloomForCausalLM(BloomConfig(vocab_size=259, hidden_size=32, n_layer=2)))
    tied = shaken(LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **DECODER)))
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    for name, family, plain in (("b", "tiny-owl-bloomz", bloom), ("l", "tiny-owl2", tied)):
        plain.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        model, _ = parts.assemble(family, language=tmp_path / name)
        torch.testing.assert_close(text_logits(model), text_logits(plain), atol=1e-4, rtol=1e-4)
        assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("family", TINY)
def test_without_parts_it_is_the_family(family: str) -> None:
    made, _ = parts.assemble(family, seed=4)
    built, _ = build(family, seed=4)
    for name, weight in built.state_dict().items():
        assert torch.equal(made.state_dict()[name], weight), name


def test_both_parts_make_an_owl_that_saves_and_chats(
    clip: tuple[CLIPVisionModel, Path], llama: tuple[LlamaForCausalLM, Path], tmp_path: Path
) -> None:
    model, processor = parts.assemble("tiny-owl2", vision=clip[1], language=llama[1], seed=3)
    again, _ = parts.assemble("tiny-owl2", vision=clip[1], language=llama[1], seed=3)
    other, _ = parts.assemble("tiny-owl2", vision=clip[1], language=llama[1], seed=4)
    query = "model.abstractor.query_tokens"
    assert torch.equal(model.state_dict()[query], again.state_dict()[query])
    assert not torch.equal(model.state_dict()[query], other.state_dict()[query])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, processor = models.load(tmp_path, device="cpu")
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
    )
    inputs = processor(images=torch.zeros(3, 20, 20, dtype=torch.uint8), text=text)
    ours, theirs = model(**inputs).logits, loaded(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl2", "tiny-owl2.1"])
def test_an_owl_moves_to_another_picture_size(family: str, tmp_path: Path) -> None:
    model, processor = build(family)
    model.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    large, large_processor = parts.assemble(start=tmp_path / "small", image_size=84)
    made = large_processor(images=torch.zeros(3, 40, 30, dtype=torch.uint8))["pixel_values"]
    assert made.shape == (1, 3, 84, 84)
    large.save_pretrained(tmp_path / "large")
    large_processor.save_pretrained(tmp_path / "large")
    loaded, loaded_processor = models.load(tmp_path / "large", device="cpu")
    assert loaded_processor.image_processor.size["height"] == 84
    with torch.no_grad():
        ours = large.get_image_features(pixels(84)).pooler_output
        theirs = loaded.get_image_features(pixels(84)).pooler_output
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    if large.config.abstractor_config.position_grid:  # computed, not resampled
        fresh, _ = parts.assemble(family, image_size=84)
        name = "model.abstractor.layers.1.attention.k_pos_embed"
        assert torch.equal(large.state_dict()[name], fresh.state_dict()[name])


def test_resampling_keeps_cls_and_a_table_of_the_right_size() -> None:
    table = torch.randn(1, 17, 8)
    assert torch.equal(parts.resize_positions(table, 4), table)
    larger = parts.resize_positions(table, 8)
    assert larger.shape == (1, 65, 8)
    assert torch.equal(larger[:, 0], table[:, 0])


def test_what_does_not_fit_is_refused(
    clip: tuple[CLIPVisionModel, Path], llama: tuple[LlamaForCausalLM, Path], tmp_path: Path
) -> None:
    tower, decoder = clip[1], llama[1]
    (tmp_path / "base.json").write_text("{}")
    for wrong, error, said in (
        ({"vision": decoder}, ConfigError, "expected a CLIPVisionModel"),
        ({"language": tower}, ConfigError, "expected a LlamaForCausalLM"),
        ({"family": "tiny-owl2.1", "vision": tower}, ConfigError, "without cls"),
        ({"family": "tiny-owl2.1", "language": decoder}, ConfigError, "mplug_owl_qwen1"),
        ({"family": "tiny-owl-bloomz", "language": decoder}, ConfigError, "BloomForCausalLM"),
        ({"family": "owl-7b", "vision": tower}, ConfigError, "init.language"),
        ({"family": "tiny-owl3"}, ConfigError, "did you mean"),
        ({"start": decoder, "vision": tower}, ConfigError, "both given"),
        ({"start": tmp_path}, ConfigError, "owl merge"),
        ({"image_size": 60}, ConfigError, "60 is not a multiple of patch_size=14"),
        ({"vision": tmp_path / "absent"}, CheckpointError, "no folder"),
    ):
        with pytest.raises(OwlError, match=said) as raised:
            parts.assemble(**wrong)
        assert type(raised.value) is error


def test_a_part_with_holes_is_refused(tmp_path: Path) -> None:
    tower = CLIPVisionModel(CLIPVisionConfig(**TOWER))
    holed = {k: v for k, v in tower.state_dict().items() if "layers.1.self_attn.k_proj" not in k}
    tower.save_pretrained(tmp_path / "clip", state_dict=holed)
    with pytest.raises(CheckpointError, match=r"lacks .*layers\.1\.self_attn\.k_proj"):
        parts.assemble(vision=tmp_path / "clip")
    decoder = LlamaForCausalLM(LlamaConfig(**DECODER))
    holed = {k: v for k, v in decoder.state_dict().items() if "lm_head" not in k}
    decoder.save_pretrained(tmp_path / "llama", state_dict=holed)
    with pytest.raises(CheckpointError, match=r"lacks 'lm_head\.weight'"):
        parts.assemble(language=tmp_path / "llama")
