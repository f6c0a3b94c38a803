"""`owl rate`: read the systems' answers, open the rating page that `run` is given on them. Parses and prints."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mplug_owl.eval.grades import GradeLog, agreement, latest
from mplug_owl.eval.owleval.answers import System, read_systems
from mplug_owl.eval.owleval.questions import read_questions
from mplug_owl.eval.rating import Desk

EPILOG = """\
SYSTEM is a file of answers, the folder of a run of `owl eval --tasks owleval`,
or a folder of such files; NAME=PATH names it. The page shows one answer at a
time without whose it is. Keys: A B C D choose, 1 to 6 tick abilities, Enter
saves, Backspace goes back. A grade is on the disk before the next answer comes;
the same command goes on.

examples
  owl rate OwlEval/answer --data OwlEval --out grades.jsonl
  owl rate runs/mine OwlEval/answer --data OwlEval --rater ada
  owl rate OwlEval/answer --data OwlEval --status
"""

# Shows a desk on a page at a host and port, to a rater if one is named, until it is interrupted.
OpenPage = Callable[[Desk, str | None, str, int], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("systems", nargs="+", metavar="SYSTEM", help="whose answers are rated")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder of OwlEval")
    parser.add_argument("--out", type=Path, default=Path("grades.jsonl"), metavar="FILE", help="(grades.jsonl)")
    parser.add_argument("--rater", metavar="NAME", help="who rates; otherwise the page asks")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another order (0)")
    parser.add_argument("--host", default="127.0.0.1", help="(127.0.0.1)")
    parser.add_argument("--port", type=int, default=7861, metavar="N", help="(7861)")
    parser.add_argument("--status", action="store_true", help="say how far the raters are, and open no page")


def run(arguments: argparse.Namespace, open_page: OpenPage) -> int:
    questions = read_questions(arguments.data)
    systems = read_systems(arguments.systems, questions)
    desk = Desk(questions, systems, GradeLog(arguments.out), arguments.seed)
    print(_standing(desk, systems))
    if arguments.status:
        return 0
    if arguments.rater is not None:
        desk.sitting(arguments.rater)  # what is wrong with the log is said here rather than on the page
    open_page(desk, arguments.rater, arguments.host, arguments.port)
    return 0


def _standing(desk: Desk, systems: list[System]) -> str:
    """What there is to rate, and how far each rater is."""
    total = sum(len(system.gradable()) for system in systems)
    lines = [f"{len(desk.questions)} questions, {len(systems)} systems, {total} answers to rate"]
    lines += [gap for system in systems for gap in system.gaps()]
    grades = latest(desk.log.read())
    names = {system.name for system in systems}
    if strange := sorted({grade.system for grade in grades} - names):
        lines.append(f"{desk.log.path} also holds grades of {', '.join(strange)}, which are kept")
    for rater in dict.fromkeys(grade.rater for grade in grades):
        done, of = desk.sitting(rater).progress
        lines.append(f"{rater}: {done} of {of} rated")
    found = agreement([grade for grade in grades if grade.system in names])
    if found.n:
        alpha = found.alpha["ordinal"]
        said = "undefined (all grades are the same)" if alpha is None else f"{alpha:.2f}"
        lines.append(f"{found.n} answers rated by two or more; Krippendorff's alpha (ordinal) {said}")
    return "\n".join(lines)
