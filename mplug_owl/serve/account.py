"""What became of one request: what the metrics count and a line of the log holds.

Whoever stands in front of the application may open the account of a request; the application writes it down.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any

SCOPE = "owl.account"  # where the scope of a request keeps it


@dataclass
class Account:
    """One request for a completion, filled in as it goes."""

    id: str | None = None
    """Of the answer."""
    model: str | None = None
    stream: bool = False
    outcome: str = "refused"
    """"answered", "refused" (the client's fault), "busy", "failed" (ours), "disconnected" or "timeout"."""
    code: str | None = None
    """Of the refusal, if it was one."""
    fault: Exception | None = None
    """What went wrong in us."""
    prompt: int = 0
    """Tokens; so for the next two."""
    cached: int = 0
    generated: int = 0
    asked: Any = None
    """The messages, and the answers below, where the log may hold them."""
    answers: list[str] = field(default_factory=list)
    began: float = field(default_factory=perf_counter)
    ended: float | None = None
    times: list[list[float]] = field(default_factory=list)
    """When each token of each answer came."""

    def end(self) -> None:
        self.ended = perf_counter()

    @property
    def seconds(self) -> float:
        return (perf_counter() if self.ended is None else self.ended) - self.began

    @property
    def to_first_token(self) -> float | None:
        """Seconds from the request to the first token of an answer."""
        firsts = [times[0] for times in self.times if times]
        return min(firsts) - self.began if firsts else None

    @property
    def between_tokens(self) -> list[float]:
        """Seconds between neighbouring tokens."""
        return [later - earlier for times in self.times for earlier, later in pairwise(times)]


def account_of(scope: MutableMapping[str, Any]) -> Account:
    """The account of a request; opened now, unless it was before."""
    account: Account = scope.setdefault(SCOPE, Account())
    return account
