"""Multiple choice about pictures: MMBench, ScienceQA, SEED-Bench and Q-Bench.

Asked as mPLUG-Owl2 was: the picture, a hint if there is one, the question, its choices by letter, and "Answer with the
option's letter from the given choices directly." How answers are read is the benchmark's own affair
(`scores/choice.py`); the last two have no scorer to be proved against here and are read as MMBench is.
"""

import base64
import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores.choice import circular, mmbench_reading, scienceqa_reading
from mplug_owl.eval.scoring import wilson
from mplug_owl.eval.task import Example, Record, Row, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import LETTER, LETTERS, Benchmark, asked, breakdown, options, part
from mplug_owl.eval.tasks.hub import TablePicture

PASS = 1_000_000  # added to the number of a question for each further order of its options
INDEX_LENGTH = 64  # what is no longer stands for the row that has the picture
CIRCULAR_PARTS = ("category", "l2-category")
SCIENCE_PARTS = ("subject", "grades", "context")


@dataclass(frozen=True)
class LetteredTask(Benchmark):
    """Choices to be answered with a letter, read as MMBench reads them; the examples hold their choices."""

    max_new_tokens = 10

    def example(self, name: str, image: Any, question: str, choices: Sequence[str], right: str, **meta: Any) -> Example:
        """The example of a question; `right` is a letter."""
        if not choices or right not in LETTERS[: len(choices)]:
            raise EvalError(
                f"task {self.name}: question {name} has the answer {right!r} and {len(choices)} choices; expected a "
                f"letter of {LETTERS[: len(choices)]}: is this a split whose answers are not published?"
            )
        text = f"{question}\n{options(choices)}\n{LETTER}"
        group = meta.pop("group", None)
        return Example(name, asked(image, text), (right,), {"choices": list(choices), **meta}, group=group)

    def score(self, example: Example, answer: str) -> Score:
        read = mmbench_reading(answer, dict(zip(LETTERS, example.meta["choices"], strict=False))) or ""
        return Score(float(read == example.answers[0]), read)


# ---- MMBench -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MMBench(LetteredTask):
    name = "mmbench"
    about = "MMBench: each question once with every order of its options; only all right counts"
    needs = "mmbench_dev_20230712.tsv (or MMBench_DEV_EN.tsv), with pictures in base64"
    source = "https://opencompass.openxlab.space/utils/VLMEval/MMBench_DEV_EN.tsv"
    hub = "lmms-lab/MMBench_EN"
    licence = "Apache-2.0; pictures belong to their owners"

    split: str = "dev"

    def _names(self) -> tuple[str, ...]:
        return f"mmbench_{self.split}_20230712.tsv", f"MMBench_{self.split.upper()}_EN.tsv", f"mmbench_{self.split}.tsv"

    def documents(self) -> Sequence[Path]:
        return [self.path(*self._names())]

    def examples(self) -> Iterator[Example]:
        keys = ("index", "question", "A", "B", "answer", "image")
        if self.tables():
            path, rows = self.hub, self.table(*keys)
        else:
            path = self.path(*self._names()).name
            rows = self.rows(self.separated(*self._names()), path, *keys)
        found = self.by_id(rows, lambda row: row["index"], path)
        for name, row in found.items():
            if not name.isdecimal():
                raise EvalError(f"task {self.name}: {name!r} is an index of {path}; expected numbers")
            first = str(int(name) % PASS)
            choices = [row[letter] for letter in LETTERS[:4] if (row.get(letter) or "nan").strip() not in ("", "nan")]
            question = f"{row.get('hint') or 'N/A'}\n{row['question']}"
            meta = {key: row[key] for key in CIRCULAR_PARTS if row.get(key)}
            image = self._picture(found, name, path)
            yield self.example(name, image, question, choices, row["answer"], pass_of=first, group=first, **meta)

    def _picture(self, rows: Mapping[str, Mapping[str, Any]], name: str, path: str) -> Any:
        """The picture; a further pass may give the index of the row that holds it instead."""
        image = rows[name]["image"]
        if isinstance(image, TablePicture):
            return image
        if len(image) <= INDEX_LENGTH:
            image = rows.get(image, {}).get("image", "")
        try:
            if len(image) > INDEX_LENGTH:
                return base64.b64decode(image, validate=True)
        except binascii.Error:
            pass
        raise EvalError(f"task {self.name}: row {name} of {path} has no picture; expected one in base64")

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        rows = [_circular(self.name, records)]
        rows += [_circular(name, found) for key in CIRCULAR_PARTS for name, found in part(records, key)]
        several = len({record.example.meta["pass_of"] for record in records}) < len(records)
        notes = ["a pass without a letter that can be read fails its question; no judge is asked"]
        if not several:
            notes.append("the file has one order of each question's options: this is plain accuracy, not circular")
        vanilla = mean("passes", records, _chance(records))
        return [Table("circular accuracy", tuple(rows), tuple(notes)), Table("each pass by itself", (vanilla,))]


def _circular(name: str, records: Sequence[Record]) -> Row:
    groups = [
        [(record.example.answers[0], record.score.read) for record in found] for _, found in part(records, "pass_of")
    ]
    share = sum(map(circular, groups)) / max(len(groups), 1)
    lucky = [math.prod(1 / len(r.example.meta["choices"]) for r in found) for _, found in part(records, "pass_of")]
    chance = sum(lucky) / max(len(groups), 1)
    return Row(
        name, len(groups), share, wilson(share, len(groups)), chance, {"passes": len(records)}, "circular accuracy"
    )


def _chance(records: Sequence[Record]) -> float:
    """What guessing letters gets."""
    return sum(1 / len(record.example.meta["choices"]) for record in records) / max(len(records), 1)


# ---- ScienceQA -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScienceQA(LetteredTask):
    name = "scienceqa"
    about = "ScienceQA-IMG: school questions with pictures"
    needs = "problems.json, pid_splits.json and pictures in test/ID/image.png"
    source = "https://github.com/lupantech/ScienceQA (data/scienceqa; pictures by its tools/download.sh)"
    licence = "CC BY-NC-SA 4.0"
    chance = 0.40

    split: str = "test"
    images_only: bool = True
    """Whether only the questions with a picture are asked, as the tables of the papers have it."""

    def documents(self) -> Sequence[Path]:
        return [self.path("problems.json"), self.path("pid_splits.json")]

    def examples(self) -> Iterator[Example]:
        problems, splits = self.json("problems.json"), self.json("pid_splits.json")
        if not isinstance(problems, dict) or not isinstance(splits, dict) or self.split not in splits:
            raise EvalError(
                f"task {self.name}: pid_splits.json has no split {self.split!r}; expected ScienceQA's files"
            )
        for name in splits[self.split]:
            if name not in problems:
                raise EvalError(f"task {self.name}: {name!r} of split {self.split} is not in problems.json")
            row = problems[name]
            self.rows([row], f"problems.json, question {name}", "question", "choices", "answer", "image")
            if row["image"] or not self.images_only:
                yield self._question(str(name), row)

    def _question(self, name: str, row: Mapping[str, Any]) -> Example:
        place, image = f"{self.split}/{name}/{row['image']}", None
        hint = (row.get("hint") or "").strip()
        grade = int(str(row.get("grade", "grade0")).removeprefix("grade") or 0)
        meta = {
            "subject": row.get("subject"),
            "grades": "grades 1 to 6" if grade <= 6 else "grades 7 to 12",
            "context": "text and picture" if hint else "picture only",
        }
        if row["image"]:
            image = self.image(place, f"images/{place}")
        else:
            meta["context"] = "text only" if hint else "no context"
        question = f"{hint}\n{row['question']}" if hint else row["question"]
        right = LETTERS[row["answer"]] if isinstance(row["answer"], int) else ""
        return self.example(name, image, question, row["choices"], right, **meta)

    def score(self, example: Example, answer: str) -> Score:
        read = scienceqa_reading(answer.strip(), len(example.meta["choices"]))
        letter = LETTERS[read] if read >= 0 else ""
        return Score(float(letter == example.answers[0]), letter)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        rows = [mean(self.name, records, _chance(records))]
        rows += [row for key in SCIENCE_PARTS for row in breakdown(records, key)]
        unread = sum(not record.score.read for record in records)
        return [Table("accuracy", tuple(rows), (f"{unread} answers name no choice and count as wrong",))]


# ---- shapes without a scorer to be proved against ------------------------------------------------


@dataclass(frozen=True)
class SeedBench(LetteredTask):
    name = "seedbench"
    about = "SEED-Bench: four choices about a picture; its video questions are left to another task"
    needs = "SEED-Bench.json and pictures in SEED-Bench-image/"
    source = "https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
    licence = "CC BY-NC 4.0"
    chance, verified = 0.25, False

    def documents(self) -> Sequence[Path]:
        return [self.path("SEED-Bench.json")]

    def examples(self) -> Iterator[Example]:
        document = self.json("SEED-Bench.json")
        listed = document.get("questions") if isinstance(document, dict) else document
        kinds = {
            str(v): k for k, v in (document.get("question_type", {}) if isinstance(document, dict) else {}).items()
        }
        keys = (
            "question_id",
            "question",
            "choice_a",
            "choice_b",
            "choice_c",
            "choice_d",
            "answer",
            "data_id",
            "data_type",
        )
        rows = self.by_id(
            self.rows(listed, "SEED-Bench.json", *keys), lambda row: row["question_id"], "SEED-Bench.json"
        )
        for name, row in rows.items():
            if row["data_type"] == "image":
                image = self.image(f"SEED-Bench-image/{row['data_id']}", f"images/{row['data_id']}", row["data_id"])
                choices = [str(row[f"choice_{letter}"]) for letter in "abcd"]
                kind = str(row.get("question_type_id", ""))
                yield self.example(name, image, row["question"], choices, row["answer"], kind=kinds.get(kind, kind))

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("accuracy", (mean(self.name, records, self.chance), *breakdown(records, "kind", self.chance)))]


@dataclass(frozen=True)
class QBench(LetteredTask):
    name = "qbench"
    about = "Q-Bench (LLVisionQA): choices about sharpness, light, colour and other low-level looks"
    needs = "llvisionqa_dev.json and its pictures in images/"
    source = "https://huggingface.co/datasets/teowu/LLVisionQA-QBench"
    licence = "CC BY-NC-SA 4.0"
    verified = False

    split: str = "dev"

    def documents(self) -> Sequence[Path]:
        return [self.path(f"llvisionqa_{self.split}.json")]

    def examples(self) -> Iterator[Example]:
        file = f"llvisionqa_{self.split}.json"
        for number, row in enumerate(self.rows(self.json(file), file, "img_path", "question", "candidates")):
            image = self.image(f"images/{row['img_path']}", row["img_path"])
            candidates, right = list(row["candidates"]), row.get("correct_ans")
            letter = LETTERS[candidates.index(right)] if right in candidates else ""
            yield self.example(str(number), image, row["question"], candidates, letter)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("accuracy", (mean(self.name, records, _chance(records)),))]
