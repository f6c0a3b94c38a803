"""Blind rating: in which order a rater sees which answer, without whose it is, and where each grade goes.

It knows no page: whoever shows a `Sheet` gives back its token with a grade. The dialogues come in an order that each
rater's name and the seed decide, their turns in their own order, and the systems at each turn in an order of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Lock

from mplug_owl.data.ledger import now
from mplug_owl.errors import EvalError
from mplug_owl.eval.grades import LETTERS, MEANINGS, Grade, GradeLog, digest, latest
from mplug_owl.eval.owleval.answers import Answer, System
from mplug_owl.eval.owleval.questions import ABILITIES, Question, Questions

GUIDE = (
    "Grade each answer by itself, by what the question asks and what the picture shows.\n\n"
    + "\n".join(f"- **{letter}** {meaning}" for letter, meaning in MEANINGS.items())
    + "\n\nThen tick those of the asked abilities that the answer shows. Earlier answers in a dialogue are the same "
    "system's own: grade the last one, in their light."
)


@dataclass(frozen=True)
class Sheet:
    """All that a rater sees of one answer."""

    token: str
    """Says which answer a grade is for, without saying whose."""
    picture: Path | None
    earlier: tuple[tuple[str, str], ...]
    """Questions and answers before it in the dialogue."""
    question: str
    answer: str
    abilities: dict[str, str]
    """Letter and name of each that the question asks for."""
    grade: str | None
    """What the rater said of it before, when back at it."""
    reflected: tuple[str, ...]


@dataclass
class Desk:
    """What is to be rated, and the log that all raters share."""

    questions: Questions
    systems: Sequence[System]
    log: GradeLog
    seed: int = 0
    guide: str = GUIDE

    def sitting(self, rater: str) -> "Sitting":
        """A rater's way through all answers, going on where the log says.

        Raises: EvalError where the rater has no name, or the log holds grades of other answers.
        """
        name = " ".join(rater.split())
        if not name:
            raise EvalError("a rater without a name; give one, the same each time")
        order = list(self._order(name))
        digests = {(system.name, item.id): digest(answer.text) for system, item, answer in order}
        given = {}
        for grade in latest(self.log.read()):
            if grade.rater == name and (place := (grade.system, grade.question)) in digests:
                if grade.answer != digests[place]:
                    raise EvalError(
                        f"{self.log.path} holds a grade of another answer by {grade.system} to question "
                        f"{grade.question}; give another --out, or the answers that were graded"
                    )
                given[place] = grade
        return Sitting(self, name, order, given)

    def _order(self, rater: str) -> Iterator[tuple[System, Question, Answer]]:
        random = Random(f"{self.seed}/{rater}")
        dialogues: dict[int, list[Question]] = {}
        for question in self.questions:
            dialogues.setdefault(self.questions.dialogue(question.id)[0].id, []).append(question)
        for first in random.sample(sorted(dialogues), len(dialogues)):
            for question in dialogues[first]:
                for system in random.sample(list(self.systems), len(self.systems)):
                    answer = system.answers[question.id]
                    if answer.flag is None or answer.flag.gradable:
                        yield system, question, answer


@dataclass
class Sitting:
    """One rater at the desk."""

    desk: Desk
    rater: str
    order: list[tuple[System, Question, Answer]]
    given: dict[tuple[str, int], Grade]
    place: int = field(init=False)
    made: int = 0
    _one_at_a_time: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.place = self._open_from(0)

    @property
    def progress(self) -> tuple[int, int]:
        """Answers graded, and all."""
        return len(self.given), len(self.order)

    def sheet(self) -> Sheet | None:
        """What is to be graded now; None when all is."""
        if self.place >= len(self.order):
            return None
        system, question, answer = self.order[self.place]
        before = self.desk.questions.dialogue(question.id)[:-1]
        said = self.given.get((system.name, question.id))
        return Sheet(
            token=self._token(self.place),
            picture=question.picture,
            earlier=tuple((turn.text.strip(), system.answers[turn.id].shown) for turn in before),
            question=question.text.strip(),
            answer=answer.shown,
            abilities={letter: ABILITIES[letter] for letter in question.abilities},
            grade=said.grade if said else None,
            reflected=(said.abilities or ()) if said else (),
        )

    def grade(self, token: str, letter: str, reflected: Sequence[str]) -> bool:
        """Write a grade down and go on; False, and nothing done, where the token is of another sheet.

        A key pressed twice, or a page that was left open, thus grades nothing that its rater has not seen.
        """
        with self._one_at_a_time:
            return self._grade(token, letter, reflected)

    def _grade(self, token: str, letter: str, reflected: Sequence[str]) -> bool:
        if self.place >= len(self.order) or token != self._token(self.place):
            return False
        system, question, answer = self.order[self.place]
        found = next((known for known in LETTERS if known == letter), None)
        if found is None:
            raise EvalError(f"grade {letter!r}; expected one of {', '.join(LETTERS)}")
        if strange := set(reflected) - set(question.abilities):
            raise EvalError(f"ability {min(strange)!r}; the question asks for {', '.join(question.abilities)}")
        abilities = tuple(ability for ability in question.abilities if ability in reflected)
        made = Grade(self.rater, system.name, question.id, found, abilities, digest(answer.text), now())
        self.desk.log.append(made)
        self.given[system.name, question.id] = made
        self.made += 1
        self.place = self._open_from(self.place + 1)
        return True

    def back(self) -> None:
        """To the answer before, to grade it again."""
        self.place = max(self.place - 1, 0)

    def _open_from(self, start: int) -> int:
        """The first place without a grade, looked for from `start` and then from the beginning."""
        places = [*range(start, len(self.order)), *range(min(start, len(self.order)))]
        return next((place for place in places if self._key(place) not in self.given), len(self.order))

    def _key(self, place: int) -> tuple[str, int]:
        system, question, _ = self.order[place]
        return system.name, question.id

    def _token(self, place: int) -> str:
        """Of a sheet as it is shown now: another one when it is shown again after a grade."""
        return f"{place}.{self.made}"
