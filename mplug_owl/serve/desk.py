"""What the server knows of one model: how its prompts are made and how long they may be, how its answers end and its
tokens are spelt.
"""

from collections.abc import Sequence
from dataclasses import replace

from mplug_owl.engine.chat import Chat, template_stops
from mplug_owl.engine.public import Owl
from mplug_owl.engine.request import Request, Token
from mplug_owl.engine.sampling import Sampling
from mplug_owl.engine.teams import dismiss_team
from mplug_owl.errors import RequestError
from mplug_owl.media import Limits
from mplug_owl.messages import Message
from mplug_owl.serve.forms import Logprobs, TokenLogprob, TopLogprob
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import Refusal
from mplug_owl.serve.schema import ChatRequest
from mplug_owl.serve.spelling import Spelling

TOGETHER = 4  # pictures of the largest size, or as many smaller ones as are no larger in all, of one request
LEAST = -9999.0  # what clients know as the logarithm of nothing
LETTERS = 64
"""Of text for each position of a context: no tokenizer of ours has tokens so long on average."""
MOST_LETTERS = 1_000_000
"""Of text where a context has no end: its tokens take hundreds of times as many bytes."""


class Desk:
    """A model behind the server, under its name."""

    def __init__(self, name: str, owl: Owl, options: ServeOptions) -> None:
        self.name = name
        self.options = options
        # An owl may be asked by others as well, who may open what strangers may not.
        limits = Limits(
            max_pixels=options.max_pixels,
            max_total_pixels=TOGETHER * options.max_pixels,
            max_bytes=options.max_body,
            timeout=options.media_timeout,
            allow_local=False,
            allow_remote=options.remote_media,
            trusted_hosts=options.trusted_hosts,
        )
        self.chat = Chat(owl.engine, owl.processor, limits)
        self.stops = template_stops(owl.processor, None)
        self.spelling = Spelling(owl.processor.tokenizer)

    @property
    def most(self) -> int:
        """Requests that may be here at a time."""
        options = self.chat.engine.options
        return options.slots + options.queue

    def requests(self, wish: ChatRequest) -> list[Request]:
        """What the engine is asked, once for each choice. It opens the media, so it takes its time.

        Raises: DataError, RequestError; Refusal where it is too long for the model.
        """
        sampling = Sampling(
            temperature=wish.temperature or 0.0,
            top_p=1.0 if wish.top_p is None else wish.top_p,
            top_k=max(0, wish.top_k or 0),
            min_p=wish.min_p or 0.0,
            repetition_penalty=wish.repetition_penalty or 1.0,
            seed=wish.seed,
        )
        said = wish.conversation()
        self._check_letters(said)
        first = self.chat.request(
            said,
            sampling=sampling,
            max_new_tokens=wish.new_tokens or self.options.default_new_tokens,
            logprobs=(wish.top_logprobs or 0) if wish.logprobs else None,
        )
        dismiss_team()  # pixels may have been computed in parallel
        try:  # the engine would say the same, but not to a client of OpenAI's
            self.chat.engine.admission.room(len(first.ids), first.max_new_tokens)
        except RequestError as error:
            raise too_long(str(error)) from None
        seeds = [None if wish.seed is None else wish.seed + number for number in range(wish.n or 1)]
        return [replace(first, sampling=replace(sampling, seed=seed)) for seed in seeds]

    def _check_letters(self, messages: Sequence[Message]) -> None:
        """Refuse a text so long that reading it would only show that it cannot fit, and take much memory to do so."""
        letters = sum(len(message.text) for message in messages)
        context = self.chat.engine.admission.context
        most = MOST_LETTERS if context is None else min(MOST_LETTERS, LETTERS * context)
        if letters > most:
            raise too_long(f"{letters} letters of text; at most {most} are read here: shorten it")

    def logprobs(self, tokens: Sequence[Token]) -> Logprobs:
        return {"content": [self._logprob(token) for token in tokens], "refusal": None}

    def _logprob(self, token: Token) -> TokenLogprob:
        likely = [self._spelt(id, value) for id, value in token.likely]
        return {**self._spelt(token.id, token.logprob or 0.0), "top_logprobs": likely}

    def _spelt(self, token: int, logprob: float) -> TopLogprob:
        text, spelt = self.spelling.spell(token)
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": spelt}


def too_long(message: str) -> Refusal:
    """What OpenAI's clients tell from other errors, so that some of them shorten a conversation by themselves."""
    return Refusal(400, message, param="messages", code="context_length_exceeded")
