"""The tasks by name; each is a class in a module of this package. `open_task` makes one with its settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mplug_owl.errors import EvalError, did_you_mean
from mplug_owl.eval.task import Task
from mplug_owl.eval.tasks.captioning import CocoCaptions, FlickrCaptions
from mplug_owl.eval.tasks.choices import MMBench, QBench, ScienceQA, SeedBench
from mplug_owl.eval.tasks.egoschema import EgoSchema
from mplug_owl.eval.tasks.exams import AgiEval, ArcChallenge, ArcEasy, Bbh, Mmlu
from mplug_owl.eval.tasks.free import Gqa, MmVet, MsrvttQa, MsvdQa, TgifQa, VicunaBench
from mplug_owl.eval.tasks.hallusionbench import HallusionBench
from mplug_owl.eval.tasks.mmmu import Mmmu
from mplug_owl.eval.tasks.owleval import OwlEvalTask
from mplug_owl.eval.tasks.reading import Chartqa, Docvqa, Infovqa
from mplug_owl.eval.tasks.vqa import Okvqa, Textvqa, Vizwiz, Vqav2
from mplug_owl.eval.tasks.world import WorldTask
from mplug_owl.eval.tasks.yesno import Mme, Pope

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        *(WorldTask, OwlEvalTask, Vqav2, Okvqa, Vizwiz, Textvqa, Docvqa, Infovqa, Chartqa, Mme, Pope, HallusionBench),
        *(MMBench, ScienceQA, Mmmu, CocoCaptions, FlickrCaptions, EgoSchema, Bbh, AgiEval, VicunaBench),
        *(Gqa, SeedBench, QBench, MmVet, MsvdQa, MsrvttQa, TgifQa, Mmlu, ArcChallenge, ArcEasy),
    )
}


def open_task(name: str, settings: Mapping[str, Any]) -> Task:
    """The task of a name, with those of the settings that it has."""
    if name not in TASKS:
        raise EvalError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name](**{key: settings[key] for key in fields(name) & settings.keys()})


def fields(name: str) -> set[str]:
    """What can be set of a task."""
    return {field.name for field in dataclasses.fields(TASKS[name])}  # type: ignore[arg-type]
