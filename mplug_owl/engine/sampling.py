"""From the model's scores to the next token: temperature, top-k, top-p and a seeded draw.

The draw has random numbers of its own, so a seed repeats whatever else runs beside it, and the caller's random state
does not move. It knows no text and no model.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mplug_owl.errors import RequestError


class GumbelDraw(LogitsProcessor):
    """Makes the greedy choice a draw: argmax(scores + Gumbel noise) follows softmax(scores)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator: torch.Generator | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.generator is None:
            self.generator = torch.Generator(scores.device).manual_seed(self.seed)
        scores = scores.float()
        return scores - torch.empty_like(scores).exponential_(generator=self.generator).log()


def sampling(temperature: float, top_p: float, top_k: int, seed: int | None) -> dict[str, Any]:
    """The arguments of `generate` for these wishes; a temperature of 0 is greedy and never draws.

    Raises:
        RequestError: a value lies outside its range.
    """
    if not temperature >= 0:
        raise RequestError(f"temperature={temperature}; expected 0 (greedy) or more")
    if not 0 < top_p <= 1:
        raise RequestError(f"top_p={top_p}; expected more than 0 and at most 1 (everything)")
    if top_k < 0:
        raise RequestError(f"top_k={top_k}; expected 0 (everything) or more")
    steps = LogitsProcessorList()
    if temperature > 0:
        steps.append(TemperatureLogitsWarper(float(temperature)))
        if top_k:
            steps.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            steps.append(TopPLogitsWarper(float(top_p)))
        # Without a seed the caller's own state decides, so `torch.manual_seed` still repeats.
        steps.append(GumbelDraw(int(torch.randint(2**62, ())) if seed is None else seed))
    return {"do_sample": False, "num_beams": 1, "logits_processor": steps}
