"""Tiny LLaVA, BLIP-2 and InstructBLIP folders with random weights, as their publishers' folders are laid out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from mplug_owl.models.tokenizers import byte_tokenizer

SIDE, PATCH = 28, 14
SIGHT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
QUERIES = 3
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and a token for a picture; as published ones, it is made for generation from the left."""
    made = byte_tokenizer()
    made.add_tokens([AddedToken("<image>", normalized=False, special=True)], special_tokens=True)
    made.pad_token = "<unk>"
    made.padding_side = "left"
    return made


def stirred(model: torch.nn.Module, seed: int) -> Any:
    """Weights that let no part of the input go unnoticed, and no answer end early by chance of being all alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(1 + 0.2 * noise if weight.mean() > 0.5 else 0.1 * noise)
            else:
                weight.copy_(1.2 * noise / weight[0].numel() ** 0.5)
    return model.eval()


def words(made: PreTrainedTokenizerFast) -> dict[str, Any]:
    return dict(vocab_size=len(made), bos_token_id=1, eos_token_id=2, pad_token_id=0)


def llama(made: PreTrainedTokenizerFast) -> LlamaConfig:
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    return LlamaConfig(**sizes, max_position_embeddings=256, **words(made))


def llava(folder: Path, template: str | None = LLAVA_TEMPLATE) -> Path:
    made = tokenizer()
    eye = CLIPVisionConfig(**SIGHT, image_size=SIDE, patch_size=PATCH, projection_dim=16)
    picture = made.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=eye, text_config=llama(made), image_token_index=picture, image_seq_length=4)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        made,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return saved(LlavaForConditionalGeneration(config), processor, folder)


def blip2(folder: Path) -> Path:
    made = tokenizer()
    sizes = dict(hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32)
    text = OPTConfig(**sizes, max_position_embeddings=256, **words(made))
    config = Blip2Config(**blip_parts(made, text))
    processor = Blip2Processor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), made, QUERIES)
    return saved(Blip2ForConditionalGeneration(config), processor, folder)


def instructblip(folder: Path, text: Callable[[PreTrainedTokenizerFast], Any] = llama) -> Path:
    made = tokenizer()
    config = InstructBlipConfig(**blip_parts(made, text(made), vocab_size=len(made)))
    processor = InstructBlipProcessor(
        BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), made, tokenizer(), QUERIES
    )
    return saved(InstructBlipForConditionalGeneration(config), processor, folder)


def t5(made: PreTrainedTokenizerFast) -> T5Config:
    """An encoder with a decoder, as InstructBLIP has with Flan-T5."""
    sizes = dict(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    return T5Config(**sizes, **words(made), decoder_start_token_id=0)


def blip_parts(made: PreTrainedTokenizerFast, text: Any, **reader: Any) -> dict[str, Any]:
    return {
        "vision_config": {**SIGHT, "image_size": SIDE, "patch_size": PATCH},
        "qformer_config": {**SIGHT, "encoder_hidden_size": 16, "cross_attention_frequency": 1, **reader},
        "text_config": text,
        "num_query_tokens": QUERIES,
        "image_token_index": made.convert_tokens_to_ids("<image>"),
    }


def saved(model: Any, processor: Any, folder: Path) -> Path:
    stirred(model, seed=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
