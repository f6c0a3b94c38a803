"""The vision model by itself: norms in half precision, resampled positions, the temporal branch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mplug_owl.errors import ConfigError
from mplug_owl.models.vision import OwlVisionConfig, OwlVisionModel, TemporalBranch
from owls import random_owl

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_layer_norm_in_half_precision_is_the_float32_norm(dtype: torch.dtype, bits: int) -> None:
    """The original computes norms in float32 and casts back; torch's own kernel does that, to the
    last bit.
    """
    norm = nn.LayerNorm(64).to(dtype)
    x = (torch.randn(50, 64) * 30).to(dtype)
    exact = F.layer_norm(x.float(), (64,), norm.weight.float(), norm.bias.float(), norm.eps)
    torch.testing.assert_close(norm(x).float(), exact, rtol=2.0**-bits, atol=1e-6)


def test_positions_without_cls_are_resampled_bicubically() -> None:
    config = OwlVisionConfig(**SMALL, image_size=56, patch_size=14, use_cls_token=False)
    embeddings = OwlVisionModel(config).embeddings
    with torch.no_grad():
        embeddings.position_embedding.copy_(torch.randn(256, 32))
        table = embeddings.position_embedding.T.reshape(1, 32, 16, 16)
        expected = F.interpolate(table, size=(4, 4), mode="bicubic", align_corners=False)
        assert torch.equal(embeddings.positions(), expected.reshape(32, 16).T)


def test_positions_that_fit_are_left_alone() -> None:
    config = OwlVisionConfig(**SMALL, image_size=224, patch_size=14, use_cls_token=False)
    embeddings = OwlVisionModel(config).embeddings
    assert embeddings.positions() is embeddings.position_embedding


def test_temporal_branch_is_the_published_convolution() -> None:
    """Against Conv3d itself, on [videos, width, frames, patches, 1]; cls is doubled."""
    config = OwlVisionConfig(**SMALL, image_size=28, patch_size=14, temporal=True)
    branch = TemporalBranch(config).double()
    x = torch.randn(2 * 5, 1 + 4, 32, dtype=torch.float64)
    with torch.no_grad():
        patches = branch.ln(x[:, 1:]).unflatten(0, (2, 5)).permute(0, 3, 1, 2)[..., None]
        y = branch.conv(branch.down_proj(patches))
        y = branch.up_proj(y * torch.sigmoid(1.702 * y))[..., 0].permute(0, 2, 3, 1).flatten(0, 1)
        expected = torch.cat((2 * x[:, :1], x[:, 1:] + y), dim=1)
        torch.testing.assert_close(branch(x, 5, True), expected, rtol=0, atol=1e-12)


def test_temporal_branch_survives_bfloat16() -> None:
    """Values that overflow float16, to which the original drops here, stay finite."""
    config = OwlVisionConfig(**SMALL, image_size=28, patch_size=14, temporal=True)
    branch = TemporalBranch(config).to(torch.bfloat16)
    with torch.no_grad():
        branch.down_proj.weight.fill_(3e3)
        branch.conv.weight.fill_(1e3)
        out = branch(torch.randn(4, 5, 32, dtype=torch.bfloat16), 4, True)
    assert out.isfinite().all()


@torch.inference_mode()
def test_bfloat16_follows_float32() -> None:
    for family in ("tiny-owl-video", "tiny-owl2.1"):
        owl = random_owl(family, torch.float32)
        pixels = torch.randn(3, 3, 56, 56)
        exact = owl.model.vision(pixels, num_frames=3 if "video" in family else 1).last_hidden_state
        half = owl.to(torch.bfloat16).model.vision(pixels, num_frames=3 if "video" in family else 1)
        gap = (half.last_hidden_state.float() - exact).norm() / exact.norm()
        assert gap < 0.05


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size=32.*num_attention_heads=5"):
        OwlVisionConfig(**SMALL | {"num_attention_heads": 5})


@torch.inference_mode()
def test_hidden_states_and_attentions_can_be_recorded() -> None:
    owl = random_owl("tiny-owl2", torch.float32)
    owl.set_attn_implementation("eager")
    pixels = torch.randn(2, 3, 56, 56)
    seen = owl.model.vision(pixels, output_attentions=True, output_hidden_states=True)
    assert len(seen.hidden_states) == 3 and len(seen.attentions) == 2
    assert seen.attentions[0].shape == (2, 4, 17, 17)
    summary = owl.model.abstractor(seen.last_hidden_state, output_attentions=True)
    assert summary.attentions[0].shape == (2, 4, 8, 8 + 17)
    torch.testing.assert_close(summary.attentions[0].sum(-1), torch.ones(2, 4, 8))
