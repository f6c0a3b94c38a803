"""`owl bench data`: packed beside padded batches, and pictures beside plain Pillow and Transformers.

Both layouts hold the same samples and must have the same loss; the ways to load a picture must agree on its pixels.
Only then are they timed. How a batch is made is the data's business.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil

from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.sides import owl_configs
from mplug_owl.bench.stopwatch import Job, check_equal, compare, interleave
from mplug_owl.data.conversation import Conversation
from mplug_owl.data.loader import Loader, LoaderSettings, MicroBatch
from mplug_owl.data.pixels import Pixels
from mplug_owl.errors import EvalError
from mplug_owl.messages import ImagePart, Message, TextPart
from mplug_owl.models.families import make_processor
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.tokenizers import byte_tokenizer
from mplug_owl.train.objective import Objective, calls_of

SAMPLES, MICRO, MAX_LENGTH = 32, 8, 512
MEDIAN_LENGTH, SPREAD, LONGEST = 80, 0.9, 400  # log-normal, in letters, which are tokens here
IMAGE_SHARE = 0.6
WIDTH, HEIGHT, SIDE, PICTURES = 640, 480, 224, 16
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
PACKED, PADDED, EXACT, FAST, PIL, LIBRARY = "packed", "padded", "exact", "fast", "PIL bicubic", "transformers"


def measure(plan: Plan) -> list[Measurement]:
    """Raises: EvalError where two sides did not compute the same thing."""
    torch.set_num_threads(plan.threads)
    with torch.random.fork_rng(), TemporaryDirectory() as folder:
        torch.manual_seed(0)
        pictures = draw(Path(folder))
        return [*batches(plan, pictures), *images(plan, pictures)]


class Chats:
    """Question and answer of realistic lengths, most with a picture."""

    epoch = SAMPLES

    def __init__(self, pictures: Sequence[str]) -> None:
        self.pictures = pictures

    def __getitem__(self, position: int) -> Conversation:
        random = Random(position)
        length = min(max(round(random.lognormvariate(np.log(MEDIAN_LENGTH), SPREAD)), 8), LONGEST)
        words = "".join(random.choices("etaoin shrdlu ", k=length))
        picture = [ImagePart(random.choice(self.pictures))] if random.random() < IMAGE_SHARE else []
        # The usual system message is 35 tokens, but would be 150 where each letter is one.
        system, question = Message("system", "Be brief."), Message("user", [*picture, TextPart(words[: length // 4])])
        return Conversation(f"chat {position}", (system, question, Message("assistant", words[length // 4 :])))


def draw(folder: Path) -> list[str]:
    """JPEGs with smooth areas, edges and a little noise, as photographs have."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(PICTURES):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        picture = np.array(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        for _ in range(8):
            left, top = random.integers(0, WIDTH - 100), random.integers(0, HEIGHT - 100)
            picture[top : top + 100, left : left + 100] = random.integers(0, 256, 3)
        noisy = np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def processor_of(config: OwlConfig) -> OwlProcessor:
    return make_processor(config, byte_tokenizer(), "owl2", "square")


def batches(plan: Plan, pictures: Sequence[str]) -> Iterator[Measurement]:
    """Time per useful token, one that is not padding, of forward and backward over the same samples."""
    config = owl_configs(plan.shape)["owl"]
    objective = Objective(OwlForConditionalGeneration(config).to(plan.device, getattr(torch, plan.dtype)))
    jobs, found, useful = {}, {}, {}
    for name in (PACKED, PADDED):
        settings = LoaderSettings(SAMPLES, MICRO, MAX_LENGTH, pack=name == PACKED, workers=0)
        loaded = Loader(Chats(pictures), processor_of(config), settings).step(0)
        step = [micro for micro in loaded if isinstance(micro, MicroBatch)]
        useful[name] = (sorted(i for micro in step for i in micro.ids), *total(step))
        run = learning(objective, [micro.to(plan.device, objective.owl.dtype) for micro in step])
        jobs[name] = Job(run, sum(micro.tokens for micro in step))
        found[name] = run()
    if useful[PACKED] != useful[PADDED]:
        raise EvalError(f"packed batches hold {useful[PACKED]}, padded ones {useful[PADDED]}; expected the same")
    check_equal("their loss", found, PADDED, LOSS_TOLERANCE[plan.dtype])
    sizes = {"samples": SAMPLES, "micro": MICRO, "max_length": MAX_LENGTH, "useful_tokens": useful[PACKED][1]}
    setting = {**plan.setting, **sizes}
    yield from compare("token", interleave(jobs, plan), [(PACKED, PADDED, 1.0)], setting)


def total(step: Sequence[MicroBatch]) -> tuple[int, int]:
    return sum(micro.tokens for micro in step), sum(micro.targets for micro in step)


def learning(objective: Objective, step: Sequence[MicroBatch]) -> Callable[[], Tensor]:
    """Forward and backward over all micro-batches of a step; what it returns is the loss."""
    targets = sum(micro.targets for micro in step)

    def run() -> Tensor:
        objective.zero_grad()
        losses = []
        for micro in step:
            inputs = micro.inputs
            loss = objective(inputs, micro.labels, sorted(calls_of(objective.owl, inputs)), targets)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    return run


def images(plan: Plan, pictures: Sequence[str]) -> Iterator[Measurement]:
    """Time per picture, from the file to normalised pixels of a square."""
    owl = processor_of(owl_configs("tiny")["owl"])
    square = {"height": SIDE, "width": SIDE}
    ours = owl.image_processor = OwlImageProcessorPil(size=square, aspect="square")
    theirs = CLIPImageProcessorPil(size=square, do_center_crop=False)
    mean, std = (torch.tensor(values)[:, None, None] for values in (ours.image_mean, ours.image_std))
    exact, fast = Pixels(owl, "exact"), Pixels(owl, "fast")

    def squared(path: str) -> np.ndarray:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    def plain(path: str) -> Tensor:
        return (torch.from_numpy(squared(path)).permute(2, 0, 1).float() / 255 - mean) / std

    def library(path: str) -> Tensor:
        with Image.open(path) as picture:
            return theirs(picture, return_tensors="pt")["pixel_values"][0]

    loads: dict[str, Callable[[str], Tensor]] = {
        EXACT: lambda path: exact.load(ImagePart(path), path),
        FAST: lambda path: fast.load(ImagePart(path), path),
        PIL: plain,
        LIBRARY: library,
    }
    for path in pictures:
        levels = {name: (load(path) * std + mean) * 255 for name, load in loads.items()}
        expected = torch.from_numpy(squared(path)).permute(2, 0, 1).float()
        check_pixels(levels, expected)

    def all_through(load: Callable[[str], Tensor]) -> Callable[[], object]:
        return lambda: [load(path) for path in pictures]

    jobs = {name: Job(all_through(load), len(pictures)) for name, load in loads.items()}
    pairs = [(mode, baseline, 1.0) for mode in (EXACT, FAST) for baseline in (PIL, LIBRARY)]
    setting = {"picture": f"{WIDTH}x{HEIGHT} JPEG", "side": SIDE, "threads": plan.threads}
    yield from compare("picture", interleave(jobs, plan), pairs, setting)


def check_pixels(levels: dict[str, Tensor], expected: Tensor) -> None:
    """Raises: EvalError unless levels of 255 are Pillow's, and those of the fast mode nearly so."""
    for name, found in levels.items():
        apart = (found - expected).abs()
        if name == FAST and not apart.mean() <= 2:
            raise EvalError(f"fast pictures differ from Pillow's by {apart.mean():.2f}/255; expected at most 2")
        if name != FAST and not (torch.equal(found.round(), expected) and apart.max() < 1e-2):
            raise EvalError(f"{name} differs from Pillow's bicubic by up to {apart.max():.2g}/255; expected the same")
