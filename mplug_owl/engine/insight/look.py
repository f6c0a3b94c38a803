"""A look inside an answer: its words, the pictures, and which pixels each word comes from.

`look_inside` asks and observes, `looks` does it for several at once. A `Look` is what was found, to be shown by
`sheet.py` or `page.py`, or written as JSON. How attention becomes maps is the observer's business.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from PIL import Image
from torch import Tensor

from mplug_owl.engine.chat import Chat, template_stops
from mplug_owl.engine.insight.ground import Box, ground
from mplug_owl.engine.insight.observer import Asked, Observation, Observer
from mplug_owl.engine.insight.words import Word, words_of
from mplug_owl.engine.request import Medium
from mplug_owl.engine.sampling import Sampling
from mplug_owl.errors import RequestError, did_you_mean
from mplug_owl.media import Tally, load_image, load_video
from mplug_owl.messages import ImagePart, Message, Part, VideoPart
from mplug_owl.models.processor import OwlProcessor

SUFFIXES = (".png", ".html", ".json")
Frames = list[Image.Image]


class View(NamedTuple):
    """A picture, or a frame of a video, as it was shown."""

    name: str
    medium: int
    """Which of the images and videos, from 0, in reading order."""
    picture: Image.Image
    box: Box
    """The part of the picture that the maps cover."""


@dataclass(frozen=True, eq=False)
class Look:
    question: str
    answer: str
    words: tuple[Word, ...]
    views: tuple[View, ...]
    maps: Tensor
    """[words, views, G, G]: where each word comes from; over all views it sums to 1."""
    queries: tuple[Tensor, ...]
    """Of each image or video, [queries, views, G, G]: what each summarises, summing to 1; empty where the connector
    keeps every patch."""
    shares: Tensor
    """[layers, words, sources]: how the decoder's attention is divided; sums to 1."""
    sources: tuple[str, ...]
    """"text", "end of image", then the images and videos."""
    places: tuple[tuple[int, ...], ...]
    """Of each image or video, which of the visual positions of `lens` are its queries, or patches."""
    lens: tuple[tuple[tuple[tuple[str, float], ...], ...], ...]
    """Of each layer and visual position, the words it is nearest to and how near; empty where not asked for."""
    asked: Asked
    """What the model was given: prompt, answer and pixels."""

    @property
    def overall(self) -> Tensor:
        """[views, G, G]: where the answer as a whole comes from."""
        return self.maps.mean(0)

    def peak(self, word: int) -> tuple[int, float, float]:
        """The view, and the place in it (x, y as shares of the picture), that a word comes from most."""
        view, row, column = (int(i) for i in torch.unravel_index(self.maps[word].argmax(), self.maps.shape[1:]))
        left, top, right, bottom = self.views[view].box
        side = self.maps.shape[-1]
        return view, left + (column + 0.5) / side * (right - left), top + (row + 0.5) / side * (bottom - top)

    def save(self, path: str | Path) -> Path:
        """Write it as a picture (.png), as a page that needs nothing else (.html), or as numbers (.json).

        Raises: RequestError for another suffix.
        """
        path = Path(path)
        check_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            from mplug_owl.engine.insight.sheet import sheet

            sheet(self).save(path)
        elif path.suffix == ".html":
            from mplug_owl.engine.insight.page import page

            path.write_text(page(self), encoding="utf-8")
        else:
            path.write_text(json.dumps(self.record(), ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def record(self) -> dict[str, Any]:
        """Everything but the pictures, as plain JSON."""
        return {
            "question": self.question,
            "answer": self.answer,
            "words": [
                {"text": word.text, "start": word.start, "end": word.end, "probability": word.probability}
                for word in self.words
            ],
            "views": [
                {"name": view.name, "size": list(view.picture.size), "box": list(view.box)} for view in self.views
            ],
            "maps": _rounded(self.maps),
            "queries": [_rounded(queries) for queries in self.queries],
            "sources": list(self.sources),
            "shares": _rounded(self.shares),
            "places": [list(places) for places in self.places],
            "lens": [[[[text, round(near, 4)] for text, near in place] for place in layer] for layer in self.lens],
        }


def check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        hint = did_you_mean(path.suffix, SUFFIXES)
        raise RequestError(f"{path.name!r} ends in {path.suffix!r}{hint}")


class Wishes(TypedDict, total=False):
    """How an answer is asked for; as in `Chat.request`."""

    sampling: Sampling | None
    max_new_tokens: int
    system: str | None
    template: str | None
    stop: str | Sequence[str]


def look_inside(chat: Chat, messages: Sequence[Message], observer: Observer, **wishes: Unpack[Wishes]) -> Look:
    """Have a conversation answered, and look inside the answer.

    Raises: RequestError where nothing is shown or nothing is answered, and what asking raises.
    """
    (found,) = looks(chat, [messages], observer, **wishes)
    if found is None:
        raise RequestError("the answer has no words, so there is none to look for; ask something else")
    return found


def looks(
    chat: Chat, conversations: Sequence[Sequence[Message]], observer: Observer, **wishes: Unpack[Wishes]
) -> list[Look | None]:
    """The same for several, all at once; None for an answer without words.

    Raises: as `look_inside`.
    """
    options: dict[str, Any] = dict(wishes)
    stop, template = options.pop("stop", ()), options.get("template")
    stops = [*template_stops(chat.processor, template), *([stop] if isinstance(stop, str) else stop)]
    opened = [_opened(chat, messages) for messages in conversations]
    for _, media in opened:
        if not media:
            raise RequestError("nothing was shown, so there is nothing to look at; show a picture or a video")
    requests = [chat.request(messages, **options) for messages, _ in opened]
    texts, tokens = [], []
    for answer in chat.ask_all([(request, stops) for request in requests]):
        pieces = list(answer)
        texts.append("".join(piece.text for piece in pieces))
        tokens.append([token.id for piece in pieces for token in piece.tokens])
    asked = []
    for request, (_, media), ids in zip(requests, opened, tokens, strict=True):
        shown = [
            Medium(medium.kind, medium.start, medium.length, medium.key, pixels_of(chat.processor, medium.kind, frames))
            for medium, (_, frames) in zip(request.media, media, strict=True)
        ]
        asked.append(Asked(request.ids, ids, shown))
    words = [words_of(chat.processor, each.answer, text) for each, text in zip(asked, texts, strict=True)]
    said = [place for place, found in enumerate(words) if found]
    seen = dict(zip(said, observer.observe([asked[place] for place in said]), strict=True)) if said else {}
    return [
        _look(chat.processor, *opened[place], texts[place], words[place], asked[place], seen[place])
        if place in seen
        else None
        for place in range(len(asked))
    ]


def pixels_of(processor: OwlProcessor, kind: str, frames: Frames) -> Tensor:
    """What the model sees of a picture, or of the frames of a video."""
    if kind == "video":
        return processor.clip_pixels(frames)
    pixels: Tensor = processor.image_processor(frames)["pixel_values"][0]
    return pixels


def _opened(chat: Chat, messages: Sequence[Message]) -> tuple[list[Message], list[tuple[str, Frames]]]:
    """The conversation with its media decoded, once, and these media in reading order."""
    media: list[tuple[str, Frames]] = []
    limits, tally = chat.limits, Tally(chat.limits)

    def opened(part: Part) -> Part:
        if isinstance(part, ImagePart):
            media.append(("image", [load_image(part.source, limits, tally)]))
            return ImagePart(media[-1][1][0])
        if isinstance(part, VideoPart):
            count = part.num_frames or chat.processor.num_frames
            media.append(("video", load_video(part.source, count, limits, tally)))
            return VideoPart(media[-1][1], count)
        return part

    return [Message(message.role, [opened(part) for part in message.content]) for message in messages], media


def _look(
    processor: OwlProcessor,
    messages: Sequence[Message],
    media: Sequence[tuple[str, Frames]],
    answer: str,
    words: Sequence[Word],
    asked: Asked,
    seen: Observation,
) -> Look:
    members = [list(word.tokens) for word in words]
    names = _names(media)
    views = []
    for number, (kind, frames) in enumerate(media):
        aspect = "square" if kind == "video" and not processor.video_as_frames else None
        for place, frame in enumerate(frames):
            name = f"{names[number]}, frame {place + 1}" if kind == "video" else names[number]
            box = ground(frame.size, processor.image_processor, aspect)
            views.append(View(name, number, frame.convert("RGB"), box))
    asks = [message.text.strip() for message in messages if message.role == "user"]
    return Look(
        question=asks[-1] if asks else "",
        answer=answer,
        words=tuple(
            word._replace(probability=math.exp(float(seen.logprobs_A[tokens].sum())))
            for word, tokens in zip(words, members, strict=True)
        ),
        views=tuple(views),
        maps=torch.stack([seen.maps_AFGG[tokens].mean(0) for tokens in members]),
        queries=seen.queries,
        shares=torch.stack([seen.shares_YAK[:, tokens].mean(1) for tokens in members], dim=1),
        sources=("text", "end of image", *names),
        places=seen.places,
        lens=() if seen.lens is None else _spelled(processor, *seen.lens),
        asked=asked,
    )


def _names(media: Sequence[tuple[str, Frames]]) -> list[str]:
    """ "image 1", "video 1", "image 2" ...; without a number where there is one of its kind."""
    kinds = [kind for kind, _ in media]
    return [
        f"{kind} {kinds[: place + 1].count(kind)}" if kinds.count(kind) > 1 else kind
        for place, kind in enumerate(kinds)
    ]


def _spelled(
    processor: OwlProcessor, ids: Tensor, near: Tensor
) -> tuple[tuple[tuple[tuple[str, float], ...], ...], ...]:
    tokenizer = processor.tokenizer
    known = {token: tokenizer.decode([token]).strip() or repr(tokenizer.convert_ids_to_tokens(token)) for token in
             {int(token) for token in ids.flatten()} if token < len(tokenizer)}  # fmt: skip
    return tuple(
        tuple(
            tuple((known.get(token, f"<{token}>"), value) for token, value in zip(*place, strict=True))
            for place in zip(*layer, strict=True)
        )
        for layer in zip(ids.tolist(), near.tolist(), strict=True)
    )


def _rounded(values: Tensor) -> Any:
    """Five digits: a map of a thousand patches is told apart by them."""
    return (values.double() * 1e5).round().div(1e5).tolist()
