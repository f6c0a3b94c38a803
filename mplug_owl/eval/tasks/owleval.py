"""OwlEval as a task: 82 questions, those of a dialogue in order behind the model's own earlier answers.

An answer is not right or wrong here: people grade it (`owl rate`) or a model does (`owl judge`). What a run says is how
many questions were answered, and at what length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean as average

from mplug_owl.errors import EvalError
from mplug_owl.eval.owleval.questions import FILE, LICENCE, SOURCE, VIEWS, Questions, read_questions
from mplug_owl.eval.task import Example, Record, Row, Score, Table, Task

NOTE = "answers are graded by people (owl rate) or by a model (owl judge); owl report owleval makes the figures"


@dataclass(frozen=True)
class OwlEvalTask(Task):
    name = "owleval"
    about = "82 open questions about 50 pictures, 20 dialogues among them, to be graded A to D"
    needs = "--data DIR with questions.jsonl and cases/"
    source = SOURCE
    licence = LICENCE

    data: Path | None = None
    max_new_tokens: int = 512

    def questions(self) -> Questions:
        if self.data is None:
            raise EvalError(f"task owleval: no folder of data; give --data DIR, the folder of OwlEval from {SOURCE}")
        return read_questions(self.data)

    def files(self) -> Sequence[Path]:
        return () if self.data is None else (self.data / FILE,)

    def examples(self) -> Iterator[Example]:
        questions = self.questions()
        for question in questions:
            yield Example(
                id=str(question.id),
                messages=(question.message(),),
                answers=(),
                meta={"abilities": list(question.abilities), "views": list(question.views)},
                follows=None if question.after is None else str(question.after),
                group=str(questions.dialogue(question.id)[0].id),
            )

    def score(self, example: Example, answer: str) -> Score:
        """1 for any words: whether there is an answer at all."""
        read = " ".join(answer.split())
        return Score(float(bool(read)), read)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        rows = [_row("owleval", records)]
        rows += [_row(view, [r for r in records if view in r.example.meta["views"]]) for view in VIEWS]
        return [Table("answered", tuple(row for row in rows if row.n), (NOTE,))]


def _row(name: str, records: Sequence[Record]) -> Row:
    """How many were answered; no interval, as this is no sample of anything."""
    answered = [record for record in records if record.score.correct]
    length = round(average(len(record.score.read) for record in answered)) if answered else 0
    share = len(answered) / max(len(records), 1)
    return Row(name.replace("_", "-"), len(records), share, None, more={"mean_characters": length}, metric="answered")
