"""Reading in pictures: DocVQA and InfographicVQA by ANLS, ChartQA by relaxed accuracy.

The Owl papers do not report these; they are asked as their short answers are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mplug_owl.eval.scores.anls import anls
from mplug_owl.eval.scores.relaxed import relaxed
from mplug_owl.eval.task import Example, Record, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import SHORT, Benchmark, asked, breakdown


@dataclass(frozen=True)
class Docvqa(Benchmark):
    name = "docvqa"
    about = "DocVQA: questions about scanned documents"
    needs = "val_v1.0.json (or val_v1.0_withQT.json) and its pictures in documents/"
    source = "https://rrc.cvc.uab.es/?ch=17&com=downloads"
    licence = "for research, from the Industry Documents Library"
    max_new_tokens = 32
    names: ClassVar[tuple[str, ...]] = ("val_v1.0.json", "val_v1.0_withQT.json", "val/val_v1.0.json")
    image_key, folders = "image", ("", "val/", "documents/")
    hub, hub_folders = "lmms-lab/DocVQA", ("DocVQA", "data", ".")

    split: str = "val"

    def documents(self) -> Sequence[Path]:
        return [self.path(*self._names())]

    def _names(self) -> tuple[str, ...]:
        return tuple(name.replace("val", self.split) for name in self.names)

    def examples(self) -> Iterator[Example]:
        if self.tables():
            rows = self.table("questionId", "question", "answers", "image")
            for name, row in self.by_id(rows, lambda row: row["questionId"], self.hub).items():
                yield Example(name, asked(row["image"], f"{row['question']} {SHORT}"), tuple(map(str, row["answers"])))
            return
        path = self.path(*self._names()).name
        document = self.json(*self._names())
        listed = document.get("data") if isinstance(document, dict) else document
        rows = self.rows(listed, path, "questionId", "question", "answers", self.image_key)
        for name, row in self.by_id(rows, lambda row: row["questionId"], path).items():
            image = self.image(*(f"{folder}{row[self.image_key]}" for folder in self.folders))
            yield Example(name, asked(image, f"{row['question']} {SHORT}"), tuple(map(str, row["answers"])))

    def score(self, example: Example, answer: str) -> Score:
        return Score(anls(answer, example.answers), answer)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("ANLS", (mean(self.name, records),))]


@dataclass(frozen=True)
class Infovqa(Docvqa):
    name = "infovqa"
    about = "InfographicVQA: questions about posters of figures and text"
    needs = "infographicsVQA_val_v1.0.json and its pictures in infographicsvqa_images/"
    names = ("infographicsVQA_val_v1.0.json", "infographicsVQA_val_v1.0_withQT.json")
    licence = "for research; pictures belong to their owners"
    image_key, folders = "image_local_name", ("infographicsvqa_images/", "images/", "")
    hub, hub_folders = "lmms-lab/DocVQA", ("InfographicVQA", "data", ".")


@dataclass(frozen=True)
class Chartqa(Benchmark):
    name = "chartqa"
    about = "ChartQA: questions about charts, half of them people's and half made from summaries"
    needs = "test/test_human.json, test/test_augmented.json and test/png/"
    source = "https://github.com/vis-nlp/ChartQA"
    licence = "GPL-3.0"
    hub = "lmms-lab/ChartQA"
    max_new_tokens = 32

    split: str = "test"

    def _names(self) -> dict[str, tuple[str, str]]:
        files = {kind: f"{self.split}_{kind}.json" for kind in ("human", "augmented")}
        return {kind: (f"{self.split}/{name}", name) for kind, name in files.items()}

    def documents(self) -> Sequence[Path]:
        return [self.path(*names) for names in self._names().values()]

    def examples(self) -> Iterator[Example]:
        for number, row in enumerate(self.table("type", "question", "answer", "image") if self.tables() else ()):
            kind = str(row["type"]).removesuffix("_test")
            question = asked(row["image"], f"{row['question']} {SHORT}")
            yield Example(f"{kind}/{number}", question, (str(row["answer"]),), {"kind": kind})
        for kind, names in () if self.tables() else self._names().items():
            for number, row in enumerate(self.rows(self.json(*names), names[0], "imgname", "query", "label")):
                image = self.image(f"{self.split}/png/{row['imgname']}", f"png/{row['imgname']}", row["imgname"])
                question = asked(image, f"{row['query']} {SHORT}")
                yield Example(f"{kind}/{number}", question, (str(row["label"]),), {"kind": kind})

    def score(self, example: Example, answer: str) -> Score:
        return Score(float(relaxed(answer.strip(), example.answers[0])), answer.strip())

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("relaxed accuracy", (mean(self.name, records), *breakdown(records, "kind")))]
