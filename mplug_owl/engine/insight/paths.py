"""Ways back: from the positions of the language model through the connector, and through the ViT, onto patches.

Attention rollout (Abnar and Zuidema, 2020): a layer passes on half of what was there and half of what it attended to.
A row says how much of each patch a position holds; what it holds of cls, or of the query it began as, is left out, so
rows sum to less than 1. Nothing is known here of pictures and words.

Shapes: B images or videos, N tokens of the vision model (of all frames), P patches, Q queries, S positions of one
image in the language model, M keys.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mplug_owl.engine.insight.attention import over_heads
from mplug_owl.errors import RequestError
from mplug_owl.models.abstractor import OwlAbstractor
from mplug_owl.models.connectors import OwlProjector, OwlQFormer, OwlResampler

Kept = Mapping[nn.Module, Tensor]
"""Attention of every module that was heard, averaged over heads."""


class Rollout:
    """A listener that multiplies the layers of a model up: `paths` [B, Q, M] leads from its outputs to its inputs."""

    def __init__(self) -> None:
        self.paths: Tensor | None = None

    def __call__(self, module: nn.Module, weights: Tensor) -> None:
        looked = over_heads(weights)
        if self.paths is None:
            self.paths = torch.eye(looked.shape[-1], dtype=looked.dtype, device=looked.device).expand_as(looked)
        self.paths = (looked @ self.paths + self.paths) / 2


def patches_alone(tokens: int, patches: int, like: Tensor) -> Tensor:
    """[N, P] that takes every patch for itself; what stands in front of the patches shows none."""
    return torch.eye(tokens, dtype=like.dtype, device=like.device)[:, tokens - patches :]


def through_vision(rollout_BNN: Tensor, tokens: int, patches: int) -> Tensor:
    """[B, N, P] for the `tokens` that leave a tower: its patches, and cls where that goes on too.

    Inside, there may be more in front of the patches, such as registers.
    """
    inside = rollout_BNN.shape[-1]
    onto = rollout_BNN[:, :, inside - patches :]
    leave = onto[:, inside - patches :]
    return torch.cat((onto[:, :1], leave), dim=1) if tokens > patches else leave


def through_connector(connector: nn.Module, kept: Kept, images: int, tokens: int) -> Tensor:
    """[B, S, N]: what each position of the language model holds of the tokens of the vision model.

    Raises: RequestError for a connector whose way is not known.
    """
    if type(connector) not in _WAYS:
        known = ", ".join(kind.__name__ for kind in _WAYS)
        raise RequestError(f"no way back through a {type(connector).__name__} is known; there is one through {known}")
    paths_BSN: Tensor = _WAYS[type(connector)](connector, kept, images, tokens)
    return paths_BSN


def _abstractor(connector: Any, kept: Kept, images: int, tokens: int) -> Tensor:
    """Queries attend to queries and tokens at once. The end of image is learned, and shows nothing."""
    looks = [kept[layer.attention] for layer in connector.layers]
    paths_BQN = _together([(look[..., :-tokens], look[..., -tokens:]) for look in looks])
    queries = connector.config.num_queries
    if paths_BQN.shape[1] > queries:  # a video has a second set of queries, whose output is added to that of the first
        paths_BQN = (paths_BQN[:, :queries] + paths_BQN[:, queries:]) / 2
    return torch.cat((paths_BQN, torch.zeros_like(paths_BQN[:, :1])), dim=1)


def _resampler(connector: Any, kept: Kept, images: int, tokens: int) -> Tensor:
    looks = [kept[layer.attention] for layer in connector.layers]
    return _together([(look[..., tokens:], look[..., :tokens]) for look in looks])


def _together(looks: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Rollout over layers of attention to the queries [B, Q, Q] and, beside it, to tokens that stay as they are."""
    paths_BQN = torch.zeros_like(looks[0][1])
    for to_queries, to_tokens in looks:
        paths_BQN = (paths_BQN + to_queries @ paths_BQN + to_tokens) / 2
    return paths_BQN


def _qformer(connector: Any, kept: Kept, images: int, tokens: int) -> Tensor:
    """Queries attend to each other and then, in some layers, to the tokens."""
    first = kept[connector.layers[0].itself.attention]
    paths_BQN = first.new_zeros(images, first.shape[1], tokens)
    for layer in connector.layers:
        paths_BQN = (paths_BQN + kept[layer.itself.attention] @ paths_BQN) / 2
        if layer.picture is not None:
            paths_BQN = (paths_BQN + kept[layer.picture.attention]) / 2
    return paths_BQN


def _projector(connector: Any, kept: Kept, images: int, tokens: int) -> Tensor:
    """A position is its token."""
    weight = connector.layers[0].weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.eye(tokens, dtype=dtype, device=weight.device).expand(images, -1, -1)


_WAYS: dict[type[nn.Module], Callable[..., Tensor]] = {
    OwlAbstractor: _abstractor,
    OwlProjector: _projector,
    OwlQFormer: _qformer,
    OwlResampler: _resampler,
}
