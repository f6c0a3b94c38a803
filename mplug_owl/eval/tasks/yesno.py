"""Yes or no about pictures: MME, two questions about each, and POPE, whether something is there.

MME gives points: 100 times the share of right answers and 100 times that of pictures with both right, in each of 14
tasks. Each benchmark reads answers in its own way (`scores/yesno.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores.yesno import COGNITION, PERCEPTION, Counts, both_right, mme_reading, mme_score, pope_reading
from mplug_owl.eval.task import Example, Record, Row, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import SHORT, Benchmark, asked, part

IMAGES = (".jpg", ".png", ".jpeg")


def _pairs(records: Sequence[Record]) -> list[tuple[str, str]]:
    return [(record.example.answers[0], record.score.read) for record in records]


@dataclass(frozen=True)
class Mme(Benchmark):
    name = "mme"
    about = "MME: 14 tasks of perception and cognition, two yes-or-no questions a picture"
    needs = "a folder for each task with pictures, and for each of them a .txt of two lines: question, tab, Yes or No"
    source = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation"
    licence = "for academic research only"
    hub = "lmms-lab/MME"
    chance = 0.5
    max_new_tokens = 10

    def _texts(self, task: str) -> list[Path]:
        folder = self.path(task)
        texts = sorted((folder / "questions_answers_YN").glob("*.txt")) or sorted(folder.glob("*.txt"))
        if not texts:
            raise EvalError(f"task mme: {folder} holds no .txt; expected one of two questions for each picture")
        return texts

    def documents(self) -> Sequence[Path]:
        return [path for task in PERCEPTION + COGNITION for path in self._texts(task)]

    def examples(self) -> Iterator[Example]:
        if self.tables():
            yield from self._tabled()
            return
        for task in PERCEPTION + COGNITION:
            for path in self._texts(task):
                names = (f"{path.stem}{ending}" for ending in IMAGES)
                image = self.image(*(f"{task}/{folder}{name}" for name in names for folder in ("", "images/")))
                yield from self._questions(task, path, image)

    def _tabled(self) -> Iterator[Example]:
        """The rows of the hub, two for each picture."""
        pairs: dict[str, list[Example]] = {}
        for row in self.table("question_id", "category", "question", "answer", "image"):
            name, right = f"{row['category']}/{row['question_id']}", str(row["answer"]).strip().lower()
            number = len(pairs.setdefault(name, [])) + 1
            pairs[name].append(self._question(row["category"], name, number, row["image"], row["question"], right))
        for name, pair in pairs.items():
            if len(pair) != 2:
                raise EvalError(f"task mme: {name} has {len(pair)} questions; expected two for each picture")
            yield from pair

    def _questions(self, task: str, path: Path, image: Path) -> Iterator[Example]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        cells = [line.split("\t") for line in lines]
        right = [row[-1].strip().lower() for row in cells]
        if len(cells) != 2 or any(len(row) != 2 for row in cells) or not set(right) <= {"yes", "no"}:
            raise EvalError(f"task mme: {path} is not of two lines of question, tab, Yes or No; get it again")
        for number, ((question, _), answer) in enumerate(zip(cells, right, strict=True), start=1):
            yield self._question(task, f"{task}/{path.stem}", number, image, question, answer)

    def _question(self, task: str, name: str, number: int, image: Any, question: str, right: str) -> Example:
        if task not in PERCEPTION + COGNITION or right not in ("yes", "no"):
            raise EvalError(f"task mme: {name} is of task {task!r} and says {right!r}; expected one of 14, yes or no")
        text = f"{question}\n{SHORT}".replace("Please answer yes or no.", "")
        return Example(f"{name}/{number}", asked(image, text), (right,), {"task": task}, group=name)

    def score(self, example: Example, answer: str) -> Score:
        read = mme_reading(answer)
        return Score(float(read == example.answers[0]), read)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        tasks = {name: _pairs(found) for name, found in part(records, "task")}
        points = {name: mme_score(pairs) for name, pairs in tasks.items()}

        def total(name: str, parts: Sequence[str]) -> Row:
            found = [task for task in parts if task in points]
            n = sum(len(tasks[task]) for task in found)
            # Guessing gets half of the answers and a quarter of the pairs: 75 points a task.
            more = {"chance_points": 75.0 * len(found), "most": 200 * len(found)}
            return Row(name, n, sum(points[task] for task in found), None, None, more, "points", "points")

        rows = [total("perception", PERCEPTION), total("cognition", COGNITION)]
        each = []
        for name, pairs in tasks.items():
            counts = Counts.of(pairs)
            more = {"accuracy": counts.accuracy, "accuracy_plus": both_right(pairs), "neither": counts.other}
            each.append(Row(name, len(pairs), points[name], None, None, more, "points", "points"))
        right = Table("right answers", (mean("all", records, self.chance),))
        return [Table("MME", tuple(row for row in rows if row.n)), Table("tasks", tuple(each)), right]


@dataclass(frozen=True)
class Pope(Benchmark):
    name = "pope"
    about = "POPE: whether things are in COCO pictures that are often, or often together, there and are not"
    needs = "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json and pictures in val2014/"
    source = "https://github.com/AoiDragon/POPE/tree/main/output/coco (pictures: https://cocodataset.org)"
    licence = "MIT; pictures belong to their owners"
    hub = "lmms-lab/POPE"
    chance = 0.5
    max_new_tokens = 10
    splits = ("random", "popular", "adversarial")

    def _names(self, split: str) -> tuple[str, str]:
        return f"coco_pope_{split}.json", f"coco/coco_pope_{split}.json"

    def documents(self) -> Sequence[Path]:
        return [self.path(*self._names(split)) for split in self.splits]

    def examples(self) -> Iterator[Example]:
        if self.tables():
            for row in self.table("question_id", "category", "question", "answer", "image"):
                yield self._question(row["category"], row["question_id"], row["image"], row["question"], row["answer"])
            return
        for split in self.splits:
            names = self._names(split)
            rows = self.rows(self.lines(*names), names[0], "question_id", "image", "text", "label")
            for number, row in self.by_id(rows, lambda row: row["question_id"], names[0]).items():
                image = self.image(f"val2014/{row['image']}", f"images/{row['image']}", row["image"])
                yield self._question(split, number, image, row["text"], row["label"])

    def _question(self, split: str, number: str, image: Any, text: str, right: str) -> Example:
        if split not in self.splits or right not in ("yes", "no"):
            raise EvalError(f"task pope: question {number} of {split} has the label {right!r}; expected yes or no")
        return Example(f"{split}/{number}", asked(image, f"{text}\n{SHORT}"), (right,), {"kind": split})

    def score(self, example: Example, answer: str) -> Score:
        read = pope_reading(answer)
        return Score(float(read == example.answers[0]), read)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        counts = {name: Counts.of(_pairs(found)) for name, found in part(records, "kind")}
        rows = [mean("pope", records, self.chance, f1=sum(each.f1 for each in counts.values()) / len(counts))]
        for name, found in part(records, "kind"):
            more = {key: getattr(counts[name], key) for key in ("precision", "recall", "f1", "yes_ratio")}
            rows.append(mean(name, found, self.chance, **more))
        return [Table("POPE", tuple(rows), ("f1 of all is the mean over the kinds",))]
