"""`owl bench model`: prefill, decode, vision and abstractor, beside LLaVA and the machine's limits.

Nothing is timed before all sides have given the same logits. What the sides are made of is the business of `sides.py`.
"""

from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.sides import LLAVA, build_sides, bytes_of_step, decoder_inputs, flops_of_prefill
from mplug_owl.bench.stopwatch import MATRIX, Job, check_equal, compare, interleave, matrix_job

COPY = "copy bandwidth"
DECODERS = (("owl", LLAVA), ("owl2", LLAVA), ("owl2", "owl"))
PAIRS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "prefill": (*DECODERS, ("owl", MATRIX), ("owl2", MATRIX)),
    "decode": (*DECODERS, ("owl", COPY), ("owl2", COPY)),
    "vision": (("owl", LLAVA), ("owl2", LLAVA)),
    "abstractor": (("owl", None), ("owl2", None)),
}
"""What is put beside what, as far as the shape has both."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest relative difference between logits of sides that compute the same thing."""


def measure(plan: Plan) -> list[Measurement]:
    """Run the plan; a progress bar goes to stderr.

    Raises:
        EvalError: two sides did not compute the same thing.
    """
    torch.set_num_threads(plan.threads)
    found: list[Measurement] = []
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        sides = build_sides(plan)
        groups = {**decoder_jobs(sides, plan), **encoder_jobs(sides)}
        total = len(groups) * (plan.rounds + 1)
        with tqdm(total=total, desc=f"{plan.shape} {plan.dtype}", disable=None) as bar:
            for what, jobs in groups.items():
                times = interleave(jobs, plan, bar.update)
                pairs = [
                    (name, baseline, amount(baseline, sides[name], plan))
                    for name, baseline in PAIRS[what]
                    if name in times and baseline in (*times, None)
                ]
                setting = {**plan.setting, "positions": plan.positions, "visual": plan.visual}
                found += compare(what, times, pairs, setting)
    return found


def amount(baseline: str | None, model: PreTrainedModel, plan: Plan) -> float:
    """What a limit of the machine is multiplied by; another side's time counts once."""
    needs = {MATRIX: flops_of_prefill, COPY: bytes_of_step}
    return needs[baseline](model, plan) if baseline in needs else 1.0


def decoder_jobs(sides: dict[str, PreTrainedModel], plan: Plan) -> dict[str, dict[str, Job]]:
    inputs = decoder_inputs(sides, plan)
    prefill = {name: prefill_job(model, inputs[name]) for name, model in sides.items()}
    decode = {name: decode_job(model, inputs[name], plan) for name, model in sides.items()}
    for what, jobs in (("prefill", prefill), ("decode", decode)):
        check_equal(what, {name: job.run() for name, job in jobs.items()}, LLAVA, TOLERANCE[plan.dtype])
    return {"prefill": {**prefill, MATRIX: matrix_job(plan)}, "decode": {**decode, COPY: copy_job(plan)}}


def prefill_job(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Job:
    """The decoder over ready embeddings, filling a cache, and the logits of the last position.

    The head is given rows without a length axis: on one position cut out of a longer run PyTorch's CPU kernels copy
    the whole head first, a cost that is not the decoder's.
    """
    decoder = model.model.language_model

    def run() -> Tensor:
        hidden = decoder(**inputs, use_cache=True).last_hidden_state
        return model.lm_head(hidden[:, -1])

    return Job(run)


def decode_job(model: PreTrainedModel, inputs: dict[str, Tensor], plan: Plan) -> Job:
    """The whole model, one token after the other, each behind the same cache."""
    past = model.model.language_model(**inputs, use_cache=True).past_key_values
    token = torch.ones(1, 1, dtype=torch.long, device=plan.device)

    def run() -> Tensor:
        for _ in range(plan.steps):
            logits = model(input_ids=token, past_key_values=past, use_cache=True).logits
            past.crop(-1)
        return logits

    return Job(run, plan.steps)


def copy_job(plan: Plan) -> Job:
    """A copy far larger than any cache; its time is per byte read or written."""
    count = 2**26 if plan.device == "cpu" else 2**30
    source = torch.ones(count, dtype=torch.float32, device=plan.device)
    target = torch.empty_like(source)
    return Job(partial(target.copy_, source), 2.0 * source.nbytes)


def encoder_jobs(sides: dict[str, PreTrainedModel]) -> dict[str, dict[str, Job]]:
    """Vision and abstractor, for one picture."""
    vision, abstractor = {}, {}
    for name, model in sides.items():
        encoder = model.model.vision_tower if name == LLAVA else model.model.vision
        size = encoder.config.image_size
        pixels = torch.randn(1, 3, size, size).to(encoder.device, encoder.dtype)
        vision[name] = Job(partial(encoder, pixels))
        if name != LLAVA:
            tokens = encoder(pixels).last_hidden_state
            abstractor[name] = Job(partial(model.model.abstractor, tokens))
    return {"vision": vision, "abstractor": abstractor}
