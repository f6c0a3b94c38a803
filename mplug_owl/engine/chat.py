"""From messages to the engine and back to text: media are opened, the template makes the prompt, tokens become words.

One path for `Owl.chat`, the command line, files of conversations and the server. How tokens come about is the engine's
business; how messages arrived, that of whoever calls.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from mplug_owl.engine.engine import Engine, Handle
from mplug_owl.engine.request import Event, Failure, Finish, Medium, Request, Token
from mplug_owl.engine.sampling import Sampling
from mplug_owl.engine.transcript import Transcript
from mplug_owl.errors import RequestError
from mplug_owl.media import Limits, Tally, load_image, load_video
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, chat_dicts
from mplug_owl.models.processor import OwlProcessor


class Delta(NamedTuple):
    """More of an answer: text that will not change, and the tokens it came with."""

    text: str
    tokens: tuple[Token, ...]


class Answer:
    """An answer on its way; iterating gives its pieces, `close` ends it early.

    Whoever cannot wait in a thread is told by `notify`, in the engine's, that there is more to be had from `ready`.
    """

    def __init__(self, transcript: Transcript, whole: bool, notify: Callable[[], object] | None = None) -> None:
        self.finish: Finish | None = None
        self.times: list[float] = []
        """When its tokens came, by `time.perf_counter`."""
        self._transcript = transcript
        self._whole = whole
        self._notify = notify
        self._text: list[str] = []
        self._tokens: list[Token] = []
        self._pieces: SimpleQueue[Delta | Finish | Failure] = SimpleQueue()
        self.handle: Handle | None = None

    def hear(self, event: Event) -> bool:
        """Take an event down, in the engine's thread; True: a stop string was met."""
        if isinstance(event, Token):
            self.times.append(time.perf_counter())
            self._tokens.append(event)
            self._say(self._transcript.add(event.id), hold=self._whole)
            return self._transcript.ended
        if isinstance(event, Finish):
            self._say(self._transcript.finish(), hold=False, last=True)
        self._put(event)
        return False

    def _say(self, text: str, hold: bool, last: bool = False) -> None:
        self._text.append(text)
        # Tokens without a text of their own wait for the next that has one; after the last there is none.
        if not hold and (text or self._whole or (last and self._tokens)):
            self._put(Delta("".join(self._text), tuple(self._tokens)))
            self._text, self._tokens = [], []

    def _put(self, piece: Delta | Finish | Failure) -> None:
        self._pieces.put(piece)
        if self._notify is not None:
            self._notify()

    def __iter__(self) -> Iterator[Delta]:
        """The pieces as they come. Raises what the answer failed of."""
        while self.finish is None:
            yield from self._taken(self._pieces.get())

    def ready(self) -> list[Delta]:
        """The pieces that have come, without waiting for more. Raises what the answer failed of."""
        found: list[Delta] = []
        while self.finish is None:
            try:
                found += self._taken(self._pieces.get_nowait())
            except Empty:
                break
        return found

    def _taken(self, piece: Delta | Finish | Failure) -> list[Delta]:
        if isinstance(piece, Failure):
            self.finish = Finish("failure", 0, 0, 0)
            raise piece.error
        if isinstance(piece, Finish):
            self.finish = piece
            return []
        return [piece]

    def abort(self) -> None:
        """End the answer before its next token, without waiting until it has."""
        if self.handle is not None:
            self.handle.abort()

    def close(self) -> None:
        """End the answer, if it has not ended; when this returns, its slot is free."""
        self.abort()
        while self.finish is None:
            piece = self._pieces.get()
            if not isinstance(piece, Delta):
                self.finish = piece if isinstance(piece, Finish) else Finish("failure", 0, 0, 0)

    def text(self) -> str:
        """All of it."""
        try:
            return "".join(piece.text for piece in self)
        finally:
            self.close()


class Chat:
    """A processor in front of an engine."""

    def __init__(self, engine: Engine, processor: OwlProcessor, limits: Limits) -> None:
        self.engine = engine
        self.processor = processor
        self.limits = limits

    def ask(
        self,
        request: Request,
        *,
        stops: Sequence[str] = (),
        whole: bool = False,
        notify: Callable[[], object] | None = None,
    ) -> Answer:
        """Submit a request that `request` made; with `whole` its text comes in one piece, which is cheaper."""
        return self.ask_all([(request, stops)], whole=whole, notify=notify)[0]

    def ask_all(
        self,
        requests: Sequence[tuple[Request, Sequence[str]]],
        *,
        whole: bool = True,
        notify: Callable[[], object] | None = None,
    ) -> list[Answer]:
        """Submit several, with the texts that end each, all before the engine's next step."""
        answers = [Answer(Transcript(self.processor, stops), whole, notify) for _, stops in requests]
        asked = [(request, answer.hear) for (request, _), answer in zip(requests, answers, strict=True)]
        for answer, handle in zip(answers, self.engine.submit_all(asked), strict=True):
            answer.handle = handle
        return answers

    def request(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling | None = None,
        max_new_tokens: int = 512,
        system: str | None = None,
        template: str | None = None,
        logprobs: int | None = None,
    ) -> Request:
        """Open the media of a conversation and make its prompt.

        Raises:
            DataError: an image or a video cannot be used, or all together are too large.
            RequestError: the parts of the request do not fit each other.
        """
        parts = [part for message in messages for part in message.content]
        limits, tally, frames = self.limits, Tally(self.limits), self.processor.num_frames
        pictures = [load_image(part.source, limits, tally) for part in parts if isinstance(part, ImagePart)]
        videos = [part for part in parts if isinstance(part, VideoPart)]
        clips = [load_video(part.source, part.num_frames or frames, limits, tally) for part in videos]
        ids, kinds = self.prompt(messages, [len(clip) for clip in clips], system, template)
        for kind, given in (("image", pictures), ("video", clips)):
            if kinds.count(kind) != len(given):
                raise RequestError(
                    f"the text holds {kinds.count(kind)} {kind} placeholder(s), but {len(given)} {kind}(s) were given; "
                    f"expected one {kind} for each placeholder"
                )
        media = self.media(ids, kinds, pictures, clips)
        return Request(ids, media, max_new_tokens, sampling or Sampling(), logprobs=logprobs)

    def prompt(
        self, messages: Sequence[Message], frames: Sequence[int], system: str | None, template: str | None
    ) -> tuple[list[int], list[str]]:
        """The ids of a conversation, and the kinds of the media in it."""
        said = chat_dicts(as_template_wants(self.processor, messages, template))
        variables: dict[str, Any] = {} if system is None else {"system": system}
        text, _ = self.processor.render(said, template, add_generation_prompt=True, **variables)
        kinds = self.processor.placeholders(text)
        # Where their numbers differ there is an error to come, and no frames for every placeholder.
        known = frames if kinds.count("video") == len(frames) else None
        return self.processor.encode_text(text, video_frames=known)[0], kinds

    def media(
        self, ids: Sequence[int], kinds: Sequence[str], pictures: Sequence[Image.Image], clips: Sequence[Any]
    ) -> list[Medium]:
        """What fills the media positions of a prompt, in reading order; nothing is prepared that is known already."""
        processor, place = self.processor, 0
        stills, moving = iter(pictures), iter(clips)
        media_ids = (processor.image_token_id, processor.video_token_id)
        found = []
        for kind in kinds:
            place = next(at for at in count(place) if ids[at] in media_ids)
            length = processor.media_length
            if kind == "image":
                picture = next(stills)
                key, pixels = digest(kind, [picture]), partial(self.picture_pixels, picture)
            else:
                clip = next(moving)
                length *= len(clip) if processor.video_as_frames else 1
                key, pixels = digest(kind, clip), partial(processor.clip_pixels, clip)
            rows = self.engine.features.get(key)
            found.append(Medium(kind, place, length, key, pixels() if rows is None else None, rows))
            place += length
        return found

    def picture_pixels(self, picture: Image.Image) -> Tensor:
        pixels: Tensor = self.processor.image_processor([picture])["pixel_values"][0]
        return pixels


def digest(kind: str, pictures: Sequence[Image.Image]) -> bytes:
    """The same for the same pixels; a clip and its only frame are seen differently, so the kind counts."""
    found = hashlib.sha256(kind.encode())
    for picture in pictures:
        found.update(repr((picture.mode, picture.size)).encode())
        # The bytes of a palette picture are places in its palette.
        found.update((picture.convert("RGBA") if picture.mode in ("P", "PA") else picture).tobytes())
    return found.digest()


def around_answers(processor: OwlProcessor, template: str | None) -> tuple[str, str]:
    """What the template writes before and after an answer as part of it."""
    example = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    text, spans = processor.render(example, template=template)
    before, _, after = text[slice(*spans[-1])].partition("!")
    return before, after


def template_stops(processor: OwlProcessor, template: str | None) -> list[str]:
    """The text that ends an answer, where that is no token which ends it by itself."""
    _, after = around_answers(processor, template)
    return [after] if after and after != processor.tokenizer.eos_token else []


def as_template_wants(processor: OwlProcessor, messages: Sequence[Message], template: str | None) -> list[Message]:
    """Earlier answers without the space that the template brings itself.

    A tokenizer may join that space to the first word, so answers come with it.
    """
    if not any(message.role == "assistant" for message in messages):
        return list(messages)
    space, _ = around_answers(processor, template)

    def without(message: Message) -> Message:
        first = message.content[0] if message.content else None
        if message.role != "assistant" or not space or not isinstance(first, TextPart):
            return message
        return Message(message.role, (TextPart(first.text.removeprefix(space)), *message.content[1:]))

    return [without(message) for message in messages]
