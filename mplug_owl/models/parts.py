"""The starting point of a run: an owl put together from trained parts, or one that exists already.

f_V may come from a CLIPVisionModel folder and f_L from a LlamaForCausalLM (or BloomForCausalLM) folder, each with its
own sizes; the visual branch of a modality-adaptive decoder starts as a copy of its text branch. What no part brings
starts random, from a seed. With a connector, an owl is put together from any tower and decoder (`built.py`). An owl
can also move to another picture size, number of queries or connector, and gain or lose the visual branch. What is
trained from here on is not known here.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, BloomConfig, CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models.abstractor import OwlAbstractor, OwlAbstractorConfig, compute_tables
from mplug_owl.models.adapters import BASE
from mplug_owl.models.built import build as build_owl
from mplug_owl.models.built import spoken
from mplug_owl.models.checkpoint import Checkpoint, read_config, resolve_folder
from mplug_owl.models.connectors import connector as new_connector
from mplug_owl.models.decoders import branched, fields_of
from mplug_owl.models.families import family as find_family
from mplug_owl.models.families import make_processor
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.slots import PROJECTIONS, Slots, connector_config
from mplug_owl.models.slots import configuration as built_configuration
from mplug_owl.models.tokenizers import bloom_tokenizer, llama_tokenizer
from mplug_owl.models.vision import OwlVisionConfig, OwlVisionModel

# Everything else about a ViT is the family's: picture size, temporal branch, position tables.
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")
_FROM_CLIP = (*_SIZES, "hidden_act", "layer_norm_eps")
_CLIP_NAMES = {
    "layers.": "encoder.layers.",
    "cls_token": "class_embedding",
    "patch_embed.": "patch_embedding.",
    "position_embedding": "position_embedding.weight",
    "embeddings.pre_layernorm": "pre_layrnorm",  # sic
    "input_layernorm": "layer_norm1",
    "post_attention_layernorm": "layer_norm2",
    "self_attn.dense": "self_attn.out_proj",
}


def assemble(
    family: str = "tiny-owl2",
    *,
    start: str | Path | None = None,
    vision: str | Path | None = None,
    language: str | Path | None = None,
    connector: str | None = None,
    features: str | None = None,
    cls: bool | None = None,
    image_size: int | None = None,
    queries: int | None = None,
    adaptive: bool | None = None,
    seed: int = 0,
    dtype: torch.dtype | str = "auto",
) -> tuple[OwlForConditionalGeneration, OwlProcessor]:
    """The owl a run starts from, on the CPU: `start`, with another `connector` if one is given; or `family` with the
    parts that are given; or, with a `connector`, the parts alone.

    `dtype="auto"` keeps the dtype of `start`, and is float32 otherwise.
    """
    if start is not None:
        if vision is not None or language is not None:
            raise ConfigError(
                f"start={str(start)!r} and a part are both given: start from a whole owl or put one together from parts"
            )
        model, processor = _from(start, connector, image_size, queries, seed, dtype)
        return (model if adaptive is None else branch(model, adaptive)), processor
    if connector is not None:
        if vision is None or language is None:
            raise ConfigError(f"connector={connector!r} stands between two parts: give vision and language")
        slots = Slots(vision, connector, language, bool(adaptive), queries, features, cls, image_size)
        return build_owl(slots, seed=seed, dtype=dtype)
    row = find_family(family)
    if language is None and row.repository is not None:
        raise ConfigError(
            f"family {family!r} has no tokenizer of its own; give init.language, a folder with the "
            "language model and its tokenizer, or init.start"
        )
    config = configuration(
        family, vision=vision, language=language, image_size=image_size, queries=queries, adaptive=adaptive
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = _fresh_tensors(config, whole=language is None)
    if vision is not None:
        tensors |= vision_tensors(resolve_folder(vision), config.vision_config)
    if language is not None:
        tensors |= language_tensors(resolve_folder(language), config)
    made = torch.float32 if dtype == "auto" else dtype
    model = OwlForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors, dtype=made)
    read = bloom_tokenizer if config.text_config.model_type == "bloom" else llama_tokenizer
    tokenizer = row.tokenizer() if language is None else read(resolve_folder(language))
    return model.eval(), make_processor(config, tokenizer, row.prompt, row.aspect)


def _from(
    start: str | Path,
    connector: str | None,
    image_size: int | None,
    queries: int | None,
    seed: int,
    dtype: torch.dtype | str,
) -> tuple[OwlForConditionalGeneration, OwlProcessor]:
    """An owl that exists, moved to that picture size, connector and number of queries."""
    if (Path(start) / BASE).is_file():
        raise ConfigError(
            f"init.start={str(start)!r} is an adapter; merge it into its base and start from "
            f"the result: owl merge {start} OUT"
        )
    from mplug_owl.models import load  # it opens any owl, and stands above this file

    model, processor = load(start, device="cpu", dtype=dtype)
    if image_size is not None:
        resize(model, processor, image_size)
    if connector is not None:
        reconnect(model, processor, connector, queries, seed)
    elif queries is not None:
        ask_anew(model, processor, queries, seed)
    return model, processor


def configuration(
    family: str,
    *,
    vision: str | Path | None = None,
    language: str | Path | None = None,
    connector: str | None = None,
    features: str | None = None,
    cls: bool | None = None,
    image_size: int | None = None,
    queries: int | None = None,
    adaptive: bool | None = None,
) -> OwlConfig:
    """The configuration of `family` with the sizes of the parts, or of the parts around a `connector`; reads no
    weights.
    """
    if connector is not None and vision is not None and language is not None:
        return built_configuration(
            Slots(vision, connector, language, bool(adaptive), queries, features, cls, image_size)
        )
    config = find_family(family).config()
    f_v, f_k, f_l = config.vision_config, config.abstractor_config, config.text_config
    if vision is not None:
        folder = resolve_folder(vision)
        _expect_kind(folder, ("clip", "clip_vision_model"), "init.vision", "CLIPVisionModel")
        if not f_v.use_cls_token:
            raise ConfigError(
                f"family {family!r} has a vision model without cls, which no CLIPVisionModel is; "
                "take another family, or init.start"
            )
        source = CLIPVisionConfig.from_pretrained(folder)
        for name in _FROM_CLIP:
            setattr(f_v, name, getattr(source, name))
    if adaptive is not None:
        f_l = branched(f_l, adaptive)
    if language is not None:
        f_l = _text_config(resolve_folder(language), f_l)
    f_k.hidden_size, f_k.output_size = f_v.hidden_size, f_l.hidden_size
    change(f_v, f_k, image_size, queries)
    return OwlConfig(vision_config=f_v, abstractor_config=f_k, text_config=f_l)


def change(f_v: OwlVisionConfig, f_k: OwlAbstractorConfig, image_size: int | None, queries: int | None) -> None:
    """Set what is given, in place, and check that it fits."""
    wished = {"image_size": (image_size, f_v, OwlVisionConfig), "queries": (queries, f_k, OwlAbstractorConfig)}
    for name, (value, part, kind) in wished.items():
        if value is not None and not isinstance(part, kind):
            raise ConfigError(
                f"{name}={value}: an owl put together with a {part.model_type} keeps what it was built with; build it "
                f"with another {name}"
            )
    if not isinstance(f_v, OwlVisionConfig) or not isinstance(f_k, OwlAbstractorConfig):
        return
    if image_size is not None:
        f_v.image_size = image_size
    _check_grid(f_v)
    if f_k.position_grid is not None:
        f_k.position_grid = f_v.grid
    if queries is not None:
        if queries < 1:
            raise ConfigError(f"queries={queries}; expected at least 1 learned query")
        f_k.num_queries = queries


def _text_config(folder: Path, wanted: PreTrainedConfig) -> PreTrainedConfig:
    """The settings of the source as a configuration of the kind the family wants."""
    kind = next((base.model_type for base in (LlamaConfig, BloomConfig) if isinstance(wanted, base)), None)
    if kind is None:
        raise ConfigError(
            f"a language model of kind {wanted.model_type!r} cannot be put together from parts; give init.start"
        )
    _expect_kind(folder, (kind,), "init.language", f"{kind.capitalize()}ForCausalLM")
    fields = fields_of(AutoConfig.from_pretrained(folder))
    if fields.get("pad_token_id") is None:
        fields["pad_token_id"] = wanted.pad_token_id
    return type(wanted)(**fields)


def _expect_kind(folder: Path, kinds: tuple[str, ...], setting: str, expected: str) -> None:
    found = read_config(folder)["model_type"]
    if found not in kinds:
        raise ConfigError(f"{setting}={str(folder)!r} holds a model of type {found!r}; expected a {expected} folder")


def _check_grid(config: OwlVisionConfig) -> None:
    if config.image_size % config.patch_size:
        raise ConfigError(
            f"image_size={config.image_size} is not a multiple of patch_size={config.patch_size}; "
            f"{config.grid * config.patch_size} is the next below"
        )


# ---- tensors of the parts ------------------------------------------------------------------------


def vision_tensors(folder: Path, config: OwlVisionConfig) -> dict[str, Tensor]:
    """The weights of a CLIPVisionModel folder under the names of f_V."""
    checkpoint = Checkpoint(folder)
    prefix = _prefix(checkpoint, "vision_model.")

    def take(name: str) -> Tensor:
        for ours, theirs in _CLIP_NAMES.items():
            name = name.replace(ours, theirs)
        return _part(checkpoint, prefix + name, "CLIPVisionModel")[...]

    with torch.device("meta"):
        wanted = OwlVisionModel(config).state_dict()
    tensors: dict[str, Tensor] = {}
    for name in wanted:
        if "query_key_value" in name:
            parts = [take(name.replace("query_key_value", f"{part}_proj")) for part in "qkv"]
            tensors[name] = interleave(*parts, heads=config.num_attention_heads)
        elif ".temporal." not in name:  # no CLIP has that branch; it starts fresh
            tensors[name] = take(name)
    cls, table = "embeddings.cls_token", "embeddings.position_embedding"
    tensors[cls] = tensors[cls].view(1, 1, -1)
    tensors[table] = resize_positions(tensors[table][None], config.grid)
    return {f"model.vision.{name}": tensor for name, tensor in tensors.items()}


def _prefix(checkpoint: Checkpoint, stem: str) -> str:
    """`stem`, if the names of a checkpoint start with it: some were saved without."""
    return stem if any(name.startswith(stem) for name in checkpoint) else ""


def _part(checkpoint: Checkpoint, name: str, whole: str) -> Any:
    if name not in checkpoint:
        raise CheckpointError(f"{checkpoint.folder} lacks {name!r}; expected a complete {whole}")
    return checkpoint[name]


def interleave(*projections: Tensor, heads: int) -> Tensor:
    """Query, key and value projections as the one of f_V, whose rows are grouped per head as [q k v]."""
    return torch.stack([part.unflatten(0, (heads, -1)) for part in projections], dim=1).flatten(0, 2)


def resize_positions(table_1NC: Tensor, grid: int) -> Tensor:
    """A position table with cls, bicubically resampled to `grid` x `grid`; cls stays as it is."""
    cls, patches = table_1NC[:, :1], table_1NC[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return table_1NC
    square = patches.to(torch.promote_types(patches.dtype, torch.float32))
    square = square.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((cls, square.flatten(2).transpose(1, 2).to(cls.dtype)), dim=1)


def language_tensors(folder: Path, config: OwlConfig) -> dict[str, Any]:
    """The weights of a causal language model under the names of f_L, most of them unread; the visual branch of an
    adaptive decoder gets those of the text branch.
    """
    checkpoint = Checkpoint(folder)
    prefix = _prefix(checkpoint, "transformer." if config.text_config.model_type == "bloom" else "model.")
    with torch.device("meta"):
        wanted = OwlForConditionalGeneration(config).state_dict()
    sources = {} if config.tie_word_embeddings else {"lm_head.weight": "lm_head.weight"}
    stem = "model.language_model."
    sources |= {
        name: prefix + name.removeprefix(stem).replace("visual_", "") for name in wanted if name.startswith(stem)
    }
    found = {name: _part(checkpoint, source, "language model with its head") for name, source in sources.items()}
    # Two branches must not share memory: they go apart in training.
    return {name: part[...].clone() if "visual_" in name else part for name, part in found.items()}


def _fresh_tensors(config: OwlConfig, *, whole: bool) -> dict[str, Any]:
    """Random weights by name; without f_L unless `whole`, for it is large and soon replaced."""
    if whole:
        tensors = OwlForConditionalGeneration(config).state_dict()
        if config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        return tensors
    vision, abstractor = OwlVisionModel(config.vision_config), OwlAbstractor(config.abstractor_config)
    return vision.state_dict(prefix="model.vision.") | abstractor.state_dict(prefix="model.abstractor.")


# ---- an owl that changes -------------------------------------------------------------------------


def resize(model: OwlForConditionalGeneration, processor: OwlProcessor, image_size: int) -> None:
    """Make an owl take pictures of `image_size`, in place: positions are resampled, the fixed tables of the abstractor
    computed anew.
    """
    vision, abstractor = model.config.vision_config, model.config.abstractor_config
    if image_size == vision.image_size:
        return
    if not isinstance(abstractor, OwlAbstractorConfig):
        raise ConfigError(f"image_size={image_size}: a {abstractor.model_type} counts its tokens; build it anew")
    change(vision, abstractor, image_size, None)
    embeddings = model.model.vision.embeddings
    if vision.use_cls_token:  # a table without cls is resampled in every forward
        table = resize_positions(embeddings.position_embedding.detach(), vision.grid)
        embeddings.position_embedding = nn.Parameter(table)
    if abstractor.position_grid is not None:
        for layer in model.model.abstractor.layers:
            old = layer.attention.k_pos_embed
            _, keys = compute_tables(abstractor, old.device)
            layer.attention.k_pos_embed = keys.to(old.dtype)
    processor.image_processor.size = {"height": image_size, "width": image_size}


def ask_anew(model: OwlForConditionalGeneration, processor: OwlProcessor, queries: int, seed: int) -> None:
    """Give an owl another number of queries, in place. All of f_K starts anew: what it learnt, it learnt with the
    others.
    """
    vision, abstractor = model.config.vision_config, model.config.abstractor_config
    if queries == getattr(abstractor, "num_queries", None):
        return
    change(vision, abstractor, None, queries)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.model.abstractor = OwlAbstractor(abstractor).to(model.dtype).eval()
    processor.media_length = model.config.media_length


def reconnect(
    model: OwlForConditionalGeneration, processor: OwlProcessor, name: str, queries: int | None, seed: int
) -> None:
    """Give an owl another connector, in place; it starts random."""
    model.config.abstractor_config = other_connector(model.config, name, queries)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.model.abstractor = new_connector(model.config.abstractor_config).to(model.dtype).eval()
    processor.media_length = model.config.media_length


def other_connector(config: OwlConfig, name: str, queries: int | None) -> PreTrainedConfig:
    """The connector `name` for that owl: as deep as the one whose place it takes, with as many queries unless told,
    and with weights as large to begin with.
    """
    vision, old = config.vision_config, config.abstractor_config
    if vision.temporal:
        raise ConfigError(
            f"connector={name!r}: f_V of this owl sees a video as a whole, and only the abstractor it came with takes "
            "that; start from an owl of pictures"
        )
    summarises = name not in PROJECTIONS and hasattr(old, "num_queries")
    made: Any = connector_config(
        name, vision, config.text_config.hidden_size, old.num_queries if queries is None and summarises else queries
    )
    made.initializer_range = old.initializer_range
    if summarises:
        made.num_hidden_layers = old.num_hidden_layers
    return made


def branch(model: OwlForConditionalGeneration, adaptive: bool) -> OwlForConditionalGeneration:
    """The same owl with a visual branch in its decoder, at first a copy of the text branch; or without one."""
    text = model.config.text_config
    if (wanted := branched(text, adaptive)) is text:
        return model
    config = copy.deepcopy(model.config)
    config.text_config = wanted
    had = model.state_dict()
    seen = {name: tensor for name, tensor in had.items() if name.startswith(("model.vision.", "model.abstractor."))}
    tensors = {name: tensor.clone() for name, tensor in (seen | spoken(config, had)).items()}
    made = OwlForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors, dtype=model.dtype)
    return made.eval()
