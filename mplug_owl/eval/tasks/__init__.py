"""The tasks by name; each is a module of this package. `open_task` makes one with its settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mplug_owl.errors import EvalError, did_you_mean
from mplug_owl.eval.task import Task
from mplug_owl.eval.tasks.world import WorldTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (WorldTask,)}


def open_task(name: str, settings: Mapping[str, Any]) -> Task:
    """The task of a name, with those of the settings that it has."""
    if name not in TASKS:
        raise EvalError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name](**{key: settings[key] for key in fields(name) & settings.keys()})


def fields(name: str) -> set[str]:
    """What can be set of a task."""
    return {field.name for field in dataclasses.fields(TASKS[name])}  # type: ignore[arg-type]
