"""What a model is, without loading it: `describe` fills the card that `owl info` prints.

Everything comes from configurations, file headers and a model on the meta device; no weight is read or made. How fast
or how good a model is, it does not know.
"""

from dataclasses import dataclass
from pathlib import Path

from mplug_owl.models.checkpoint import read_config, resolve_folder
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.published import LAYOUTS, open_published

GIB = 2**30


@dataclass(frozen=True)
class ModuleCard:
    name: str
    what: str
    parameters: int


@dataclass(frozen=True)
class Card:
    """All that `owl info` says; `str(card)` says it in words."""

    name: str
    origin: str
    modules: list[ModuleCard]
    parameters: int
    dtypes: dict[str, int]
    """Parameters stored in each dtype; empty where there is no file."""
    memory: dict[str, int]
    """Bytes of the weights in float32, bfloat16 and int8."""
    image_size: int
    positions_per_image: int
    positions_per_frame: int | None
    """None where a video, however long, takes the positions of one image."""
    video: str
    templates: list[str]
    prompt: str
    report: str | None

    def __str__(self) -> str:
        width = max(len(module.what) for module in self.modules)
        rows = [f"  {m.name:<11}{m.what:<{width}} {m.parameters:>15,}" for m in self.modules]
        rows.append(f"  {'all':<11}{'':<{width}} {self.parameters:>15,}")
        stored = ", ".join(f"{name} {count:,}" for name, count in self.dtypes.items())
        memory = "   ".join(f"{name} {size / GIB:.2f} GiB" for name, size in self.memory.items())
        lines = [
            f"{self.name}: {self.origin}",
            "",
            "parameters",
            *rows,
            "",
            f"stored      {stored or 'nothing yet: weights would be random'}",
            f"memory      {memory}",
            "            weights only; int8 is that of every linear layer, the rest in bfloat16",
            f"image       {self.image_size} x {self.image_size}, "
            f"{self.positions_per_image} positions in the language model",
            f"video       {self.video}",
            f"templates   {', '.join(self.templates)}",
            f"prompt      {self.prompt!r}",
        ]
        return "\n".join([*lines, *(["", self.report] if self.report else [])])


def describe(name_or_path: str | Path) -> Card:
    """The card of a family, a native folder or a published one.

    Raises:
        CheckpointError: the folder is no owl, or contradicts itself.
    """
    name = str(name_or_path)
    if name in FAMILIES:
        row = FAMILIES[name]
        weights = f"released as {row.repository}" if row.repository else "random weights"
        return card(name, f"{row.summary}; {weights}", row.config(), {}, row.prompt, None)
    folder = resolve_folder(name_or_path)
    raw = read_config(folder)
    if raw["model_type"] in LAYOUTS:
        config, _, checkpoint, report = open_published(folder, raw)
