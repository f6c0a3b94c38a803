"""Answers in one's own words: GQA and video questions by exact match; Vicuna-bench and MM-Vet for a judge.

None of their scorers could be proved here. Exact matches are those of `scoring.is_right`, which looks past case,
articles and punctuation at the ends; what a judge has to grade is only kept.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean as average

from mplug_owl.errors import EvalError
from mplug_owl.eval.task import Example, Record, Row, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import SHORT, Benchmark, asked, part
from mplug_owl.messages import Message, TextPart, VideoPart


@dataclass(frozen=True)
class Gqa(Benchmark):
    name = "gqa"
    about = "GQA: questions made from the scene graphs of pictures"
    needs = "testdev_balanced_questions.json and pictures in images/"
    source = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
    licence = "CC BY 4.0"
    verified = False
    max_new_tokens = 10

    split: str = "testdev"

    def documents(self) -> Sequence[Path]:
        return [self.path(f"{self.split}_balanced_questions.json")]

    def examples(self) -> Iterator[Example]:
        file = f"{self.split}_balanced_questions.json"
        document = self.json(file)
        if not isinstance(document, dict):
            raise EvalError(f"task gqa: {file} is no object of questions by id; get it again from {self.source}")
        self.rows(list(document.values()), file, "imageId", "question", "answer")
        for name, row in document.items():
            image = self.image(f"images/{row['imageId']}.jpg")
            yield Example(name, asked(image, f"{row['question']} {SHORT}"), (row["answer"],))

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("exact match", (mean(self.name, records),))]


@dataclass(frozen=True)
class MsrvttQa(Benchmark):
    """A question about a video and a word for an answer; each says where its files are."""

    name = "msrvtt_qa"
    about = "MSRVTT-QA: questions made from the captions of short videos"
    needs = "test_qa.json and video/videoID.mp4"
    source = "https://github.com/xudejing/video-question-answering"
    licence = "for research"
    kind = "Video Question Answering"
    verified = False
    max_new_tokens = 10

    def documents(self) -> Sequence[Path]:
        return [self.path("test_qa.json")]

    def examples(self) -> Iterator[Example]:
        rows = self.rows(self.json("test_qa.json"), "test_qa.json", "id", "video_id", "question", "answer")
        names = self.videos()
        for name, row in self.by_id(rows, lambda row: row["id"], "test_qa.json").items():
            video = names.get(str(row["video_id"]), f"video{row['video_id']}")
            yield self.question(name, video, row["question"], row["answer"])

    def videos(self) -> Mapping[str, str]:
        """The names of files by the number of a video, where they are called otherwise."""
        return {}

    def question(self, name: str, video: str, text: str, right: str) -> Example:
        endings = (".mp4", ".avi", ".gif", ".webm")
        source = self.image(
            *(f"{folder}{video}{end}" for folder in ("video/", "videos/", "gifs/", "") for end in endings)
        )
        message = Message("user", (VideoPart(source), TextPart(f"{text} {SHORT}")))
        return Example(name, (message,), (right,))

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table("exact match", (mean(self.name, records),))]


@dataclass(frozen=True)
class MsvdQa(MsrvttQa):
    name = "msvd_qa"
    about = "MSVD-QA: questions made from the captions of very short videos"
    needs = "test_qa.json, youtube_mapping.txt and video/NAME.avi"

    def videos(self) -> Mapping[str, str]:
        lines = self.path("youtube_mapping.txt").read_text(encoding="utf-8").split("\n")
        pairs = [line.split() for line in lines if line.strip()]
        return {number.removeprefix("vid"): name for name, number in pairs}


@dataclass(frozen=True)
class TgifQa(MsrvttQa):
    name = "tgif_qa"
    about = "TGIF-QA (FrameQA): questions about a moment of an animated picture"
    needs = "Test_frameqa_question.csv and gifs/NAME.gif"
    source = "https://github.com/YunseokJANG/tgif-qa"

    def documents(self) -> Sequence[Path]:
        return [self.path("Test_frameqa_question.csv")]

    def examples(self) -> Iterator[Example]:
        rows = self.rows(
            self.separated("Test_frameqa_question.csv"), "Test_frameqa_question.csv", "gif_name", "question", "answer"
        )
        for number, row in enumerate(rows):
            yield self.question(str(number), row["gif_name"], row["question"], row["answer"])


# ---- for a judge ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeptTask(Benchmark):
    """Answers are kept for a judge; what a run says is how many there are, and how long: nothing of how good."""

    judge = ""

    def score(self, example: Example, answer: str) -> Score:
        """1 for any words: whether there is an answer to grade."""
        return Score(float(bool(answer.strip())), answer.strip())

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        rows = (_answered(self.name, records), *(_answered(name, found) for name, found in part(records, "category")))
        return [Table("answered", rows, (self.judge,))]


def _answered(name: str, records: Sequence[Record]) -> Row:
    said = [len(record.score.read) for record in records if record.score.correct]
    share, characters = len(said) / max(len(records), 1), round(average(said or [0]))
    return Row(name, len(records), share, None, more={"mean_characters": characters}, metric="answered")


@dataclass(frozen=True)
class VicunaBench(KeptTask):
    name = "vicuna_bench"
    about = "Vicuna-bench: 80 open questions in words alone, for a judge to review"
    needs = "question.jsonl"
    source = "https://github.com/lm-sys/FastChat/tree/main/fastchat/llm_judge/data/vicuna_bench"
    licence = "Apache-2.0"
    kind = "Instruction Following"
    max_new_tokens = 1024
    judge = "owl judge reviews two models' answers, summed up as Vicuna's reviews are"

    def documents(self) -> Sequence[Path]:
        return [self.path("question.jsonl")]

    def examples(self) -> Iterator[Example]:
        rows = self.rows(self.lines("question.jsonl"), "question.jsonl", "question_id", "turns", "category")
        for name, row in self.by_id(rows, lambda row: row["question_id"], "question.jsonl").items():
            yield Example(name, asked(None, row["turns"][0]), (), {"category": row["category"]})


@dataclass(frozen=True)
class MmVet(KeptTask):
    name = "mmvet"
    about = "MM-Vet: open questions that take several abilities at once, graded by its makers' judge"
    needs = "mm-vet.json and pictures in images/"
    source = "https://github.com/yuweihao/MM-Vet"
    licence = "annotations CC BY-NC 4.0"
    verified = False
    max_new_tokens = 512
    judge = "graded by https://huggingface.co/spaces/whyu/MM-Vet_Evaluator"

    def documents(self) -> Sequence[Path]:
        return [self.path("mm-vet.json")]

    def examples(self) -> Iterator[Example]:
        document = self.json("mm-vet.json")
        if not isinstance(document, dict):
            raise EvalError(f"task mmvet: mm-vet.json is no object of questions; get it again from {self.source}")
        self.rows(list(document.values()), "mm-vet.json", "imagename", "question", "answer")
        for name, row in document.items():
            image = self.image(f"images/{row['imagename']}", row["imagename"])
            meta = {"category": "+".join(row.get("capability", [])) or None, "reference": row["answer"]}
            yield Example(name, asked(image, row["question"]), (), meta)

    def exports(self, records: Sequence[Record]) -> Mapping[str, str]:
        """What the makers' grader takes: answers by id."""
        answers = {record.example.id: record.answer for record in records}
        return {"mmvet-upload.json": json.dumps(answers, indent=1, ensure_ascii=False) + "\n"}
