"""`owl report owleval`: grades and verdicts into the paper's figures and tables. Parses and prints."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mplug_owl.errors import EvalError
from mplug_owl.eval.grades import read_grades
from mplug_owl.eval.judging import read_judging
from mplug_owl.eval.owleval.answers import System, read_systems
from mplug_owl.eval.owleval.questions import read_questions
from mplug_owl.eval.owleval.tally import read_published

EPILOG = """\
Without grades the page holds the published figure. DIR of --judge and --text is
one of `owl judge`. Written are owleval.md, owleval.html (one file that needs no
other), owleval.csv (every number) and the plots.

examples
  owl report owleval --data OwlEval --out report
  owl report owleval --data OwlEval --answers OwlEval/answer runs/mine \\
    --grades grades.jsonl --judge runs/judge-grade-owl --out report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.usage = "owl report owleval --data DIR [options]"
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="the folder of OwlEval")
    add("--answers", nargs="+", default=[], metavar="SYSTEM", help="whose answers were graded, as for owl rate")
    add("--grades", nargs="+", type=Path, default=[], metavar="FILE", help="of people, from owl rate")
    add("--judge", nargs="+", type=Path, default=[], metavar="DIR", help="verdicts on these answers")
    add("--text", nargs="+", type=Path, default=[], metavar="DIR", help="scores of questions of text alone")
    add("--counts", type=Path, metavar="FILE", help="published counts (those of the paper's figure)")
    add("--out", type=Path, default=Path("runs", "owleval-report"), metavar="DIR", help="(runs/owleval-report)")


def run(arguments: argparse.Namespace) -> int:
    questions = read_questions(arguments.data)
    systems = read_systems(arguments.answers, questions) if arguments.answers else []
    if not systems and (arguments.grades or arguments.judge):
        raise EvalError("--grades or --judge without --answers; name the answers that were graded")
    published = read_published(arguments.counts)
    grades = read_grades(arguments.grades)
    judgings, texts = ([read_judging(folder) for folder in folders] for folders in (arguments.judge, arguments.text))
    for folder, judging in zip(arguments.text, texts, strict=True):
        if judging.against is None:
            raise EvalError(f"--text {folder} compares nobody; expected a folder of owl judge --mode score or pair")
    from mplug_owl.eval.owleval.report import Findings, write

    findings = Findings(
        questions,
        published,
        systems,
        grades,
        judgings,
        texts,
        _notes(systems, sorted({grade.system for grade in grades} - {system.name for system in systems})),
    )
    for path in write(findings, arguments.out):
        print(path)
    return 0


def _notes(systems: Sequence[System], strangers: Sequence[str]) -> list[str]:
    """What a reader must know of the answers: which are none, and which grades are of nobody here."""
    notes = [gap for system in systems for gap in system.gaps()]
    if strangers:
        notes.append(f"grades of {', '.join(strangers)} count nowhere, as their answers were not given")
    return notes
