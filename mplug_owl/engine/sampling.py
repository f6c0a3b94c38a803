"""From the model's scores to the next token: repetition penalty, temperature, top-k, top-p, min-p, a seeded draw.

Every request draws from random numbers of its own, one number a token, so a seed repeats whatever else runs beside it
and the caller's random state does not move. The order of the cuts is that of Transformers. It knows no text, no model.

Shapes: R requests, V vocabulary, K candidates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mplug_owl.errors import RequestError

CANDIDATES = 256  # as many of the likeliest ids are sorted first; the others only where these do not suffice


@dataclass(frozen=True)
class Sampling:
    """How a request wants its tokens chosen; as it stands, greedily."""

    temperature: float = 0.0
    """0 is greedy and never draws."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is everything."""
    min_p: float = 0.0
    """Ids less likely than this share of the likeliest are left out."""
    repetition_penalty: float = 1.0
    """Above 1, ids of the prompt and the answer become less likely."""
    seed: int | None = None
    """Left out, the caller's own random state decides."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise RequestError(f"temperature={self.temperature}; expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p={self.top_p}; expected more than 0 and at most 1 (everything)")
        if self.top_k < 0:
            raise RequestError(f"top_k={self.top_k}; expected 0 (everything) or more")
        if not 0 <= self.min_p < 1:
            raise RequestError(f"min_p={self.min_p}; expected 0 (everything) or more, and less than 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise RequestError(f"repetition_penalty={self.repetition_penalty}; expected more than 0; 1 changes nothing")

    @property
    def cuts(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


class Draw:
    """The choices of one request: its wishes, its random numbers, the ids it has seen."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int) -> None:
        self.sampling = sampling
        self.generator: torch.Generator | None = None
        if sampling.temperature > 0:
            seed = int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed
            self.generator = torch.Generator().manual_seed(seed % 2**63)
        self.seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros(vocabulary, dtype=torch.bool)
            self.seen[[id for id in prompt if id < vocabulary]] = True

    def penalised(self, scores_V: Tensor) -> Tensor:
        if self.seen is None:
            return scores_V
        penalty = self.sampling.repetition_penalty
        changed = torch.where(scores_V < 0, scores_V * penalty, scores_V / penalty)
        return torch.where(self.seen.to(scores_V.device), changed, scores_V)

    def note(self, token: int) -> None:
        """Remember the token that was chosen."""
        if self.seen is not None:
            self.seen[token] = True

    def uniform(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))


def choose(scores_RV: Tensor, draws: Sequence[Draw]) -> list[int]:
    """The next token of each request."""
    if scores_RV.device.type == "mps":
        scores_RV = scores_RV.cpu()  # Apple's GPUs have no float64, which sums of many small shares need
    if any(draw.seen is not None for draw in draws):
        scores_RV = torch.stack([draw.penalised(row) for row, draw in zip(scores_RV, draws, strict=True)])
    chosen: list[int] = scores_RV.argmax(-1).tolist()
    for pick, cuts in ((_pick, False), (_pick_cut, True)):
        rows = [i for i, draw in enumerate(draws) if draw.generator is not None and draw.sampling.cuts == cuts]
        if rows:
            drawing = [draws[row] for row in rows]
            scores = scores_RV[rows].float()
            temperatures = scores.new_tensor([draw.sampling.temperature for draw in drawing])
            scores = (scores - scores.amax(-1, keepdim=True)) / temperatures[:, None]
            for row, token in zip(rows, pick(scores, drawing).tolist(), strict=True):
                chosen[row] = token
    return chosen


def _pick(scores_RV: Tensor, draws: Sequence[Draw]) -> Tensor:
    return _point(scores_RV.double().exp(), draws)[:, 0]


def _pick_cut(scores_RV: Tensor, draws: Sequence[Draw], candidates: int = CANDIDATES) -> Tensor:
    """Draw among the ids that the cuts leave; scores have their maximum at 0."""
    vocabulary = scores_RV.shape[1]
    wishes = [draw.sampling for draw in draws]
    width = min(vocabulary, max(candidates, *(wish.top_k for wish in wishes)))
    top_k = scores_RV.new_tensor([wish.top_k or vocabulary for wish in wishes])[:, None]
    top_p = scores_RV.new_tensor([wish.top_p for wish in wishes], dtype=torch.float64)[:, None]
    min_p = scores_RV.new_tensor([wish.min_p for wish in wishes], dtype=torch.float64)[:, None]
    scores_RK, ids_RK = scores_RV.topk(width)
    within = torch.arange(width, device=scores_RV.device) < top_k
    weights_RK = scores_RK.double().exp() * within
    # What top-k leaves out does not count towards top-p.
    cut, whole = weights_RK.sum(-1, keepdim=True), scores_RV.double().exp().sum(-1, keepdim=True)
    shares_RK = weights_RK / torch.where(top_k < vocabulary, cut, whole)
    kept = within & (shares_RK.cumsum(-1) - shares_RK < top_p) & (weights_RK >= min_p)
    if width < vocabulary and bool((kept[:, -1:] & (top_k > width)).any()):
        return _pick_cut(scores_RV, draws, vocabulary)
    return ids_RK.gather(-1, _point(weights_RK * kept, draws))[:, 0]


def _point(weights_RK: Tensor, draws: Sequence[Draw]) -> Tensor:
    """[R, 1]: where a random number of each request falls among its weights."""
    sums_RK = weights_RK.cumsum(-1)
    marks = sums_RK.new_tensor([draw.uniform() for draw in draws])[:, None] * sums_RK[:, -1:]
    last = (weights_RK > 0).int().cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(sums_RK, marks, right=True), last)


def logprobs(scores_V: Tensor, count: int) -> tuple[Tensor, tuple[tuple[int, float], ...]]:
    """The logarithms of all probabilities, and the `count` likeliest ids with theirs."""
    found = scores_V.float().log_softmax(-1)
    values, ids = found.topk(min(count, len(found)))
    return found, tuple(zip(ids.tolist(), values.tolist(), strict=True))
