"""What a finished run leaves behind: a whole owl in `final`, or an adapter folder in `adapter`.

Both carry the processor and the recipe, and both are written under another name first, so a folder of that name is
whole.
"""

import shutil
from pathlib import Path

from mplug_owl import settings
from mplug_owl.models.adapters import Identity
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.train import lora
from mplug_owl.train.parallel import Replicas, Shards
from mplug_owl.train.recipe import Recipe


def save(spread: Replicas | Shards, processor: OwlProcessor, recipe: Recipe, out: Path, base: Identity) -> Path:
    """Write the result and return its folder. All ranks take part, the first one writes.

    An adapter keeps the trained values in full precision; a whole owl has the compute dtype.
    """
    folder = out / ("adapter" if recipe.lora is not None else "final")
    if recipe.lora is not None:
        weights = spread.trained_whole()
        if spread.world.is_first:
            lora.save_adapter(spread.owl, folder, recipe=recipe, processor=processor, base=base, weights=weights)
        return folder
    state = spread.state_whole()
    if spread.world.is_first:
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        spread.owl.save_pretrained(partial, state_dict=state, save_original_format=False)
        processor.save_pretrained(partial)
        (partial / "recipe.json").write_text(settings.dump(recipe), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder
