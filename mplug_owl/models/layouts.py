"""The published layouts: what a tensor is called there, and what its config.json means in our terms.

Pure functions of names and dictionaries; no file is opened here and no tensor touched. Where a config.json is silent
the defaults of the original classes hold; where it is known to be wrong the tensors decide, in `published.py`.
"""

import re
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models.abstractor import OwlAbstractorConfig
from mplug_owl.models.adaptive import AdaptiveLlamaConfig
from mplug_owl.models.owl import OwlConfig
from mplug_owl.models.qwen1 import Qwen1Config
from mplug_owl.models.vision import OwlVisionConfig

# Layouts by the model_type they are published under.
LAYOUTS = {"mplug-owl": "owl", "mplug_owl2": "owl2", "mplug_owl2_1": "owl2.1"}
VISION_PREFIX = {"owl": "vision_model.", "owl2": "model.vision_model.", "owl2.1": "transformer.vision_model."}
ABSTRACTOR_PREFIX = {
    "owl": "abstractor.",
    "owl2": "model.visual_abstractor.",
    "owl2.1": "transformer.visual_abstractor.",
}

_ABSTRACTOR_LAYER = [
    (r"\.attention\.out_proj\.", ".crossattention.output.out_proj."),
    (r"\.attention\.", ".crossattention.attention."),
    (r"\.(norm2|mlp)\.", r".crossattention.output.\1."),
    (r"\.(norm1|normk)\.", r".crossattention.\1."),
]
_TWO_WAY = re.compile(r"(visual_)?(input_layernorm|post_attention_layernorm|k_proj|v_proj|c_attn)\.")


def published_name(native: str, config: OwlConfig, layout: str) -> str:
    """The name a native tensor has in the published layout."""
    module, _, rest = native.removeprefix("model.").partition(".")
    if module == "vision":
        return VISION_PREFIX[layout] + re.sub(r"^layers\.", "encoder.layers.", rest)
    if module == "abstractor":
        if rest.endswith("query_tokens"):
            return ABSTRACTOR_PREFIX[layout] + "query_embeds" if layout != "owl" else rest
        if rest.startswith("layers."):
            for pattern, replacement in _ABSTRACTOR_LAYER:
                rest, count = re.subn(pattern, replacement, rest, count=1)
                if count:
                    break
            rest = f"encoder.{rest}"
        return ABSTRACTOR_PREFIX[layout] + rest
    if layout == "owl":
        stem = "transformer" if config.text_config.model_type == "bloom" else "model"
        return "language_model." + (native if module == "lm_head" else f"{stem}.{rest}")
    if module == "lm_head":
        return native
    if layout == "owl2.1":
        rest = re.sub(r"^layers\.", "h.", re.sub(r"^embed_tokens\.", "wte.", rest))
        if not config.text_config.adaptive:
            return f"transformer.{rest}"
    rest = _TWO_WAY.sub(lambda m: f"{m[2]}.multiway.{int(bool(m[1]))}.", rest) if _splits(rest, layout) else rest
    return f"{'model' if layout == 'owl2' else 'transformer'}.{rest}"


def _splits(name: str, layout: str) -> bool:
    """Whether a decoder tensor comes once for text and once for vision."""
    return "c_attn" in name if layout == "owl2.1" else bool(_TWO_WAY.search(name))


def _pick(raw: dict[str, Any], config_class: type[PreTrainedConfig], renames: dict[str, str]) -> dict[str, Any]:
    """The entries of `raw` that mean something to `config_class`, under its names."""
    known = set(config_class.__dataclass_fields__)
    return {renames.get(key, key): value for key, value in raw.items() if renames.get(key, key) in known}


_ABSTRACTOR_RENAMES = {"attention_probs_dropout_prob": "attention_dropout", "num_learnable_queries": "num_queries"}
_QWEN_RENAMES = {
    "kv_channels": "head_dim",
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "attn_dropout_prob": "attention_dropout",
    "multiway": "adaptive",
}
_GENERAL = ("bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype", "tie_word_embeddings")


def translate(raw: dict[str, Any]) -> OwlConfig:
    """A published config.json as ours, with the defaults of the original classes where it is silent."""
    try:
        return _translate_owl(raw) if LAYOUTS[raw["model_type"]] == "owl" else _translate_owl2(raw)
    except (StrictDataclassError, ConfigError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"config.json: {reason}; take it from the release again") from None


def _translate_owl2(raw: dict[str, Any]) -> OwlConfig:
    visual = raw.get("visual_config") or {}
    vision = _pick(visual.get("visual_model") or {}, OwlVisionConfig, {})
    vision.pop("position_rows", None)
    vision.setdefault("image_size", 448)
    picked = visual.get("visual_abstractor") or {}
    abstractor = _pick(picked, OwlAbstractorConfig, _ABSTRACTOR_RENAMES)
    if picked.get("add_v2t_pos_emb"):
        raise CheckpointError(
            "visual_abstractor has add_v2t_pos_emb=true, which no released model uses; expected false"
        )
    if LAYOUTS[raw["model_type"]] == "owl2":
        keep = {k: raw[k] for k in ("rope_theta", "rope_scaling", *_GENERAL) if k in raw}
        text = AdaptiveLlamaConfig(**{**_pick(raw, AdaptiveLlamaConfig, {}), **keep, "architectures": None})
    else:
        text = _translate_qwen(raw)
    return OwlConfig(
        vision_config=OwlVisionConfig(**vision),
        abstractor_config=OwlAbstractorConfig(
            **{**abstractor, "output_size": text.hidden_size, "position_grid": picked.get("grid_size") or 32}
        ),
        text_config=text,
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
    )


def _translate_owl(raw: dict[str, Any]) -> OwlConfig:
    vision = _pick(raw.get("vision_config") or {}, OwlVisionConfig, {})
    vision |= {
        "hidden_act": "quick_gelu",
        "use_cls_token": True,
        "use_post_layernorm": True,
    }  # never configurable there
    abstractor = {"intermediate_size": 4096, "attention_dropout": 0.1}
    abstractor |= _pick(raw.get("visual_abstractor_config") or {}, OwlAbstractorConfig, _ABSTRACTOR_RENAMES)
    text = dict(raw.get("text_config") or {})
    text = AutoConfig.for_model(text.pop("model_type", "llama"), **text)
    return OwlConfig(
        vision_config=OwlVisionConfig(**vision),
        abstractor_config=OwlAbstractorConfig(
            **{**abstractor, "num_queries": raw.get("num_query_tokens", 64), "output_size": text.hidden_size}
        ),
        text_config=text,
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
    )


def _translate_qwen(raw: dict[str, Any]) -> Qwen1Config:
    if "seq_length" not in raw:
        raise CheckpointError("config.json has no seq_length; expected the length Owl2.1 was trained at, as published")
    if raw.get("rotary_pct", 1.0) != 1.0:
        raise CheckpointError(f"config.json has rotary_pct={raw['rotary_pct']}; only 1.0 was ever released")
    fields = {"adaptive": False} | _pick(raw, Qwen1Config, _QWEN_RENAMES)
    fields["intermediate_size"] = raw.get("intermediate_size", 22016) // 2  # the file counts both branches
    fields["linear_bias"] = not raw.get("no_bias", True)
    return Qwen1Config(**fields)
