"""Overhearing attention: a copy of an owl that shares its weights and tells every attention weight it computes.

The owl itself is not touched, so whoever asks it meanwhile gets the same answers. The weights are told while the copy
runs and kept by nobody else; what is made of them is not known here.

Shapes: B rows, H heads, Q queries, M keys, K head width.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mplug_owl.models.bloom import OwlBloomAttention, OwlBloomModel
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.vision import eager_attention

Listener = Callable[[nn.Module, Tensor], None]
"""Gets an attention module and its weights [B, H, Q, M], in the order of computation."""

OVERHEARD = "mplug_owl_overheard"
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def overheard_attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Attention spelled out, whose weights go to whoever listens; dropout rests, for nothing is trained here."""
    out, weights = eager_attention(module, *args, **{**kwargs, "dropout": 0.0})
    _tell(module, weights)
    return out, weights


ALL_ATTENTION_FUNCTIONS.register(OVERHEARD, overheard_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(OVERHEARD, eager_mask)


def _tell(module: nn.Module, weights: Tensor) -> None:
    listener = _LISTENER.get()
    if listener is not None:
        listener(module, weights)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` what overheard models attend to, in this thread, until the block ends."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def overheard(model: OwlForConditionalGeneration) -> OwlForConditionalGeneration:
    """The same owl over the same weights, with attention that can be overheard."""
    tensors = [*model.parameters(), *model.buffers()]
    twin: OwlForConditionalGeneration = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for part in (twin.model.vision, twin.model.abstractor, twin.model.language_model):
        if isinstance(part, OwlBloomModel):  # it spells attention out by itself: positions are part of its scores
            for module in part.modules():
                if isinstance(module, OwlBloomAttention):
                    module.register_forward_hook(lambda module, _, out: _tell(module, out[1]))
        else:
            part.set_attn_implementation(OVERHEARD)
    return twin.eval()


def over_heads(weights: Tensor) -> Tensor:
    """The mean over heads [B, Q, M], in float32 at least."""
    return weights.to(torch.promote_types(weights.dtype, torch.float32)).mean(1)
