"""What all requests of one application share: the models, the threads that open media, the counts, the word to stop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mplug_owl.engine.request import Busy
from mplug_owl.serve.account import Account
from mplug_owl.serve.bell import Bell
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.desk import Desk
from mplug_owl.serve.metrics import Metrics
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import refusal, stopping

T = TypeVar("T")
OUTCOMES = {500: "failed", 503: "busy", 504: "timeout"}


class Service:
    def __init__(self, catalogue: Catalogue, options: ServeOptions) -> None:
        self.catalogue = catalogue
        self.options = options
        self.metrics = Metrics(catalogue)
        self.stopping = False
        """Whether no more requests are taken; those that are here end in peace."""
        self.under_way: set[asyncio.Task[None]] = set()
        """The work on requests for completions that are here."""
        self._openers = ThreadPoolExecutor(options.openers, thread_name_prefix="owl-opener")
        self._desks = {name: Desk(name, catalogue.owl(name), options) for name in catalogue.names}
        self._bell: Bell | None = None

    def desk(self, name: str | None) -> Desk:
        """The model a request means.

        Raises: UnknownModel; Busy where too many requests are here; Refusal where no more are taken.
        """
        if self.stopping or not self.catalogue.ready:
            raise stopping()
        desk = self._desks[self.catalogue.name(name)]
        if len(self.under_way) >= desk.most:
            raise Busy(f"{len(self.under_way)} requests are here, of {desk.most} that may; try again later")
        return desk

    @property
    def bell(self) -> Bell:
        """For the event loop that is running."""
        loop = asyncio.get_running_loop()
        if self._bell is None or self._bell.loop is not loop:
            self._bell = Bell(loop)
        return self._bell

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Let one of a few threads do what would hold up everybody else."""
        return await asyncio.get_running_loop().run_in_executor(self._openers, work)

    def settle(self, account: Account, error: Exception | None = None) -> None:
        """Take a request down that has ended, well or not."""
        if error is not None:
            told = refusal(error)
            account.outcome, account.code = OUTCOMES.get(told.status, "refused"), told.code
        account.end()
        self.metrics.count(account)

    @property
    def busy(self) -> bool:
        """Whether anything is being answered, for the API or for the pages."""
        engines = (owl.engine for owl in self.catalogue.owls)
        return bool(self.under_way) or any(engine.running or engine.waiting for engine in engines)

    def give_up(self) -> None:
        """End all that is here at once; whoever waits is told to ask again."""
        for work in self.under_way:
            work.cancel()

    def close(self) -> None:
        self._openers.shutdown(wait=False, cancel_futures=True)
