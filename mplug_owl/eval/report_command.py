"""`owl report`: runs of `owl eval` and `owl score` side by side. Parses, writes and prints."""

import argparse
from pathlib import Path

EXAMPLES = """\
DIR gets report.md, report.csv, report.html (one file, plots included) and
leaderboard.jsonl (task, dataset, metric, value, model). Runs of the same
questions are compared sample by sample; where two runs differ in prompts,
splits, decoding or data, the report says so.

example
  owl report runs/eval-owlet runs/eval-final --out runs/report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    parser.description = "Runs of owl eval and owl score side by side."
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the files there too")


def run(arguments: argparse.Namespace) -> int:
    from mplug_owl.eval.comparison import compare
    from mplug_owl.eval.comparison_html import page
    from mplug_owl.eval.comparison_page import as_csv, leaderboard, markdown
    from mplug_owl.eval.samples import write

    found = compare(arguments.runs)
    text = markdown(found)
    if arguments.out is not None:
        write(arguments.out / "report.md", text)
        write(arguments.out / "report.csv", as_csv(found))
        write(arguments.out / "report.html", page(found))
        write(arguments.out / "leaderboard.jsonl", leaderboard(found))
    print(text)
    if arguments.out is not None:
        print(f"written to {arguments.out}")
    return 0
