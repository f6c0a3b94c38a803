"""The released checkpoints: what their files are called, what their configurations mean, how they become ours.

A published folder is opened in three steps: read shapes without reading data, translate config.json while trusting the
tensors wherever the two are known to disagree, then hand every tensor, once, to the model under its native name. What was
derived or ignored is written into a `LoadReport`. A tensor that is missing and cannot be derived is an error, never a
random initialisation, and so is any other contradiction.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from mplug_owl.errors import CheckpointError
from mplug_owl.models.abstractor import OwlAbstractorConfig, compute_tables
from mplug_owl.models.adaptive import AdaptiveLlamaConfig
from mplug_owl.models.checkpoint import Checkpoint, read_config, resolve_folder
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.qwen1 import Qwen1Config
from mplug_owl.models.vision import OwlVisionConfig

# Layouts by the model_type they are published under.
LAYOUTS = {"mplug-owl": "owl", "mplug_owl2": "owl2", "mplug_owl2_1": "owl2.1"}
VISION_PREFIX = {
    "owl": "vision_model.",
    "owl2": "model.vision_model.",
    "owl2.1": "transformer.vision_model.",
}
ABSTRACTOR_PREFIX = {
    "owl": "abstractor.",
    "owl2": "model.visual_abstractor.",
    "owl2.1": "transformer.visual_abstractor.",
}

# Buffers that old Transformers versions stored and every version can compute.
COMPUTED = re.compile(r"(rotary_emb\.inv_freq|masked_bias|attn\.bias|position_ids|logn_tensor)$")


@dataclass
class LoadReport:
    """What opening a published folder took, in sentences."""

    source: str
    layout: str
    derived: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: published {self.layout} layout"]
        lines += [f"  derived: {line}" for line in self.derived]
        lines += [f"  ignored: {line}" for line in self.ignored]
        if len(lines) == 1:
            lines.append("  config.json and tensors agree; nothing was derived or ignored")
        return "\n".join(lines)


# ---- names ------------------------------------------------------------------------------------------------------------

_ABSTRACTOR_LAYER = [
    (r"\.attention\.out_proj\.", ".crossattention.output.out_proj."),
    (r"\.attention\.", ".crossattention.attention."),
    (r"\.(norm2|mlp)\.", r".crossattention.output.\1."),
    (r"\.(norm1|normk)\.", r".crossattention.\1."),
]
_TWO_WAY = re.compile(
    r"(visual_)?(input_layernorm|post_attention_layernorm|k_proj|v_proj|c_attn)\."
)


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
    rest = (
        _TWO_WAY.sub(lambda m: f"{m[2]}.multiway.{int(bool(m[1]))}.", rest)
        if _splits(rest, layout)
        else rest
    )
    return f"{'model' if layout == 'owl2' else 'transformer'}.{rest}"


def _splits(name: str, layout: str) -> bool:
    """Whether a decoder tensor comes once for text and once for vision."""
    return "c_attn" in name if layout == "owl2.1" else bool(_TWO_WAY.search(name))


# ---- configurations ---------------------------------------------------------------------------------------------------


def _pick(
    raw: dict[str, Any], config_class: type[PreTrainedConfig], renames: dict[str, str]
) -> dict[str, Any]:
    """The entries of `raw` that mean something to `config_class`, under its names."""
    known = set(config_class.__dataclass_fields__)
    return {
        renames.get(key, key): value for key, value in raw.items() if renames.get(key, key) in known
    }


_ABSTRACTOR_RENAMES = {
    "attention_probs_dropout_prob": "attention_dropout",
    "num_learnable_queries": "num_queries",
}
_QWEN_RENAMES = {
    "kv_channels": "head_dim",
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "attn_dropout_prob": "attention_dropout",
    "multiway": "adaptive",
}
_GENERAL = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "dtype",
    "tie_word_embeddings",
)


def translate(raw: dict[str, Any]) -> OwlConfig:
    """A published config.json as ours, with the defaults of the original classes where it is silent."""
    layout = LAYOUTS[raw["model_type"]]
    if layout == "owl":
        return _translate_owl(raw)
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
    if layout == "owl2":
        keep = {k: raw[k] for k in ("rope_theta", "rope_scaling", *_GENERAL) if k in raw}
        text = AdaptiveLlamaConfig(
            **{**_pick(raw, AdaptiveLlamaConfig, {}), **keep, "architectures": None}
        )
    else:
        text = _translate_qwen(raw)
    return OwlConfig(
        vision_config=OwlVisionConfig(**vision),
        abstractor_config=OwlAbstractorConfig(
            **{
                **abstractor,
                "output_size": text.hidden_size,
                "position_grid": picked.get("grid_size") or 32,
            }
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
    abstractor |= _pick(
        raw.get("visual_abstractor_config") or {}, OwlAbstractorConfig, _ABSTRACTOR_RENAMES
    )
    text = dict(raw.get("text_config") or {})
    text = AutoConfig.for_model(text.pop("model_type", "llama"), **text)
    return OwlConfig(
        vision_config=OwlVisionConfig(**vision),
        abstractor_config=OwlAbstractorConfig(
            **{
                **abstractor,
                "num_queries": raw.get("num_query_tokens", 64),
                "output_size": text.hidden_size,
            }
        ),
        text_config=text,
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
    )


def _translate_qwen(raw: dict[str, Any]) -> Qwen1Config:
    if "seq_length" not in raw:
        raise CheckpointError(
            "config.json has no seq_length; expected the length Owl2.1 was trained at, as published"
        )
    if raw.get("rotary_pct", 1.0) != 1.0:
        raise CheckpointError(
            f"config.json has rotary_pct={raw['rotary_pct']}; only 1.0 was ever released"
        )
    fields = {"adaptive": False} | _pick(raw, Qwen1Config, _QWEN_RENAMES)
    fields["intermediate_size"] = (
        raw.get("intermediate_size", 22016) // 2
    )  # the file counts both branches
    fields["linear_bias"] = not raw.get("no_bias", True)
    return Qwen1Config(**fields)


# ---- what the tensors know better -------------------------------------------------------------------------------------


def settle(config: OwlConfig, checkpoint: Checkpoint, layout: str, report: LoadReport) -> None:
    """Correct `config` in place where the tensors decide: vocabulary, FFN width, cls and position rows, video, adaptivity."""
    vision, abstractor, text = config.vision_config, config.abstractor_config, config.text_config

    def decide(owner: PreTrainedConfig, name: str, value: Any, what: str, tensor: str) -> None:
        if getattr(owner, name) != value:
            report.derived.append(
                f"{what} {value}, from {tensor} (config.json says {getattr(owner, name)})"
            )
            setattr(owner, name, value)

    prefix = VISION_PREFIX[layout]
    table = f"{prefix}embeddings.position_embedding"
    has_cls = f"{prefix}embeddings.cls_token" in checkpoint
    decide(vision, "use_cls_token", has_cls, "use_cls_token", f"{prefix}embeddings.cls_token")
    decide(
        abstractor,
        "use_cls_token",
        has_cls,
        "abstractor use_cls_token",
        f"{prefix}embeddings.cls_token",
    )
    if not has_cls and table in checkpoint:
        decide(vision, "position_rows", checkpoint.shape(table)[0], "position rows", table)
    if layout == "owl" and "temporal_query_tokens" in checkpoint:
        report.derived.append(
            "the video variant, from temporal_query_tokens (config.json does not say)"
        )
        vision.temporal = abstractor.temporal = True
    width = f"{ABSTRACTOR_PREFIX[layout]}encoder.layers.0.crossattention.output.mlp.w1.weight"
    if width in checkpoint:
        decide(
            abstractor,
            "intermediate_size",
            checkpoint.shape(width)[0],
            "abstractor FFN width",
            width,
        )
    if layout == "owl2.1":
        split = "transformer.h.0.attn.c_attn.multiway.1.weight"
        decide(text, "adaptive", split in checkpoint, "multiway", split)
    embedding = published_name(_embedding(config), config, layout)
    if embedding in checkpoint:
        decide(text, "vocab_size", checkpoint.shape(embedding)[0], "vocabulary rows", embedding)
    config.image_token_id, config.video_token_id = text.vocab_size, text.vocab_size + 1


def _embedding(config: OwlConfig) -> str:
    name = "word_embeddings" if config.text_config.model_type == "bloom" else "embed_tokens"
    return f"model.language_model.{name}.weight"


def match(
    config: OwlConfig, checkpoint: Checkpoint, layout: str, report: LoadReport
) -> dict[str, Any]:
    """Native name -> unread tensor for the whole model, or an error that names what does not fit."""
    with torch.device("meta"):
        wanted = OwlForConditionalGeneration(config).state_dict()
    names = {native: published_name(native, config, layout) for native in wanted}
    tables = {n: t for n, t in position_tables(config).items() if names[n] not in checkpoint}
    if tables:
        report.derived.append(
            f"{len(tables)} position tables of the abstractor, computed (never trained, not in the file)"
        )
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = [names[n] for n in wanted if names[n] not in checkpoint and n not in {*tables, *tied}]
    if missing:
        raise CheckpointError(
            f"{checkpoint.folder}: {len(missing)} tensor(s) missing that cannot be derived, first {missing[0]!r}; "
            "expected the complete published checkpoint: download it again"
        )
    wrong = [
        n
        for n in wanted
        if names[n] in checkpoint and checkpoint.shape(names[n]) != tuple(wanted[n].shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.folder}: {names[wrong[0]]!r} has shape {list(checkpoint.shape(names[wrong[0]]))}, but "
            f"config.json asks for {list(wanted[wrong[0]].shape)}; mend config.json or take the files from one release"
        )
    spare = sorted(set(checkpoint) - set(names.values()))
    computed = [name for name in spare if COMPUTED.search(name)]
    unknown = [name for name in spare if name not in computed]
    if unknown:
        raise CheckpointError(
            f"{checkpoint.folder}: {len(unknown)} tensor(s) that config.json has no place for, first {unknown[0]!r}; "
            "mend config.json (layers, queries ...) or take the files from one release"
        )
    if computed:
        report.ignored.append(
            f"{len(computed)} buffer(s) such as {computed[0]!r}: they are computed here"
        )
    return tables | {
        n: checkpoint[names[n]] for n in wanted if names[n] in checkpoint and n not in tied
    }


def position_tables(config: OwlConfig) -> dict[str, torch.Tensor]:
    """The abstractor's position tables by native name, computed; one pair serves every layer."""
    abstractor = config.abstractor_config
    if abstractor.position_grid is None:
        return {}
    queries, keys = compute_tables(abstractor, torch.device("cpu"))
    stems = [f"model.abstractor.layers.{i}.attention" for i in range(abstractor.num_hidden_layers)]
    return {f"{s}.q_pos_embed": queries for s in stems} | {f"{s}.k_pos_embed": keys for s in stems}


def open_published(
    folder: Path, raw: dict[str, Any]
) -> tuple[OwlConfig, dict[str, Any], Checkpoint, LoadReport]:
    """The settled configuration and the unread tensors of a published folder."""
    layout = LAYOUTS[raw["model_type"]]
    report = LoadReport(source=str(folder), layout=layout)
    checkpoint = Checkpoint(folder)
    config = translate(raw)
    settle(config, checkpoint, layout, report)
    return config, match(config, checkpoint, layout, report), checkpoint, report


# ---- Auto classes -----------------------------------------------------------------------------------------------------


class PublishedConfig(OwlConfig):
    """Reads a published config.json; `AutoConfig` finds it by model_type and returns our fields."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        fields = translate(config_dict | {"model_type": cls.model_type}).to_dict()
        return super().from_dict(fields | {"model_type": cls.model_type}, **kwargs)


class PublishedOwl(OwlForConditionalGeneration):
    """Opens a published folder; what comes back is an `OwlForConditionalGeneration` and is saved as one."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        hub = {
            k: kwargs.pop(k)
            for k in ("revision", "token", "cache_dir", "local_files_only")
            if k in kwargs
        }
        kwargs.pop("config", None)  # the one AutoConfig read has not seen the tensors
        return load_published(resolve_folder(name_or_path, **hub), **kwargs)[0]


def _alias(model_type: str) -> tuple[type[OwlConfig], type[OwlForConditionalGeneration]]:
    stem = "Published" + "".join(part.capitalize() for part in re.split("[-_]", model_type))
    config = type(
        f"{stem}Config", (PublishedConfig,), {"model_type": model_type, "__module__": __name__}
    )
    model = type(stem, (PublishedOwl,), {"config_class": config, "__module__": __name__})
    return config, model


ALIASES = [_alias(model_type) for model_type in LAYOUTS]


def load_published(
    folder: Path, dtype: torch.dtype | str = "auto", **kwargs: Any
) -> tuple[OwlForConditionalGeneration, LoadReport]:
    """Open a published folder; `dtype="auto"` keeps that of the files. `kwargs` go to the library's `from_pretrained`."""
    config, tensors, checkpoint, report = open_published(folder, read_config(folder))
    if dtype == "auto":
        dtype = checkpoint.dtype(published_name(_embedding(config), config, report.layout))
    model = OwlForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=tensors, dtype=dtype, **kwargs
    )
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    return model, report
