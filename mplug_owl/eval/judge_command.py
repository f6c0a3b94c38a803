"""`owl judge`: open the judge, ask it about the systems' answers, say what it found. Parses and prints.

With `--mode label` it labels the answers of a run of HallusionBench, for that task to be scored with.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.contestants import Settings, contestant, short_name
from mplug_owl.eval.endpoints import Endpoint
from mplug_owl.eval.grades import digest, read_grades
from mplug_owl.eval.judge import MAX_NEW_TOKENS, Brief, Case, cases, judge, prompt_text
from mplug_owl.eval.judge_labels import LABELS, label_cases, labels, read_run, summary
from mplug_owl.eval.judging import PAGE, VERDICTS, begin, note
from mplug_owl.eval.openai_endpoint import OpenAIEndpoint
from mplug_owl.eval.owleval.answers import read_systems
from mplug_owl.eval.owleval.judged import comparing, grading, standing
from mplug_owl.eval.owleval.page import Heading, Piece, Points, markdown
from mplug_owl.eval.owleval.questions import read_any
from mplug_owl.eval.samples import write
from mplug_owl.eval.tasks.hallusionbench import FILE, HallusionBench
from mplug_owl.eval.verdicts import MODES, Verdict

LABEL = "label"
ONE_WORD = 32

EPILOG = """\
SYSTEM is a file of answers, the folder of a run, or a folder of such files;
NAME=PATH names it. JUDGE is an owl (a folder, `owlet`), hf:NAME or
openai:URL#NAME. Replies are kept in DIR; the same command goes on.

examples
  owl judge OwlEval/answer --data OwlEval --judge openai:http://host:8000/v1#owl
  owl judge mine=run theirs=answers.jsonl --data vicuna_bench --mode score \\
    --against theirs --judge openai:https://host/v1#name --price 2.5,10
  owl judge run --data HallusionBench --mode label --judge openai:URL#name
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.usage = "owl judge SYSTEM... --data DIR --judge JUDGE [options]"
    add = parser.add_argument
    add("systems", nargs="+", metavar="SYSTEM", help="whose answers")
    add("--data", type=Path, required=True, metavar="DIR", help="of OwlEval, Vicuna-bench or HallusionBench")
    add("--judge", required=True, metavar="JUDGE", help="who judges")
    modes = "A to D; two answers: 1 to 10, or the better; right or wrong"
    add("--mode", choices=(*MODES, LABEL), default="grade", help=modes)
    add("--against", metavar="NAME", help="whom the others are compared with (the first)")
    add("--reference", metavar="PATH", help="answers that the judge is told to take for right")
    add("--no-picture", action="store_true", help="judge from the reference, without the picture")
    add("--no-abilities", action="store_true", help="ask for grades alone")
    add("--grades", type=Path, action="append", default=[], metavar="FILE", help="of people, from owl rate")
    add("--out", type=Path, metavar="DIR", help="(runs/judge-MODE-JUDGE)")
    add("--again", action="store_true", help="ask again where a reply held no verdict")
    longest = f"of a reply ({MAX_NEW_TOKENS}; label {ONE_WORD})"
    add("--max-new-tokens", type=int, metavar="N", help=longest)
    add("--concurrency", type=int, default=8, metavar="N", help="requests a server has at once (8)")
    add("--price", type=_price, metavar="IN,OUT", help="of a million tokens read and written")


def run(arguments: argparse.Namespace) -> int:
    return label(arguments) if arguments.mode == LABEL else grade(arguments)


def grade(arguments: argparse.Namespace) -> int:
    """Grade or compare open answers."""
    if arguments.no_picture and not arguments.reference:
        raise EvalError("--no-picture without --reference; a judge that sees neither judges nothing: give one")
    if arguments.against and arguments.mode == "grade":
        raise EvalError(f"--against {arguments.against} with --mode grade, which compares nobody; take score or pair")
    questions = read_any(arguments.data)
    systems = read_systems(arguments.systems, questions)
    references = read_systems([arguments.reference], questions) if arguments.reference else []
    if len(references) > 1:
        raise EvalError(f"--reference {arguments.reference} holds {len(references)} systems; give the file of one")
    brief = Brief(
        arguments.mode,
        against=None if arguments.mode == "grade" else arguments.against or systems[0].name,
        sight=not arguments.no_picture,
        reference=references[0] if references else None,
        abilities=not arguments.no_abilities,
    )
    asked = cases(brief, questions, systems)
    people = read_grades(arguments.grades)
    about = {"against": brief.against, "prompt": brief.prompt, "sees_pictures": brief.sight}
    about |= {"reference": arguments.reference, "questions": questions.revision}
    verdicts, spent = _ask(arguments, asked, about, MAX_NEW_TOKENS)
    pieces: list[Piece] = [Heading(_title(arguments), 1), Points([*standing(verdicts), *_bill(spent)])]
    if brief.against is None:
        pieces += grading(verdicts, questions, systems, people)
    else:
        pieces += comparing(verdicts, brief.against, people)
    _tell(arguments, pieces)
    return 0


def label(arguments: argparse.Namespace) -> int:
    """Say of each answer of a run of HallusionBench whether it is right, and the same as that about the original."""
    for name in ("against", "reference", "no_picture", "no_abilities", "grades"):
        if getattr(arguments, name):
            raise EvalError(
                f"--{name.replace('_', '-')} with --mode {LABEL}, where each answer is judged by the benchmark's own "
                "reference; leave it out"
            )
    if len(arguments.systems) != 1:
        raise EvalError(
            f"{len(arguments.systems)} systems with --mode {LABEL}; label each alone, with an --out of its own"
        )
    task = HallusionBench(data=arguments.data)
    examples = list(task.examples())
    file, answers = read_run(Path(arguments.systems[0]), examples)
    prompts = digest(prompt_text("check") + prompt_text("same"))
    about = {"against": None, "prompt": prompts, "questions": digest(task.path(FILE).read_text(encoding="utf-8"))}
    verdicts, spent = _ask(arguments, label_cases(examples, answers), about, ONE_WORD)
    rows = labels(examples, answers, verdicts)
    place = _out(arguments) / LABELS
    write(place, "".join(json.dumps(row) + "\n" for row in rows))
    said = summary(examples, answers, verdicts, rows)
    _tell(arguments, [Heading(_title(arguments), 1), Points([*said, *_bill(spent)])])
    print(f"owl score {file} --tasks {task.name} --data {arguments.data} --set judgements={place}")
    return 0


def _ask(
    arguments: argparse.Namespace, asked: Sequence[Case], about: dict[str, Any], longest: int
) -> tuple[list[Verdict], dict[str, Any]]:
    """The verdicts, those that are there and those that are not yet, and what they took."""
    name, out = short_name(arguments.judge), _out(arguments)
    longest = arguments.max_new_tokens or longest
    endpoint = contestant(arguments.judge, Settings(concurrency=arguments.concurrency))
    about = {"name": name, "judge": endpoint.card(), "mode": arguments.mode, **about, "max_new_tokens": longest}
    before = begin(out, about)
    try:
        verdicts = judge(endpoint, name, asked, out / VERDICTS, max_new_tokens=longest, again=arguments.again)
    finally:  # what a stopped judging took was taken all the same
        spent = _spent(endpoint, before, arguments.price)
        note(out, about, spent)
    return verdicts, spent


def _out(arguments: argparse.Namespace) -> Path:
    return arguments.out or Path("runs", f"judge-{arguments.mode}-{short_name(arguments.judge)}")


def _title(arguments: argparse.Namespace) -> str:
    return f"Judged by {short_name(arguments.judge)}"


def _tell(arguments: argparse.Namespace, pieces: Sequence[Piece]) -> None:
    text, out = markdown(pieces), _out(arguments)
    write(out / PAGE, text)
    print(f"{text}\nwritten to {out}")


def _price(text: str) -> tuple[float, float]:
    read, comma, written = text.partition(",")
    try:
        prices = float(read), float(written)
    except ValueError:
        prices = (-1.0, -1.0)
    if not comma or min(prices) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}; expected two prices of a million tokens, such as 2.5,10")
    return prices


def _spent(endpoint: Endpoint, before: dict[str, Any], price: tuple[float, float] | None) -> dict[str, Any]:
    """What a judging took, with what it took before; nothing where the judge is no server's."""
    if not isinstance(endpoint, OpenAIEndpoint):
        return before
    usage = endpoint.usage
    spent = {name: before.get(name, 0) + number for name, number in asdict(usage).items()}
    cost = before.get("cost")
    if price is not None:
        cost = (cost or 0.0) + (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1e6
    return spent if cost is None else {**spent, "cost": cost}


def _bill(spent: dict[str, Any]) -> list[str]:
    if not spent:
        return []
    told = "{requests} requests, {retries} of them repeated; {prompt_tokens} tokens read, {completion_tokens} written"
    return [told.format(**spent) + (f"; cost {spent['cost']:.4f}" if "cost" in spent else "")]
