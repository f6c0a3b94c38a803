"""`owl bench engine`: decoding, many chats at once and follow-up turns, beside `generate` and the machine's limit.

The limit of a decode step is the time of its matrices alone, multiplied as the engine multiplies them. Every chat shows
a picture of its own, so nothing is answered from a cache but what a follow-up may reuse. Nothing is timed before the
engine has given the ids that `generate` gives.
"""

import copy
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import count
from time import perf_counter

import torch
from tqdm import tqdm

from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.sides import owl_configs
from mplug_owl.bench.stopwatch import Job, Times, compare, interleave
from mplug_owl.engine.engine import Engine
from mplug_owl.engine.options import EngineOptions
from mplug_owl.engine.quantize import quantize
from mplug_owl.engine.request import Medium, Request, Token
from mplug_owl.errors import EvalError
from mplug_owl.models.owl import OwlForConditionalGeneration

ENGINE, GENERATE, INT4, GEMV = "engine", "generate", "engine int4", "matrix-vector"
EAGER = "engine eager"  # beside the engine where that replays recorded steps
AT_ONCE = (1, 4, 16, 64)
PICTURES = 6  # of the long conversation that a follow-up goes on with
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "decode": ((ENGINE, GENERATE), (ENGINE, GEMV), (INT4, ENGINE), (ENGINE, EAGER)),
    "first token": (("follow-up", "first turn"),),
    **{f"chats x{number}": ((ENGINE, GENERATE), (ENGINE, EAGER)) for number in AT_ONCE},
}
"""What is put beside what, as far as a device has both; of chats and decoding the milliseconds are those of a token."""


class Chats:
    """A model that never ends an answer by itself, and chats that nobody had before."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.config = next(iter(owl_configs(plan.shape).values()))
        with torch.device(plan.device):
            self.model = OwlForConditionalGeneration(self.config).to(getattr(torch, plan.dtype)).eval()
        self.model.generation_config.eos_token_id = None
        self.numbers = count()

    def request(self, new_tokens: int, pictures: int = 1) -> Request:
        number = next(self.numbers)
        generator = torch.Generator().manual_seed(number)
        length, side = self.config.media_length, self.config.vision_config.image_size  # type: ignore[union-attr]
        words = torch.randint(3, 250, (self.plan.positions,), generator=generator).tolist()
        ids, media = [1], []
        for place in range(pictures):
            pixels = torch.randn(3, side, side, generator=generator)
            media.append(Medium("image", len(ids), length, f"{number}.{place}".encode(), pixels))
            ids += [self.config.image_token_id or 0] * length
        return Request([*ids, *words], media, new_tokens, stop_ids=frozenset())

    def generate(self, request: Request) -> list[int]:
        ids = torch.tensor([request.ids], device=self.plan.device)
        pixels = torch.stack([medium.pixels for medium in request.media if medium.pixels is not None])
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels.to(self.model.device, self.model.dtype),
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
        )
        return list(out[0, ids.shape[1] :].tolist())


def measure(plan: Plan) -> list[Measurement]:
    """Run the plan; a progress bar goes to stderr.

    Raises:
        EvalError: the engine did not answer as `generate` does.
    """
    torch.set_num_threads(plan.threads)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        chats = Chats(plan)
        engines = both_ways(chats)
        for engine in engines.values():
            check(chats, engine)
        groups = {"decode": decode_jobs(chats, engines), "first token": turn_jobs(chats, engines[ENGINE])}
        for number in AT_ONCE:
            groups[f"chats x{number}"] = chat_jobs(chats, engines, number)
        times: dict[str, Times] = {}
        with tqdm(total=len(groups) * (plan.rounds + 1), desc=f"{plan.shape} {plan.dtype}", disable=None) as bar:
            for what, jobs in groups.items():
                times[what] = interleave(jobs, plan, bar.update)
    setting = {**plan.setting, "positions": plan.positions, "steps": plan.steps}
    found: list[Measurement] = []
    for what, measured in times.items():
        pairs = [(ours, other, 1.0) for ours, other in PAIRS[what] if ours in measured and other in measured]
        found += compare(what, measured, pairs, setting)
    return found


def both_ways(chats: Chats) -> dict[str, Engine]:
    """The engine as it is, and where it records decode steps, one that does not."""
    engine = Engine(chats.model)
    if engine.forward.graphs is None:
        return {ENGINE: engine}
    return {ENGINE: engine, EAGER: Engine(chats.model, EngineOptions(decode="eager"))}


def check(chats: Chats, engine: Engine) -> None:
    """In float32 all ids must agree; rounding to 16 bits may part the ways of answers, though not at once."""
    asked = [chats.request(8) for _ in range(4)]
    expected = [chats.generate(request) for request in asked]
    got = answers(engine, asked)
    exact = chats.model.dtype == torch.float32
    same = sum(a == b if exact else a[0] == b[0] for a, b in zip(got, expected, strict=True))
    if same < len(asked) - (not exact):
        raise EvalError(
            f"the engine answers {len(asked) - same} of {len(asked)} chats unlike generate; nothing is timed"
        )


def answers(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    handles = engine.submit_all([(request, None) for request in requests])
    return [[event.id for event in handle if isinstance(event, Token)] for handle in handles]


def chat_jobs(chats: Chats, engines: dict[str, Engine], number: int) -> dict[str, Job]:
    """Whole chats, pictures and prompts included; `generate` has them one after the other, so one is enough."""
    new = chats.plan.steps

    def together(engine: Engine) -> Callable[[], object]:
        return lambda: answers(engine, [chats.request(new) for _ in range(number)])

    jobs = {name: Job(together(engine), number * new) for name, engine in engines.items()}
    return {**jobs, GENERATE: Job(lambda: chats.generate(chats.request(new)), new)}


def decode_jobs(chats: Chats, engines: dict[str, Engine]) -> dict[str, Job]:
    """One token after the other of a single chat, each behind the same cache."""
    plan, model = chats.plan, chats.model
    jobs = {name: Job(stepper(engine, plan), plan.steps) for name, engine in engines.items()}
    if plan.device == "cpu" or find_spec("torchao"):
        small = copy.deepcopy(model)
        quantize(small, "int4")
        jobs[INT4] = Job(stepper(Engine(small), plan), plan.steps)
    past = model(input_ids=torch.ones(1, plan.positions, dtype=torch.long, device=plan.device), use_cache=True)
    token = torch.ones(1, 1, dtype=torch.long, device=plan.device)

    def library() -> None:
        for _ in range(plan.steps):
            model(input_ids=token, past_key_values=past.past_key_values, use_cache=True)
            past.past_key_values.crop(-1)

    return {**jobs, GENERATE: Job(library, plan.steps), GEMV: Job(products(engines[ENGINE], plan), plan.steps)}


def products(engine: Engine, plan: Plan) -> Callable[[], None]:
    """The matrices of the engine's own steps, in the layout in which it has them, and nothing else of a step.

    Recorded where steps are: launched one by one, they could be slower than the whole step.
    """
    forward = engine.forward
    kind = {"dtype": forward.model.dtype, "device": forward.model.device}
    matrices = [(torch.ones(1, inputs, **kind), product) for inputs, product in forward.matrices]

    def step() -> None:
        for row, product in matrices:
            product(row)

    once = step if forward.graphs is None else forward.graphs.record(step)

    def run() -> None:
        for _ in range(plan.steps):
            once()

    return run


def stepper(engine: Engine, plan: Plan) -> Callable[[], None]:
    """The engine's own step, behind so many positions of a slot."""
    engine.scheduler.make_room(plan.positions + 1)
    alpha = engine.forward.alpha(plan.positions)

    def steps() -> None:
        for _ in range(plan.steps):
            engine.forward.decode(0, [1], [plan.positions], [alpha]).argmax(-1).tolist()

    return steps


class Turn(Job):
    """A turn of a conversation, of which only the time to its first token counts."""

    def time(self, device: str) -> float:
        begun: float = self.run()
        return begun


def turn_jobs(chats: Chats, engine: Engine) -> dict[str, Job]:
    """A long conversation with several pictures, and a question more about it."""

    def first() -> float:
        return waited(engine, chats.request(1, PICTURES))

    def following() -> float:
        opening = chats.request(4, PICTURES)
        [said] = answers(engine, [opening])
        return waited(engine, Request([*opening.ids, *said, *range(5, 20)], opening.media, 1, stop_ids=frozenset()))

    return {"first turn": Turn(first), "follow-up": Turn(following)}


def waited(engine: Engine, request: Request) -> float:
    """Milliseconds until the first token."""
    start = perf_counter()
    answers(engine, [request])
    return 1e3 * (perf_counter() - start)
