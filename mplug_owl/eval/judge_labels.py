"""HallusionBench's judge: whether an answer agrees with the reference, and with that about the original figure.

What the judge is shown and how its replies are read is as in the benchmark's own code: words alone, no picture, one
word in reply; a reply without such a word counts as unclear, or as different. The prompts say the same in words of
their own (`prompts/check.txt`, `prompts/same.txt`). Asking and keeping is the business of `judge.py`, scoring of the
task.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval import answer_file
from mplug_owl.eval.grades import digest
from mplug_owl.eval.judge import Case, sections
from mplug_owl.eval.samples import SAMPLES
from mplug_owl.eval.scores.hallusion import RIGHT, UNCLEAR, WRONG, verdict
from mplug_owl.eval.task import Example
from mplug_owl.eval.tasks.hallusionbench import HallusionBench, pair
from mplug_owl.eval.verdicts import Mode, Verdict
from mplug_owl.messages import Message

LABELS = "judgements.jsonl"
NAMES = {RIGHT: "right", WRONG: "wrong", UNCLEAR: "unclear"}


def read_run(path: Path, examples: Sequence[Example]) -> tuple[Path, dict[str, str]]:
    """The file of answers that a path stands for, which may be the folder of a run, and the answers by id.

    Raises: EvalError where there is none, or an id is none of the task's.
    """
    places = [path / HallusionBench.name / SAMPLES, path / SAMPLES] if path.is_dir() else [path]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise EvalError(
            f"{path} holds no answers; expected a file of them, or the folder of a finished run of task "
            f"{HallusionBench.name}"
        )
    answers = answer_file.read(file)
    if unknown := answers.keys() - {example.id for example in examples}:
        raise EvalError(
            f"{file}: {min(unknown)!r} is no question of {HallusionBench.name}; expected ids such as {examples[0].id!r}"
        )
    return file, answers


def label_cases(examples: Sequence[Example], answers: Mapping[str, str]) -> list[Case]:
    """All that is to be judged: each answer, and each about another than the original figure beside the one about
    that.
    """
    originals = {pair(each): answers[each.id] for each in examples if _is_original(each) and each.id in answers}
    found: list[Case] = []
    for example in examples:
        answer, original = answers.get(example.id), originals.get(pair(example))
        if answer is None:
            continue
        words = {"question": example.meta["question"], "reference": example.meta["reference"], "answer": answer}
        found.append(_case("check", example, words, answer))
        if original is not None and not _is_original(example):
            found.append(_case("same", example, {"answer": answer, "original": original}, answer, original))
    return found


def _is_original(example: Example) -> bool:
    return bool(example.meta["figure_id"] == "0")


def _case(mode: Mode, example: Example, words: Mapping[str, str], *answers: str) -> Case:
    text = sections(mode)["user"].substitute(words)
    return Case(mode, (HallusionBench.name,), example.id, tuple(map(digest, answers)), (Message("user", text),), None)


def labels(
    examples: Sequence[Example], answers: Mapping[str, str], verdicts: Sequence[Verdict]
) -> list[dict[str, Any]]:
    """The rows of a file of judgements; none for an answer that the judge could not be asked about."""
    said = {(each.mode, each.question): each for each in verdicts}
    rows: list[dict[str, Any]] = []
    for example in examples:
        check, same = said.get(("check", example.id)), said.get(("same", example.id))
        replies = [each for each in (check, same) if each is not None]
        if check is None or any(each.error is not None for each in replies):
            continue
        row: dict[str, Any] = {
            "id": example.id,
            "judgement": check.read or UNCLEAR,
            "same": "1" if same is None or same.read else "0",  # an answer is the same as itself
            "answer": digest(answers[example.id]),
        }
        rows.append(row | ({"unread": True} if any(each.read is None for each in replies) else {}))
    return rows


def summary(
    examples: Sequence[Example],
    answers: Mapping[str, str],
    verdicts: Sequence[Verdict],
    rows: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What the judge said, what it did not say, and how far it agrees with the words yes and no."""
    counts = {name: sum(row["judgement"] == label for row in rows) for label, name in NAMES.items()}
    said = [f"{len(rows)} of {len(examples)} answers labelled: " + ", ".join(f"{n} {k}" for k, n in counts.items())]
    right = {example.id: "1" if example.answers == ("yes",) else "0" for example in examples}
    clear = [
        (row["judgement"], read) for row in rows if (read := verdict(answers[row["id"]], right[row["id"]])) != UNCLEAR
    ]
    if clear:
        alike = sum(label == read for label, read in clear)
        said.append(f"of {len(clear)} answers that say yes or no, {alike} are labelled as these words are")
    if unread := sum(each.error is None and each.read is None for each in verdicts):
        said.append(
            f"{unread} of {len(verdicts)} replies hold none of the words asked for: they count as unclear or "
            "different, as in the official code; --again asks for them once more"
        )
    if failed := [each for each in verdicts if each.error is not None]:
        said.append(
            f"{len(failed)} could not be asked, and their answers have no label; the same command asks again; the "
            f"first: {failed[0].question}: {failed[0].error}"
        )
    if silent := len(examples) - len(answers):
        said.append(f"{silent} questions have no answer here")
    return said
