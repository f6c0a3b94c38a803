"""Exams in words alone: BIG-Bench Hard, AGIEval, MMLU and ARC, as the text columns of the mPLUG-Owl2 paper.

BBH and AGIEval are scored by the rules of `scores/exams.py`; MMLU and ARC have no scorer to be proved against here and
are read as MMBench is. Zero-shot but for MMLU, which is asked behind its five worked questions.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores import exams
from mplug_owl.eval.task import Example, Record, Row, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import LETTERS, Benchmark, asked, options, part
from mplug_owl.eval.tasks.choices import LetteredTask
from mplug_owl.messages import Message, TextPart

# Tasks of BIG-Bench Hard that come in three sizes and count as one.
SIZED = ("logical_deduction", "tracking_shuffled_objects")
STEPS = "Let's think step by step."


def _macro(name: str, groups: Mapping[str, Sequence[Record]], n: int, chance: float | None) -> Row:
    """The mean over parts, each of which counts the same."""
    means = [sum(record.score.correct for record in found) / len(found) for found in groups.values()]
    return Row(name, n, sum(means) / max(len(means), 1), None, chance, {"parts": len(means)})


@dataclass(frozen=True)
class Bbh(Benchmark):
    name = "bbh"
    about = "BIG-Bench Hard: 23 tasks of reasoning in words, exact matches"
    needs = "bbh/TASK.json, and cot-prompts/TASK.txt for steps=true"
    source = "https://github.com/suzgunmirac/BIG-Bench-Hard"
    licence = "MIT"
    kind = "Multi-task Language Understanding"
    chance = 0.257

    steps: bool = False
    """Behind three questions reasoned out in steps; else the question alone."""
    max_new_tokens: int = 512

    def documents(self) -> Sequence[Path]:
        found = sorted(self.path("bbh", ".").glob("*.json"))
        if not found:
            raise EvalError(f"task bbh: no TASK.json in {self.data}; it needs {self.needs}, from {self.source}")
        return found

    def examples(self) -> Iterator[Example]:
        for path in self.files():
            place = path.relative_to(self.path(".")).as_posix()
            document = self.json(place)
            listed = document.get("examples") if isinstance(document, dict) else document
            head = self._head(path.stem) if self.steps else ""
            for number, row in enumerate(self.rows(listed, place, "input", "target")):
                text = f"{head}Q: {row['input']}\nA:" + (f" {STEPS}" if self.steps else "")
                yield Example(f"{path.stem}/{number}", asked(None, text), (str(row["target"]),), {"task": path.stem})

    def _head(self, task: str) -> str:
        """The worked questions, without the warning to crawlers above them."""
        text = self.path(f"cot-prompts/{task}.txt").read_text(encoding="utf-8")
        return text.split("-----\n", 1)[-1].strip() + "\n\n"

    def score(self, example: Example, answer: str) -> Score:
        read = exams.bbh_reading(answer, steps=self.steps)
        return Score(float(read == example.answers[0].strip()), read)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        tasks = dict(part(records, "task"))
        groups: dict[str, list[float]] = {}
        for name, found in tasks.items():
            head = next((sized for sized in SIZED if name.startswith(sized)), name)
            groups.setdefault(head, []).append(sum(record.score.correct for record in found) / len(found))
        share = sum(sum(means) / len(means) for means in groups.values()) / max(len(groups), 1)
        whole = Row(self.name, len(records), share, None, self.chance, {"parts": len(groups)}, "exact match")
        notes = ("the mean over tasks; the three sizes of two of them count as one",)
        return [Table("exact match", (whole, *(mean(name, found) for name, found in tasks.items())), notes)]


# AGIEval's own zero-shot wording, in English and in Chinese.
_ZH_Q, _ZH_OPTIONS = "\u95ee\u9898\uff1a", "\u9009\u9879\uff1a"
_ZH_A, _ZH_CHOOSE = "\u7b54\u6848\uff1a", "\u7b54\u6848\uff1a\u4eceA\u5230{}, \u6211\u4eec\u5e94\u9009\u62e9"

_EXAMS = (*exams.ENGLISH, *exams.CHINESE, *exams.FORMULAS)


@dataclass(frozen=True)
class AgiEval(Benchmark):
    name = "agieval"
    about = "AGIEval: twenty exams for people, in English and Chinese, zero-shot"
    needs = "EXAM.jsonl, or in v1_1/ or v1/, for some of its twenty exams"
    source = "https://github.com/ruixiangcui/AGIEval (data/)"
    licence = "MIT; each exam has its own"
    kind = "Multi-task Language Understanding"
    max_new_tokens = 32

    def documents(self) -> Sequence[Path]:
        for folder in ("v1_1", "V1_1", "v1", "."):
            root = self.path(".") / folder
            if found := [path for exam in _EXAMS if (path := root / f"{exam}.jsonl").is_file()]:
                return found
        raise EvalError(f"task agieval: no exam in {self.data}; it needs {self.needs}, from {self.source}")

    def examples(self) -> Iterator[Example]:
        for path in self.files():
            exam = path.stem
            place = path.relative_to(self.path(".")).as_posix()
            for number, row in enumerate(self.rows(self.lines(place), place, "question")):
                label = row.get("label") or row.get("answer")
                right = tuple(label) if isinstance(label, list) else (str(label),)
                if not label:
                    raise EvalError(f"task agieval: question {number + 1} of {place} has no answer; get it again")
                yield Example(f"{exam}/{number}", asked(None, _agieval_text(exam, row)), right, {"exam": exam})

    def score(self, example: Example, answer: str) -> Score:
        exam = example.meta["exam"]
        read = exams.agieval_reading(exam, "zero-shot", answer)
        label = list(example.answers) if exam in exams.SEVERAL else example.answers[0]
        shown = "".join(read) if isinstance(read, list) else read or ""
        return Score(float(exams.agieval_right(exam, read, label)), shown)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        groups = dict(part(records, "exam"))
        rows = [_macro(self.name, groups, len(records), None)]
        english = {exam: found for exam, found in groups.items() if exam in (*exams.ENGLISH, "math")}
        if english:
            rows.append(_macro("English", english, sum(map(len, english.values())), None))
        rows += [mean(exam, found) for exam, found in groups.items()]
        lacking = [exam for exam in _EXAMS if exam not in groups]
        notes = (f"the mean over exams; without {', '.join(lacking)}",) if lacking else ("the mean over exams",)
        return [Table("accuracy", tuple(rows), notes)]


def _agieval_text(exam: str, row: Mapping[str, Any]) -> str:
    passage, question, choices = row.get("passage") or "", row["question"], row.get("options") or []
    chinese = exam in exams.CHINESE or exam == "gaokao-mathcloze"
    if exam in exams.FORMULAS:
        return f"{passage}{_ZH_Q}{question}\n{_ZH_A}" if chinese else f"{passage}Q: {question}\nA: The answer is"
    last = LETTERS[(len(choices) if len(choices) > 1 else (4 if chinese else 5)) - 1]
    listed = " ".join(choices)
    if chinese:
        return f"{passage}{_ZH_Q}{question} {_ZH_OPTIONS}{listed}\n{_ZH_CHOOSE.format(last)}"
    return f"{passage}Q: {question} Answer Choices: {listed}\nA: Among A through {last}, the answer is"


# ---- shapes without a scorer to be proved against ------------------------------------------------


@dataclass(frozen=True)
class Mmlu(LetteredTask):
    name = "mmlu"
    about = "MMLU: 57 subjects of school and college, four choices each, behind five worked questions"
    needs = "test/SUBJECT_test.csv and dev/SUBJECT_dev.csv"
    source = "https://github.com/hendrycks/test"
    licence = "MIT"
    kind = "Multi-task Language Understanding"
    chance, verified = 0.25, False

    shots: int = 5

    def documents(self) -> Sequence[Path]:
        found = sorted(self.path("test").glob("*_test.csv"))
        if not found:
            raise EvalError(f"task mmlu: {self.data}/test holds no SUBJECT_test.csv; get it from {self.source}")
        return found

    def examples(self) -> Iterator[Example]:
        for path in self.files():
            subject = path.stem.removesuffix("_test")
            name = subject.replace("_", " ")
            head = f"The following are multiple choice questions (with answers) about {name}.\n\n"
            for row in _csv(self.path(f"dev/{subject}_dev.csv"))[: self.shots]:
                head += f"{row[0]}\n{options(row[1:5])}\nAnswer: {row[5]}\n\n"
            for number, row in enumerate(_csv(path)):
                message = Message("user", (TextPart(f"{head}{row[0]}\n{options(row[1:5])}\nAnswer:"),))
                yield Example(f"{subject}/{number}", (message,), (row[5],), {"choices": row[1:5], "subject": subject})

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        groups = dict(part(records, "subject"))
        rows = [mean(self.name, records, self.chance), _macro("mean of subjects", groups, len(records), self.chance)]
        return [Table("accuracy", (*rows, *(mean(name, found, self.chance) for name, found in groups.items())))]


def _csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for number, row in enumerate(rows, start=1):
        if len(row) != 6 or row[5] not in "ABCD":
            raise EvalError(f"task mmlu: {path}:{number} is no question, four choices and a letter; get it again")
    return rows


@dataclass(frozen=True)
class ArcChallenge(LetteredTask):
    name = "arc_challenge"
    about = "ARC-Challenge: school questions that search and word counts get wrong"
    needs = "ARC-Challenge-Test.jsonl"
    source = "https://allenai.org/data/arc"
    licence = "CC BY-SA 4.0"
    kind = "Common Sense Reasoning"
    chance, verified = 0.25, False
    file = "ARC-Challenge-Test.jsonl"

    def documents(self) -> Sequence[Path]:
        return [self.path(self.file, f"{self.file[:-11].rstrip('-')}/{self.file}")]

    def examples(self) -> Iterator[Example]:
        path = self.files()[0]
        rows = self.rows(
            self.lines(path.relative_to(self.path(".")).as_posix()), path.name, "id", "question", "answerKey"
        )
        for name, row in self.by_id(rows, lambda row: row["id"], path.name).items():
            choices = row["question"]["choices"]
            labels = [choice["label"] for choice in choices]  # some count 1 to 4
            right = LETTERS[labels.index(row["answerKey"])] if row["answerKey"] in labels else ""
            yield self.example(name, None, row["question"]["stem"], [choice["text"] for choice in choices], right)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("accuracy", (mean(self.name, records, self.chance),))]


@dataclass(frozen=True)
class ArcEasy(ArcChallenge):
    name = "arc_easy"
    about = "ARC-Easy: school questions"
    needs = file = "ARC-Easy-Test.jsonl"
