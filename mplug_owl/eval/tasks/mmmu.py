"""MMMU: college questions of thirty subjects, multiple choice and open, with pictures among the words.

Read and scored as its own tools do (`scores/choice.py`), but for answers that name no option: the tools draw one at
random (seed 42); here they count as wrong, and what the draw would give stands beside the score.
"""

import ast
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores.choice import mmmu_open_readings, mmmu_open_right, mmmu_reading
from mplug_owl.eval.task import Example, Record, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import LETTER, LETTERS, SHORT, Benchmark, breakdown, options
from mplug_owl.messages import ImagePart, Message, Part, TextPart

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy"),
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power"),
        *("Materials", "Mechanical_Engineering"),
    ),
}
DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
SEED = 42
_IMAGE = re.compile(r"(<image \d+>)")


@dataclass(frozen=True)
class Mmmu(Benchmark):
    name = "mmmu"
    about = "MMMU: college questions of thirty subjects, 30 each, with pictures among the words"
    needs = "SUBJECT/validation-*.parquet for each of its thirty subjects (needs pyarrow: pip install mplug_owl[train])"
    source = "https://huggingface.co/datasets/MMMU/MMMU"
    licence = "Apache-2.0"
    chance = 0.221
    max_new_tokens = 10

    split: str = "validation"

    def documents(self) -> Sequence[Path]:
        return sorted(self.path(".").glob(f"*/{self.split}-*.parquet"))

    def examples(self) -> Iterator[Example]:
        for subject in sorted(DOMAIN_OF):
            paths = sorted(self.path(subject).glob(f"{self.split}-*.parquet"))
            found, place = self.read(paths), f"{subject}/{self.split}-*.parquet"
            rows = self.rows(found, place, "id", "question", "answer", "question_type")
            for name, row in self.by_id(rows, lambda row: row["id"], place).items():
                yield self._question(name, subject, row)

    def _question(self, name: str, subject: str, row: Mapping[str, Any]) -> Example:
        choices = _listed(row.get("options"))
        open_question = row["question_type"] != "multiple-choice"
        right = _listed(row["answer"]) or [str(row["answer"])]
        if not open_question and right[0] not in LETTERS[: len(choices)]:
            raise EvalError(
                f"task mmmu: {name} has the answer {right[0]!r}; expected a letter: the answers of split "
                f"{self.split!r} are not published"
            )
        text = f"{row['question']}\n{SHORT}" if open_question else f"{row['question']}\n{options(choices)}\n{LETTER}"
        parts = tuple(self._part(name, row, piece) for piece in _IMAGE.split(text) if piece)
        meta = {"subject": subject, "domain": DOMAIN_OF[subject], "open": open_question, "choices": choices}
        return Example(name, (Message("user", parts),), tuple(right), meta)

    def _part(self, name: str, row: Mapping[str, Any], piece: str) -> Part:
        if not _IMAGE.fullmatch(piece):
            return TextPart(piece)
        picture = row.get(f"image_{piece[7:-1]}")
        if picture is None:
            raise EvalError(f"task mmmu: {name} asks about {piece}, but its row has no such picture")
        return ImagePart(picture)

    def score(self, example: Example, answer: str) -> Score:
        if example.meta["open"]:
            readings = mmmu_open_readings(answer)
            read = ", ".join(sorted(map(str, readings)))
            return Score(float(mmmu_open_right(readings, example.answers)), read)
        read = mmmu_reading(answer, dict(zip(LETTERS, example.meta["choices"], strict=False))) or ""
        return Score(float(read in example.answers), read)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        drawn = random.Random(SEED)
        unread = [r for r in records if not r.example.meta["open"] and not r.score.read]
        lucky = sum(drawn.choice(LETTERS[: len(r.example.meta["choices"])]) in r.example.answers for r in unread)
        rows = (mean(self.name, records, self.chance), *breakdown(records, "domain"), *breakdown(records, "subject"))
        right = sum(record.score.correct for record in records) + lucky
        note = (
            f"{len(unread)} answers name no option and count as wrong; drawing one at random as the official tool does "
            f"(seed {SEED}) gives {100 * right / max(len(records), 1):.2f}"
        )
        return [Table("accuracy", rows, (note,))]


def _listed(text: Any) -> list[str]:
    """The list that a cell holds as text, as those of MMMU do; empty where it holds none."""
    if isinstance(text, str) and text.startswith("["):
        try:
            text = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return []
    return [str(one) for one in text] if isinstance(text, list) else []
