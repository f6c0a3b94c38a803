"""The owl people use: `load` opens one, `Owl.chat` asks it about images and videos.

A conversation goes in as messages (or just a question), its media are opened, the family's own template makes the
prompt, and the answer comes back as text, whole or in pieces. How a prompt becomes tensors is the processor's
business; how tensors become tokens, the model's.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from mplug_owl import models
from mplug_owl.engine.answers import answers
from mplug_owl.engine.chat import Answer, Chat, as_template_wants, template_stops
from mplug_owl.engine.conversation import Conversation, conversation
from mplug_owl.engine.engine import Engine
from mplug_owl.engine.insight.look import Look, look_inside
from mplug_owl.engine.insight.observer import Observer
from mplug_owl.engine.options import EngineOptions
from mplug_owl.engine.quantize import quantize as make_smaller
from mplug_owl.engine.request import Request
from mplug_owl.engine.sampling import Sampling
from mplug_owl.errors import RequestError
from mplug_owl.media import Limits, load_image, load_video
from mplug_owl.messages import ImagePart, Message, VideoPart, chat_dicts
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor


def load(
    name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
    limits: Limits | None = None,
    options: EngineOptions | None = None,
) -> "Owl":
    """Open an owl: a native or published folder, a hub name, or a family (random but for the owlet).

    An adapter folder opens with the base it was trained on; `adapter` puts one onto a base given. `device="auto"`
    takes an NVIDIA GPU, then Apple's (untested), then the CPU. `quantize` makes the weights of the decoder "int8" or
    "int4", in bfloat16 unless another dtype is given. `limits` bound what images and videos may cost, `options` what
    the engine takes.
    """
    if quantize is not None and dtype == "auto":
        dtype = "bfloat16"  # the kernels of few bits are slow in float32
    model, processor = models.load(name_or_path, adapter=adapter, device=device, dtype=dtype)
    if quantize is not None:
        make_smaller(model, quantize)
    return Owl(model, processor, limits=limits, options=options)


class ChatOptions(TypedDict, total=False):
    """The options of `Owl.chat`; the method itself says what they mean."""

    images: Sequence[Any] | None
    videos: Sequence[Any] | None
    system: str | None
    template: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]


class Owl:
    """A model and its processor, ready to talk."""

    def __init__(
        self,
        model: OwlForConditionalGeneration,
        processor: OwlProcessor,
        *,
        limits: Limits | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.limits = limits or Limits()
        self.options = options
        self._desk: Chat | None = None
        self._opening = threading.Lock()

    @overload
    def chat(
        self, messages: Conversation, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> str: ...
    @overload
    def chat(
        self, messages: Conversation, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Generator[str, None, None]: ...

    def chat(
        self, messages: Conversation, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> str | Generator[str, None, None]:
        """Answer a question, or continue a conversation; greedy unless a temperature is given.

        `messages` is a question, or messages (`Message`, or dicts in the OpenAI form). `images` and `videos` fill the
        parts of dicts that name no source, or else are shown with the last message of the user. With `stream=True` the
        answer comes in pieces that add up to the whole, and closing the iterator stops the model. An empty `system`
        leaves the system line out; None takes that of the template. The answer ends in front of a `stop` text. The
        same `seed` gives the same answer, whatever else draws random numbers or is asked at the same time: threads may
        ask one owl together, and a conversation that goes on is not read again.

        Raises:
            DataError: an image or a video cannot be used.
            RequestError: the parts of the request do not fit each other.
        """
        asked, stops = self._request(messages, **options)
        if stream:
            return self._stream(asked, stops)
        return self.desk.ask(asked, stops=stops, whole=True).text()

    def ask(self, messages: Conversation, **options: Unpack[ChatOptions]) -> Answer:
        """As `chat`, but at once: the answer is on its way, and its text comes whole."""
        asked, stops = self._request(messages, **options)
        return self.desk.ask(asked, stops=stops, whole=True)

    def look(
        self,
        messages: Conversation,
        *,
        rollout: Sequence[str] = (),
        layers: Sequence[int] | None = None,
        lens: int = 3,
        **options: Unpack[ChatOptions],
    ) -> Look:
        """Answer as `chat` does, and tell where in the pictures each word of the answer comes from.

        A word looks at pictures by the attention of the decoder, averaged over heads and `layers` (all unless given),
        carried through the connector onto patches. `rollout` goes through "vision" and "decoder" layer by layer
        instead of taking tokens for their patches, and looks for direct. `lens` is how many words are told of each
        visual position, 0 for none. The answer is what `chat` gives; looking changes nothing.

        Raises: as `chat`; RequestError where nothing is shown or nothing is answered.
        """
        wishes: dict[str, Any] = dict(options)
        heard = conversation(messages, wishes.pop("images", None) or (), wishes.pop("videos", None) or ())
        sampling = Sampling(**{f.name: wishes.pop(f.name) for f in fields(Sampling) if f.name in wishes})
        observer = Observer(self.model, rollout=rollout, layers=layers, lens=lens)
        return look_inside(self.desk, heard, observer, sampling=sampling, **wishes)

    def _request(
        self,
        messages: Conversation,
        *,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        system: str | None = None,
        template: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> tuple[Request, list[str]]:
        """What the engine is asked, and the texts that end its answer."""
        heard = conversation(messages, images or (), videos or ())
        wishes = Sampling(temperature, top_p, top_k, min_p, repetition_penalty, seed)
        asked = self.desk.request(
            heard, sampling=wishes, max_new_tokens=max_new_tokens, system=system, template=template
        )
        return asked, [*self._stops(template), *([stop] if isinstance(stop, str) else stop)]

    def _stream(self, asked: Request, stops: list[str]) -> Generator[str, None, None]:
        answer = self.desk.ask(asked, stops=stops)
        try:
            for piece in answer:
                yield piece.text
        finally:
            answer.close()

    @property
    def engine(self) -> Engine:
        """What answers, for many at once; made when it is first needed, and anew for another model."""
        return self.desk.engine

    @property
    def desk(self) -> Chat:
        """Where conversations become requests to the engine."""
        with self._opening:
            if self._desk is None or self._desk.engine.model is not self.model:
                self._desk = Chat(Engine(self.model, self.options), self.processor, self.limits)
            self._desk.processor, self._desk.limits = self.processor, self.limits
            return self._desk

    def prepare(
        self, messages: Sequence[Message], *, system: str | None = None, template: str | None = None
    ) -> dict[str, Tensor]:
        """Open the media of a conversation and make its prompt: what `model.generate` takes."""
        parts = [part for message in messages for part in message.content]
        images = [load_image(p.source, self.limits) for p in parts if isinstance(p, ImagePart)]
        frames = self.processor.num_frames
        videos = [load_video(p.source, p.num_frames or frames, self.limits) for p in parts if isinstance(p, VideoPart)]
        said = chat_dicts(as_template_wants(self.processor, messages, template))
        variables: dict[str, Any] = {} if system is None else {"system": system}
        inputs = self.processor.apply_chat_template(
            said,
            chat_template=template,
            images=images or None,
            videos=videos or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **variables,
        )
        return dict(inputs.to(self.model.device, dtype=self.model.dtype))

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        batch_size: int = 32,
        max_new_tokens: int = 64,
        system: str | None = None,
        template: str | None = None,
    ) -> Iterator[str]:
        """The greedy answers of many conversations, in their order, as `chat` would give them one by one.

        A batch enters the engine together, while the media of the next are opened; so the same conversations in the
        same batches get the same answers to the last bit.
        """

        for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise RequestError(f"{name}={value}; expected 1 or more")
        options: ChatOptions = {"max_new_tokens": max_new_tokens, "system": system, "template": template}

        def asked(batch: Sequence[Conversation]) -> list[tuple[Request, list[str]]]:
            return [self._request(messages, **options) for messages in batch]

        return answers(self.desk, asked, conversations, batch_size)

    def _stops(self, template: str | None) -> list[str]:
        return template_stops(self.processor, template)
