"""The owl people use: `load` opens one, `Owl.chat` asks it about images and videos.

A conversation goes in as messages (or just a question), its media are opened, the family's own template makes the
prompt, and the answer comes back as text, whole or in pieces. How a prompt becomes tensors is the processor's
business; how tensors become tokens, the model's.
"""

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from mplug_owl import models
from mplug_owl.engine.conversation import Conversation, conversation
from mplug_owl.engine.sampling import sampling
from mplug_owl.engine.transcript import Transcript
from mplug_owl.errors import RequestError
from mplug_owl.media import Limits, load_image, load_video
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, chat_dicts
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor


def load(
    name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    limits: Limits | None = None,
) -> "Owl":
    """Open an owl: a native or published folder, a hub name, or a tiny family (random weights).

    An adapter folder opens with the base it was trained on; `adapter` puts one onto a base given. `device="auto"`
    takes an NVIDIA GPU, then Apple's (untested), then the CPU. `limits` bound what images and videos may cost.
    """
    model, processor = models.load(name_or_path, adapter=adapter, device=device, dtype=dtype)
    return Owl(model, processor, limits=limits)


class ChatOptions(TypedDict, total=False):
    """The options of `Owl.chat` for type checkers; the method itself says what they mean."""

    images: Sequence[Any] | None
    videos: Sequence[Any] | None
    system: str | None
    template: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None


class Owl:
    """A model and its processor, ready to talk."""

    def __init__(
        self, model: OwlForConditionalGeneration, processor: OwlProcessor, *, limits: Limits | None = None
    ) -> None:
        self.model = model
        self.processor = processor
        self.limits = limits or Limits()

    @overload
    def chat(
        self, messages: Conversation, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> str: ...
    @overload
    def chat(
        self, messages: Conversation, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Generator[str, None, None]: ...

    def chat(
        self,
        messages: Conversation,
        *,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        stream: bool = False,
        system: str | None = None,
        template: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
    ) -> str | Generator[str, None, None]:
        """Answer a question, or continue a conversation; greedy unless a temperature is given.

        `messages` is a question, or messages (`Message`, or dicts in the OpenAI form). `images` and `videos` fill the
        parts of dicts that name no source, or else are shown with the last message of the user. With `stream=True` the
        answer comes in pieces that add up to the whole, and closing the iterator stops the model. An empty `system`
        leaves the system line out; None takes that of the template. The same `seed` gives the same answer, whatever
        else draws random numbers.

        Raises:
            DataError: an image or a video cannot be used.
            RequestError: the parts of the request do not fit each other.
        """
        if max_new_tokens < 1:
            raise RequestError(f"max_new_tokens={max_new_tokens}; expected 1 or more")
        options = sampling(temperature, top_p, top_k, seed) | {"max_new_tokens": max_new_tokens}
        heard = conversation(messages, images or (), videos or ())
        options |= self.prepare(heard, system=system, template=template)
        stops = self._stops(template)
        if stream:
            return self._stream(options, stops)
        pieces: list[str] = []
        self._answer(options, Transcript(self.processor, stops, pieces.append))
        return "".join(pieces)

    def prepare(
        self, messages: Sequence[Message], *, system: str | None = None, template: str | None = None
    ) -> dict[str, Tensor]:
        """Open the media of a conversation and make its prompt: what `model.generate` takes."""
        parts = [part for message in messages for part in message.content]
        images = [load_image(p.source, self.limits) for p in parts if isinstance(p, ImagePart)]
        videos = [
            load_video(p.source, p.num_frames or self.processor.num_frames, self.limits)
            for p in parts
            if isinstance(p, VideoPart)
        ]
        # A tokenizer may join the template's space to the first word, so answers come with it.
        space, _ = self._around_answers(template)
        said = [_without(space, message) for message in messages]
        variables: dict[str, Any] = {} if system is None else {"system": system}
        inputs = self.processor.apply_chat_template(
            chat_dicts(said),
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

    def _around_answers(self, template: str | None) -> tuple[str, str]:
        """What the template writes before and after an answer as part of it."""
        example = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        text, spans = self.processor.render(example, template=template)
        before, _, after = text[slice(*spans[-1])].partition("!")
        return before, after

    def _stops(self, template: str | None) -> list[str]:
        """The text that ends an answer, where that is no token which ends it by itself."""
        _, after = self._around_answers(template)
        return [after] if after and after != self.processor.tokenizer.eos_token else []

    def _answer(self, options: dict[str, Any], transcript: Transcript) -> None:
        with torch.inference_mode():
            self.model.generate(**options, stopping_criteria=[transcript])
        transcript.finish()

    def _stream(self, options: dict[str, Any], stops: list[str]) -> Generator[str, None, None]:
        """Answer in a thread that ends with the iterator; its errors are raised here."""
        pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()
        transcript = Transcript(self.processor, stops, pieces.put)

        def work() -> None:
            try:
                self._answer(options, transcript)
            except BaseException as error:
                pieces.put(error)
            else:
                pieces.put(None)

        thread = threading.Thread(target=work, name="owl-answer", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            transcript.stop()
            thread.join()


def _without(space: str, message: Message) -> Message:
    """An earlier answer as the template wants it: the template brings its own leading space."""
    first = message.content[0] if message.content else None
    if message.role != "assistant" or not space or not isinstance(first, TextPart):
        return message
    return Message(message.role, (TextPart(first.text.removeprefix(space)), *message.content[1:]))
