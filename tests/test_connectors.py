"""The connectors: what goes in and comes out, that every weight learns, and the formulas written out."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer

import mplug_owl.models  # noqa: F401 - registers the Auto classes
from backbones import shaken
from mplug_owl.errors import ConfigError
from mplug_owl.models.connectors import OwlConnector, OwlQFormerConfig, connector
from mplug_owl.models.decoders import fields_of
from mplug_owl.models.slots import CONNECTORS, PROJECTIONS, connector_config, heads_of

VISION = SimpleNamespace(hidden_size=32, use_cls_token=True, grid=3, num_tokens=10)
WIDTH = 24
every = pytest.mark.parametrize("name", CONNECTORS)


def made(name: str, queries: int | None = None) -> OwlConnector:
    config = connector_config(name, VISION, WIDTH, queries)
    if hasattr(config, "num_queries"):
        config.num_hidden_layers = 3
    return shaken(connector(config).double())


def tokens(images: int = 3) -> torch.Tensor:
    return torch.randn(images, VISION.num_tokens, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@every
def test_it_gives_as_many_positions_as_it_says(name: str) -> None:
    model = made(name, None if name in PROJECTIONS else 5)
    out = model(tokens()).last_hidden_state
    assert out.shape == (3, model.config.positions, WIDTH)
    assert model.config.positions == {"abstractor": 6, "linear": 10, "mlp": 10}.get(name, 5)
    assert model.config.input_size == 32 and model.config.summary


@every
def test_a_picture_is_seen_alone(name: str) -> None:
    model, seen = made(name), tokens()
    with torch.no_grad():
        together = model(seen).last_hidden_state
        alone = torch.cat([model(one[None]).last_hidden_state for one in seen])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


@every
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_weight_learns_and_dropout_rests(name: str, attention: str) -> None:
    model = made(name)
    model.set_attn_implementation(attention)
    out = model(tokens()).last_hidden_state
    torch.testing.assert_close(model(tokens()).last_hidden_state, out, atol=0, rtol=0)
    (out * torch.randn_like(out)).sum().backward()
    for parameter_name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", [name for name in CONNECTORS if name not in PROJECTIONS])
def test_activation_checkpointing_changes_nothing(name: str) -> None:
    model = made(name)
    model(tokens()).last_hidden_state.square().sum().backward()
    expected = {n: w.grad.clone() for n, w in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    for module in model.modules():  # in training all would drop out; here only the recomputation counts
        module.training = isinstance(module, GradientCheckpointingLayer)
    model(tokens()).last_hidden_state.square().sum().backward()
    for n, w in model.named_parameters():
        torch.testing.assert_close(w.grad, expected[n], atol=1e-12, rtol=1e-9)


@every
def test_it_saves_and_loads_by_its_kind(name: str, tmp_path) -> None:
    model = made(name).float()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(model) and fields_of(again.config) == fields_of(model.config)
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[key]), key


def test_a_projection_is_its_matrices() -> None:
    seen, linear, mlp = tokens(), made("linear"), made("mlp")
    (weight, bias), (first, first_bias, second, second_bias) = linear.parameters(), mlp.parameters()
    with torch.no_grad():
        torch.testing.assert_close(linear(seen).last_hidden_state, seen @ weight.T + bias)
        inner = F.gelu(seen @ first.T + first_bias)
        torch.testing.assert_close(mlp(seen).last_hidden_state, inner @ second.T + second_bias)


@torch.no_grad()
def test_a_resampler_is_flamingos() -> None:
    """Each latent asks picture and latents at once; residuals around attention and feed-forward."""
    model, seen = made("resampler", 4), tokens(1)
    x = model.query_tokens
    for layer in model.layers:
        asks = F.layer_norm(x, (32,), layer.norm_latents.weight, layer.norm_latents.bias)
        media = F.layer_norm(seen, (32,), layer.norm_media.weight, layer.norm_media.bias)
        memory = torch.cat((media, asks), dim=1)
        parts = layer.attention
        query, key, value = asks @ parts.query.weight.T, memory @ parts.key.weight.T, memory @ parts.value.weight.T
        heads = [part.unflatten(-1, (parts.num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
        weights = (heads[0] @ heads[1].transpose(-1, -2) / heads[0].shape[-1] ** 0.5).softmax(-1)
        x = x + (weights @ heads[2]).transpose(1, 2).flatten(2) @ parts.dense.weight.T
        normed = F.layer_norm(x, (32,), layer.norm_mlp.weight, layer.norm_mlp.bias)
        x = x + F.gelu(normed @ layer.fc1.weight.T) @ layer.fc2.weight.T
    out = model.projection(F.layer_norm(x, (32,), model.norm.weight, model.norm.bias))
    torch.testing.assert_close(model(seen).last_hidden_state, out, atol=1e-12, rtol=0)


def test_a_q_former_looks_at_the_picture_in_every_other_layer() -> None:
    model = made("q-former")
    assert [layer.picture is not None for layer in model.layers] == [True, False, True]


def test_what_does_not_fit_is_refused() -> None:
    for name in PROJECTIONS:
        with pytest.raises(ConfigError, match=rf"queries=8; {name} has none: it keeps all 10 tokens"):
            connector_config(name, VISION, WIDTH, 8)
    with pytest.raises(ConfigError, match="queries=0; expected at least 1"):
        connector_config("resampler", VISION, WIDTH, 0)
    with pytest.raises(ConfigError, match="hidden_size=768 is not a multiple of num_attention_heads=7"):
        OwlQFormerConfig(num_attention_heads=7)


def test_heads_are_64_wide_or_narrower() -> None:
    assert [heads_of(width) for width in (32, 64, 768, 1024, 1152, 1408, 100)] == [1, 1, 12, 16, 18, 22, 2]
