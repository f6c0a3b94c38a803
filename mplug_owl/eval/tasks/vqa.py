"""Short answers about pictures against those of ten people: VQAv2, OK-VQA, VizWiz, TextVQA.

The score is VQA accuracy (`scores/vqa.py`). Asked as mPLUG-Owl2 was: the picture, the question, and "Answer the
question using a single word or phrase."
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores import vqa
from mplug_owl.eval.task import Example, Record, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import SHORT, Benchmark, asked, breakdown


class Question(NamedTuple):
    id: str
    image: Any
    text: str
    people: tuple[str, ...]
    kind: str | None


@dataclass(frozen=True)
class VqaTask(Benchmark):
    """What the four share; each says how its files are read."""

    max_new_tokens = 10

    split: str = "val"

    @abstractmethod
    def questions(self) -> Iterator[Question]:
        """The questions of the official layout."""

    def _tabled(self) -> Iterator[Question]:
        """The questions of the hub's tables, whose answers are texts, or objects that hold one."""
        rows = self.table("question_id", "question", "answers", "image")
        for name, row in self.by_id(rows, lambda row: row["question_id"], self.hub).items():
            people = tuple(str(said["answer"] if isinstance(said, dict) else said) for said in row["answers"] or ())
            if not people:
                raise EvalError(
                    f"task {self.name}: question {name} has no answers; those of {self.split} are not public"
                )
            yield Question(name, row["image"], row["question"], people, row.get("answer_type"))

    def examples(self) -> Iterator[Example]:
        for one in self._tabled() if self.tables() else self.questions():
            meta = {"kind": one.kind} if one.kind else {}
            yield Example(one.id, asked(one.image, f"{one.text} {SHORT}"), one.people, meta)

    def score(self, example: Example, answer: str) -> Score:
        return Score(vqa.accuracy(answer, example.answers), vqa.alike(vqa.trimmed(answer)))

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("VQA accuracy", (mean(self.name, records), *breakdown(records, "kind")))]

    def people(self, answers: Any, where: str) -> tuple[str, ...]:
        """The texts of the annotators' answers."""
        rows = self.rows(answers, where, "answer")
        return tuple(str(row["answer"]) for row in rows)


@dataclass(frozen=True)
class Vqav2(VqaTask):
    name = "vqav2"
    about = "VQAv2: short questions about COCO pictures, ten answers each"
    source = "https://visualqa.org/download.html (pictures: https://cocodataset.org)"
    licence = "annotations CC BY 4.0; pictures belong to their owners"
    needs = "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json, pictures in val2014/"
    prefix, hub = "v2_", "lmms-lab/VQAv2"

    def names(self) -> tuple[str, str]:
        split = f"{self.split}2014"
        return (
            f"{self.prefix}OpenEnded_mscoco_{split}_questions.json",
            f"{self.prefix}mscoco_{split}_annotations.json",
        )

    def documents(self) -> Sequence[Path]:
        return [self.path(name) for name in self.names()]

    def questions(self) -> Iterator[Question]:
        asked_in, answered_in = self.names()
        document, answers = self.json(asked_in), self.json(answered_in)
        listed = document.get("questions") if isinstance(document, dict) else document
        told = answers.get("annotations") if isinstance(answers, dict) else answers
        asked_by = self.by_id(
            self.rows(listed, asked_in, "question_id", "image_id", "question"), lambda row: row["question_id"], asked_in
        )
        told_by = self.by_id(
            self.rows(told, answered_in, "question_id", "answers"), lambda row: row["question_id"], answered_in
        )
        self.same_ids(asked_by, told_by, asked_in, answered_in)
        for name, row in asked_by.items():
            file = f"COCO_{self.split}2014_{int(row['image_id']):012}.jpg"
            image = self.image(f"{self.split}2014/{file}", f"images/{file}", file)
            people = self.people(told_by[name]["answers"], f"{answered_in}, question {name}")
            yield Question(name, image, row["question"], people, told_by[name].get("answer_type"))


@dataclass(frozen=True)
class Okvqa(Vqav2):
    name = "okvqa"
    about = "OK-VQA: questions about COCO pictures that need outside knowledge"
    source = "https://okvqa.allenai.org/download.html (pictures: https://cocodataset.org)"
    licence = "see its site; pictures belong to their owners"
    needs = "OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json, pictures in val2014/"
    prefix, hub = "", "lmms-lab/OK-VQA"

    def questions(self) -> Iterator[Question]:
        for one in super().questions():
            yield one._replace(kind=None)  # OK-VQA calls all of them "other"


@dataclass(frozen=True)
class Vizwiz(VqaTask):
    name = "vizwiz"
    about = "VizWiz: questions that blind people asked about their own photographs"
    needs = "val.json and its pictures in val/"
    source = "https://vizwiz.org/tasks-and-datasets/vqa/"
    hub = "lmms-lab/VizWiz-VQA"
    licence = "CC BY 4.0"

    def documents(self) -> Sequence[Path]:
        return [self.path(*self._names())]

    def _names(self) -> tuple[str, str]:
        return f"{self.split}.json", f"Annotations/{self.split}.json"

    def questions(self) -> Iterator[Question]:
        name = f"{self.split}.json"
        rows = self.rows(self.json(*self._names()), name, "image", "question", "answers")
        for file, row in self.by_id(rows, lambda row: row["image"], name).items():
            image = self.image(f"{self.split}/{file}", f"images/{file}", file)
            people = self.people(row["answers"], f"{name}, picture {file}")
            yield Question(file, image, row["question"], people, row.get("answer_type"))


@dataclass(frozen=True)
class Textvqa(VqaTask):
    name = "textvqa"
    about = "TextVQA: questions about the writing in pictures"
    needs = "TextVQA_0.5.1_val.json and its pictures in train_images/"
    source = "https://textvqa.org/dataset/"
    hub = "lmms-lab/textvqa"
    licence = "CC BY 4.0"

    def _name(self) -> str:
        return f"TextVQA_0.5.1_{self.split}.json"

    def documents(self) -> Sequence[Path]:
        return [self.path(self._name())]

    def questions(self) -> Iterator[Question]:
        document = self.json(self._name())
        listed = document.get("data") if isinstance(document, dict) else document
        rows = self.rows(listed, self._name(), "question_id", "image_id", "question", "answers")
        for name, row in self.by_id(rows, lambda row: row["question_id"], self._name()).items():
            file = f"{row['image_id']}.jpg"
            image = self.image(f"train_images/{file}", f"train_val_images/train_images/{file}", f"images/{file}", file)
            yield Question(name, image, row["question"], tuple(map(str, row["answers"])), None)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        official = super().aggregate(records)[0]
        values = [vqa.textvqa_accuracy(record.answer, record.example.answers) for record in records]
        share = sum(values) / max(len(values), 1)
        note = f"as TextVQA's own evaluator (mmf) makes texts alike: {100 * share:.2f}"
        return [Table(official.title, official.rows, (note,))]
