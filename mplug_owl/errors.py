"""The errors a user can meet, and the did-you-mean helper.

    OwlError
    |- ConfigError      a setting, recipe or family that cannot be right
    |- DataError        a record, image or video that cannot be used
    |- CheckpointError  weights or configuration on disk that contradict themselves
    |- RequestError     a request whose parts do not fit each other
    '- EvalError        an evaluation that would not mean what it says

Each message says what was found, what was expected, and what to do; the CLI prints it as one line and exits 2. All are
ValueErrors too, so code written against Transformers catches them.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class OwlError(Exception):
    """Anything mplug_owl refuses to do; `except OwlError` is always enough."""


class ConfigError(OwlError, ValueError):
    """A setting, recipe or family name that cannot be right."""


class DataError(OwlError, ValueError):
    """A record, image or video that cannot be used."""


class CheckpointError(OwlError, ValueError):
    """Weights or configuration on disk that are broken or contradict each other."""


class RequestError(OwlError, ValueError):
    """A request whose parts do not fit each other."""


class EvalError(OwlError, ValueError):
    """An evaluation whose number would not mean what it says."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` plus the known names, to end an "unknown name" message with."""
    known = sorted(choices)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{guess} known: {', '.join(known)}"
