"""`owl eval`: open the contestant, run the tasks, print the page. Parses and prints; the work is in run.py."""

import argparse
import os
import textwrap
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError, did_you_mean
from mplug_owl.eval.contestants import Settings, contestant, short_name
from mplug_owl.eval.task import Task
from mplug_owl.eval.tasks import TASKS, fields, open_task

DATA = "OWL_DATA"  # the environment variable that names the folder of all data
EXAMPLES = """\
examples
  owl eval --model run/final --tasks world --count 100
  owl eval --model hf:llava-hf/llava-1.5-7b-hf --tasks pope,mme --data DIR
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Ask a model the questions of tasks and score its answers."
    parser.usage = "owl eval [--model M] [--tasks A,B] [--out DIR] [options]"
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    parser.add_argument("--model", default="owlet", help="owl, hf:MODEL or openai:URL#NAME (owlet)")
    parser.add_argument("--tasks", type=_names, default=("world",), metavar="A,B", help="which (world)")
    parser.add_argument("--list", action="store_true", help="the tasks: what each needs and is worth")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of the run; the same command goes on there")
    parser.add_argument("--new", action="store_true", help="refuse to go on with a run in DIR")
    parser.add_argument("--shard", metavar="I/N", help="do this part, from 0 (RANK/WORLD_SIZE)")
    add_task_arguments(parser)
    model = parser.add_argument_group("models")
    model.add_argument("--adapter", help="adapter folder to put on an owl")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    model.add_argument("--dtype", help="(float32 on a CPU, else that of the files)")
    model.add_argument("--batch-size", type=int, metavar="N", help="asked together (owl 64, hf 8)")
    model.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests to a server (8)")
    model.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds for one request (120)")
    model.add_argument("--request", default="{}", metavar="JSON", help="more fields of a request; null drops")


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """What tasks can be told, whoever answers."""
    parser.add_argument("--limit", type=int, metavar="N", help="so many questions of each task")
    parser.add_argument("--allow-failures", action="store_true", help="no answer: wrong, and shown")
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument("--data", type=Path, metavar="DIR", help=f"its files, or folders by task (${DATA})")
    tasks.add_argument("--split", help="such as val (that of the task)")
    tasks.add_argument("--skills", type=_names, metavar="A,B", help="world: which (all)")
    tasks.add_argument("--count", type=int, metavar="N", help="world: questions of each skill (500)")
    tasks.add_argument("--controls", type=_names, metavar="A,B", help='world: grey, other; "" for none')
    tasks.add_argument("--set", action="append", default=[], metavar="K=V", help="another setting")


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        print("\n".join(map(described, TASKS)))
        return 0
    tasks = opened(arguments.tasks, arguments)
    out = arguments.out or Path("runs", f"eval-{short_name(arguments.model)}")
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise EvalError(f"--batch-size {arguments.batch_size}; expected 1 or more")
    from mplug_owl.eval.report import markdown
    from mplug_owl.eval.run import run as carry_out
    from mplug_owl.eval.samples import Shard

    shard = Shard.read(arguments.shard) if arguments.shard else Shard.of_environment()
    settings = Settings(
        **{name: value for name, value in vars(arguments).items() if name in Settings.__dataclass_fields__}
    )
    results = carry_out(
        contestant(arguments.model, settings),
        tasks,
        out,
        new=arguments.new,
        limit=arguments.limit,
        shard=shard,
        allow_failures=arguments.allow_failures,
    )
    if results is None:
        print(f"shard {shard} is done; whichever is done last sums up in {out}")
        return 0
    print(markdown(results))
    print(f"written to {out}")
    return 0


# ---- tasks ---------------------------------------------------------------------------------------


def opened(names: Sequence[str], arguments: argparse.Namespace) -> list[Task]:
    """The tasks with their settings; each setting must be one of some task."""
    flags = {name: getattr(arguments, name) for name in ("split", "skills", "count", "controls")}
    given = {name: value for name, value in flags.items() if value is not None} | _set(arguments.set)
    for name in names:
        if name not in TASKS:
            raise EvalError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    known = set().union(*map(fields, names)) if names else set()
    if not names:
        raise EvalError(f"no tasks; expected some of {', '.join(TASKS)}")
    if unused := given.keys() - known:
        raise EvalError(f"--{min(unused)} given, but no task of {', '.join(names)} has it; leave it out")
    if arguments.data is not None and "data" not in known:
        raise EvalError(f"--data given, but no task of {', '.join(names)} reads files; leave it out")
    return [open_task(name, given | _folder(name, arguments.data)) for name in names]


def _folder(task: str, data: Path | None) -> dict[str, Path]:
    """Where the files of a task lie, as far as that is said."""
    if data is None:
        return {"data": Path(os.environ[DATA], task)} if DATA in os.environ else {}
    if not data.is_dir():
        raise EvalError(f"--data {data} is no folder; expected that of the task's files, or one with {task}/ in it")
    return {"data": data / task if (data / task).is_dir() else data}


def _set(words: Sequence[str]) -> dict[str, Any]:
    """Settings given as name=value; a value is read as TOML, and as plain text where it is none."""
    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            raise EvalError(f"--set {word!r}; expected name=value")
        value: Any
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        found[name.replace("-", "_")] = tuple(value) if isinstance(value, list) else value
    return found


def described(name: str) -> str:
    """What a task is, for people."""
    task: Any = TASKS[name]
    scorer = "scorer verified" if task.verified else "scorer not verified against the official one"
    chance = "no chance level" if task.chance is None else f"chance {100 * task.chance:g}%"
    lines = [
        task.about,
        f"needs {task.needs}",
        f"from {task.source}",
        f"licence: {task.licence}",
        f"{chance}; {scorer}",
    ]
    wrapped = [part for line in lines for part in textwrap.wrap(line, 96, break_on_hyphens=False)]
    return "\n".join(f"{name if number == 0 else '':<16}{line}" for number, line in enumerate(wrapped))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
