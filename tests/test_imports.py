"""Other people's owls: the logits of an import are those of the library's own classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    OPTConfig,
    T5Config,
)

from backbones import RULES, SIDE, SIZES, language_folder, made, shaken
from mplug_owl import models
from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models.imports import imported
from mplug_owl.models.tokenizers import byte_tokenizer

EYE = {**SIZES, "intermediate_size": 48, "image_size": SIDE, "patch_size": 14}
WORDS = {"vocab_size": 259, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PLACEHOLDER = 258
QFORMER = {
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "encoder_hidden_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def pixels(images: int = 2) -> torch.Tensor:
    return torch.randn(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def prompts(length: int) -> torch.Tensor:
    """Two rows with a picture each, in different places."""
    ids = torch.randint(3, 250, (2, length + 9), generator=torch.Generator().manual_seed(2))
    ids[0, 2 : 2 + length] = PLACEHOLDER
    ids[1, 5 : 5 + length] = PLACEHOLDER
    return ids


def compare(owl: Any, plain: Any, length: int) -> None:
    ids, seen = prompts(length), pixels()
    ours = ids.masked_fill(ids == PLACEHOLDER, owl.config.image_token_id)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = plain(input_ids=ids, pixel_values=seen, attention_mask=mask).logits
        found = owl(input_ids=ours, pixel_values=seen, attention_mask=mask).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def llava(folder: Path, **changes: Any) -> LlavaForConditionalGeneration:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**EYE),
        text_config=LlamaConfig(**WORDS, **IDS, intermediate_size=48),
        **{"image_token_index": PLACEHOLDER, "image_seq_length": 16, **changes},
    )
    model = shaken(LlavaForConditionalGeneration(config))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    RULES["clip"]().save_pretrained(folder)
    return model


def blip2(folder: Path, text: Any = None) -> Blip2ForConditionalGeneration:
    text = text or OPTConfig(**WORDS, **IDS, ffn_dim=48, max_position_embeddings=128, dropout=0.0)
    config = Blip2Config(
        vision_config={**EYE, "attention_dropout": 0.0},
        qformer_config=QFORMER,
        text_config=text.to_dict(),
        num_query_tokens=6,
        image_token_index=PLACEHOLDER,
    )
    model = shaken(Blip2ForConditionalGeneration(config))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    RULES["blip2"]().save_pretrained(folder)
    return model


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_a_llava_answers_as_it_did(strategy: str, tmp_path: Path) -> None:
    plain = llava(tmp_path / "plain", vision_feature_select_strategy=strategy)
    owl, processor = imported(tmp_path / "plain")
    compare(owl, plain, 16 + (strategy == "full"))
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert processor.render(talk, add_generation_prompt=True)[0].endswith("USER: <image>\nWhat? ASSISTANT:")
    owl.save_pretrained(tmp_path / "owl")
    processor.save_pretrained(tmp_path / "owl")
    compare(models.load(tmp_path / "owl", device="cpu")[0], plain, 16 + (strategy == "full"))


def test_a_blip_2_answers_as_it_did(tmp_path: Path) -> None:
    plain = blip2(tmp_path)
    owl, processor = imported(tmp_path)
    compare(owl, plain, 6)
    text, spans = processor.render(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]},
            {"role": "assistant", "content": "two"},
        ]
    )
    assert text == "<image></s>Question: How many? Answer: two\n" and text[slice(*spans[0])] == " two\n"
    ids, _ = processor.encode_text(text)
    assert ids[:7] == [259] * 6 + [2]


def test_a_minigpt_4_is_put_together(tmp_path: Path) -> None:
    """Tower and q-former of BLIP-2, then the linear layer, then Vicuna."""
    plain = blip2(tmp_path / "blip2")
    vicuna = made("llama")
    language_folder("llama", tmp_path / "vicuna", None)
    layer = shaken(torch.nn.Linear(16, 32), seed=3)
    file = tmp_path / "minigpt4.pth"
    torch.save({"model": {f"llama_proj.{name}": w for name, w in layer.state_dict().items()}}, file)
    owl, processor = imported(tmp_path / "blip2", language=tmp_path / "vicuna", projection=file)
    ids, seen = prompts(6)[:1], pixels(1)
    with torch.no_grad():
        queries = plain.get_image_features(seen).qformer_outputs.last_hidden_state
        embeds = vicuna.model.embed_tokens(ids)
        embeds[0, 2:8] = layer(queries)[0]
        expected = vicuna(inputs_embeds=embeds).logits
        found = owl(input_ids=ids.masked_fill(ids == PLACEHOLDER, 259), pixel_values=seen).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = processor.render(talk, add_generation_prompt=True)[0]
    assert text.endswith("###Human: <Img><image></Img> What?###Assistant:") and processor.answer_end == "###"


def test_what_is_no_owl_is_refused_with_the_reason(tmp_path: Path) -> None:
    t5 = T5Config(vocab_size=259, d_model=24, d_ff=32, num_layers=1, num_heads=2, d_kv=12)
    blip2(tmp_path / "t5", t5)
    with pytest.raises(ConfigError, match="'t5' has no place in an owl: it is an encoder with a decoder"):
        imported(tmp_path / "t5")
    for kind, said in (("instructblip", "reads the question"), ("bert", "expected one of llava, blip-2")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        with pytest.raises(ConfigError, match=said):
            imported(folder)
    llava(tmp_path / "last", vision_feature_layer=-1)
    with pytest.raises(ConfigError, match="vision_feature_layer=-1; expected -2"):
        imported(tmp_path / "last")
    blip2(tmp_path / "blip2")
    language_folder("llama", tmp_path / "vicuna", None)
    with pytest.raises(ConfigError, match="MiniGPT-4 is a BLIP-2 folder with both"):
        imported(tmp_path / "blip2", language=tmp_path / "vicuna")
    wrong = tmp_path / "wrong.pth"
    torch.save({"llama_proj.weight": torch.zeros(32, 8)}, wrong)
    with pytest.raises(CheckpointError, match=r"llama_proj.weight has the shape \(32, 8\); expected \(32, 16\)"):
        imported(tmp_path / "blip2", language=tmp_path / "vicuna", projection=wrong)
    wrong.write_text("no tensors")
    with pytest.raises(CheckpointError, match="expected MiniGPT-4's checkpoint"):
        imported(tmp_path / "blip2", language=tmp_path / "vicuna", projection=wrong)
