"""EgoSchema: five statements about three minutes of somebody's day, one of which is right.

The answers of 500 of its 5,031 questions are public: those are scored (`split=subset`). Of all of them (`split=full`)
only an upload can be; the run writes the file for it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores.choice import egoschema_reading
from mplug_owl.eval.task import Example, Record, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import LETTERS, Benchmark
from mplug_owl.messages import Message, TextPart, VideoPart

PROMPT = "Answer with the option's letter from the given choices directly."
UPLOAD = "egoschema-upload.json"
OPTIONS = 5


@dataclass(frozen=True)
class EgoSchema(Benchmark):
    name = "egoschema"
    about = "EgoSchema: long videos as their wearers saw them, five statements each"
    needs = "questions.json, subset_answers.json and videos/ID.mp4"
    source = "https://github.com/egoschema/EgoSchema"
    licence = "of Ego4D; questions for research"
    kind = "Zero-Shot Video Question Answer"
    chance = 0.2
    max_new_tokens = 10

    split: str = "subset"

    def __post_init__(self) -> None:
        if self.split not in ("subset", "full"):
            raise EvalError(f"task egoschema: split {self.split!r}; expected subset (500, scored) or full (to upload)")

    def documents(self) -> Sequence[Path]:
        return [self.path("questions.json"), self.path("subset_answers.json")]

    def examples(self) -> Iterator[Example]:
        keys = ("q_uid", "question", *(f"option {number}" for number in range(OPTIONS)))
        rows = self.rows(self.json("questions.json"), "questions.json", *keys)
        questions = self.by_id(rows, lambda row: row["q_uid"], "questions.json")
        right = self.json("subset_answers.json")
        if not isinstance(right, dict) or not right or not set(right.values()) <= set(range(OPTIONS)):
            raise EvalError("task egoschema: subset_answers.json is no object of question to number; get it again")
        if unknown := [name for name in right if name not in questions]:
            raise EvalError(
                f"task egoschema: subset_answers.json answers {unknown[0]!r}, which questions.json does not ask; "
                "expected two files of one release"
            )
        for name in questions if self.split == "full" else [name for name in questions if name in right]:
            row = questions[name]
            choices = [f"{LETTERS[number]}. {row[f'option {number}']}" for number in range(OPTIONS)]
            text = "\n".join((row["question"], *choices, PROMPT))
            video = self.image(f"videos/{name}.mp4", f"videos/{name}.MP4", f"{name}.mp4")
            answers = (LETTERS[right[name]],) if name in right else ()
            message = Message("user", (VideoPart(video), TextPart(text)))
            yield Example(name, (message,), answers, {"choices": choices})

    def score(self, example: Example, answer: str) -> Score:
        read = egoschema_reading(answer, dict(zip(LETTERS, example.meta["choices"], strict=False))) or ""
        return Score(float(read in example.answers), read)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        scored = [record for record in records if record.example.answers]
        unread = sum(not record.score.read for record in records)
        notes = [f"{unread} answers name no option and count as wrong; the official tool draws one at random"]
        if len(scored) < len(records):
            notes.append(f"scored are the {len(scored)} whose answers are public; {UPLOAD} holds all {len(records)}")
        return [Table("accuracy", (mean(self.name, scored, self.chance),), tuple(notes))]

    def exports(self, records: Sequence[Record]) -> Mapping[str, str]:
        """What the benchmark's server takes: the number of the option by question, -1 where none was named."""
        if self.split != "full":
            return {}
        chosen = {r.example.id: LETTERS.index(r.score.read) if r.score.read else -1 for r in records}
        return {UPLOAD: json.dumps(chosen, indent=1) + "\n"}
