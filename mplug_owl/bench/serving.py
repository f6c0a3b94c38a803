"""`owl bench serving`: many chats with pictures over HTTP, beside `generate`, the bare engine and `transformers serve`.

Clients, our server and the library's are processes of their own; clients have a core of their own where there is one
to spare. All are asked for the same number of tokens behind prompts of the same length, each with a picture that nobody
saw before. Nothing is timed before the server has said what `generate` says.
"""

import base64
import io
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from mplug_owl.bench.clients import Clients, Heard
from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.servers import library, ours
from mplug_owl.bench.sides import SIZES, owl_configs
from mplug_owl.bench.stopwatch import Job, Times, compare, interleave
from mplug_owl.engine.public import Owl
from mplug_owl.errors import EvalError
from mplug_owl.messages import from_openai
from mplug_owl.models.families import build, make_processor
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.tokenizers import byte_tokenizer

SERVER, ENGINE, GENERATE, LIBRARY = "serve", "engine", "generate", "transformers"
AT_ONCE = (1, 4, 16, 64)
MOST_OF_LIBRARY = 4  # chats for the library's server: it has them one after the other, so a few tell its pace
PERCENTILES = (50, 95, 99)
PICTURES = 6  # of the long conversation that a follow-up goes on with
STARTS = 3


class Chats:
    """A model in a folder that never ends an answer by itself, and chats that nobody had before."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.numbers = count()
        if plan.shape in SIZES:
            config = next(iter(owl_configs(plan.shape).values()))
            model: Any = OwlForConditionalGeneration(config)
            processor = make_processor(config, worded(config.get_text_config().vocab_size), "owl2", "square")
        else:
            model, processor = build(plan.shape)
        model.generation_config.eos_token_id = None
        model.to(getattr(torch, plan.dtype)).save_pretrained(folder)
        processor.save_pretrained(folder)
        self.owl = Owl(model.to(plan.device).eval(), processor)

    def messages(self, pictures: int = 1) -> list[dict[str, Any]]:
        number = next(self.numbers)
        words = "".join(Random(number).choices("etaoin shrdlu ", k=self.plan.positions))
        shown = [{"type": "image_url", "image_url": {"url": picture(number, n)}} for n in range(pictures)]
        return [{"role": "user", "content": [*shown, {"type": "text", "text": words}]}]

    def body(self, messages: list[dict[str, Any]], tokens: int | None = None) -> dict[str, Any]:
        return {"messages": messages, "max_tokens": tokens or self.plan.steps, "temperature": 0, "stream": True}

    def bodies(self, number: int) -> list[dict[str, Any]]:
        return [self.body(self.messages()) for _ in range(number)]

    def generate(self, messages: list[dict[str, Any]]) -> str:
        """What the library makes of a conversation."""
        inputs = self.owl.prepare(from_openai(messages))
        ids = self.owl.model.generate(**inputs, max_new_tokens=self.plan.steps, do_sample=False)
        tokenizer = self.owl.processor.tokenizer
        return str(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    def engine(self, conversations: Sequence[list[dict[str, Any]]]) -> list[str]:
        """The same without a server: messages to text, all at once."""
        asked = [self.owl.ask(messages, max_new_tokens=self.plan.steps) for messages in conversations]
        return [answer.text() for answer in asked]


def worded(size: int) -> PreTrainedTokenizerFast:
    """The tokenizer of bytes with a word for every other id of a vocabulary: none is ever read, any may be said."""
    plain = byte_tokenizer()
    known = json.loads(plain.backend_tokenizer.to_str())
    words = known["model"]["vocab"]
    words.update({f"{number} ": number for number in range(len(words), size)})
    names = {name: getattr(plain, name) for name in ("unk_token", "bos_token", "eos_token")}
    backend = Tokenizer.from_str(json.dumps(known))
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)


def picture(*seed: int) -> str:
    """A photo-like JPEG of its own, as a data URL."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Told(Job):
    """A job that says itself how many milliseconds it took, because some of what it does is not to count."""

    def time(self, device: str) -> float:
        told: float = self.run()
        return told / self.parts


class Bench:
    """Everything that runs, and who asks whom."""

    def __init__(self, plan: Plan, folder: Path, cores: "Cores", leaving: ExitStack) -> None:
        self.plan = plan
        self.chats = Chats(plan, folder)
        self.clients = Clients(cores.clients)
        leaving.callback(self.clients.close)
        self.server, self.library = ours(plan, folder, cores.servers), library(plan, folder, cores.servers)
        leaving.callback(self.server.close)
        leaving.callback(self.library.close)
        self.heard: dict[int, list[list[Heard]]] = {number: [] for number in AT_ONCE}
        """What our server said in each round, by the number of clients."""

    def check(self) -> None:
        """Raises: EvalError where the servers answer otherwise than `generate`, or read another prompt.

        Rounding to 16 bits may part the ways of answers, though not at once.
        """
        conversations = [self.chats.messages() for _ in range(4)]
        expected = [self.chats.generate(messages) for messages in conversations]
        exact = self.plan.dtype == "float32"
        for server, name in ((self.server, SERVER), (self.library, LIBRARY)):
            found = self.clients.ask(server.url, [self.chats.body(messages) for messages in conversations])
            texts = [plain(heard.text) for heard in found]
            same = sum(a == b if exact else a[:1] == b[:1] for a, b in zip(texts, map(plain, expected), strict=True))
            if same < len(expected) - (not exact):
                raise EvalError(
                    f"{name} answers {len(expected) - same} of {len(expected)} chats unlike generate; nothing is timed"
                )

    def throughput(self, number: int) -> dict[str, Job]:
        """Whole chats, pictures and prompts included; the time is that of a token."""
        chats, steps, few = self.chats, self.plan.steps, min(number, MOST_OF_LIBRARY)

        def asked() -> float:
            heard = self.clients.ask(self.server.url, chats.bodies(number))
            self.heard[number].append(heard)
            return last(heard)

        def bare() -> float:
            conversations = [chats.messages() for _ in range(number)]
            return clocked(lambda: chats.engine(conversations))

        def alone() -> float:
            messages = chats.messages()
            return clocked(lambda: chats.generate(messages))

        return {
            SERVER: Told(asked, number * steps),
            ENGINE: Told(bare, number * steps),
            GENERATE: Told(alone, steps),  # one after the other, so one tells the pace
            LIBRARY: Told(lambda: last(self.clients.ask(self.library.url, chats.bodies(few))), few * steps),
        }

    def turns(self) -> dict[str, Job]:
        """The first token of a long conversation, and that of a question more about it."""

        def first() -> float:
            return self.begun(self.chats.messages(PICTURES))[0]

        def following() -> float:
            messages = self.chats.messages(PICTURES)
            said = self.begun(messages)[1]
            question = {"role": "user", "content": "And what else is there?"}
            return self.begun([*messages, {"role": "assistant", "content": said}, question])[0]

        return {"first turn": Told(first), "follow-up": Told(following)}

    def begun(self, messages: list[dict[str, Any]]) -> tuple[float, str]:
        """Milliseconds until the first piece of an answer, and the answer."""
        [heard] = self.clients.ask(self.server.url, [self.chats.body(messages, tokens=4)])
        return heard.pieces[0] if heard.pieces else heard.end, heard.text


@dataclass(frozen=True)
class Cores:
    """Who computes where: clients beside the others, where there is a core that nobody else needs."""

    servers: tuple[int, ...]
    clients: tuple[int, ...]

    @classmethod
    def shared_out(cls, threads: int) -> "Cores":
        mine = sorted(os.sched_getaffinity(0))
        return cls(tuple(mine[:threads]), tuple(mine[threads:] or mine))


def measure(plan: Plan) -> list[Measurement]:
    """Run the plan; a progress bar goes to stderr.

    Raises: EvalError where a server does not come up, or answers unlike `generate`.
    """
    torch.set_num_threads(plan.threads)
    before, cores = os.sched_getaffinity(0), Cores.shared_out(plan.threads)
    with ExitStack() as leaving, torch.random.fork_rng(), torch.inference_mode():
        folder = Path(leaving.enter_context(TemporaryDirectory()), "owl")
        torch.manual_seed(0)
        os.sched_setaffinity(0, cores.servers)
        leaving.callback(os.sched_setaffinity, 0, before)
        bench = Bench(plan, folder, cores, leaving)
        bench.check()
        groups: dict[str, dict[str, Job]] = {f"chats x{number}": bench.throughput(number) for number in AT_ONCE}
        groups["first token"] = bench.turns()
        times: dict[str, Times] = {}
        with tqdm(total=len(groups) * (plan.rounds + 1), desc=f"{plan.shape} {plan.dtype}", disable=None) as bar:
            for what, jobs in groups.items():
                times[what] = interleave(jobs, plan, bar.update)
        starts = [bench.server.seconds, *again(plan, folder, cores)]
    setting = {**plan.setting, "positions": plan.positions, "steps": plan.steps}
    setting["clients"] = "apart" if set(cores.clients).isdisjoint(cores.servers) else "beside"
    return list(compared(times, bench.heard, starts, setting))


def compared(
    times: dict[str, Times], heard: dict[int, list[list[Heard]]], starts: list[float], setting: dict[str, Any]
) -> Iterator[Measurement]:
    for what, measured in times.items():
        others = ["first turn"] if what == "first token" else [GENERATE, LIBRARY, ENGINE]
        ours_is = "follow-up" if what == "first token" else SERVER
        yield from compare(what, measured, [(ours_is, other, 1.0) for other in others], setting)
    for number, rounds in heard.items():
        for what, of_one in (("first", first_piece), ("between", between_pieces)):
            for share in PERCENTILES:
                times_of = [[t for each in said for t in of_one(each)] for said in rounds[1:]]
                found = [percentile(values, share) for values in times_of if values]
                if not found:  # all of each answer came in one piece
                    continue
                yield from compare(f"{what} x{number}", {f"p{share}": found}, [(f"p{share}", None, 1.0)], setting)
    yield from compare("ready", {SERVER: [1e3 * seconds for seconds in starts]}, [(SERVER, None, 1.0)], setting)


def again(plan: Plan, folder: Path, cores: Cores) -> Iterator[float]:
    """Seconds that more starts of our server take."""
    for _ in range(STARTS - 1):
        server = ours(plan, folder, cores.servers)
        server.close()
        yield server.seconds


def plain(text: str) -> str:
    """A text without what servers make of half a letter, of which random weights say many."""
    return "".join(filter(str.isascii, text))


def first_piece(heard: Heard) -> list[float]:
    return heard.pieces[:1]


def between_pieces(heard: Heard) -> list[float]:
    return [later - earlier for earlier, later in pairwise(heard.pieces)]


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else values[0]


def last(heard: Sequence[Heard]) -> float:
    return max(each.end for each in heard)


def clocked(work: Callable[[], object]) -> float:
    """Milliseconds."""
    start = perf_counter()
    work()
    return 1e3 * (perf_counter() - start)
