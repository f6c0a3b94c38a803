"""The models of a server by name: each base with its adapter is opened once, with an engine of its own.

An adapter is folded into its base when it is opened, so whoever asks for it pays nothing. What is asked of the models
is not known here.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mplug_owl.errors import ConfigError, RequestError, did_you_mean

if TYPE_CHECKING:
    from mplug_owl.engine.options import EngineOptions
    from mplug_owl.engine.public import Owl


class UnknownModel(RequestError):
    """No model of the server has this name."""


@dataclass(frozen=True)
class ModelSpec:
    """A model as a command line names it."""

    name: str
    """What requests call it."""
    model: str
    """A folder, a hub name or a family."""
    adapter: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelSpec":
        """Read NAME=MODEL, NAME=MODEL+ADAPTER, or either without a name.

        Raises: ConfigError where a part is missing.
        """
        name, sign, rest = text.partition("=")
        if not sign or "/" in name:  # a path may hold the sign too
            name, rest = "", text
        # So may it hold a plus.
        model, plus, adapter = (rest, "", "") if Path(rest).exists() else rest.partition("+")
        if not model or (plus and not adapter) or (sign and rest is not text and not name):
            raise ConfigError(f"model {text!r}; expected MODEL, NAME=MODEL or NAME=MODEL+ADAPTER")
        usual = "+".join(Path(part).name or part for part in (model, adapter) if part)
        return cls(name or usual, model, adapter or None)


class Catalogue:
    """Names and the owls behind them; the first is the default."""

    def __init__(self, owls: "Mapping[str, Owl]") -> None:
        if not owls:
            raise ConfigError("a catalogue of no models; expected one at least")
        self._owls = dict(owls)
        self.created = int(time.time())
        """When it was opened, in seconds since 1970."""
        self.closed = False

    @classmethod
    def open(
        cls,
        specs: Sequence[ModelSpec],
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        engine: "EngineOptions | None" = None,
    ) -> "Catalogue":
        """Open the models; two names for the same base and adapter share one engine.

        Raises: ConfigError where two have one name; CheckpointError where one cannot be opened.
        """
        if twice := sorted({spec.name for spec in specs if [s.name for s in specs].count(spec.name) > 1}):
            raise ConfigError(f"{twice[0]!r} names two models; give each a name of its own: NAME=MODEL")
        opened: dict[tuple[str, str | None], Owl] = {}
        for spec in specs:
            which = (spec.model, spec.adapter)
            if which not in opened:
                opened[which] = _open(spec, device, dtype, quantize)
        found = cls({spec.name: opened[spec.model, spec.adapter] for spec in specs})
        found.start(engine)
        return found

    def start(self, engine: "EngineOptions | None" = None) -> None:
        """Make the engines, so that the first request waits for none; together they take what one would."""
        from mplug_owl.engine.engine import MEMORY_SHARE
        from mplug_owl.engine.memory import available
        from mplug_owl.engine.options import EngineOptions

        owls, engine = self.owls, engine or EngineOptions()
        if engine.memory is None and len(owls) > 1:
            device = owls[0].model.device
            memory = int(MEMORY_SHARE.get(device.type, 0.5) * available(device)) // len(owls)
            engine = replace(engine, memory=memory)
        for owl in owls:
            owl.options = engine
            _ = owl.engine

    @property
    def names(self) -> list[str]:
        return list(self._owls)

    @property
    def owls(self) -> "list[Owl]":
        """Each once."""
        return list({id(owl): owl for owl in self._owls.values()}.values())

    def name(self, name: str | None) -> str:
        """The name a request means; none is the first."""
        if not name:
            return self.names[0]
        if name not in self._owls:
            raise UnknownModel(f"no model {name[:200]!r}{did_you_mean(name[:200], self._owls)}")
        return name

    def owl(self, name: str | None = None) -> "Owl":
        """Raises: UnknownModel."""
        return self._owls[self.name(name)]

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self.closed

    def close(self) -> None:
        """End whatever runs; nothing is answered any more."""
        self.closed = True
        for owl in self.owls:
            owl.engine.close()


def _open(spec: ModelSpec, device: str, dtype: str, quantize: str | None) -> "Owl":
    from mplug_owl import models
    from mplug_owl.engine.public import Owl
    from mplug_owl.engine.quantize import quantize as make_smaller
    from mplug_owl.models.adapters import fold

    if quantize is not None and dtype == "auto":
        dtype = "bfloat16"  # the kernels of few bits are slow in float32
    model, processor = models.load(spec.model, adapter=spec.adapter, device=device, dtype=dtype)
    if getattr(model, "_hf_peft_config_loaded", False):
        model = fold(model)
    if quantize is not None:
        make_smaller(model, quantize)
    return Owl(model, processor)


def specs(texts: Iterable[str]) -> list[ModelSpec]:
    return [ModelSpec.parse(text) for text in texts]
