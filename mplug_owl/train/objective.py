"""The loss of one micro-batch, computed alike on every rank.

Ranks that hold shards of one model must run the same modules in the same order, whatever rows they drew. So they agree
on the vision calls of each micro-batch; a rank that has no picture for a call shows the owl a black one and multiplies
it by zero. This file knows nothing of optimizers.

Shapes: M media, T frames, S side of a picture, Q + 1 positions of one medium, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug_owl.errors import ConfigError
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.vision import OwlVisionConfig


def _vision(owl: OwlForConditionalGeneration) -> OwlVisionConfig:
    return cast(OwlVisionConfig, owl.config.vision_config)


def calls_of(owl: OwlForConditionalGeneration, inputs: Mapping[str, Any]) -> set[int]:
    """Lengths in frames of the clips that the owl will see, one vision call for each: a picture is a clip of one
    frame, and so is each frame of a video where there is no temporal branch.
    """
    calls = set()
    images, videos = inputs.get("pixel_values"), inputs.get("pixel_values_videos")
    if images is not None and len(images):
        calls.add(1)
    if videos is not None and len(videos):
        temporal = _vision(owl).temporal
        calls |= {len(video) for video in videos} if temporal else {1}
    decoder = (owl.model.language_model, owl.lm_head)
    if not calls and not any(weight.requires_grad for part in decoder for weight in part.parameters()):
        calls.add(1)  # only what sees is trained: text alone would leave the loss without a gradient
    return calls


def places_of_patches(boxes_FR4: Tensor, grid: int) -> Tensor:
    """[F, P]: the last place that the middle of each patch lies in; a place is at least as large as a patch."""
    steps = (torch.arange(grid, device=boxes_FR4.device) + 0.5) / grid
    middles_P2 = torch.cartesian_prod(steps, steps).flip(1)  # row by row, as x and y
    low, high = boxes_FR4[..., :2], boxes_FR4[..., 2:]
    reach = ((high - low) / 2).clamp(min=0.5 / grid)
    far_FPR2 = (middles_P2[None, :, None] - (low + high)[:, None] / 2).abs()
    inside_FPR = (far_FPR2 <= reach[:, None]).all(-1)
    order = torch.arange(boxes_FR4.shape[1], device=boxes_FR4.device)
    return (inside_FPR * order).argmax(-1)


class Objective(nn.Module):
    """An owl and its training loss: the root that parallelism wraps."""

    def __init__(self, owl: OwlForConditionalGeneration) -> None:
        super().__init__()
        self.owl = owl

    def forward(self, inputs: Mapping[str, Any], labels: Tensor, calls: Sequence[int], targets: int) -> Tensor:
        """Cross entropy summed over the labels of `inputs`, divided by `targets`."""
        if "boxes" in inputs:
            return self.name_places(inputs["pixel_values"], inputs["boxes"], labels) / targets
        rest = {k: v for k, v in inputs.items() if not k.startswith("pixel_values")}
        input_ids = rest.pop("input_ids")
        features, nothing = self.look(inputs, calls)
        embeds = self.owl.model.embed(input_ids, features)
        if nothing is not None:
            # Here and not on the loss: where f_L is frozen, its backward then passes through the same layers on ranks
            # with and without pictures.
            embeds = embeds + nothing
        if getattr(self.owl.model.language_model, "takes_visual_index", False):
            rest["visual_index"] = self.owl.model.visual_index(input_ids, features)
        states = self.owl.model(**rest, inputs_embeds=embeds, use_cache=False).last_hidden_state
        wanted = labels[:, 1:].flatten()
        rows = ((wanted >= 0) & (wanted < self.owl.lm_head.weight.shape[0])).nonzero()[:, 0]  # media ids are no words
        return self.judge(states, wanted, rows) / targets

    def judge(self, states_BLD: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
        """The loss of the rows that are learnt from. No other passes the head: logits are the largest tensors of a
        step.
        """
        states = states_BLD[:, :-1].flatten(0, 1).index_select(0, rows)
        logits = self.owl.lm_head(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, wanted[rows], reduction="sum")

    def name_places(self, pixels: Tensor, boxes_FR4: Tensor, words_FRK: Tensor) -> Tensor:
        """Cross entropy of f_V's patches against the words of the places they lie in, summed over pictures: a patch
        should look, to f_L's own head, like the words for what it shows. The other words of the micro-batch are the
        wrong answers.

        R places, K words of a place, P patches, W words in all.
        """
        if not len(pixels):
            return 0 * self.see_patches(pixels).sum()
        seen_FPD = self.see_patches(pixels)
        place_FP = places_of_patches(boxes_FR4, round(seen_FPD.shape[1] ** 0.5))
        wanted_FPK = words_FRK.gather(1, place_FP[:, :, None].expand(-1, -1, words_FRK.shape[2]))
        known = torch.unique(words_FRK[words_FRK >= 0])  # sorted
        return self.name_patches(seen_FPD, known, torch.searchsorted(known, wanted_FPK.clamp(min=0)), wanted_FPK >= 0)

    def name_patches(self, seen_FPD: Tensor, known_W: Tensor, wanted_FPK: Tensor, counts_FPK: Tensor) -> Tensor:
        logits_FPW = F.linear(seen_FPD, self.owl.lm_head.weight.index_select(0, known_W))
        logits_FPW = logits_FPW.to(torch.promote_types(logits_FPW.dtype, torch.float32))
        said_FPK = logits_FPW.log_softmax(-1).gather(2, wanted_FPK) * counts_FPK
        return -(said_FPK.sum(-1) / counts_FPK.sum(-1)).mean(-1).sum()

    def see_patches(self, pixels: Tensor) -> Tensor:
        """f_V's patches [F, P, D], without cls; of a black picture where there is none."""
        config, width = _vision(self.owl), self.owl.lm_head.weight.shape[1]
        if config.hidden_size != width:
            raise ConfigError(
                f'data.learn = "places" compares patches with words, but f_V is {config.hidden_size} wide and f_L '
                f"{width}; expected the same width"
            )
        if not len(pixels):
            side = config.image_size
            pixels = torch.zeros(1, 3, side, side, device=self.owl.device)
        seen: Tensor = self.owl.model.vision(pixels).last_hidden_state
        return seen[:, int(config.use_cls_token) :]

    def look(self, inputs: Mapping[str, Any], calls: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        """What f_V and f_K make of all media, by modality [M, Q + 1, D]; and zero times what was shown for nothing."""
        clips = self.clips(inputs)
        summaries: dict[int, Tensor] = {}
        nothing: Tensor | None = None
        for frames in calls:
            members = [i for i, (_, clip) in enumerate(clips) if len(clip) == frames]
            seen_MQD = self.see([clips[i][1] for i in members], frames)
            if not members:
                nothing = 0 * seen_MQD.sum() + (0 if nothing is None else nothing)
            for i, summary in zip(members, seen_MQD, strict=False):
                summaries[i] = summary
        features = {}
        for modality in ("image", "video"):
            rows = [summaries[i] for i, (kind, _) in enumerate(clips) if kind == modality]
            if rows:
                features[modality] = torch.stack(rows)
        return features, nothing

    def clips(self, inputs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
        """All media as (modality, [T, 3, S, S]), in the order of the positions they fill."""
        images, videos = inputs.get("pixel_values"), inputs.get("pixel_values_videos")
        clips = [("image", image[None]) for image in (() if images is None else images)]
        for video in () if videos is None else videos:
            whole = _vision(self.owl).temporal
            clips += [("video", part) for part in ([video] if whole else video.split(1))]
        return clips

    def see(self, clips: Sequence[Tensor], frames: int) -> Tensor:
        """One vision call over clips of the same length; a black one if there are none."""
        if clips:
            pixels = torch.stack(tuple(clips))
        else:
            side = _vision(self.owl).image_size
            pixels = torch.zeros(1, frames, 3, side, side, device=self.owl.device)
        seen = self.owl.get_image_features(pixels[:, 0]) if frames == 1 else self.owl.get_video_features(pixels)
        return seen.pooler_output
