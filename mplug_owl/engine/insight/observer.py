"""One forward over a prompt and its answer that tells, for every token of the answer, where the owl looked.

The answer is given, so nothing is sampled: position by position the decoder has exactly what it had when it wrote.
Tokens are ids and pictures are pixels here; words and what pictures look like are not known.

Shapes: B prompts, L row length, A tokens of an answer, Y layers, S positions of a medium, F frames, N vision tokens,
P patches of a frame, G grid side, D width, V visual positions of a prompt.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mplug_owl.engine.insight.attention import listening, over_heads, overheard
from mplug_owl.engine.insight.paths import Rollout, patches_alone, through_connector, through_vision
from mplug_owl.engine.request import Medium
from mplug_owl.errors import RequestError, did_you_mean
from mplug_owl.models.abstractor import OwlAbstractorConfig
from mplug_owl.models.connectors import OwlProjectorConfig
from mplug_owl.models.owl import OwlForConditionalGeneration

PARTS = ("vision", "decoder")
"""What rollout can go through; without it, tokens count as their patches, and words look at pictures directly."""
_LAYERS, _NORMS = ("layers", "h"), ("norm", "ln_f", "final_layer_norm")


class Asked(NamedTuple):
    """A prompt, what was answered, and the pixels of its media, in reading order."""

    ids: Sequence[int]
    answer: Sequence[int]
    media: Sequence[Medium]


class Sight(NamedTuple):
    """What one medium became."""

    rows_SD: Tensor
    paths_SFP: Tensor
    """Of each position of the language model, what it holds of the patches."""


@dataclass(frozen=True, eq=False)
class Observation:
    logprobs_A: Tensor
    maps_AFGG: Tensor
    """Of each token of the answer, where it comes from; over the frames of all media it sums to 1."""
    shares_YAK: Tensor
    """Of each layer and token, how much attention goes to text, to ends of images, and to each medium."""
    queries: tuple[Tensor, ...]
    """[S, F, G, G] of each medium, each position for itself; none where a position is a patch."""
    places: tuple[tuple[int, ...], ...]
    """Of each medium, its positions that show something, counted over the visual positions of the prompt."""
    lens: tuple[Tensor, Tensor] | None
    """Ids and probabilities [Y, V, k] of the words that each visual position is nearest to behind each layer."""


class Observer:
    """Looks at answers of one model; it holds a copy of it over the same weights, so one may serve many answers."""

    def __init__(
        self,
        model: OwlForConditionalGeneration,
        *,
        rollout: Sequence[str] = (),
        layers: Sequence[int] | None = None,
        lens: int = 0,
    ) -> None:
        """`rollout` names PARTS to go through layer by layer; `layers` of the decoder, from 0, are those whose
        attention counts, all unless given; `lens` is how many words are told of every visual position.
        """
        for part in rollout:
            if part not in PARTS:
                raise RequestError(f"rollout through {part!r}{did_you_mean(part, PARTS)}")
        if layers is not None and "decoder" in rollout:
            raise RequestError("rollout goes through all layers of the decoder; leave layers out, or rollout")
        depth = model.config.get_text_config().num_hidden_layers
        for layer in layers if layers is not None else ():
            if not 0 <= layer < depth:
                raise RequestError(f"layer {layer} of a decoder of {depth}; expected 0 to {depth - 1}")
        if layers is not None and not layers:
            raise RequestError("no layers to look at; expected one at least, or layers=None for all")
        if lens < 0:
            raise RequestError(f"lens={lens}; expected the words of each position, 0 for none")
        self.model = overheard(model)
        self.rollout, self.layers, self.lens = frozenset(rollout), layers, lens
        connector = model.config.abstractor_config
        vision: Any = model.config.vision_config
        self.vision, self.grid = vision, int(vision.grid)
        self.has_end = isinstance(connector, OwlAbstractorConfig)
        self.has_queries = not isinstance(connector, OwlProjectorConfig)

    @torch.inference_mode()
    def observe(self, asked: Sequence[Asked]) -> list[Observation]:
        """Observe answers together, which changes none of them."""
        for each in asked:
            if not each.media:
                raise RequestError("nothing was shown, so there is nothing it looked at; show a picture or a video")
            if not each.answer:
                raise RequestError("the answer is empty, so there is no word to look for; ask something else")
        sights = iter(self.see([medium for each in asked for medium in each.media]))
        seen = [[next(sights) for _ in each.media] for each in asked]
        heard = _Heard(asked, "decoder" in self.rollout)
        rows = self._features(asked, seen)
        behind: list[Tensor] = []
        hooks = self._layer_hooks(behind) if self.lens else []
        try:
            with listening(heard):
                states_BLD = self.model.model(**heard.inputs(self.model, rows)).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        found = []
        for row, (each, sight) in enumerate(zip(asked, seen, strict=True)):
            places = heard.places(row)
            logits_AV = _wide(self.model.lm_head(states_BLD[row, places]))
            answer_A1 = torch.tensor(each.answer, device=logits_AV.device)[:, None]
            logprobs_A = logits_AV.log_softmax(-1).gather(1, answer_A1)[:, 0]
            lens = self._read([states[row, heard.visual(row)] for states in behind]) if self.lens else None
            found.append(self._observation(each, sight, heard, row, logprobs_A, lens))
        return found

    def logprob(self, asked: Sequence[Asked]) -> list[float]:
        """The logarithm of how likely each answer is, as a whole."""
        return [float(seen.logprobs_A.sum()) for seen in self.observe(asked)]

    # ---- pictures to positions -------------------------------------------------------------------

    def see(self, media: Sequence[Medium]) -> list[Sight]:
        """Media as rows of the language model, with the way back; those of one length are seen together."""
        clips = [_frames(medium) for medium in media]
        groups: dict[int, list[int]] = {}
        for place, clip in enumerate(clips):
            groups.setdefault(len(clip) if self.vision.temporal else 1, []).append(place)
        found: dict[int, Sight] = {}
        for together, members in groups.items():
            rows_BSD, paths_BSFP = self._see(torch.cat([clips[place] for place in members]), together)
            counts = [len(clips[place]) // together for place in members]
            parts = zip(torch.split(rows_BSD, counts), torch.split(paths_BSFP, counts), strict=True)
            for place, (rows, paths) in zip(members, parts, strict=True):
                # Frames that are seen one by one follow each other, and know nothing of each other.
                apart = paths if len(paths) == 1 else _apart(paths)
                found[place] = Sight(rows.flatten(0, 1), apart.flatten(0, 1))
        return [found[place] for place in range(len(media))]

    def _see(self, pixels_FCXY: Tensor, together: int) -> tuple[Tensor, Tensor]:
        """Rows [B, S, D] and ways back [B, S, frames, P] of clips of so many frames."""
        model, patches = self.model.model, self.grid**2
        inside = Rollout()
        moves: dict[str, Any] = {"num_frames": together} if together > 1 else {}
        with listening(inside) if "vision" in self.rollout else nullcontext():
            pixels = pixels_FCXY.to(self.model.device, self.model.dtype)
            tokens_FNC = model.vision(pixels, **moves).last_hidden_state
        count = tokens_FNC.shape[1]
        if "vision" in self.rollout:
            if inside.paths is None:
                kind = self.vision.model_type
                raise RequestError(f"a vision model of kind {kind!r} tells no attention; leave vision out of rollout")
            paths_FNP = through_vision(inside.paths, count, patches)
        else:
            paths_FNP = _wide(patches_alone(count, patches, tokens_FNC)).expand(len(tokens_FNC), -1, -1)
        kept: dict[nn.Module, Tensor] = {}
        with listening(lambda module, weights: kept.update({module: over_heads(weights)})):
            tokens_BNC = tokens_FNC.unflatten(0, (-1, together)).flatten(1, 2)
            rows_BSD = model.abstractor(tokens_BNC, **({"is_video": True} if moves else {})).last_hidden_state
        back_BSN = through_connector(model.abstractor, kept, len(tokens_BNC), tokens_BNC.shape[1])
        back_BSFN = torch.unflatten(back_BSN, -1, (together, count))
        return rows_BSD, torch.einsum("bsfn,bfnp->bsfp", back_BSFN, torch.unflatten(paths_FNP, 0, (-1, together)))

    def _features(self, asked: Sequence[Asked], seen: Sequence[Sequence[Sight]]) -> dict[str, Any]:
        """What the abstractor made of the media, as the model takes it."""
        length = self.model.config.media_length
        found: dict[str, list[Tensor]] = {"image": [], "video": []}
        for each, sights in zip(asked, seen, strict=True):
            for medium, sight in zip(each.media, sights, strict=True):
                found[medium.kind] += torch.split(sight.rows_SD, length)
        return {
            kind: BaseModelOutputWithPooling(pooler_output=torch.stack(rows)) for kind, rows in found.items() if rows
        }

    # ---- words back to pictures ------------------------------------------------------------------

    def _observation(
        self,
        each: Asked,
        sights: Sequence[Sight],
        heard: "_Heard",
        row: int,
        logprobs_A: Tensor,
        lens: tuple[Tensor, Tensor] | None,
    ) -> Observation:
        looks_YAL = torch.stack([layer[row] for layer in heard.looks])
        if heard.rolled is not None:
            looks_AL = heard.rolled[row, heard.places(row)]
        else:
            looks_AL = (looks_YAL if self.layers is None else looks_YAL[list(self.layers)]).mean(0)
        spans = [slice(heard.starts[row] + m.start, heard.starts[row] + m.end) for m in each.media]
        parts = [
            torch.einsum("as,sfp->afp", looks_AL[:, span], sight.paths_SFP)
            for span, sight in zip(spans, sights, strict=True)
        ]
        maps_AFP = torch.cat(parts, dim=1)
        shown = [self._shown(medium) for medium in each.media]
        own = zip(sights, shown, strict=True) if self.has_queries else ()
        before = list(accumulate((medium.length for medium in each.media), initial=0))
        return Observation(
            logprobs_A.cpu(),
            self._square(_normed(maps_AFP)).cpu(),
            self._shares(looks_YAL, spans).cpu(),
            tuple(self._square(_normed(sight.paths_SFP[places])).cpu() for sight, places in own),
            tuple(tuple(start + place for place in places) for start, places in zip(before, shown, strict=False)),
            lens,
        )

    def _shares(self, looks_YAL: Tensor, spans: Sequence[slice]) -> Tensor:
        """[Y, A, K] of text, ends of images, and media."""
        length, ends = self.model.config.media_length, looks_YAL.new_zeros(looks_YAL.shape[:2])
        media = []
        for span in spans:
            part = looks_YAL[..., span]
            end = part[..., length - 1 :: length].sum(-1) if self.has_end else torch.zeros_like(ends)
            ends = ends + end
            media.append(part.sum(-1) - end)
        text = looks_YAL.sum(-1) - ends - sum(media)
        return torch.stack([text, ends, *media], dim=-1)

    def _shown(self, medium: Medium) -> list[int]:
        """The positions that show something: all but ends of images."""
        length = self.model.config.media_length
        return [place for place in range(medium.length) if not self.has_end or (place + 1) % length]

    def _square(self, maps: Tensor) -> Tensor:
        return torch.unflatten(maps, -1, (self.grid, self.grid))

    # ---- logit lens ------------------------------------------------------------------------------

    def _layer_hooks(self, behind: list[Tensor]) -> list[Any]:
        decoder = self.model.model.language_model
        layers = next(getattr(decoder, name) for name in _LAYERS if hasattr(decoder, name))

        def note(module: nn.Module, args: Any, out: Any) -> None:
            behind.append(out[0] if isinstance(out, tuple) else out)

        return [layer.register_forward_hook(note) for layer in layers]

    def _read(self, behind: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The likeliest ids behind every layer, as if the decoder ended there, and their probabilities."""
        decoder = self.model.model.language_model
        norm = next((getattr(decoder, name) for name in _NORMS if getattr(decoder, name, None)), nn.Identity())
        tops = [_wide(self.model.lm_head(norm(states_VD))).softmax(-1).topk(self.lens) for states_VD in behind]
        return torch.stack([top.indices.cpu() for top in tops]), torch.stack([top.values.cpu() for top in tops])


class _Heard:
    """The batch on its way through the decoder: rows begin with padding, and what they attend to is noted."""

    def __init__(self, asked: Sequence[Asked], rolls: bool) -> None:
        self.asked = asked
        lengths = [len(each.ids) + len(each.answer) - 1 for each in asked]  # nothing follows the last token
        self.width = max(lengths)
        self.starts = [self.width - length for length in lengths]
        self.looks: list[list[Tensor]] = []
        """Of each layer and prompt, [A, L]."""
        self._rollout = Rollout() if rolls else None

    def __call__(self, module: nn.Module, weights: Tensor) -> None:
        looks_BLL = over_heads(weights)
        self.looks.append([looks_BLL[row, self.places(row)] for row in range(len(self.asked))])
        if self._rollout is not None:
            self._rollout(module, weights)

    @property
    def rolled(self) -> Tensor | None:
        return None if self._rollout is None else self._rollout.paths

    def places(self, row: int) -> slice:
        """The positions that wrote the answer: each is the one in front of its token."""
        first = self.starts[row] + len(self.asked[row].ids) - 1
        return slice(first, first + len(self.asked[row].answer))

    def visual(self, row: int) -> list[int]:
        start = self.starts[row]
        return [start + place for medium in self.asked[row].media for place in range(medium.start, medium.end)]

    def inputs(self, model: OwlForConditionalGeneration, features: dict[str, Any]) -> dict[str, Any]:
        rows = [[*each.ids, *each.answer[:-1]] for each in self.asked]
        ids_BL = torch.tensor([[0] * start + row for start, row in zip(self.starts, rows, strict=True)])
        mask_BL = torch.tensor([[0] * start + [1] * len(row) for start, row in zip(self.starts, rows, strict=True)])
        extra: dict[str, Any] = {}
        decoder = model.model.language_model
        if hasattr(decoder, "ntk_alpha"):  # the stretch of the prompt, which the answer was written with
            extra["ntk_alpha"] = decoder.ntk_alpha(torch.tensor([len(each.ids) for each in self.asked])).to(
                model.device
            )
        return {
            "input_ids": ids_BL.to(model.device),
            "attention_mask": mask_BL.to(model.device),
            "mm_encoder_outputs": features,
            "use_cache": False,
            **extra,
        }


def _frames(medium: Medium) -> Tensor:
    """[F, 3, X, Y]"""
    assert medium.pixels is not None, "a picture without pixels: only its rows were kept"
    return medium.pixels[None] if medium.kind == "image" else medium.pixels


def _apart(paths_FS1P: Tensor) -> Tensor:
    """Frames that were seen one by one, each with its own patches alone: [F, S, F, P]."""
    frames = len(paths_FS1P)
    own = torch.eye(frames, dtype=paths_FS1P.dtype, device=paths_FS1P.device)
    return torch.einsum("fsp,fg->fsgp", paths_FS1P[:, :, 0], own)


def _normed(maps: Tensor) -> Tensor:
    """Maps [.., F, P] that sum to 1, each over all its frames."""
    whole = maps.sum((-2, -1), keepdim=True)
    return maps / whole.clamp(min=torch.finfo(maps.dtype).tiny)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
