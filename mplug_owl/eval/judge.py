"""A model as judge: what it is shown of each answer, asked once each, every reply kept before the next is awaited.

The prompts are files in `prompts/`. Two answers are shown in both orders. How the judge is reached is not known here
(`endpoints.py`), nor what its words mean (`verdicts.py`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from tqdm import tqdm

from mplug_owl.data.ledger import Ledger, now
from mplug_owl.errors import EvalError
from mplug_owl.eval.endpoints import Endpoint, Failure
from mplug_owl.eval.grades import MEANINGS, digest
from mplug_owl.eval.owleval.answers import Answer, System
from mplug_owl.eval.owleval.questions import ABILITIES, Question, Questions
from mplug_owl.eval.verdicts import Key, Mode, Verdict, read_verdicts
from mplug_owl.messages import ImagePart, Message, TextPart

MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class Case:
    """One thing to be judged."""

    mode: Mode
    systems: tuple[str, ...]
    """Whose answers, in the order in which they are shown."""
    question: int | str
    answers: tuple[str, ...]
    """Digests of the answers."""
    messages: tuple[Message, ...]
    picture: Path | None

    @property
    def key(self) -> Key:
        return self.mode, self.systems, self.question

    def asked(self, judge: str) -> str:
        """Digest of all that the reply may depend on."""
        seen = "" if self.picture is None else hashlib.sha256(self.picture.read_bytes()).hexdigest()
        return digest(json.dumps([judge, [[message.role, message.text] for message in self.messages], seen]))


@dataclass(frozen=True)
class Brief:
    """What a judge is asked to do, and what it gets to see."""

    mode: Mode
    against: str | None = None
    """The system that the others are compared with."""
    sight: bool = True
    """Whether it sees the pictures."""
    reference: System | None = None
    """Answers that it is told to take for right."""
    abilities: bool = True
    """Whether it also says which abilities an answer shows."""

    @property
    def prompt(self) -> str:
        """The digest of the prompt's file."""
        return digest(prompt_text(self.mode))


def cases(brief: Brief, questions: Questions, systems: Sequence[System]) -> list[Case]:
    """All that is to be judged, question by question.

    Raises: EvalError where there is nobody to compare with.
    """
    if brief.mode == "grade":
        return [
            _grading(brief, question, questions, system)
            for question in questions
            for system in systems
            if _stands(system.answers[question.id])
        ]
    other = next((system for system in systems if system.name == brief.against), None)
    if other is None or len(systems) < 2:
        names = ", ".join(system.name for system in systems)
        raise EvalError(f"nobody to compare with: {brief.against!r} among {names}; name one of two systems or more")
    return [
        _comparison(brief, question, questions, pair)
        for question in questions
        for system in systems
        if system is not other and _stands(system.answers[question.id]) and _stands(other.answers[question.id])
        for pair in ((system, other), (other, system))
    ]


def _stands(answer: Answer) -> bool:
    return answer.flag is None or answer.flag.gradable


def _grading(brief: Brief, question: Question, questions: Questions, system: System) -> Case:
    turns = [
        f"User: {turn.text.strip()}\nAssistant: {system.answers[turn.id].shown}"
        for turn in questions.dialogue(question.id)[:-1]
    ]
    answer = system.answers[question.id]
    return _case(brief, question, (system,), turns, {"answer": answer.shown})


def _comparison(brief: Brief, question: Question, questions: Questions, pair: tuple[System, System]) -> Case:
    turns = [f"User: {turn.text.strip()}" for turn in questions.dialogue(question.id)[:-1]]
    first, second = (system.answers[question.id].shown for system in pair)
    return _case(brief, question, pair, turns, {"first": first, "second": second})


# ---- prompts -------------------------------------------------------------------------------------


def prompt_text(mode: Mode) -> str:
    return files("mplug_owl.eval").joinpath("prompts", f"{mode}.txt").read_text(encoding="utf-8")


def sections(mode: Mode) -> dict[str, Template]:
    """The parts of a prompt's file by name: each begins with a line `== name ==`."""
    found: dict[str, list[str]] = {}
    for line in prompt_text(mode).splitlines():
        if line.startswith("== ") and line.endswith(" =="):
            found[line.strip("= ")] = []
        else:
            found[next(reversed(found))].append(line)
    return {name: Template("\n".join(lines).strip()) for name, lines in found.items()}


def _case(
    brief: Brief, question: Question, systems: Sequence[System], turns: Sequence[str], answers: dict[str, str]
) -> Case:
    parts = sections(brief.mode)
    sees = brief.sight and question.picture is not None
    sight = "text" if question.picture is None else "picture" if sees else "no picture"
    wanted = brief.abilities and question.abilities and "abilities" in parts
    names = ", ".join(f"{letter} ({ABILITIES[letter]})" for letter in question.abilities)
    known = brief.reference.answers[question.id] if brief.reference else None
    has_reference = known is not None and known.flag is None
    system = parts["system"].substitute(
        **MEANINGS,
        sight=parts[sight].substitute(),
        abilities=" " + parts["abilities"].substitute(names=names) if wanted else "",
    )
    user = parts["user"].substitute(
        answers,
        question=question.text.strip(),
        earlier=parts["earlier"].substitute(turns="\n".join(turns)) + "\n\n" if turns else "",
        reference=parts["reference"].substitute(reference=known.shown) + "\n\n" if known and has_reference else "",
    )
    shown = (ImagePart(str(question.picture)),) if sees else ()
    messages = Message("system", system), Message("user", (*shown, TextPart(user)))
    names_of = tuple(each.name for each in systems)
    digests = tuple(digest(each.answers[question.id].text) for each in systems)
    return Case(brief.mode, names_of, question.id, digests, messages, question.picture if sees else None)


# ---- asking --------------------------------------------------------------------------------------


def judge(
    endpoint: Endpoint,
    name: str,
    asked: Sequence[Case],
    path: Path,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    again: bool = False,
) -> list[Verdict]:
    """The judge's verdicts on some cases, in their order; what `path` holds is not asked again.

    Cases that could not be asked before are; with `again`, so are those whose reply held no verdict.

    Raises: EvalError where `path` holds verdicts on other answers, of another judge or prompt.
    """
    card = json.dumps(endpoint.card(), sort_keys=True)
    digests = {case.key: case.asked(card) for case in asked}
    found = {verdict.key: verdict for verdict in read_verdicts(path)}
    todo = []
    for case in asked:
        old = found.get(case.key)
        if old is not None and (old.judge != name or old.asked != digests[case.key]):
            raise EvalError(
                f"{path} holds a verdict of {old.judge} on question {case.question} and {' and '.join(case.systems)} "
                "that was asked otherwise (another judge, prompt, picture or answer); give another --out"
            )
        if old is None or old.error is not None or (again and old.read is None):
            todo.append(case)
    if todo:
        replies = endpoint.answers([case.messages for case in todo], max_new_tokens)
        for case, reply in tqdm(
            zip(todo, replies, strict=True), total=len(todo), desc="judge", unit="verdict", disable=None
        ):
            raw, error = (None, reply.reason) if isinstance(reply, Failure) else (reply, None)
            asked_as = digests[case.key]
            verdict = Verdict(case.mode, case.systems, case.question, name, case.answers, asked_as, now(), raw, error)
            Ledger(path).append(verdict.row())
            found[verdict.key] = verdict
    return [found[case.key] for case in asked]
