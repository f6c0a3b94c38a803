"""Tiny checkpoint folders exactly as the families were published: names, configs, tokenizers,
processors, shards.

The files are written by hand, from what is known of the originals, so that reading them proves
something.
"""

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mplug_owl.models.families import FAMILIES
from mplug_owl.models.layouts import published_name
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from owls import random_owl

LAYOUT = {"tiny-owl2": "owl2", "tiny-owl2.1": "owl2.1"}  # the others are "owl"
MODEL_TYPE = {"owl": "mplug-owl", "owl2": "mplug_owl2", "owl2.1": "mplug_owl2_1"}
CORPUS = [
    "The following is a conversation between a curious human and AI assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "Human: what color is the owl?\nAI: The owl is brown, and it looks at you.",
    "USER: describe the image. ASSISTANT: two small birds on a branch",
    "un hibou regarde la lune; 猫头鹰看着你",
]


@cache
def sentencepiece_model(folder: Path) -> bytes:
    """A LLaMA-like sentencepiece model: BPE, byte fallback, unk 0, bos 1, eos 2, no pad."""
    text, prefix = folder / "corpus.txt", folder / "tokenizer"
    text.write_text("\n".join(CORPUS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=-1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model").read_bytes()


def byte_bpe(vocab_size: int, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return tokenizer


def write_llama_tokenizer(folder: Path, scratch: Path) -> int:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(scratch))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True})
    return 400


def write_bloom_tokenizer(folder: Path, scratch: Path) -> int:
    byte_bpe(400, ["<unk>", "<s>", "</s>", "<pad>"]).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BloomTokenizerFast"})
    return 400


def write_qwen_tokenizer(folder: Path, scratch: Path) -> int:
    """Ranks only; the 208 special tokens follow them."""
    vocabulary = byte_bpe(400, []).get_vocab()
    letters = {letter: byte for byte, letter in _byte_letters().items()}
    lines = [
        f"{base64.b64encode(bytes(letters[c] for c in token)).decode()} {rank}"
        for token, rank in sorted(vocabulary.items(), key=lambda item: item[1])
    ]
    (folder / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "QWenTokenizer"})
    return len(vocabulary) + 208


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


TOKENIZERS: dict[str, Callable[[Path, Path], int]] = {
    "tiny-owl-bloomz": write_bloom_tokenizer,
    "tiny-owl2.1": write_qwen_tokenizer,
}


def published_config(config: OwlConfig, layout: str, dtype: str) -> dict[str, Any]:
    """config.json as the original training code wrote it, noise and known mistakes included."""
    vision, abstractor, text = config.vision_config, config.abstractor_config, config.text_config
    visual = {
        key: getattr(vision, key)
        for key in (
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("image_size", "patch_size", "hidden_act", "layer_norm_eps"),
        )
    }
    summary = {
        "hidden_size": abstractor.hidden_size,
        "encoder_hidden_size": abstractor.hidden_size,
        "num_hidden_layers": abstractor.num_hidden_layers,
        "num_attention_heads": abstractor.num_attention_heads,
        "layer_norm_eps": abstractor.layer_norm_eps,
        "attention_probs_dropout_prob": abstractor.attention_dropout,
    }
    common = {"model_type": MODEL_TYPE[layout], "torch_dtype": dtype, "transformers_version": "4.28.1"}
    if layout == "owl":
        inner = text.to_dict() | {"torch_dtype": "float16"}
        if text.model_type == "llama":  # written before rope_parameters
            inner.pop("rope_parameters")
            inner |= {"rope_scaling": None, "pretraining_tp": 1}
        return common | {
            "architectures": ["MplugOwlForConditionalGeneration"],
            "num_query_tokens": abstractor.num_queries,
            "vision_config": visual | {"use_flash_attn": False, "projection_dim": 768},
            "visual_abstractor_config": summary | {"intermediate_size": 4096},  # not what the tensors say
            "text_config": inner,
            "hidden_size": 1,
            "vocab_size": 1,
        }
    visual |= {"use_cls_token": vision.use_cls_token, "use_post_layernorm": vision.use_post_layernorm}
    summary |= {
        "num_learnable_queries": abstractor.num_queries,
        "intermediate_size": abstractor.intermediate_size,
        "grid_size": abstractor.position_grid,
        "use_cls_token": vision.use_cls_token,
        "add_v2t_pos_emb": False,
    }
    flat = common | {"visual_config": {"visual_model": visual, "visual_abstractor": summary}}
    flat |= {"eos_token_id": text.eos_token_id, "pad_token_id": text.pad_token_id, "use_cache": True}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
        flat[key] = getattr(text, key)
    if layout == "owl2":
        return flat | {
            "architectures": ["MPLUGOwl2LlamaForCausalLM"],
            "vocab_size": text.vocab_size,
            "bos_token_id": text.bos_token_id,
            "intermediate_size": text.intermediate_size,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "hidden_act": "silu",
            "rope_scaling": None,
            "image_aspect_ratio": "pad",
            "tune_visual_abstractor": True,
        }
    return flat | {
        "architectures": ["MPLUGOwl2QWenForCausalLM"],
        "vocab_size": text.vocab_size + 85,  # as published: more rows than the tensors have
        "kv_channels": text.head_dim,
        "intermediate_size": 2 * text.intermediate_size,
        "layer_norm_epsilon": text.rms_norm_eps,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "seq_length": text.seq_length,
        "no_bias": True,
        "multiway": True,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "bf16": True,
    }


def published_tensors(owl: OwlForConditionalGeneration, layout: str) -> dict[str, torch.Tensor]:
    """The weights under their published names, with what old checkpoints carry beside them."""
    config = owl.config
    tensors = {published_name(n, config, layout): t.contiguous() for n, t in owl.state_dict().items()}
    if config.text_config.tie_word_embeddings:
        del tensors["language_model.lm_head.weight"]
    if layout == "owl2":  # the release lacks the tables, and carries what Transformers 4.31 stored
        tensors = {n: t for n, t in tensors.items() if not n.endswith("_pos_embed")}
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    return tensors


def write_published(
    folder: Path, family: str, *, file_format: str = "safetensors", shards: int = 3, dtype: torch.dtype = torch.float32
) -> OwlForConditionalGeneration:
    """Write the folder and return the native model it was made from."""
    layout = LAYOUT.get(family, "owl")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent
    config = FAMILIES[family].config()
    rows = TOKENIZERS.get(family, write_llama_tokenizer)(folder, scratch)
    config.text_config.vocab_size = rows
    config = OwlConfig(
        vision_config=config.vision_config, abstractor_config=config.abstractor_config, text_config=config.text_config
    )
    owl = random_owl(config, dtype)
    if family not in TOKENIZERS:  # no stray bytes in answers: libraries differ in how they show them
        owl.lm_head.weight.data[3:259] = 0
    write_json(folder / "config.json", published_config(config, layout, str(dtype).removeprefix("torch.")))
    size = config.vision_config.image_size
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": size} if layout != "owl" else size,
            "crop_size": {"height": size, "width": size},
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    write_weights(folder, published_tensors(owl, layout), file_format, shards)
    return owl


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], file_format: str, shards: int) -> None:
    stem = "model" if file_format == "safetensors" else "pytorch_model"
    names, files = sorted(tensors), {}
    for index in range(shards):
        file = f"{stem}-{index + 1:05d}-of-{shards:05d}.{file_format}"
        part = {name: tensors[name] for name in names[index::shards]}
        files |= dict.fromkeys(part, file)
        if file_format == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    write_json(folder / f"{stem}.{file_format}.index.json", {"metadata": {}, "weight_map": files})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
