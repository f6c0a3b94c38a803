"""Tiny random vision towers and language models in folders, as Transformers writes them; the parts of built owls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Blip2VisionConfig,
    Blip2VisionModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mplug_owl.models.tokenizers import byte_tokenizer

SIDE, PATCH = 56, 14
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_EYE = {**SIZES, "intermediate_size": 48, "image_size": SIDE, "patch_size": PATCH}
_SQUARE = {"height": SIDE, "width": SIDE}
TOWERS: dict[str, Callable[[], PreTrainedModel]] = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**_EYE)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**_EYE)),
    "siglip2": lambda: Siglip2VisionModel(
        Siglip2VisionConfig(**SIZES, intermediate_size=48, patch_size=PATCH, num_patches=16)
    ),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2, image_size=SIDE + PATCH, patch_size=PATCH)),
    "dinov2-registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, image_size=SIDE, patch_size=PATCH)
    ),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**_EYE, num_register_tokens=4)),
    "blip2": lambda: Blip2VisionModel(Blip2VisionConfig(**_EYE)),
}
RULES: dict[str, Callable[[], Any]] = {
    "clip": lambda: CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE),
    "siglip": lambda: SiglipImageProcessorPil(size=_SQUARE),
    "dinov2": lambda: BitImageProcessorPil(size={"shortest_edge": SIDE + 8}, crop_size=_SQUARE),
    "blip2": lambda: BlipImageProcessorPil(size=_SQUARE),
}

_WORDS = {"vocab_size": 259, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512}
_MOUTH = {**_WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_SHARED = {**_MOUTH, "num_key_value_heads": 2}
LANGUAGES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHARED)),
    "smollm": lambda: LlamaForCausalLM(LlamaConfig(**_SHARED, tie_word_embeddings=True, attention_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SHARED, sliding_window=300)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SHARED, use_sliding_window=False)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHARED, head_dim=16, tie_word_embeddings=True)),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**_SHARED, no_rope_layer_interval=2)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**{**_SHARED, "num_key_value_heads": 1}, head_dim=16)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**_SHARED)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **_WORDS,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            dropout=0.0,
            attention_dropout=0.0,
        )
    ),
}
TWINNED = [name for name in LANGUAGES if name != "opt"]
CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '[' + message.role + ']' + message.content | trim + eos_token"
    " + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
"""A chat template as language models have them: text alone, no marks, white space trimmed."""


def shaken(model: nn.Module, seed: int = 7) -> Any:
    """Weights far from their initial values: a wrong norm, bias or name would show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if weight.ndim == 1:
                weight.copy_((1 if name.endswith("weight") else 0) + 0.3 * noise)
            else:
                weight.copy_((0.7 if "embed" in name else 1.2 / weight[0].numel() ** 0.5) * noise)
    return model.eval()


def made(kind: str, seed: int = 7) -> Any:
    """The tower or language model of that name, with weights that matter."""
    return shaken((TOWERS.get(kind) or LANGUAGES[kind])(), seed)


def tower_folder(kind: str, folder: Path) -> Path:
    made(kind).save_pretrained(folder)
    if kind in RULES:
        RULES[kind]().save_pretrained(folder)
    return folder


def language_folder(kind: str, folder: Path, template: str | None = CHAT) -> Path:
    made(kind).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
