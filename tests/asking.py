"""Requests to the engine made of the rows of `owls.py`, and what `generate` answers to the same."""

import hashlib
import itertools

import torch

from mplug_owl.engine.engine import Engine
from mplug_owl.engine.request import Event, Finish, Listener, Medium, Request, Token
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlForConditionalGeneration
from owls import Row, Rows, batch, random_owl


def mixed(owl: OwlForConditionalGeneration) -> list[Row]:
    rows = Rows(owl)
    return [
        rows.row(4, "image", 3, "image", 2),
        rows.row("image", ("video", 2), 5),
        rows.row(6),
        rows.row(40, ("video", 3), "image", 2),
    ]


def request(owl: OwlForConditionalGeneration, row: Row, new: int = 12, **wishes) -> Request:
    """A request that no id ends early."""
    config, ids, place = owl.config, row.ids, 0
    images, videos, media = iter(row.images), iter(row.videos), []
    while place < len(ids):
        kind = {config.image_token_id: "image", config.video_token_id: "video"}.get(ids[place])
        if kind is None:
            place += 1
            continue
        pixels = next(images if kind == "image" else videos)
        stills = 1 if kind == "image" or config.vision_config.temporal else len(pixels)
        key = hashlib.sha256(kind.encode() + pixels.double().numpy().tobytes()).digest()
        media.append(Medium(kind, place, config.media_length * stills, key, pixels))
        place += media[-1].length
    return Request(ids, media, new, **{"stop_ids": frozenset(), **wishes})


def generated(owl: OwlForConditionalGeneration, row: Row, new: int = 12, **wishes) -> list[int]:
    """The ids `generate` gives; the owl must have no id that ends an answer."""
    inputs = {name: moved(value, owl.device) for name, value in batch([row]).items()}
    return owl.generate(**inputs, **{"max_new_tokens": new, "do_sample": False, **wishes})[0, len(row.ids) :].tolist()


def moved(value: torch.Tensor | list[torch.Tensor], device: torch.device) -> torch.Tensor | list[torch.Tensor]:
    return [part.to(device) for part in value] if isinstance(value, list) else value.to(device)


def ids(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


def answers(engine: Engine, requests: list[Request]) -> list[list[int]]:
    """The ids of requests that were all there from the start."""
    return [ids(events) for events in together(engine, requests)]


def together(engine: Engine, requests: list[Request]) -> list[list[Event]]:
    """The events of requests that all enter at the same step: another one's first token lets them in."""
    handles = []

    def open_doors(event: Event) -> None:
        if isinstance(event, Token):
            handles.extend(engine.submit(each) for each in requests)

    run(engine, Request([1], max_new_tokens=1, stop_ids=frozenset()), open_doors)
    return [list(handle) for handle in handles]


def run(engine: Engine, one: Request, listener: Listener) -> None:
    """Submit a request and wait until the engine has nothing left to do."""
    engine.submit(one, listener)
    wait(engine)


def staggered(owl: OwlForConditionalGeneration, engine: Engine, count: int = 32) -> None:
    """Requests of all kinds and lengths, each answered as `generate` does it alone; each third token of one lets the
    next one in, every fifth is aborted.
    """
    rows = Rows(owl, seed=3)
    kinds = [("image", 4), (9,), (2, ("video", 2), 3), ("image", 1, "image"), (70,), (1, "image", ("video", 1), 30)]
    asked = [(rows.row(*kinds[n % len(kinds)]), 3 + 5 * n % 17, n % 5 == 4) for n in range(count)]
    heard: list[list[Event]] = [[] for _ in asked]
    handles, coming = {}, itertools.count()

    def enter() -> None:
        number = next(coming)
        if number < count:
            row, new, _ = asked[number]
            handles[number] = engine.submit(request(owl, row, new), lambda event: hear(number, event))

    def hear(number: int, event: Event) -> None:
        heard[number].append(event)
        if len(heard[number]) % 3 == 1:
            enter()
        if asked[number][2] and len(heard[number]) == 2 and number in handles:
            handles[number].abort()

    for _ in range(3):
        enter()
    wait(engine)
    assert next(coming) >= count
    for (row, new, may_end), events in zip(asked, heard, strict=True):
        last = events[-1]
        assert isinstance(last, Finish)
        assert (last.reason, last.generated) == ("length", new) or (last.reason == "abort" and may_end)
        assert ids(events) == generated(owl, row, new)[: last.generated]


def wait(engine: Engine) -> None:
    while (thread := engine._thread) is not None:
        thread.join()


def endless(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> OwlForConditionalGeneration:
    """A random owl for whom no id ends an answer, in `generate` too."""
    config = FAMILIES[family].config()
    # A tied head makes a random owl say one word again and again, whatever it is shown.
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    owl = random_owl(config, dtype, seed)
    owl.generation_config.eos_token_id = None
    return owl
