"""Requests to the engine made of the rows of `owls.py`, and what `generate` answers to the same."""

import hashlib

import torch

from mplug_owl.engine.engine import Engine
from mplug_owl.engine.request import Event, Listener, Medium, Request, Token
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlForConditionalGeneration
from owls import Row, batch, random_owl


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
    return owl.generate(**batch([row]), **{"max_new_tokens": new, "do_sample": False, **wishes})[
        0, len(row.ids) :
    ].tolist()


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
