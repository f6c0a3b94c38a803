"""The abstractor by itself: its position tables, its residual, its temporal queries."""

import math

import pytest
import torch

from mplug_owl.errors import ConfigError
from mplug_owl.models.abstractor import OwlAbstractor, OwlAbstractorConfig, compute_tables
from mplug_owl.models.owl import OwlConfig
from owls import random_owl

SMALL = {"hidden_size": 16, "output_size": 24, "num_queries": 5, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "intermediate_size": 20}


def test_position_tables_entry_by_entry() -> None:
    config = OwlAbstractorConfig(**SMALL, position_grid=3)
    queries, keys = compute_tables(config, torch.device("cpu"))
    assert queries.shape == (5, 16) and keys.shape == (10, 16)
    for position in range(5):
        for j in range(8):
            angle = position / 10000 ** (j / 8)
            assert queries[position, j].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert queries[position, 8 + j].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert torch.count_nonzero(keys[0]) == 0  # cls
    for row in range(3):
        for column in range(3):
            entry = keys[1 + 3 * row + column]
            for j in range(4):
                weight = 10000 ** -(j / 4)
                expected = [math.sin(column * weight), math.cos(column * weight)]
                expected += [math.sin(row * weight), math.cos(row * weight)]
                assert entry[[j, 4 + j, 8 + j, 12 + j]].tolist() == pytest.approx(expected, abs=1e-6)


def test_fresh_models_compute_their_tables_also_from_the_meta_device() -> None:
    config = OwlAbstractorConfig(**SMALL, position_grid=3)
    queries, keys = compute_tables(config, torch.device("cpu"))
    for layer in OwlAbstractor(config).layers:
        assert torch.equal(layer.attention.q_pos_embed, queries)
        assert torch.equal(layer.attention.k_pos_embed, keys)


@torch.inference_mode()
def test_positions_steer_attention_but_are_not_read() -> None:
    """With all keys alike the context is the mean value, wherever the tables point."""
    abstractor = random_owl("tiny-owl2").model.abstractor
    attention = abstractor.layers[0].attention
    for linear in (attention.query, attention.key):
        linear.weight.zero_()
    queries, image = torch.randn(1, 8, 64).double(), torch.randn(1, 17, 64).double()
    out, _ = attention(queries, image)
    mean = attention.value(torch.cat((queries, image), dim=1)).mean(1)
    torch.testing.assert_close(out, attention.out_proj(mean)[:, None].expand_as(out))


@torch.inference_mode()
def test_last_position_is_the_learned_end_of_image() -> None:
    abstractor = random_owl("tiny-owl").model.abstractor
    out = abstractor(torch.randn(3, 17, 64).double()).last_hidden_state
    assert out.shape == (3, 9, 64)
    assert torch.equal(out[:, -1], abstractor.vit_eos[0].expand(3, -1))


@torch.inference_mode()
def test_temporal_queries_are_used_for_videos_only() -> None:
    abstractor = random_owl("tiny-owl-video").model.abstractor
    tokens = torch.randn(1, 2 * 17, 64).double()
    image, video = abstractor(tokens), abstractor(tokens, is_video=True)
    assert image.last_hidden_state.shape == video.last_hidden_state.shape == (1, 9, 64)
    assert (image.last_hidden_state - video.last_hidden_state).abs().max() > 0.01


def test_modules_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size=16.*num_attention_heads=3"):
        OwlAbstractorConfig(**SMALL | {"num_attention_heads": 3})
    with pytest.raises(ConfigError, match="divisible by 4"):
        OwlAbstractorConfig(**SMALL | {"hidden_size": 18, "position_grid": 3})
    with pytest.raises(ConfigError, match=r"abstractor hidden_size=16 does not fit vision hidden_size=1024"):
        OwlConfig(abstractor_config=OwlAbstractorConfig(**SMALL))
    with pytest.raises(ConfigError, match=r"output_size=24 does not fit text hidden_size=4096"):
        OwlConfig(abstractor_config=OwlAbstractorConfig(**SMALL | {"hidden_size": 1024, "num_attention_heads": 16}))
