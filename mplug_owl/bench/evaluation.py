"""`owl bench evaluation`: a whole run of `owl eval` on the drawn world, beside one `generate` after the other.

The run asks the questions and their controls, writes every answer down, scores and sums up; the other side only makes
prompts and generates. Nothing is timed before both have given the same answers. Every answer has `steps` tokens: the
longer they are, the more there is to win. Whether they are right is not judged here.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.stopwatch import Job, compare, interleave
from mplug_owl.engine.chat import template_stops
from mplug_owl.engine.public import Owl
from mplug_owl.errors import EvalError, RequestError, did_you_mean
from mplug_owl.eval.endpoints import OwlEndpoint
from mplug_owl.eval.run import run
from mplug_owl.eval.tasks.world import CONTROLS, WorldTask
from mplug_owl.messages import Message
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.families import build as build_family
from mplug_owl.world.scene import SKILLS

RUN, GENERATE = "owl eval", "generate"
TOGETHER = 64  # questions that a run asks at once
SINGLES = 40  # questions of the other side; it takes the same time for each of more
WITH_CONTROLS = len(SKILLS) * (1 + len(CONTROLS))
QUICK = WITH_CONTROLS


@dataclass(frozen=True)
class Questions(WorldTask):
    """The drawn world's, with answers of at most so many tokens."""

    max_new_tokens: int = 16


def measure(plan: Plan) -> list[Measurement]:
    """Run the plan; a progress bar goes to stderr.

    Raises:
        EvalError: a run did not answer as `generate` does.
    """
    torch.set_num_threads(plan.threads)
    asked = QUICK if plan.shape == "tiny" else plan.positions
    task = Questions(count=max(1, asked // WITH_CONTROLS), max_new_tokens=plan.steps)
    owl = open_owl(plan)
    conversations = [example.messages for example in task.examples()]
    singles = conversations[:: max(1, len(conversations) // SINGLES)]
    check(owl, singles, plan.steps)
    with TemporaryDirectory() as folder:

        def whole() -> None:
            out, fresh = Path(folder, "run"), Owl(owl.model, owl.processor)  # which has seen no picture yet
            run(OwlEndpoint(fresh, plan.shape, TOGETHER), [task], out)
            fresh.engine.close()
            shutil.rmtree(out)  # or the next one would have nothing to ask

        def one_by_one() -> None:
            for conversation in singles:
                generated(owl, conversation, plan.steps)

        jobs = {RUN: Job(whole, len(conversations)), GENERATE: Job(one_by_one, len(singles))}
        with tqdm(total=plan.rounds + 1, desc=f"{plan.shape} {plan.dtype}", disable=None) as bar:
            times = interleave(jobs, plan, bar.update)
    setting = {**plan.setting, "questions": len(conversations), "steps": plan.steps}
    return list(compare("a question", times, [(RUN, GENERATE, 1.0)], setting))


def open_owl(plan: Plan) -> Owl:
    """Random weights, which never end an answer: both sides make `steps` tokens of each."""
    name = "tiny-owl2" if plan.shape == "tiny" else plan.shape
    if name not in FAMILIES:
        raise RequestError(f"shape {plan.shape!r}{did_you_mean(plan.shape, FAMILIES)}")
    model, processor = build_family(name, device=plan.device, dtype=getattr(torch, plan.dtype))
    model.generation_config.eos_token_id = None
    return Owl(model, processor)


def generated(owl: Owl, conversation: Sequence[Message], new_tokens: int) -> str:
    inputs = owl.prepare(conversation)
    with torch.inference_mode():
        out = owl.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    text: str = owl.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    for stop in template_stops(owl.processor, None):
        text = text.partition(stop)[0]
    return text


def check(owl: Owl, conversations: Sequence[Sequence[Message]], new_tokens: int) -> None:
    """In float32 all answers must agree; rounding to 16 bits may part the ways of some."""
    expected = [generated(owl, conversation, new_tokens) for conversation in conversations]
    found = list(OwlEndpoint(owl, "owl", TOGETHER).answers(conversations, new_tokens))
    differ = sum(a != b for a, b in zip(found, expected, strict=True))
    if differ > (0 if owl.model.dtype == torch.float32 else len(found) // 4):
        raise EvalError(f"{differ} of {len(found)} answers are not those of generate; nothing is timed")
