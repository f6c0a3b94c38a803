"""Looks at a run from outside: the held-out loss, and a few answers in the owl's own words.

Both leave the run as it was. All ranks take part, because each may hold only a shard of the owl.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.train.parallel import Replicas, Shards, World, training_mode
from mplug_owl.train.window import Batches, Rows, agree

ANSWERS = 4
ANSWER_LENGTH = 64
IGNORED = -100


@dataclass(frozen=True)
class Answer:
    prompt: str
    wanted: str
    given: str

    def __str__(self) -> str:
        return f"{self.prompt!r}\n  wanted {self.wanted!r}\n  given  {self.given!r}"


@contextmanager
def resting(owl: OwlForConditionalGeneration) -> Iterator[None]:
    """The owl neither learns nor drops out in here."""
    owl.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        training_mode(owl)


def loss(spread: Replicas | Shards, batches: Batches, world: World) -> float:
    """Mean loss over all supervised tokens of the held-out data."""
    device = world.device
    total, targets = torch.zeros((), dtype=torch.float64, device=device), 0
    with resting(spread.owl):
        for step in range(batches.steps_per_epoch):
            seen = agree(batches, step, spread.owl, world)
            targets += seen.counts["targets"]
            for rows, calls, useful in zip(seen.rows, seen.calls, seen.micro_targets, strict=True):
                if useful:
                    rows = rows.to(device)
                    total += spread.objective(rows.inputs, rows.labels, calls, 1).double()
    batches.close()
    return sum(spread.world.gather(float(total))) / max(targets, 1)


def answers(spread: Replicas | Shards, batches: Batches, processor: OwlProcessor, world: World) -> list[Answer]:
    """What the owl says, greedily, to the first held-out prompts."""
    prompts: list[tuple[dict[str, Any], list[int]]] = []
    if world.is_first:
        step = 0
        while len(prompts) < ANSWERS and step < batches.steps_per_epoch:
            for rows in batches.step(step):
                if rows.targets and len(prompts) < ANSWERS:
                    prompts.append(first_prompt(rows, processor))
            step += 1
        batches.close()
    prompts = world.broadcast(prompts)
    said = []
    with spread.gathered() as owl, resting(owl):
        for inputs, wanted in prompts:
            there: dict[str, Any] = {
                name: [video.to(world.device) for video in value] if isinstance(value, list) else value.to(world.device)
                for name, value in inputs.items()
            }
            made = owl.generate(**there, max_new_tokens=ANSWER_LENGTH, do_sample=False, return_dict_in_generate=False)
            new = made[0, there["input_ids"].shape[1] :].tolist()
            texts = [
                processor.decode(ids, skip_special_tokens=True)
                for ids in (inputs["input_ids"][0].tolist(), wanted, new)
            ]
            said.append(Answer(*texts))
    return said


def first_prompt(rows: Rows, processor: OwlProcessor) -> tuple[dict[str, Any], list[int]]:
    """The first supervised row of a micro-batch up to its first answer, with the media it shows; and that answer."""
    inputs = rows.inputs
    supervised = (rows.labels != IGNORED).any(dim=1).nonzero()
    row = int(supervised[0])
    labels, ids = rows.labels[row].tolist(), inputs["input_ids"][row].tolist()
    start = next(i for i, label in enumerate(labels) if label != IGNORED)
    stop = next((i for i in range(start, len(ids)) if labels[i] == IGNORED), len(ids))
    # A packed row may hold samples before this one that teach nothing; positions begin again at 0.
    positions = inputs.get("position_ids")
    begin = start - int(positions[row, start]) if positions is not None else 0
    prompt: dict[str, Any] = {"input_ids": inputs["input_ids"][row, begin:start][None].cpu()}
    before = inputs["input_ids"][:row].flatten().tolist() + ids[:begin]
    for name, token in (("pixel_values", processor.image_token_id), ("pixel_values_videos", processor.video_token_id)):
        shown = _between(
            list(inputs.get(name, ())),
            before.count(token),
            ids[begin:start].count(token),
            processor.media_length,
            by_frame=name == "pixel_values_videos" and processor.video_as_frames,
        )
        if shown:
            prompt[name] = torch.stack(shown) if name == "pixel_values" else shown
    return prompt, ids[start:stop]


def _between(media: list[torch.Tensor], skip: int, take: int, length: int, by_frame: bool) -> list[torch.Tensor]:
    """The media that fill `take` positions after the first `skip`."""
    shown, at = [], 0
    for medium in media:
        if skip <= at < skip + take:
            shown.append(medium.cpu())
        at += length * (len(medium) if by_frame else 1)
    return shown
