"""Small owls with weights that matter, and batches for them; shared by the model tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

import mplug_owl.models  # noqa: F401 - registers the Auto classes
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration

TINY = ["tiny-owl", "tiny-owl-video", "tiny-owl-bloomz", "tiny-owl2", "tiny-owl2.1"]


def random_owl(
    family: str | OwlConfig, dtype: torch.dtype = torch.float64, seed: int = 0
) -> OwlForConditionalGeneration:
    """An owl whose every parameter is far from its initial value, so that a path not taken would
    show.
    """
    config = FAMILIES[family].config() if isinstance(family, str) else family
    model = OwlForConditionalGeneration(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if weight.ndim == 1:
                is_norm_weight = name.endswith("weight")
                weight.copy_(1 + 0.25 * noise if is_norm_weight else 0.15 * noise)
            elif "embed" in name or "query_tokens" in name or "vit_eos" in name:
                weight.copy_(0.7 * noise)
            else:
                scale = 3.0 if name.startswith("lm_head") else 1.1
                weight.copy_(scale * noise / weight[0].numel() ** 0.5)
    return model


@dataclass
class Row:
    """One conversation: ids in which "image" and ("video", frames) stand for media, with the
    pixels they need.
    """

    ids: list[int] = field(default_factory=list)
    images: list[torch.Tensor] = field(default_factory=list)
    videos: list[torch.Tensor] = field(default_factory=list)


class Rows:
    """Builds rows for a model and batches them."""

    def __init__(self, model: OwlForConditionalGeneration, seed: int = 1) -> None:
        self.model, self.config = model, model.config
        self.generator = torch.Generator().manual_seed(seed)

    def pixels(self, *shape: int) -> torch.Tensor:
        size = self.config.vision_config.image_size
        noise = torch.randn(*shape, 3, size, size, generator=self.generator, dtype=torch.float64)
        return noise.to(self.model.dtype)

    def text(self, count: int) -> list[int]:
        return torch.randint(3, 250, (count,), generator=self.generator).tolist()

    def row(self, *parts: int | str | tuple[str, int]) -> Row:
        """`row(4, "image", 3, ("video", 2))`: 4 text ids, an image, 3 text ids, a video of 2
        frames.
        """
        row, config = Row([1]), self.config
        for part in parts:
            if isinstance(part, int):
                row.ids += self.text(part)
            elif part == "image":
                row.ids += [config.image_token_id] * config.media_length
                row.images.append(self.pixels())
            else:
                frames = part[1]
                positions = config.media_length * (1 if config.vision_config.temporal else frames)
                row.ids += [config.video_token_id] * positions
                row.videos.append(self.pixels(frames))
        return row


def media(rows: Sequence[Row]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    images = [image for row in rows for image in row.images]
    videos = [video for row in rows for video in row.videos]
    kwargs: dict[str, torch.Tensor | list[torch.Tensor]] = {}
    if images:
        kwargs["pixel_values"] = torch.stack(images)
    if videos:
        kwargs["pixel_values_videos"] = videos
    return kwargs


def batch(rows: Sequence[Row], side: str = "left") -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Model inputs for the rows, padded with 0 on one side."""
    length = max(len(row.ids) for row in rows)
    pads = [[0] * (length - len(row.ids)) for row in rows]
    joined = [(p, r.ids) if side == "left" else (r.ids, p) for p, r in zip(pads, rows, strict=True)]
    kept = [(p, [1] * len(r.ids)) if side == "left" else ([1] * len(r.ids), p) for p, r in zip(pads, rows, strict=True)]
    return {
        "input_ids": torch.tensor([a + b for a, b in joined]),
        "attention_mask": torch.tensor([a + b for a, b in kept]),
        **media(rows),
    }
