"""`owl score`: answers that another program gave, scored as `owl eval` scores its own. Parses and prints."""

import argparse
from pathlib import Path

from mplug_owl.errors import EvalError
from mplug_owl.eval.command import add_task_arguments, opened

EXAMPLES = """\
ANSWERS is a file of JSON lines, a JSON list, or one object of ids and answers.
A row has an id (id, question_id, qid, image_id) and an answer (answer, text,
prediction, response, output, caption). The ids must be those of the task: one
that is missing, unknown or there twice is an error.

example
  owl score answers.json --tasks vqav2 --data ~/benchmarks --name my-model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    parser.description = "Score answers that another program gave, as owl eval scores its own."
    parser.usage = "owl score ANSWERS --tasks TASK [--name NAME] [--out DIR] [options]"
    parser.add_argument("answers", type=Path, metavar="ANSWERS", help="the file")
    parser.add_argument("--tasks", required=True, metavar="TASK", help="what the answers answer")
    parser.add_argument("--name", help="whose they are (the name of the file)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of the results (runs/score-NAME)")
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if "," in arguments.tasks:
        raise EvalError(f"--tasks {arguments.tasks}; a file answers one task: score each file alone")
    [task] = opened([arguments.tasks], arguments)
    from mplug_owl.eval import answer_file
    from mplug_owl.eval.report import markdown
    from mplug_owl.eval.run import score

    given = answer_file.read(arguments.answers)
    card = answer_file.card(arguments.answers, arguments.name)
    out = arguments.out or Path("runs", f"score-{card['name']}")
    results = score(given, card, task, out, limit=arguments.limit, allow_failures=arguments.allow_failures)
    print(markdown(results))
    print(f"written to {out}")
    return 0
