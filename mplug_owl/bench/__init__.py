"""`owl bench`: how fast models, data, training and the engine are, beside the library's own and the machine's limits.

`plan.py` says what to measure and what a result is, `sides.py` builds the models that are compared, `servers.py` and
`clients.py` are processes beside ours, `stopwatch.py` compares; `model.py`, `data.py`, `train.py`, `engine.py` and
`serving.py` are the benchmarks. This file is the command; it imports
torch only once there is something to measure. Whether a number is good is not judged here.
"""

import argparse
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from mplug_owl.bench.plan import DTYPES, PLANS, SHAPES, Plan, table

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and save the lines where asked to."""
    given = {name: getattr(options, name) for name in Plan.__dataclass_fields__}
    plan = replace(PLANS[options.target], **{name: value for name, value in given.items() if value is not None})
    if options.quick:
        plan = plan.quick()
    found = import_module(f"mplug_owl.bench.{options.target}").measure(plan)
    print(table(found))
    if options.save is not None:
        file = options.save if options.save.name else Path("benchmarks", f"{options.target}.jsonl")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.writelines(measurement.line() + "\n" for measurement in found)
        print(f"{len(found)} lines added to {file}", file=sys.stderr)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `owl bench`; what is not given is the target's own."""
    parser.add_argument(
        "target",
        choices=tuple(PLANS),
        help="model: prefill, decode, vision, abstractor, beside LLaVA; data: packed beside padded batches, images "
        "beside PIL; train: a step beside Transformers' Trainer; engine: decoding, many chats, beside generate; "
        "serving: the same over HTTP, beside transformers serve",
    )
    plan = Plan()
    for name, choices, meaning in (
        ("shape", SHAPES, f"sizes of the models ({plan.shape}; data and train: {PLANS['train'].shape})"),
        ("dtype", DTYPES, f"of weights and maths ({plan.dtype}; data and train: {PLANS['train'].dtype})"),
        ("device", ("cpu", "cuda"), f"where ({plan.device})"),
    ):
        parser.add_argument(f"--{name}", choices=choices, help=meaning)
    for name, meaning in (
        ("threads", "CPU threads"),
        ("rounds", "paired runs of everything"),
        ("steps", "model: decode steps timed together; engine, serving: tokens of an answer"),
        ("positions", "length of the prompt or row, pictures apart"),
        ("visual", "model: how many positions of the prompt hold visual embeddings"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{meaning} ({getattr(plan, name)})")
    parser.add_argument("--quick", action="store_true", help="2 rounds of the tiny shape: that it runs, not how fast")
    parser.add_argument(
        "--save",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="FILE",
        help="append the lines (to benchmarks/TARGET.jsonl)",
    )
