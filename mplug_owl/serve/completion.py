"""One request for a completion, from the opening of its media to the last byte of the answer.

It lives as long as its client: whoever hangs up, early or late, streaming or not, frees the slot with the next step of
the engine. Until the first token nothing is sent, so whatever is wrong by then is answered with its own status.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import mplug_owl
from mplug_owl.engine.chat import Answer, Delta
from mplug_owl.engine.request import Request
from mplug_owl.errors import OwlError
from mplug_owl.serve.account import Account
from mplug_owl.serve.desk import Desk
from mplug_owl.serve.forms import ChatCompletion, Choice, Usage
from mplug_owl.serve.replies import Json, Refusal, refusal
from mplug_owl.serve.schema import ChatRequest
from mplug_owl.serve.service import Service
from mplug_owl.serve.stream import DONE, Chunks, event

FINGERPRINT = f"mplug_owl-{mplug_owl.__version__}"
LAST_WORD = 5.0  # seconds in which a client must take the error that ends its stream


class Completion(Response):
    """The response to a request: it asks the engine when it is sent."""

    def __init__(self, service: Service, desk: Desk, wish: ChatRequest, account: Account) -> None:
        super().__init__()
        self.service, self.desk, self.wish, self.account = service, desk, wish, account
        self.created = int(time.time())
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.flag = asyncio.Event()
        """Set when there is more of an answer."""
        self.started = False
        """Whether the client has been sent a status."""
        account.outcome = "disconnected"  # until it has another
        account.id, account.model, account.stream = f"chatcmpl-{uuid.uuid4().hex}", desk.name, bool(wish.stream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._work(scope, receive, send))
        gone = asyncio.create_task(hung_up(receive))
        told: Refusal | None = None
        self.service.under_way.add(work)
        try:
            await self._until_end(work, gone)
        except Exception as fault:
            told = refusal(fault)
            if told.status == 500:
                self.account.fault = fault
            if told is fault and not self.started:
                raise
            if not self.started:
                raise told from fault
            await self._last_word(send, told)
        finally:
            # The slot comes first: where the server stops, awaiting may be cut short.
            for answer in self.answers:
                answer.abort()
            self.service.under_way.discard(work)
            self._close_account(told)
            await _ended(work, gone)

    async def _until_end(self, work: "asyncio.Task[None]", gone: "asyncio.Task[None]") -> None:
        limit = self.service.options.request_timeout
        left = max(0.0, limit - self.account.seconds)
        done, _ = await asyncio.wait((work, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if work in done and not work.cancelled():
            work.result()
            self.account.outcome = "answered"
        elif work in done:
            raise Refusal(503, "the server stopped before the answer ended; ask again", code="stopping", retry_after=2)
        elif gone in done:
            self.account.outcome = "disconnected"
        else:
            await _ended(work)
            raise Refusal(504, f"no whole answer within {limit:g} s; ask for fewer tokens", code="timeout")

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.service.options.log_contents:
            self.account.asked = [{"role": said.role, "text": said.text} for said in self.wish.conversation()]
        self.requests = await self.service.in_thread(partial(self.desk.requests, self.wish))
        self.wish.messages = []  # their pictures are large, and answers take long
        if self.wish.stream:
            await self._stream(send)
        else:
            await self._whole(scope, receive, send)

    # ---- the answers as they come ----------------------------------------------------------------

    async def _pieces(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        """What has come of which choice since the last time, until all have ended.

        The first choice reads the prompt. The others are asked when it has, and share what it read.
        """
        alone = len(self.requests) == 1
        self._ask(self.requests[:1], whole=alone and not self.wish.stream)
        while True:
            await self.flag.wait()
            self.flag.clear()
            try:
                found = [(number, piece) for number, answer in enumerate(self.answers) for piece in answer.ready()]
            except OwlError as error:  # what the engine took, it should have answered
                raise Refusal(500, str(error), code="engine_error") from error
            if len(self.answers) < len(self.requests):
                self._ask(self.requests[1:], whole=not self.wish.stream)
            yield found
            if all(answer.finish for answer in self.answers):
                return

    def _ask(self, requests: Sequence[Request], whole: bool) -> None:
        stops = [*self.desk.stops, *self.wish.stops]
        notify = partial(self.service.bell.ring, self.flag)
        self.answers += self.desk.chat.ask_all([(asked, stops) for asked in requests], whole=whole, notify=notify)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces: list[list[Delta]] = [[] for _ in self.requests]
        async for found in self._pieces():
            for number, piece in found:
                pieces[number].append(piece)
        choices = [self._choice(number, said) for number, said in enumerate(pieces)]
        self._note([choice["message"]["content"] for choice in choices])
        completion: ChatCompletion = {
            "id": str(self.account.id),
            "object": "chat.completion",
            "created": self.created,
            "model": self.desk.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
            "usage": self._usage(),
        }
        self.started = True
        await Json(completion)(scope, receive, send)

    def _choice(self, number: int, pieces: Sequence[Delta]) -> Choice:
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        return {
            "index": number,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self.desk.logprobs(tokens) if self.wish.logprobs else None,
            "finish_reason": self._reason(number),
        }

    async def _stream(self, send: Send) -> None:
        chunks = Chunks(str(self.account.id), self.created, self.desk.name, FINGERPRINT, self.wish.include_usage)
        said, ended = ["" for _ in self.requests], set[int]()
        async for found in self._pieces():
            events = []
            for number, piece in found:
                logprobs = self.desk.logprobs(piece.tokens) if self.wish.logprobs else None
                if piece.text or logprobs:
                    events.append(chunks.text(number, piece.text, logprobs))
                said[number] += piece.text
            for number, answer in enumerate(self.answers):
                if answer.finish and number not in ended:
                    ended.add(number)
                    events.append(chunks.finish(number, self._reason(number)))
            if events:
                await self._send(send, b"".join(events))
        self._note(said)
        usage = self._usage()
        rest = chunks.usage(usage) if self.wish.include_usage else b""
        await self._send(send, rest + DONE, more=False)

    # ---- what is sent ----------------------------------------------------------------------------

    async def _send(self, send: Send, body: bytes, more: bool = True) -> None:
        if not self.started:
            self.started = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _last_word(self, send: Send, told: Refusal) -> None:
        """Say in the stream what ended it, for its status has gone out already."""
        if self.wish.stream:
            with suppress(TimeoutError, OSError):  # a client that does not read will not read this either
                await asyncio.wait_for(self._send(send, event(told.body), more=False), LAST_WORD)

    # ---- what is written down --------------------------------------------------------------------

    def _reason(self, number: int) -> Literal["stop", "length"]:
        finish = self.answers[number].finish
        return "stop" if finish and finish.reason == "stop" else "length"

    def _usage(self) -> Usage:
        ends = [answer.finish for answer in self.answers if answer.finish]
        # The prompt counts once, however many answers it gets.
        prompt, cached, generated = ends[0].prompt, ends[0].reused, sum(end.generated for end in ends)
        self.account.prompt, self.account.cached, self.account.generated = prompt, cached, generated
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _note(self, texts: list[str]) -> None:
        if self.service.options.log_contents:
            self.account.answers = texts

    def _close_account(self, told: Refusal | None) -> None:
        account = self.account
        account.times = [answer.times for answer in self.answers]
        if not account.generated:  # the answer did not end by itself
            account.generated = sum(map(len, account.times))
            account.prompt = len(self.requests[0].ids) if self.requests else 0
        self.service.settle(account, told)


async def hung_up(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
