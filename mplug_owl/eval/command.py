"""`owl eval`: open the owl, run the tasks, print the page. Parses and prints; the work is in run.py."""

import argparse
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.tasks import TASKS, fields, open_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="owlet", help="folder, hub name or family (default: owlet)")
    parser.add_argument("--adapter", help="adapter folder to put on it")
    parser.add_argument("--tasks", type=_names, default=("world",), metavar="A,B", help="(default: world)")
    parser.add_argument("--list", action="store_true", help="say what tasks there are and what they need")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; the same command goes on there")
    parser.add_argument("--new", action="store_true", help="refuse to go on with a run that DIR already holds")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="questions answered together (64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--dtype", help="float32, bfloat16 (default: float32 on a CPU, else that of the files)")
    tasks = parser.add_argument_group("settings of tasks")
    tasks.add_argument("--skills", type=_names, metavar="A,B", help="world: which (all)")
    tasks.add_argument("--count", type=int, metavar="N", help="world: questions of each skill (500)")
    tasks.add_argument("--controls", type=_names, metavar="A,B", help='world: grey, other; "" for none (both)')
    tasks.add_argument("--split", help="world: test, dev or train (test)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        for name, task in TASKS.items():
            print(f"{name:<12}{task.about}\n{'':<12}needs {task.needs}")
        return 0
    settings = {name: getattr(arguments, name) for name in ("skills", "count", "controls", "split")}
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    tasks = [open_task(name, given) for name in arguments.tasks]
    if unused := given.keys() - set().union(*(fields(task.name) for task in tasks)):
        raise EvalError(f"--{min(unused)} given, but no task of {', '.join(arguments.tasks)} has it; leave it out")
    out = arguments.out or Path("runs", f"eval-{Path(arguments.model).name}")

    import mplug_owl
    from mplug_owl.eval.endpoints import OwlEndpoint
    from mplug_owl.eval.report import markdown
    from mplug_owl.eval.run import run as carry_out
    from mplug_owl.models import pick_device

    device = pick_device(arguments.device)
    dtype = arguments.dtype or ("float32" if device == "cpu" else "auto")
    owl = mplug_owl.load(arguments.model, adapter=arguments.adapter, device=device, dtype=dtype)
    name = " + ".join(filter(None, (arguments.model, arguments.adapter)))
    endpoint = OwlEndpoint(owl, name, arguments.batch_size)
    print(markdown(carry_out(endpoint, tasks, out, new=arguments.new)))
    print(f"written to {out}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
