"""From a recipe to an owl, its processor and its data, on every rank.

Only the first rank reads weights; the others make the same owl without any, on the meta device, and are handed their
share later. So a run needs room for one copy, however many ranks share a machine.
"""

from collections.abc import Callable
from typing import Any

import torch

from mplug_owl.data.loader import Loader, LoaderSettings
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import open_source
from mplug_owl.errors import ConfigError
from mplug_owl.models.adapters import Identity
from mplug_owl.models.adapters import identity as identity_of
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.parts import assemble
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.train.parallel import World
from mplug_owl.train.recipe import Recipe

Opened = tuple[OwlForConditionalGeneration, OwlProcessor]


def open_owl(recipe: Recipe) -> Opened:
    """The owl that `init` describes, with its weights, on the CPU."""
    init = recipe.init
    recipe.refuse_placeholders()
    return assemble(
        init.family,
        start=init.start,
        vision=init.vision,
        language=init.language,
        connector=init.connector,
        features=init.features,
        cls=init.cls,
        image_size=init.image_size,
        queries=init.queries,
        adaptive=init.adaptive,
        # An adapter is opened on its base again: a family without weights is always that of seed 0.
        seed=0 if recipe.lora is not None else recipe.seed,
    )


def on_all_ranks(
    recipe: Recipe, opener: Callable[[Recipe], Opened], world: World
) -> tuple[OwlForConditionalGeneration, OwlProcessor, Identity]:
    """The owl as `opener` gives it on the first rank, and its identity before anything is trained; on the others the
    same owl without weights.
    """
    if world.is_first:
        owl, processor = opener(recipe)
        base = identity_of(owl, recipe.init.start or recipe.init.family)
        world.broadcast((owl.config, processor, base))
        return owl, processor, base
    config, processor, base = world.broadcast(None)
    with torch.device("meta"):
        owl = OwlForConditionalGeneration(config)
    return owl, processor, base


def open_data(recipe: Recipe, processor: OwlProcessor, world: World, held_out: bool) -> Loader | None:
    """This rank's batches of the recipe's sources, or of its held-out sources; None without any."""
    data, batch = recipe.data, recipe.batch
    sources = data.held_out if held_out else data.sources
    if not sources:
        return None
    weights = [source.weight for source in sources if source.weight is not None]
    opened = [open_source(s.path, s.format, s.image_root) for s in sources]
    for source, named in zip(opened, sources, strict=True):
        if data.learn == "places" and not getattr(source, "knows_places", False):
            raise ConfigError(
                f'data.learn = "places", but {named.path} does not say what is where; expected world:places'
            )
    # Held-out rows count once each; training rows by the weights of their sources.
    mixture = Mixture(
        opened,
        None if held_out or not weights else weights,
        seed=recipe.seed,
        multimodal_share=None if held_out else data.multimodal_share,
        window=batch.size,
    )
    total: dict[str, Any] = {"total": mixture.epoch} if held_out else {}
    return Loader(
        mixture,
        processor,
        LoaderSettings(
            batch=batch.size,
            micro=batch.micro,
            max_length=data.max_length,
            pack=data.pack,
            images_per_row=data.images_per_row,
            random_resized_crop=None if held_out else data.random_resized_crop,
            decode=data.decode,
            template=data.template,
            learn="answers" if held_out and data.learn == "text" else data.learn,
            workers=data.workers,
            bad_share=data.bad_share,
        ),
        seed=recipe.seed,
        rank=world.rank,
        world=world.size,
        **total,
    )
