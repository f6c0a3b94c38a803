"""The batches of a run: samples by their position, packed into rows, loaded by worker processes.

An optimizer step is the next `batch` samples, whatever they are packed into and on however many ranks; what a step
holds depends on the seed and its number alone, so a run is resumed by one integer. A sample that cannot be used leaves
its slot empty and is counted. Nothing here knows a model or an optimizer.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mplug_owl.data.conversation import Conversation
from mplug_owl.data.encode import IGNORED, Encoded, Prompter, encode_conversation, learning_text
from mplug_owl.data.packing import block_diagonal, lay_out, pack
from mplug_owl.data.pixels import Pixels, Viewer
from mplug_owl.data.places import PlaceBatch, Placed, place_words
from mplug_owl.errors import ConfigError, DataError, RequestError
from mplug_owl.messages import ImagePart, VideoPart

logger = logging.getLogger(__name__)

_JUDGED_OVER = 200  # samples: the share of bad ones among fewer says little


class Samples(Protocol):
    """The samples of a run by their position, without end; `mixture.Mixture` is one."""

    epoch: int
    """Samples after which all have been seen."""

    def __getitem__(self, position: int) -> Conversation: ...


class Processor(Prompter, Viewer, Protocol):
    """What loading asks of a processor."""


@dataclass(frozen=True)
class LoaderSettings:
    batch: int = 256
    """Samples between two optimizer steps, over all ranks."""
    micro: int = 4
    """Rows of one forward pass on one rank."""
    max_length: int = 2048
    pack: bool = True
    images_per_row: int = 16
    random_resized_crop: tuple[float, float] | None = None
    decode: Literal["exact", "fast"] = "exact"
    template: str = "training"
    learn: Literal["answers", "text", "places"] = "answers"
    """What counts in the loss; "text" is everything but media, as language models are pretrained; "places" are what is
    where in a picture, one picture a row.
    """
    workers: int = 2
    bad_share: float = 0.05
    """More bad samples than this share stop the run."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows for one forward pass on one rank."""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    segments: Tensor
    """[rows, length]: which sample of its row a position belongs to, from 1; 0 is padding."""
    packed: bool
    pixel_values: Tensor | None
    pixel_values_videos: list[Tensor] | None
    ids: list[str]
    """The samples, in reading order."""
    targets: int
    """Supervised tokens."""
    tokens: int
    """Positions that are not padding."""
    images: int
    """Pictures and video frames."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model takes beside the labels. The mask is made here, where the rows now lie: it is far larger than
        they are.
        """
        if self.packed:
            mask = block_diagonal(self.segments)
        else:
            mask = self.segments > 0
            mask[:, 0] = True  # in a row without a sample: attention to nothing would be NaN
        made = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": mask,
            "pixel_values": self.pixel_values,
            "pixel_values_videos": self.pixel_values_videos,
        }
        return {name: value for name, value in made.items() if value is not None}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "MicroBatch":
        """The batch on a device, its pixels as `dtype`."""
        names = ("input_ids", "labels", "position_ids", "segments")
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        if self.pixel_values is not None:
            moved["pixel_values"] = self.pixel_values.to(device, dtype, non_blocking=True)
        if self.pixel_values_videos is not None:
            moved["pixel_values_videos"] = [
                video.to(device, dtype, non_blocking=True) for video in self.pixel_values_videos
            ]
        return replace(self, **moved)


@dataclass(frozen=True)
class Bad:
    """A sample that could not be used."""

    reason: Literal["record", "text", "media"]
    id: str
    why: str


@dataclass
class _Step:
    """What a worker hands over: one step of one rank."""

    batches: list[MicroBatch | PlaceBatch] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    samples: int = 0


@dataclass(frozen=True)
class _Sample:
    position: int
    id: str
    row: Encoded | Placed
    images: int


class _Steps(Dataset[_Step]):
    """Step number -> this rank's part of it. Runs in the workers."""

    def __init__(
        self,
        samples: Samples,
        processor: Processor,
        settings: LoaderSettings,
        seed: int,
        rank: int,
        world: int,
        total: int | None,
    ) -> None:
        self.samples, self.processor, self.settings = samples, processor, settings
        self.seed, self.rank, self.world, self.total = seed, rank, world, total
        self.pixels = Pixels(processor, settings.decode, settings.random_resized_crop)

    def __getitem__(self, step: int) -> _Step:
        out = _Step()
        start = step * self.settings.batch
        stop = start + self.settings.batch
        stop = stop if self.total is None else min(stop, self.total)
        # Every rank reads all texts of the step, for rows must not depend on the number of ranks; the costly part,
        # pictures, is read only by the rank that shows them.
        found = [self._read(position, out) for position in range(start, stop)]
        samples = [sample for sample in found if sample is not None]
        rows = self._rows(samples)
        mine = rows[self.rank :: self.world]
        passes = -(-len(rows) // (self.world * self.settings.micro))  # the same on every rank
        for number in range(passes):
            first, last = (len(mine) * edge // passes for edge in (number, number + 1))
            out.batches.append(self._batch([self._loaded(r, out) for r in mine[first:last]]))
        return out

    def _read(self, position: int, out: _Step) -> _Sample | None:
        mine = position % self.world == self.rank  # each bad text is reported by one rank
        out.samples += mine
        reason: Literal["record", "text"] = "record"
        name = f"sample {position}"
        try:
            conversation = self.samples[position]
            name, reason = _name(conversation), "text"
            if self.settings.learn == "places":
                return _Sample(position, name, place_words(conversation, self.processor), 1)
            row = encode_conversation(
                conversation, self.processor, template=self.settings.template, max_length=self.settings.max_length
            )
            if self.settings.learn == "text":
                row = learning_text(row, self.processor)
        except (DataError, RequestError, OSError) as error:
            if mine:
                out.bad.append(Bad(reason, name, str(error)))
            return None
        frames = [
            1 if isinstance(part, ImagePart) else part.num_frames or self.processor.num_frames for part in row.media
        ]
        return _Sample(position, name, row, sum(frames))

    def _rows(self, samples: Sequence[_Sample]) -> list[list[_Sample]]:
        if not self.settings.pack or self.settings.learn == "places":
            return [[sample] for sample in samples]
        rows = pack(
            [len(cast(Encoded, sample.row).ids) for sample in samples],
            [sample.images for sample in samples],
            max_tokens=self.settings.max_length,
            max_images=self.settings.images_per_row,
        )
        return [[samples[index] for index in row] for row in rows]

    def _loaded(self, row: Sequence[_Sample], out: _Step) -> list[tuple[_Sample, list[Tensor]]]:
        """The samples of a row with their pixels, without those whose media are broken."""
        kept = []
        for sample in row:
            try:
                pixels = [
                    self.pixels.load(part, f"{self.seed}:{sample.position}:{number}")
                    for number, part in enumerate(sample.row.media)
                ]
            except (DataError, OSError) as error:
                out.bad.append(Bad("media", sample.id, str(error)))
            else:
                kept.append((sample, pixels))
        return kept

    def _batch(self, rows: Sequence[Sequence[tuple[_Sample, list[Tensor]]]]) -> MicroBatch | PlaceBatch:
        samples = [sample for row in rows for sample, _ in row]
        shown = [
            (part, pixels)
            for row in rows
            for sample, loaded in row
            for part, pixels in zip(sample.row.media, loaded, strict=True)
        ]
        images = [pixels for part, pixels in shown if isinstance(part, ImagePart)]
        if self.settings.learn == "places":
            return PlaceBatch.of([sample.row for sample in samples], images, [sample.id for sample in samples])
        videos = [pixels for part, pixels in shown if isinstance(part, VideoPart)]
        # A rank without a row still makes the pass that others wait for, on a row of padding.
        laid = lay_out(
            [[cast(Encoded, sample.row) for sample, _ in row] for row in rows] or [[]],
            self.processor.tokenizer.pad_token_id,
        )
        return MicroBatch(
            **laid,
            packed=self.settings.pack,
            pixel_values=torch.stack(images) if images else None,
            pixel_values_videos=videos or None,
            ids=[sample.id for sample in samples],
            targets=int((laid["labels"] != IGNORED).sum()),
            tokens=int((laid["segments"] > 0).sum()),
            images=sum(sample.images for sample in samples),
        )


def _name(conversation: Conversation) -> str:
    return f"{conversation.id} ({conversation.origin})" if conversation.origin else conversation.id


class Loader:
    """This rank's micro-batches, step by step; workers load the steps that follow."""

    def __init__(
        self,
        samples: Samples,
        processor: Processor,
        settings: LoaderSettings,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        total: int | None = None,
    ) -> None:
        """`total` ends the stream after so many samples; without it epochs follow each other."""
        if not 0 <= rank < world:
            raise ConfigError(f"rank={rank} of world={world}; expected 0 <= rank < world")
        self.settings = settings
        self.steps = None if total is None else -(-total // settings.batch)
        self.steps_per_epoch = -(-samples.epoch // settings.batch)
        self.samples = 0
        """Samples this loader has read, its rank's share."""
        self.bad: list[Bad] = []
        self.wait_seconds = 0.0
        """Time spent waiting for workers."""
        self._dataset = _Steps(samples, processor, settings, seed, rank, world, total)
        self._ahead: Iterator[_Step] | None = None
        self._next = -1

    def step(self, step: int) -> list[MicroBatch | PlaceBatch]:
        """This rank's micro-batches of an optimizer step, as many as on every other rank.

        Steps asked for in order come from the workers; any other starts them anew.

        Raises: DataError where more samples than `bad_share` cannot be used.
        """
        if step < 0 or (self.steps is not None and step >= self.steps):
            raise ConfigError(f"step {step} of {self.steps}; expected one of the run")
        started = time.perf_counter()
        if self._ahead is None or step != self._next:
            self.close()
            self._ahead = self._start(step)
        found = next(self._ahead)
        self._next = step + 1
        self.wait_seconds += time.perf_counter() - started
        self._account(found)
        return found.batches

    def close(self) -> None:
        """Stop the workers; the next step starts new ones."""
        self._ahead = None

    @property
    def bad_counts(self) -> dict[str, int]:
        """Bad samples by reason: "record" (cannot be read), "text" (teaches nothing, does not fit), "media" (cannot be
        decoded).
        """
        return dict(Counter(bad.reason for bad in self.bad))

    def _start(self, step: int) -> Iterator[_Step]:
        workers = self.settings.workers
        return iter(
            DataLoader(
                self._dataset,
                batch_size=None,
                sampler=count(step) if self.steps is None else range(step, self.steps),
                num_workers=workers,
                prefetch_factor=1 if workers else None,
                # Its own, or starting workers would move the random state that dropout draws from.
                generator=torch.Generator(),
            )
        )

    def _account(self, found: _Step) -> None:
        self.samples += found.samples
        self.bad += found.bad
        for bad in found.bad:
            logger.warning("%s is left out (%s): %s", bad.id, bad.reason, bad.why)
        allowed = self.settings.bad_share * max(self.samples, _JUDGED_OVER)
        if found.bad and len(self.bad) > allowed:
            last = self.bad[-1]
            raise DataError(
                f"{len(self.bad)} of {self.samples} samples cannot be used {self.bad_counts}, over "
                f"bad_share={self.settings.bad_share}; the last is {last.id}: {last.why}. Run "
                "`owl doctor` on the data, or raise data.bad_share"
            )
