"""How an answer is asked for: what the controls of a page say."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mplug_owl.errors import RequestError


@dataclass(frozen=True)
class Parameters:
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    seed: int | None = None
    system: str | None = None
    """None takes that of the model's own prompt."""

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, values: Sequence[Any]) -> "Parameters":
        """The values of the controls, in their order. Raises: RequestError where one is missing."""
        temperature, top_p, top_k, tokens, seed, system = values
        if any(value is None for value in (temperature, top_p, top_k, tokens)):
            raise RequestError("a parameter without a value; move its slider, or load the page again")
        return cls(
            float(temperature),
            float(top_p),
            int(top_k),
            int(tokens),
            None if seed is None else int(seed),
            (system or "").strip() or None,
        )
