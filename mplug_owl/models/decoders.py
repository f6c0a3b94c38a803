"""f_L from elsewhere: the decoders of Transformers that an owl can speak with, and what each of them lacks.

`DECODERS` names them; one with a twin can be made modality-adaptive. `settled` makes a decoder's configuration one that
packed rows, slots of different length and the twins compute alike: full attention, up to the window where there is one,
and rotary positions that do not depend on the company in a batch. Weights are not known here.
"""

import copy
from typing import Any, NamedTuple

from transformers import AutoModel, BloomConfig, OPTConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.opt.modeling_opt import OPTDecoder

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.models.adaptive import AdaptiveLlamaConfig
from mplug_owl.models.bloom import OwlBloomModel
from mplug_owl.models.twins import (
    AdaptiveGemmaConfig,
    AdaptiveMistralConfig,
    AdaptivePhi3Config,
    AdaptiveQwen2Config,
    AdaptiveQwen3Config,
    AdaptiveSmolLM3Config,
)


class Decoder(NamedTuple):
    twin: type[PreTrainedConfig] | None
    """The configuration of its modality-adaptive twin."""
    lacks: str = ""
    """What it has not, where there is no twin."""
    prefix: str = "model."
    """In front of the decoder's names in a causal language model."""


DECODERS: dict[str, Decoder] = {
    "llama": Decoder(AdaptiveLlamaConfig),
    "mistral": Decoder(AdaptiveMistralConfig),
    "qwen2": Decoder(AdaptiveQwen2Config),
    "qwen3": Decoder(AdaptiveQwen3Config),
    "smollm3": Decoder(AdaptiveSmolLM3Config),
    "gemma": Decoder(AdaptiveGemmaConfig),
    "phi3": Decoder(AdaptivePhi3Config),
    "opt": Decoder(None, "RMS norms and rotary positions: its layers are no Llama's", "model.decoder."),
}
REFUSED = {
    **dict.fromkeys(
        ("t5", "mt5", "flan-t5", "bart"),
        "it is an encoder with a decoder: pictures would enter the encoder, and an owl has none",
    ),
    "gemma2": "it caps its scores, which no fused attention computes, and norms around every branch",
    "gemma3_text": "its layers see windows of different width, and norms stand around every branch",
    "gemma3": "it is multimodal already; take its text model, though that is refused too",
    "mixtral": "it is a mixture of experts",
    "qwen2_moe": "it is a mixture of experts",
    "qwen3_moe": "it is a mixture of experts",
    "bloom": "its family needs the abstractor: take a recipe with init.family=owl-bloomz-7b and init.language",
}
_ROTATIONS_OF_A_BATCH = ("dynamic", "longrope")  # they stretch by the longest row
_OF_THE_FILE = {"model_type", "architectures", "transformers_version", "dtype", "_name_or_path"}
_PLAIN = {row.twin.model_type: kind for kind, row in DECODERS.items() if row.twin}


def decoder(kind: str) -> Decoder:
    """The row of a kind, or an error that says why it has none."""
    if kind in DECODERS:
        return DECODERS[kind]
    reason = REFUSED.get(kind)
    hint = f": {reason}" if reason else did_you_mean(kind, DECODERS)
    raise ConfigError(f"a decoder of kind {kind!r} has no place in an owl{hint}")


def settled(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same decoder, computed alike in a packed row, in a batch and alone."""
    decoder(config.model_type)
    config = copy.deepcopy(config)
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rotation in _ROTATIONS_OF_A_BATCH:
        raise ConfigError(
            f"rope_type={rotation!r}: the positions of this decoder stretch with the longest row of a batch, so an "
            "answer would depend on others; take one with fixed rotary positions"
        )
    if getattr(config, "resid_pdrop", 0):
        raise ConfigError(f"resid_pdrop={config.resid_pdrop}; expected 0.0, as in every release")
    if isinstance(config, OPTConfig) and config.word_embed_proj_dim != config.hidden_size:
        raise ConfigError(
            f"word_embed_proj_dim={config.word_embed_proj_dim} differs from hidden_size={config.hidden_size}; "
            "expected an OPT whose words are as wide as its layers"
        )
    window = getattr(config, "sliding_window", None)
    if window:  # as far as it reaches, a window is full attention
        config.max_position_embeddings = min(config.max_position_embeddings, window)
        config.sliding_window = None
        if hasattr(config, "use_sliding_window"):
            config.use_sliding_window = False
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"] * config.num_hidden_layers
    return config


def branched(config: PreTrainedConfig, adaptive: bool) -> PreTrainedConfig:
    """The configuration of the same decoder with a visual branch, or without."""
    kind = config.model_type
    if kind in _PLAIN:
        wanted: Any = type(config) if adaptive else type(config).__base__
    elif kind in DECODERS and (DECODERS[kind].twin or not adaptive):
        wanted = DECODERS[kind].twin if adaptive else type(config)
    else:
        lacks = f" lacks {DECODERS[kind].lacks}" if kind in DECODERS else " keeps the branches it has"
        twins = ", ".join(name for name, row in DECODERS.items() if row.twin)
        raise ConfigError(
            f"adaptive={adaptive}: a decoder of kind {kind!r}{lacks}; take one of {twins}, or leave adaptive out"
        )
    return config if wanted is type(config) else wanted(**fields_of(config))


def fields_of(config: PreTrainedConfig) -> dict[str, Any]:
    """What a configuration says about its model, not about its file."""
    return {name: value for name, value in config.to_dict().items() if name not in _OF_THE_FILE}


def language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """f_L without its head."""
    if isinstance(config, BloomConfig):
        return OwlBloomModel(config)
    if isinstance(config, OPTConfig):
        return OPTDecoder(config)
    return AutoModel.from_config(config)
