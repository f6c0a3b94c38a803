"""Ways back from positions to patches: connectors that were built to look somewhere, and rollout by its formula."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from backbones import shaken
from mplug_owl.engine.insight.attention import OVERHEARD, listening, over_heads
from mplug_owl.engine.insight.paths import Rollout, patches_alone, through_connector, through_vision
from mplug_owl.errors import RequestError
from mplug_owl.models.abstractor import OwlAbstractor, OwlAbstractorConfig
from mplug_owl.models.connectors import OwlQFormerConfig, OwlResamplerConfig, connector
from mplug_owl.models.vision import OwlVisionConfig, OwlVisionModel

WIDTH, TOKENS, QUERIES = 16, 9, 5
SIZE = {"hidden_size": WIDTH, "output_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
CONFIGS = {
    "abstractor": OwlAbstractorConfig(**SIZE, num_queries=QUERIES, intermediate_size=24),
    "q-former": OwlQFormerConfig(**SIZE, num_queries=QUERIES, intermediate_size=24, input_size=WIDTH),
    "resampler": OwlResamplerConfig(**SIZE, num_queries=QUERIES, intermediate_size=24),
}


@contextmanager
def kept() -> Iterator[dict[nn.Module, Tensor]]:
    found: dict[nn.Module, Tensor] = {}
    with torch.no_grad(), listening(lambda module, weights: found.update({module: over_heads(weights)})):
        yield found


def ways(model: nn.Module, tokens: Tensor, **options: bool) -> Tensor:
    model.set_attn_implementation(OVERHEARD)
    with kept() as found:
        model(tokens, **options)
    return through_connector(model, found, len(tokens), tokens.shape[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_paths_follow_the_tokens(name: str) -> None:
    """Shares of a whole, of each picture alone, and in whatever order its tokens come."""
    model = shaken(connector(CONFIGS[name])).double()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    paths = ways(model, tokens)
    assert paths.shape == (2, model.config.positions, TOKENS)
    assert (paths >= 0).all() and (paths.sum(-1) < 1).all() and (paths[:, :QUERIES].sum(-1) > 0.1).all()
    order = torch.randperm(TOKENS, generator=generator)
    torch.testing.assert_close(ways(model, tokens[:, order]), paths[:, :, order], atol=1e-12, rtol=0)
    torch.testing.assert_close(ways(model, tokens[1:]), paths[1:], atol=1e-12, rtol=0)


def pointed_abstractor(layers: int, temporal: bool = False) -> OwlAbstractor:
    """Query j looks for token j: both are the same direction, and queries and keys are compared as they are."""
    size = {**SIZE, "num_hidden_layers": layers, "num_attention_heads": 1}
    model = OwlAbstractor(OwlAbstractorConfig(**size, num_queries=WIDTH, intermediate_size=24, temporal=temporal))
    with torch.no_grad():
        model.query_tokens[0] = torch.eye(WIDTH)
        if temporal:  # the second set looks for the second half of what it is shown
            model.temporal_query_tokens[0] = torch.eye(WIDTH)
        for layer in model.layers:
            for linear in (layer.attention.query, layer.attention.key):
                linear.weight.copy_(2 * torch.eye(WIDTH))
                linear.bias.zero_()
            layer.attention.out_proj.weight.zero_()  # queries stay what they are
            layer.attention.out_proj.bias.zero_()
            layer.mlp.w2.weight.zero_()
            layer.mlp.w2.bias.zero_()
    return model.double().eval()


@pytest.mark.parametrize("layers", [1, 3])
def test_a_query_leads_to_what_it_looks_for(layers: int) -> None:
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(2))
    paths = ways(pointed_abstractor(layers), torch.eye(WIDTH, dtype=torch.float64)[order][None])
    queries, end = paths[0, :WIDTH], paths[0, WIDTH]
    assert torch.equal(order[queries.argmax(-1)], torch.arange(WIDTH))
    normed = queries / queries.sum(-1, keepdim=True)
    assert (normed.max(-1).values > 0.99).all()
    # Half of the attention goes to the query itself, half of the rest is what it was: (1 - (3/4) ** layers) is left.
    torch.testing.assert_close(queries.sum(-1), torch.full((WIDTH,), 1 - 0.75**layers).double(), atol=1e-2, rtol=0)
    assert not end.any()


def test_both_sets_of_queries_of_a_video_count() -> None:
    model, frames = pointed_abstractor(1, temporal=True), torch.eye(WIDTH, dtype=torch.float64).repeat(2, 1)
    with torch.no_grad():
        model.temporal_query_tokens[0] = torch.eye(WIDTH).flip(0)
    paths = ways(model, frames[None], is_video=True)[0, :WIDTH].unflatten(-1, (2, WIDTH)).sum(1)
    for query in range(WIDTH):
        assert set(paths[query].topk(2).indices.tolist()) == {query, WIDTH - 1 - query}


def test_a_connector_of_another_kind_is_refused() -> None:
    with pytest.raises(RequestError, match="no way back through a Linear"):
        through_connector(nn.Linear(1, 1), {}, 1, 1)


def test_rollout_is_its_formula() -> None:
    config = OwlVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=42,
        patch_size=14,
    )
    model = shaken(OwlVisionModel(config)).double()
    model.set_attn_implementation(OVERHEARD)
    pixels = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rollout, layers = Rollout(), []
    with torch.no_grad(), listening(rollout):
        model(pixels)
    with torch.no_grad(), listening(lambda module, weights: layers.append((weights.mean(1) + torch.eye(10)) / 2)):
        model(pixels)
    assert rollout.paths is not None
    torch.testing.assert_close(rollout.paths, layers[2] @ layers[1] @ layers[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(rollout.paths.sum(-1), torch.ones(2, 10, dtype=torch.float64))


def test_only_what_leaves_a_tower_leads_back() -> None:
    """cls, two registers and four patches inside; cls and patches leave, or patches alone."""
    inside = torch.rand(1, 7, 7)
    both, patches = through_vision(inside, 5, 4), through_vision(inside, 4, 4)
    assert torch.equal(both[0, 0], inside[0, 0, 3:]) and torch.equal(both[:, 1:], patches)
    assert torch.equal(patches[0], inside[0, 3:, 3:])
    assert torch.equal(patches_alone(5, 4, inside), torch.cat((torch.zeros(1, 4), torch.eye(4))))
