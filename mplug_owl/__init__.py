"""mplug_owl: the mPLUG-Owl family of multimodal language models on Transformers 5.

The names below are the public ones. Each is imported when it is first used, so that `import mplug_owl` stays light: it
loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mplug_owl.engine.public import Owl, load
    from mplug_owl.errors import CheckpointError, ConfigError, DataError, EvalError, OwlError, RequestError
    from mplug_owl.media import Limits
    from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EvalError",
    "ImagePart",
    "Limits",
    "Message",
    "Owl",
    "OwlError",
    "RequestError",
    "TextPart",
    "VideoPart",
    "__version__",
    "load",
]

_HOMES = {
    "engine.public": ("Owl", "load"),
    "errors": ("CheckpointError", "ConfigError", "DataError", "EvalError", "OwlError", "RequestError"),
    "media": ("Limits",),
    "messages": ("ImagePart", "Message", "TextPart", "VideoPart"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
