"""`owl bench`: how fast the models are, beside the library's own and beside the machine's limits.

`plan.py` says what to measure and what a result is, `sides.py` builds what is compared, `model.py`
holds the stopwatch. This file is the command; it imports torch only once there is something to
measure. Whether a number is good is not judged here.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mplug_owl.bench.plan import DTYPES, SHAPES, Plan, table

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and save the lines where asked to."""
    plan = Plan(**{name: getattr(options, name) for name in Plan.__dataclass_fields__})
    if options.quick:
        plan = plan.quick()

    from mplug_owl.bench.model import measure

    found = measure(plan)
    print(table(found))
    if options.save is not None:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        with options.save.open("a") as file:
            file.writelines(json.dumps(asdict(measurement)) + "\n" for measurement in found)
        print(f"{len(found)} lines added to {options.save}", file=sys.stderr)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `owl bench model`."""
    plan = Plan()
    parser.add_argument(
        "target",
        choices=("model",),
        help="model: prefill, decode, vision and abstractor, beside LLaVA and the machine's limits",
    )
    parser.add_argument(
        "--shape", choices=SHAPES, default=plan.shape, help=f"sizes of the models ({plan.shape})"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=plan.dtype, help=f"of weights and maths ({plan.dtype})"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default=plan.device, help=f"where ({plan.device})"
    )
    for name, meaning in (
        ("threads", "CPU threads"),
        ("rounds", "paired runs of everything"),
        ("steps", "decode steps timed together"),
        ("positions", "length of the prompt"),
        ("visual", "how many positions of the prompt hold visual embeddings"),
    ):
        value = getattr(plan, name)
        parser.add_argument(
            f"--{name}", type=int, default=value, metavar="N", help=f"{meaning} ({value})"
        )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 rounds of the tiny shape: that it runs, not how fast",
    )
    parser.add_argument(
        "--save",
        nargs="?",
        const=Path("benchmarks/model.jsonl"),
        type=Path,
        metavar="FILE",
        help="append one JSON line a measurement (to benchmarks/model.jsonl)",
    )
