"""The model's side of the engine: media to rows, chunks of prompts into the cache, one step for all that answer.

Prompts go through the model's own decoder, visual rows and all; single positions through `step.py`, which is recorded
where `graphs.py` can. Who asks, and what is done with the scores, is not known here.

Shapes: B rows, L positions of the longest chunk, D width, V vocabulary.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mplug_owl.engine.cache import SlotCache, Window
from mplug_owl.engine.graphs import RECORDERS, Graphs, Scoring, Unrecordable
from mplug_owl.engine.memory import available
from mplug_owl.engine.request import Medium
from mplug_owl.engine.step import Map, Step, direct, packed, step_of, worth_packing
from mplug_owl.errors import ConfigError
from mplug_owl.models.masks import as_attention_takes
from mplug_owl.models.owl import OwlForConditionalGeneration

log = logging.getLogger(__name__)
PACKING_SHARE = 0.25  # of the free memory may go to copies of the weights in a faster layout


class Chunk(NamedTuple):
    """Positions `start` .. `start + len(ids) - 1` of one conversation."""

    ids: Sequence[int]
    start: int
    visual: Sequence[tuple[int, Tensor]]
    """Where in the conversation rows [n, D] of media begin, for all media that reach into the chunk."""
    alpha: float | None
    last: bool
    """Whether the next token is wanted: the prompt ends here."""


def store_for(model: OwlForConditionalGeneration) -> SlotCache:
    """An empty cache for the conversations of this model."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return SlotCache(config.num_hidden_layers, kept, width, model.dtype, model.device)


def scoring(model: OwlForConditionalGeneration, step: Step, head: Map) -> Scoring:
    """A decode step for slots from 0 on, from ids to scores, as a computation that shapes alone decide."""

    def score(ids_B: Tensor, lengths_B: Tensor, alpha_B: Tensor | None, keys: int, bias: Tensor | None) -> Tensor:
        return head(step.fixed(model.model.embed_text(ids_B), lengths_B, alpha_B, keys, bias))

    return score


class Forward:
    def __init__(self, model: OwlForConditionalGeneration, store: SlotCache, decode: str = "auto") -> None:
        """`decode` is that of `EngineOptions`. Raises: ConfigError where this device records no steps."""
        self.model, self.store = model, store
        self.decoder = model.model.language_model
        self.packs = self.room_to_pack()
        self.matrices: list[tuple[int, Map]] = []
        """Every matrix that a decode step multiplies by, as it does it, and how many numbers it takes."""
        self.head = self.matrix(model.lm_head)
        self.step = step_of(self.decoder, store, self.matrix)
        self.graphs = self.recorded(decode)

    def matrix(self, linear: Any) -> Map:
        product = packed(linear) if self.packs else direct(linear)
        self.matrices.append((linear.in_features, product))
        return product

    def recorded(self, decode: str) -> Graphs | None:
        device = self.model.device
        if decode == "eager" or (decode == "auto" and device.type not in RECORDERS):
            return None
        if device.type not in RECORDERS:
            raise ConfigError(
                f"decode={decode!r} on {device.type!r}; steps are recorded on {', '.join(RECORDERS)}, "
                "elsewhere take 'auto' or 'eager'"
            )
        if self.step is None:
            log.warning("decode steps are not recorded: %s has no step of its own", type(self.decoder).__name__)
            return None
        bias, dtype = self.step.bias, self.store.pairs[0].dtype
        score = scoring(self.model, self.step, self.head)
        stretched = hasattr(self.decoder, "ntk_alpha")
        return Graphs(self.store, score, lambda keys: bias(keys, dtype), RECORDERS[device.type](device), stretched)

    def room_to_pack(self) -> bool:
        linears = [module for module in (*self.decoder.modules(), self.model.lm_head) if worth_packing(module)]
        needed = sum(linear.weight.nbytes for linear in linears)
        return needed <= PACKING_SHARE * available(self.model.device)

    def alpha(self, positions: int) -> float | None:
        """The rotary stretch of a prompt of so many positions, where the decoder has such a thing."""
        if not hasattr(self.decoder, "ntk_alpha"):
            return None
        return float(self.decoder.ntk_alpha(torch.tensor([positions]))[0])

    def encode(self, media: Sequence[Medium]) -> list[Tensor]:
        """The rows [length, D] of media of one kind."""
        pixels = [medium.pixels.to(self.model.device, self.model.dtype) for medium in media]  # type: ignore[union-attr]
        if media[0].kind == "image":
            rows = self.model.get_image_features(torch.stack(pixels)).pooler_output
        else:
            rows = self.model.get_video_features(pixels).pooler_output
        # Copies: a view would keep the rows of all alive.
        return [part.clone() for part in rows.flatten(0, 1).split([medium.length for medium in media])]

    def prefill(self, first: int, chunks: Sequence[Chunk]) -> Tensor | None:
        """Put chunks into the slots from `first` on; scores [.., V] for those that are the last of their prompt."""
        device, width = self.model.device, max(len(chunk.ids) for chunk in chunks)
        ids_BL = torch.tensor([[*chunk.ids, *[0] * (width - len(chunk.ids))] for chunk in chunks], device=device)
        embeds_BLD = self.model.model.embed_text(ids_BL)
        visual = [self.fill(embeds_BLD[row], chunk, row * width) for row, chunk in enumerate(chunks)]
        starts = [chunk.start for chunk in chunks]
        window = Window(self.store, first, starts, [len(chunk.ids) for chunk in chunks])
        places_BL = torch.tensor(starts, device=device)[:, None] + torch.arange(width, device=device)
        hidden_BLD = self.decode_window(
            embeds_BLD, window, places_BL, [chunk.alpha for chunk in chunks], [i for part in visual for i in part]
        )
        ends = [(row, len(chunk.ids) - 1) for row, chunk in enumerate(chunks) if chunk.last]
        if not ends:
            return None
        rows, places = zip(*ends, strict=True)
        return self.head(hidden_BLD[list(rows), list(places)])

    @staticmethod
    def fill(embeds_LD: Tensor, chunk: Chunk, offset: int) -> list[int]:
        """Overwrite the media positions of a row; returns their places in the flattened batch."""
        filled: list[int] = []
        for at, rows in chunk.visual:
            begin = max(at, chunk.start)
            end = min(at + len(rows), chunk.start + len(chunk.ids))
            embeds_LD[begin - chunk.start : end - chunk.start] = rows[begin - at : end - at]
            filled += range(offset + begin - chunk.start, offset + end - chunk.start)
        return filled

    def decode_window(
        self,
        embeds_BLD: Tensor,
        window: Window,
        places_BL: Tensor,
        alphas: Sequence[float | None],
        visual: Sequence[int] = (),
    ) -> Tensor:
        """The model's own decoder over a window of slots: [B, L, D]."""
        mask = window.mask(places_BL)
        if mask is not None:
            mask = as_attention_takes(mask, self.decoder.config, embeds_BLD.dtype)
        extra: dict[str, Tensor] = {}
        if alphas[0] is not None:
            extra["ntk_alpha"] = torch.tensor(alphas, dtype=torch.float64, device=embeds_BLD.device)
        if visual and getattr(self.decoder, "takes_visual_index", False):
            extra["visual_index"] = torch.tensor(visual, device=embeds_BLD.device)
        out = self.decoder(
            inputs_embeds=embeds_BLD,
            attention_mask=mask,
            position_ids=places_BL,
            past_key_values=window,
            use_cache=True,
            **extra,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def decode(self, first: int, ids: Sequence[int], lengths: Sequence[int], alphas: Sequence[float | None]) -> Tensor:
        """Put one id at place `lengths[b]` of slot `first + b`; scores [B, V] of what comes next."""
        if self.graphs is not None and first == 0:
            try:
                return self.graphs(ids, lengths, alphas)
            except Unrecordable as error:
                log.warning("decode steps are not recorded any more: %s", error)
                self.graphs = None
        embeds_BD = self.model.model.embed_text(torch.tensor(ids, device=self.model.device))
        if self.step is not None:
            return self.head(self.step(embeds_BD, first, lengths, alphas))
        places_B1 = torch.tensor(lengths, device=embeds_BD.device)[:, None]
        window = Window(self.store, first, lengths, [1] * len(ids))
        return self.head(self.decode_window(embeds_BD[:, None], window, places_B1, alphas)[:, 0])
