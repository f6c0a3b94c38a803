"""The models that are compared: owls, and a LLaVA of the same shape whose weights they share.

All sides read one decoder's tensors, in the same memory. A visual branch holds copies of the text branch: equal values
make the logits equal, memory of its own makes it cost what it costs. Nothing is timed here.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

from mplug_owl.bench.plan import Plan
from mplug_owl.errors import RequestError
from mplug_owl.models import OwlAbstractorConfig, OwlConfig, OwlVisionConfig
from mplug_owl.models.adaptive import AdaptiveLlamaConfig
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlForConditionalGeneration

LLAVA = "llava"
CLIP_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size", "hidden_act", "layer_norm_eps"),
)


@dataclass(frozen=True)
class Size:
    """A size that owl, owl2 and LLaVA can all have; the released ones are in the family table."""

    width: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    image_size: int
    vision_intermediate: int
    abstractor_layers: int
    queries: int
    vision: tuple[int, int, int] | None = None
    """Width, layers and heads of the ViT and of the abstractor, where they are not the decoder's."""


SIZES = {
    "tiny": Size(64, 2, 4, 176, 320, 56, 128, 2, 8),
    "mini": Size(512, 6, 8, 1408, 8000, 112, 2048, 2, 64),
    "chat": Size(768, 12, 12, 2048, 32000, 224, 2048, 3, 64, vision=(512, 8, 8)),
    "small": Size(1024, 12, 16, 2816, 32000, 224, 4096, 6, 64),
}


def owl_configs(shape: str) -> dict[str, OwlConfig]:
    """An owl and an owl2 of a size, or the one family that a released size has."""
    if shape not in SIZES:
        return {shape.removesuffix("-7b"): FAMILIES[shape].config()}
    size = SIZES[shape]
    layers = {"hidden_size": size.width, "num_attention_heads": size.heads}
    width, depth, heads = size.vision or (size.width, size.layers, size.heads)
    eyes = {"hidden_size": width, "num_attention_heads": heads}
    vision = OwlVisionConfig(
        **eyes, intermediate_size=size.vision_intermediate, num_hidden_layers=depth, image_size=size.image_size
    )
    configs = {}
    for name, decoder, grid in (("owl", LlamaConfig, None), ("owl2", AdaptiveLlamaConfig, vision.grid)):
        abstractor = OwlAbstractorConfig(
            **eyes,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.abstractor_layers,
            num_queries=size.queries,
            output_size=size.width,
            position_grid=grid,
        )
        text = decoder(
            **layers, intermediate_size=size.intermediate, num_hidden_layers=size.layers, vocab_size=size.vocabulary
        )
        configs[name] = OwlConfig(vision_config=vision, abstractor_config=abstractor, text_config=text)
    return configs


def llava_config(config: OwlConfig) -> LlavaConfig:
    """LLaVA with a decoder and a ViT as large as those of `config`."""
    vision = {name: getattr(config.vision_config, name) for name in CLIP_FIELDS}
    text = {**config.get_text_config().to_dict(), "model_type": LlamaConfig.model_type}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig.from_dict(text),
        image_token_id=text["vocab_size"] - 1,
    )


def build_sides(plan: Plan) -> dict[str, PreTrainedModel]:
    """LLaVA and the owls of the plan's shape, with random weights."""
    if plan.device != "cpu" and not torch.cuda.is_available():
        raise RequestError(f"device {plan.device!r} asked for, but torch sees no GPU; use cpu")
    owls = owl_configs(plan.shape)
    configs = {LLAVA: llava_config(next(iter(owls.values()))), **owls}
    make = partial(AutoModelForImageTextToText.from_config, dtype=getattr(torch, plan.dtype))
    with torch.device(plan.device):
        sides = {name: make(config).eval() for name, config in configs.items()}
    for name in owls:
        take_weights(sides[name], sides[LLAVA])
    return sides


def take_weights(owl: OwlForConditionalGeneration, llava: LlavaForConditionalGeneration) -> None:
    decoder = owl.model.language_model
    theirs = llava.model.language_model.state_dict()
    decoder.load_state_dict(theirs, strict=False, assign=True)
    owl.lm_head.load_state_dict(llava.lm_head.state_dict(), assign=True)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "visual_" in name:
                weight.copy_(theirs[name.replace("visual_", "")])


def decoder_inputs(sides: dict[str, PreTrainedModel], plan: Plan) -> dict[str, dict[str, Tensor]]:
    """The same embeddings for every side, and where the visual ones lie for whom that matters."""
    table = sides[LLAVA].get_input_embeddings().weight
    embeds = torch.randn(1, plan.positions, table.shape[1]).to(table) * table.std()
    before = (plan.positions - plan.visual) // 2
    index = torch.arange(before, before + plan.visual, device=table.device)
    inputs = {}
    for name, model in sides.items():
        adaptive = getattr(model.model.language_model, "takes_visual_index", False)
        inputs[name] = {"inputs_embeds": embeds, **({"visual_index": index} if adaptive else {})}
    return inputs


def flops_of_prefill(model: OwlForConditionalGeneration, plan: Plan) -> float:
    """What a prefill must compute, the last position's logits included."""
    decoder = model.model.language_model
    text = decoder.config
    weights = model.lm_head.weight.numel()
    for name, weight in decoder.named_parameters():
        if weight.ndim == 2 and not name.startswith("embed_tokens"):
            weights += weight.numel() * (plan.visual if "visual_" in name else plan.positions)
    # Queries by keys and weights by values, each over the causal half of the square.
    width = text.num_attention_heads * decoder.layers[0].self_attn.head_dim
    return 2.0 * weights + 2.0 * plan.positions**2 * width * text.num_hidden_layers


def bytes_of_step(model: OwlForConditionalGeneration, plan: Plan) -> float:
    """What a decode step must read: each weight that text uses, and the cache."""
    decoder = model.model.language_model
    text = decoder.config
    head = model.lm_head.weight
    used = head.nbytes + sum(
        weight.nbytes
        for name, weight in decoder.named_parameters()
        if not name.startswith("embed_tokens") and "visual_" not in name
    )
    row = text.num_key_value_heads * decoder.layers[0].self_attn.head_dim * head.element_size()
    return float(used + 2 * row * plan.positions * text.num_hidden_layers)
