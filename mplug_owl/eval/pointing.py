"""The pointing game: does an owl that is asked for the colour of a thing look at that thing?

Scenes of shapes are asked about, one thing each, and the map of the answer should peak on it (Zhang et al., 2018). The
same maps say which patches are masked: without those it looked at most, the answer should become less likely than
without as many others. Every figure comes with what chance, the centre and the map of another scene give. How maps come
about is the engine's business.

Shapes: G grid side, P patches.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mplug_owl.engine.chat import Chat
from mplug_owl.engine.insight.ground import WHOLE, Box
from mplug_owl.engine.insight.look import Look, looks
from mplug_owl.engine.insight.observer import Asked, Observer
from mplug_owl.errors import EvalError
from mplug_owl.eval.scoring import DRAWS, Interval, difference, interval, is_right
from mplug_owl.messages import Message, TextPart
from mplug_owl.world.chance import Split, stream
from mplug_owl.world.scene import make
from mplug_owl.world.shape_view import View

TOGETHER = 16
MASKED = 0.1
"""Share of the patches that is masked."""
RANDOM_MASKS = 5
"""Random masks of each scene, whose mean counts."""
_NEW_TOKENS = 12


class Target(NamedTuple):
    """A question about one thing of a picture, and where that thing is: left, top, right, bottom in shares."""

    messages: tuple[Message, ...]
    box: Box
    accept: tuple[str, ...] = ()
    """Right answers."""


@dataclass(frozen=True)
class Pointed:
    """What came of one scene."""

    answer: str
    right: bool
    hit: bool
    """The patch it came from most lies on the thing."""
    mass: float
    """How much of the map lies there."""
    area: float
    """The share of the patches that do: the hits of chance, and its mass."""
    centre: bool
    """The middle of the picture lies on the thing."""
    other: bool
    """So does the peak of the next scene's map."""
    probability: float
    masked: float
    """The answer's probability without the patches it came from most."""
    randomly: float
    """The same without as many random ones."""


# ---- scenes --------------------------------------------------------------------------------------


def colour_targets(count: int, split: Split = "test") -> list[Target]:
    """Scenes of two shapes or more, each with one question for the colour of one of them.

    Raises: EvalError for less than two: a scene is held against the next one.
    """
    if count < 2:
        raise EvalError(f"{count} scenes to point at; expected 2 or more")
    found: list[Target] = []
    number = 0
    while len(found) < count:
        found += _colour_target(number, split)
        number += 1
    return found


def _colour_target(number: int, split: Split) -> Iterator[Target]:
    scene = make("shapes", f"pointing/{number}", split)
    things = scene.graph["things"]
    if len(things) < 2:  # with nothing beside it, whatever looks at anything would look at it
        return
    view = View(things, stream("pointing", split, number), split, "en")
    for thing, name in view.named("colour"):
        question = view.ask("attributes", "colour", view.word(thing["colour"]), x=name)
        drawn = next(d for t, d in zip(things, scene.graph["look"]["things"], strict=True) if t is thing)
        half = drawn["diameter"] / 2
        box = (thing["x"] - half, thing["y"] - half, thing["x"] + half, thing["y"] + half)
        message = Message("user", (*scene.parts(), TextPart(question.text)))
        yield Target((message,), box, (question.answer, *question.accept))
        return


# ---- one scene -----------------------------------------------------------------------------------


def patches_in(box: Box, grid: int) -> Tensor:
    """[G, G] True for the patches whose centre lies in the box, and for the one that its own centre lies in."""
    left, top, right, bottom = box
    centres = (torch.arange(grid) + 0.5) / grid
    columns, rows = (centres >= left) & (centres <= right), (centres >= top) & (centres <= bottom)
    found = rows[:, None] & columns[None]
    found[_cell((top + bottom) / 2, grid), _cell((left + right) / 2, grid)] = True
    return found


def _cell(share: float, grid: int) -> int:
    return min(max(int(share * grid), 0), grid - 1)


def without(asked: Asked, patches_P: Tensor, grid: int) -> Asked:
    """The same answer to the same prompt, its one picture without the patches that are True: these are its mean."""
    medium = asked.media[0]
    assert medium.pixels is not None
    patch = medium.pixels.shape[-1] // grid
    hidden = patches_P.view(grid, grid).repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    mean = medium.pixels.mean((1, 2), keepdim=True)
    return asked._replace(media=[replace(medium, pixels=torch.where(hidden, mean, medium.pixels))])


def top_patches(heat_P: Tensor, count: int) -> Tensor:
    found = torch.zeros_like(heat_P, dtype=torch.bool)
    found[heat_P.topk(count).indices] = True
    return found


# ---- the game ------------------------------------------------------------------------------------


def play(chat: Chat, targets: Sequence[Target], *, rollout: Sequence[str] = (), seed: int = 0) -> list[Pointed]:
    """Ask about every target, and see where each answer comes from.

    Raises: EvalError where a target shows more than one picture, or one the model does not see all of.
    """
    observer = Observer(chat.engine.model, rollout=rollout)
    found: list[Look | None] = []
    for start in range(0, len(targets), TOGETHER):
        messages = [target.messages for target in targets[start : start + TOGETHER]]
        found += looks(chat, messages, observer, max_new_tokens=_NEW_TOKENS)
    for look in found:
        if look is not None and (len(look.views) != 1 or look.views[0].box != WHOLE):
            raise EvalError("pointing takes one picture that the model sees all of; open a model that does not crop")
    chosen = random.Random(seed)
    pointed = []
    for place, (target, look) in enumerate(zip(targets, found, strict=True)):
        other = found[(place + 1) % len(found)]
        pointed.append(_pointed(observer, target, look, other, chosen))
    return pointed


def _pointed(
    observer: Observer, target: Target, look: Look | None, other: Look | None, chosen: random.Random
) -> Pointed:
    grid = observer.grid
    on_P = patches_in(target.box, grid).flatten()
    left, top, right, bottom = target.box
    known: dict[str, Any] = {
        "area": float(on_P.double().mean()),
        "centre": left <= 0.5 <= right and top <= 0.5 <= bottom,
        "other": other is not None and bool(on_P[other.overall[0].flatten().argmax()]),
    }
    if look is None:  # who says nothing points at nothing
        return Pointed("", False, False, 0.0, **known, probability=0.0, masked=0.0, randomly=0.0)
    heat_P = look.overall[0].flatten()
    count = max(round(MASKED * len(heat_P)), 1)
    masks = [top_patches(heat_P, count)]
    for _ in range(RANDOM_MASKS):
        mask = torch.zeros_like(masks[0])
        mask[chosen.sample(range(len(heat_P)), count)] = True
        masks.append(mask)
    asked = [look.asked, *(without(look.asked, mask, grid) for mask in masks)]
    probability, masked, *randomly = np.exp(observer.logprob(asked)).tolist()
    return Pointed(
        answer=look.answer,
        right=is_right(look.answer, target.accept),
        hit=bool(on_P[heat_P.argmax()]),
        mass=float(heat_P[on_P].sum()),
        **known,
        probability=probability,
        masked=masked,
        randomly=float(np.mean(randomly)),
    )


# ---- what it comes to ----------------------------------------------------------------------------


class Figure(NamedTuple):
    """A mean over scenes with its 95% interval."""

    name: str
    value: float
    interval: Interval


def figures(pointed: Sequence[Pointed], *, seed: int = 0) -> list[Figure]:
    """What the scenes come to; intervals are over scenes."""
    hit, area, other, centre = (
        [float(getattr(p, name)) for p in pointed] for name in ("hit", "area", "other", "centre")
    )
    mass = [p.mass for p in pointed]
    top, rest = ([p.probability - after for p, after in zip(pointed, each, strict=True)] for each in
                 ([p.masked for p in pointed], [p.randomly for p in pointed]))  # fmt: skip
    means = [("peaks on the thing", hit), ("by chance", area), ("the centre", centre), ("another scene's map", other)]
    means += [("map on the thing", mass), ("right answers", [float(p.right) for p in pointed])]
    means += [("probability lost: top patches", top), ("probability lost: random", rest)]
    found = [Figure(name, float(np.mean(values)), interval(values)) for name, values in means]
    pairs = [
        ("peaks over the centre", hit, centre),
        ("peaks over another's", hit, other),
        ("top over random", top, rest),
    ]
    found += [Figure(name, float(np.mean(a) - np.mean(b)), difference(a, b, seed=seed)) for name, a, b in pairs]
    found.append(Figure("peaks, times chance", float(np.mean(hit) / np.mean(area)), _ratio(hit, area, seed)))
    return found


def _ratio(first: Sequence[float], second: Sequence[float], seed: int) -> Interval:
    """The 95% interval of mean(first) / mean(second) over the same scenes, by bootstrap."""
    drawn = np.random.default_rng(seed).integers(len(first), size=(DRAWS, len(first)))
    ratios = np.asarray(first)[drawn].mean(1) / np.asarray(second)[drawn].mean(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Interval(float(low), float(high))


def table(found: Sequence[Figure], scenes: int) -> str:
    """The figures for the eye."""
    lines = [f"{scenes} scenes of shapes, one question for a colour each; 95% intervals over scenes", ""]
    for name, value, (low, high) in found:
        unit, scale = ("", 1) if "times" in name else ("%", 100)
        lines.append(f"{name:<32}{scale * value:7.1f}{unit:1} ({scale * low:.1f} to {scale * high:.1f})")
    return "\n".join(lines)


def record(found: Sequence[Figure], pointed: Sequence[Pointed]) -> str:
    """Figures and scenes as JSON."""
    rows: list[dict[str, Any]] = [
        {"name": figure.name, "value": figure.value, "interval": list(figure.interval)} for figure in found
    ]
    return json.dumps({"figures": rows, "scenes": [asdict(each) for each in pointed]}) + "\n"
