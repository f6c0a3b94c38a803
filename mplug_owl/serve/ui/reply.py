"""An answer on its way into a page: it can be looked at without waiting, and stopped at any time.

Files are read and prompts made in a few threads of their own, so that pages stay awake. What a page looks like is not
known here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from starlette.types import Scope

from mplug_owl.engine.chat import Answer, Chat, template_stops
from mplug_owl.engine.request import Busy
from mplug_owl.engine.sampling import Sampling
from mplug_owl.errors import OwlError, RequestError, did_you_mean
from mplug_owl.media import Limits
from mplug_owl.serve.catalogue import Catalogue, UnknownModel
from mplug_owl.serve.limits import allowed_models
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import Refusal
from mplug_owl.serve.ui.conversation import Turn, messages
from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.upload import Upload, check_counts, looked_into

GLANCE = 0.04
"""Seconds between two looks at an answer: more often nobody can read."""
BREATH = 1.0
"""Seconds after which a page is touched although nothing came, which shows whether anybody is still there."""

log = logging.getLogger(__name__)


class Reply:
    """An answer; leaving its `with` stops it."""

    def __init__(self, chat: Chat, turns: Sequence[Turn], parameters: Parameters, openers: ThreadPoolExecutor) -> None:
        self.text = ""
        self.ended = ""
        """Why it ended; nothing while it runs."""
        self._chat = chat
        self._stopped = False
        self._answer: Answer | None = None
        self._opening: Future[Answer | None] = openers.submit(self._open, turns, parameters)

    def _open(self, turns: Sequence[Turn], parameters: Parameters) -> Answer | None:
        if self._stopped:
            return None
        sampling = Sampling(parameters.temperature, parameters.top_p, parameters.top_k, seed=parameters.seed)
        request = self._chat.request(
            messages(turns), sampling=sampling, max_new_tokens=parameters.max_new_tokens, system=parameters.system
        )
        if self._stopped:
            return None
        answer = self._chat.ask(request, stops=template_stops(self._chat.processor, None))
        if self._stopped:  # meanwhile
            answer.abort()
        return answer

    def look(self) -> bool:
        """Whether there is more of it than before. Raises what it failed of."""
        if self.ended:
            return False
        if self._answer is None and self._opening.done():
            self._answer = self._opening.result()
        if self._answer is None:
            self.ended = "abort" if self._stopped else ""
            return self._stopped
        before = len(self.text)
        self.text += "".join(piece.text for piece in self._answer.ready())
        if self._answer.finish is not None:
            self.ended = self._answer.finish.reason
        return bool(self.ended) or len(self.text) > before

    def stop(self) -> None:
        """End it before its next word, also while it waits; what it said stays."""
        self._stopped = True
        if self._answer is not None:
            self._answer.abort()

    def __enter__(self) -> "Reply":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ended:
            self.stop()


async def changes(*replies: Reply) -> AsyncIterator[None]:
    """Whenever there is more of one of them, and once in a while, until all have ended. Raises what one failed of."""
    quiet = 0.0
    while not all(reply.ended for reply in replies):
        await asyncio.sleep(GLANCE)
        quiet += GLANCE
        if any([reply.look() for reply in replies]) or quiet >= BREATH:
            quiet = 0.0
            yield


class Asker:
    """The owls of a server, as its pages ask them."""

    def __init__(self, catalogue: Catalogue, options: ServeOptions, pages: PageOptions) -> None:
        self.catalogue = catalogue
        self.options = options
        self.limits = Limits(
            max_pixels=options.max_pixels,
            max_bytes=pages.max_upload,
            timeout=options.media_timeout,
            allow_local=False,
            allow_remote=False,
        )
        self._openers = ThreadPoolExecutor(options.openers, thread_name_prefix="owl-page")

    def names(self, scope: Scope) -> list[str]:
        """The models that whoever sent a request may ask."""
        return allowed_models(scope, self.catalogue.names)

    async def uploads(self, paths: Sequence[str]) -> tuple[Upload, ...]:
        """Look into files. Raises: DataError."""
        return await asyncio.get_running_loop().run_in_executor(self._openers, looked_into, paths, self.limits)

    def ask(self, scope: Scope, model: str, turns: Sequence[Turn], parameters: Parameters) -> Reply:
        """Have the last of the turns answered. Raises: as `chat`."""
        return Reply(self.chat(scope, model, turns), turns, parameters, self._openers)

    def chat(self, scope: Scope, model: str, turns: Sequence[Turn]) -> Chat:
        """Who answers these turns.

        Raises: RequestError where nothing is asked, too much is shown, or no questions are taken any more;
        UnknownModel where there is no such model for whoever sent the request.
        """
        if not self.catalogue.ready:
            raise RequestError("the server is about to stop; try again when it is back")
        if model not in (names := self.names(scope)):
            raise UnknownModel(f"no model {str(model)[:200]!r} for you{did_you_mean(str(model)[:200], names)}")
        if not turns or not (turns[-1].question or turns[-1].uploads):
            raise RequestError("nothing was asked; write a question, or show a picture or a video")
        check_counts(
            [upload for turn in turns for upload in turn.uploads], self.options.max_images, self.options.max_videos
        )
        owl = self.catalogue.owl(model)
        return Chat(owl.engine, owl.processor, self.limits)


def explained(error: Exception) -> str:
    """An error as a sentence for whoever sits in front of the page; a fault of our own tells nothing of our insides."""
    if isinstance(error, Busy):
        return "Many questions are waiting already. Try again in a moment."
    if isinstance(error, OwlError | Refusal):
        text = str(error).rstrip(".")
        return f"{text[:1].upper()}{text[1:]}."
    log.error("a page met a fault", exc_info=error)
    return "Something went wrong on the server; its log says more. Try again, or begin a new conversation."
