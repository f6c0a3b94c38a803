"""`owl bench train`: a step of our loop beside Transformers' Trainer and the matrix peak, and its wait for data.

The Trainer runs as its users run it, and each of its steps is followed by one of ours on the same rows: of the same
owl, where the first losses must be equal, and of a LLaVA of the same shape. What a step does is the loop's business.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mplug_owl.bench.data import LOSS_TOLERANCE, Chats, draw, processor_of
from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.sides import LLAVA, llava_config, owl_configs
from mplug_owl.bench.stopwatch import MATRIX, Job, check_equal, compare, matrix_job
from mplug_owl.data.loader import Loader, LoaderSettings, MicroBatch
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.train.loop import Training, run
from mplug_owl.train.parallel import World
from mplug_owl.train.recipe import Batch, Compute, Keep, Module, Optim, Recipe

ROWS, WORKERS, WARM_UP, RATE, CLIP = 8, 2, 2, 1e-4, 1.0
LOOP, TRAINER = "loop", "Trainer"


def measure(plan: Plan) -> list[Measurement]:
    """Raises: EvalError where the Trainer and our loop did not find the same loss."""
    torch.set_num_threads(plan.threads)
    with torch.random.fork_rng(), TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = owl_configs(plan.shape)["owl"]
        owl, llava = OwlForConditionalGeneration(config), LlavaForConditionalGeneration(llava_config(config))
        found = steps(plan, Path(folder, "owl"), deepcopy(owl), "owl", deepcopy(owl))
        found += steps(plan, Path(folder, LLAVA), deepcopy(owl), LLAVA, llava)
        return [*found, waiting(plan, Path(folder), owl)]


def recipe(plan: Plan, steps: int) -> Recipe:
    return Recipe(
        name="bench",
        stage="instruct",
        source="a benchmark",
        train={name: Module(RATE) for name in ("vision", "abstractor", "language")},
        optim=Optim(steps=steps, eps=1e-8, clip=CLIP, schedule="constant"),
        batch=Batch(ROWS, ROWS),
        compute=Compute(dtype=cast(Any, plan.dtype)),
        keep=Keep(every=steps + 1, asynchronous=False),
    )


def rows_of(model: PreTrainedModel, plan: Plan) -> dict[str, Tensor]:
    """Rows of `positions` with a picture before the text, all of which is learnt."""
    config, side = model.config, model.config.vision_config.image_size
    visual = getattr(config, "media_length", (side // config.vision_config.patch_size) ** 2)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(ROWS, 3, side, side, generator=random)
    ids = torch.randint(3, 256, (ROWS, plan.positions), generator=random)
    labels = ids.clone()
    ids[:, 1 : 1 + visual] = config.image_token_id
    labels[:, : 1 + visual] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "pixel_values": pixels}


class Always:
    """The same rows in every step."""

    steps_per_epoch, wait_seconds = 1, 0.0

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        labels, mask = rows["labels"], rows["attention_mask"]
        self.batch = MicroBatch(
            input_ids=rows["input_ids"],
            labels=labels,
            position_ids=mask.cumsum(-1) - 1,
            segments=mask,
            packed=False,
            pixel_values=rows["pixel_values"],
            pixel_values_videos=None,
            ids=[str(row) for row in range(ROWS)],
            targets=int((labels != -100).sum()),
            tokens=mask.numel(),
            images=ROWS,
        )

    def step(self, step: int) -> list[MicroBatch]:
        return [self.batch]

    def close(self) -> None:
        """There is nothing open."""


class Between(TrainerCallback):
    """Times the Trainer's steps and, behind each of them, the jobs."""

    def __init__(self, jobs: Mapping[str, Job], device: str) -> None:
        self.jobs, self.device, self.began = jobs, device, 0.0
        self.times: dict[str, list[float]] = {name: [] for name in (TRAINER, *jobs)}

    def now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return 1e3 * perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times[TRAINER].append(self.now() - self.began)
        for name, job in self.jobs.items():
            self.times[name].append(job.time(self.device))


def steps(
    plan: Plan, folder: Path, owl: OwlForConditionalGeneration, name: str, model: PreTrainedModel
) -> list[Measurement]:
    """Our steps on `owl` between those of a Trainer on `model`."""
    world = World(0, 1, torch.device(plan.device))
    processor, batches = processor_of(owl.config), Always(rows_of(owl, plan))

    def opened(recipe: Recipe, processor: OwlProcessor, world: World, held_out: bool) -> Always | None:
        return None if held_out else batches

    ours = Training(recipe(plan, plan.rounds + 1), folder, world, False, lambda _: (owl, processor), opened, None)
    micro = batches.batch.to(world.device)
    with FlopCounterMode(display=False) as counter:
        ours.spread.objective(micro.inputs, micro.labels, [1], micro.targets).backward()
    ours.spread.forget()
    between = Between({LOOP: Job(ours.one_step), MATRIX: matrix_job(plan)}, plan.device)
    trainer = trainer_of(model, plan, folder, between)
    trainer.train()
    ours.metrics.close()
    beside = f"{TRAINER} {name}"
    pairs = [(LOOP, beside, 1.0)]
    if model.config == owl.config:
        losses = ((LOOP, logged(folder)), (TRAINER, trainer.state.log_history))
        found = {side: torch.tensor(records[0]["loss"]) for side, records in losses}
        check_equal("the first loss", found, TRAINER, LOSS_TOLERANCE[plan.dtype])
        pairs.append((LOOP, MATRIX, float(counter.get_total_flops())))
    times = {beside if side == TRAINER else side: values[1:] for side, values in between.times.items()}
    return list(compare("step", times, pairs, {**plan.setting, "rows": ROWS, "positions": plan.positions}))


def trainer_of(model: PreTrainedModel, plan: Plan, folder: Path, between: Between) -> Trainer:
    rows, count = rows_of(model, plan), plan.rounds + 1
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=ROWS,
        max_steps=count,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
        bf16=plan.dtype == "bfloat16",
        use_cpu=plan.device == "cpu",
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = [{name: values[row] for name, values in rows.items()} for row in range(ROWS)] * count
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[between])
    trainer.remove_callback(PrinterCallback)
    return trainer


def waiting(plan: Plan, folder: Path, owl: OwlForConditionalGeneration) -> Measurement:
    """What a step of a whole run waits for its batch, which workers load from JPEG files."""
    processor, settings = processor_of(owl.config), LoaderSettings(ROWS, ROWS, workers=WORKERS)
    loader = Loader(Chats(draw(folder)), processor, settings)
    run(
        recipe(plan, plan.rounds + WARM_UP),
        folder / "run",
        open_owl=lambda _: (owl, processor),
        open_data=lambda *asked: None if asked[-1] else loader,
    )
    records = logged(folder / "run")[WARM_UP:]
    whole = [1e3 * record["seconds"] for record in records]
    times = {"step": whole, "wait": [r["data_wait"] * 1e3 * r["seconds"] for r in records]}
    return next(compare("data", times, [("wait", "step", 1.0)], {**plan.setting, "rows": ROWS, "workers": WORKERS}))


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
