"""HallusionBench: yes-or-no questions, with pictures, altered pictures and none; scored by pairs and by figures.

The benchmark asks a judge (GPT-4) whether an answer is right, wrong or unclear, and whether it says the same as that
about the original figure. Without one both are taken from the words yes and no; with one its labels are read from
`judgements`, a file of lines {"id", "judgement": 0 wrong, 1 right or 2 unclear, "same": 0 or 1}, as `owl judge` writes
them. How a judge is asked is not known here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mplug_owl.errors import EvalError
from mplug_owl.eval.grades import digest
from mplug_owl.eval.scores.hallusion import WRONG, Figures, Groups, Judged, figures, verdict, vlmevalkit
from mplug_owl.eval.scores.yesno import word_reading
from mplug_owl.eval.scoring import wilson
from mplug_owl.eval.task import Example, Record, Row, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import SHORT, Benchmark, asked

FILE = "HallusionBench.json"
KIT = ("aAcc", "fAcc", "qAcc")
WORDS = {"0": "no", "1": "yes"}
KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")


class Label(NamedTuple):
    """What a judge said of an answer."""

    judgement: str
    same: bool
    answer: str | None
    """The digest of the answer, where the file has it."""
    unread: bool
    """Whether a reply of the judge held no verdict, so that the label is what the official code makes of that."""


@dataclass(frozen=True)
class HallusionBench(Benchmark):
    name = "hallusionbench"
    about = "HallusionBench: is it in the picture, or only expected to be? Figures, altered figures and none"
    needs = "HallusionBench.json and its pictures in hallusion_bench/VD/ and hallusion_bench/VS/"
    source = "https://github.com/tianyi-lab/HallusionBench"
    licence = "BSD-3-Clause"
    chance = 0.194  # of qAcc, tossing coins
    max_new_tokens = 32

    judgements: str | None = None

    def documents(self) -> Sequence[Path]:
        return [self.path(FILE), *([Path(self.judgements)] if self.judgements is not None else [])]

    def examples(self) -> Iterator[Example]:
        rows = self.rows(self.json(FILE), FILE, *KEYS, "question", "gt_answer")
        if self.judgements is not None:
            self._labels  # noqa: B018 - to be read before anything is scored
        for name, row in self.by_id(rows, _name, FILE).items():
            image = None
            if str(row["visual_input"]) != "0":
                file = f"{row['category']}/{row['subcategory']}/{row['set_id']}_{row['figure_id']}.png"
                image = self.image(f"hallusion_bench/{file}", file, f"images/{file}")
            meta = {key: str(row[key]) for key in KEYS}
            meta |= {"question": row["question"], "reference": row.get("gt_answer_details", "")}
            right = str(row["gt_answer"])
            if right not in WORDS:
                raise EvalError(f"task {self.name}: question {name} has gt_answer {right!r}; expected 0 or 1")
            # A set is scored whole: its pairs and figures cross.
            group = "/".join(meta[key] for key in ("category", "subcategory", "set_id"))
            yield Example(name, asked(image, f"{row['question']}\n{SHORT}"), (WORDS[right],), meta, group=group)

    def score(self, example: Example, answer: str) -> Score:
        one = _judged(example, *self._judgement(example, answer))
        return Score(float(one.correct), word_reading(answer))

    def _judgement(self, example: Example, answer: str) -> tuple[str, bool]:
        if self.judgements is None:
            return verdict(answer, _number(example)), True
        found = self._labels.get(example.id)
        if found is None:
            raise EvalError(f"task {self.name}: {self.judgements} says nothing of {example.id!r}; judge all answers")
        if found.answer is not None and found.answer != digest(answer):
            raise EvalError(
                f"task {self.name}: {self.judgements} judges another answer to {example.id!r}; give the judgements of "
                "these answers"
            )
        return found.judgement, found.same

    @cached_property
    def _labels(self) -> Mapping[str, Label]:
        path, found = Path(self.judgements or ""), dict[str, Label]()
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                same, answer = str(row.get("same", "1")) == "1", row.get("answer")
                found[str(row["id"])] = Label(str(row["judgement"]), same, answer, bool(row.get("unread")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvalError(f"task {self.name}: {path} holds no judgements ({error}); expected lines of JSON") from None
        if wrong := {label.judgement for label in found.values()} - {"0", "1", "2"}:
            raise EvalError(f"task {self.name}: {path} judges {min(wrong)!r}; expected 0, 1 or 2")
        return found

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        judged = self._all_judged(records)
        found = figures(judged)
        rows = [
            _row("qAcc", found.pair, "same question, all figures of a set"),
            _row("fAcc", found.figure, "all questions about a figure"),
            _row("easy aAcc", found.easy, "pairs over originals"),
            _row("hard aAcc", found.hard, "pairs over altered figures"),
            replace(mean("aAcc", records, found.question.coin), more=_errors(found)),
        ]
        kit = vlmevalkit(judged)
        by = self._judge(records) if self.judgements is not None else "the words yes and no, without a judge"
        notes = (
            f"judged by {by}",
            "as VLMEvalKit groups it: " + ", ".join(f"{k} {100 * v:.2f}" for k, v in zip(KIT, kit, strict=True)),
        )
        return [Table("HallusionBench", tuple(rows), notes)]

    def _judge(self, records: Sequence[Record]) -> str:
        unread = sum(record.error is None and self._labels[record.example.id].unread for record in records)
        told = f", whose replies to {unread} of {len(records)} held no verdict: they count as unclear or different"
        return "a judge" + (told if unread else "")

    def _all_judged(self, records: Sequence[Record]) -> list[Judged]:
        """With whether each says the same as the answer about the original figure, where no judge said so."""
        judged = [
            _judged(r.example, *(self._judgement(r.example, r.answer) if r.error is None else (WRONG, False)))
            for r in records
        ]
        if self.judgements is not None:
            return judged
        originals = {
            one.pair: record.score.read for one, record in zip(judged, records, strict=True) if one.figure_id == "0"
        }
        return [
            replace(one, same=originals.get(one.pair, record.score.read) == record.score.read and record.error is None)
            for one, record in zip(judged, records, strict=True)
        ]


def _name(row: Mapping[str, Any]) -> str:
    return "/".join(str(row[key]) for key in KEYS[:-1])


def pair(example: Example) -> tuple[str, ...]:
    """The same question about all figures of a set."""
    return _judged(example, WRONG, False).pair


def _number(example: Example) -> str:
    return "1" if example.answers == ("yes",) else "0"


def _judged(example: Example, judgement: str, same: bool) -> Judged:
    return Judged(**{key: example.meta[key] for key in KEYS}, answer=_number(example), judgement=judgement, same=same)


def _row(name: str, found: Groups, about: str) -> Row:
    interval = wilson(found.accuracy, found.total)
    return Row(name, found.total, found.accuracy, interval, found.coin, {"of": about}, name)


def _errors(found: Figures) -> dict[str, Any]:
    total = max(sum(found.blame.values()), 1)
    shares = {f"blame_{kind.lower()}": count / total for kind, count in found.blame.items()}
    return {"says_yes_more": found.yes_bias, "false_positives": found.false_positives, **shares}
