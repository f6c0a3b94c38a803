"""Yes or no: how MME, POPE and VLMEvalKit read an answer, and the counts that their scores are made of.

MME takes a yes or no within the first four letters, POPE takes all for yes that does not say no in its first sentence,
and VLMEvalKit wants one of the two words and not the other: the same answers score differently.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mplug_owl.eval.scores.vqa import plain

PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def mme_reading(answer: str) -> str:
    """yes, no or other."""
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def pope_reading(answer: str) -> str:
    """yes or no: everything is yes that has no "No", "no" or "not" before its first full stop."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def word_reading(answer: str) -> str:
    """Yes, No or Unknown, as VLMEvalKit reads it: one of the words and not the other."""
    words = plain(answer.lower()).split()
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"


@dataclass(frozen=True)
class Counts:
    """How yes and no were told apart; answers that are neither are counted apart."""

    tp: int
    fp: int
    tn: int
    fn: int
    other: int = 0

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> "Counts":
        """Of (right, read) pairs of yes, no, and other for what was read."""
        found = [(right == "yes", read) for right, read in pairs]
        return cls(
            tp=found.count((True, "yes")),
            fp=found.count((False, "yes")),
            tn=found.count((False, "no")),
            fn=found.count((True, "no")),
            other=sum(read not in ("yes", "no") for _, read in found),
        )

    @property
    def total(self) -> int:
        return self.tp + self.fp + self.tn + self.fn + self.other

    @property
    def accuracy(self) -> float:
        return _ratio(self.tp + self.tn, self.total)

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        return _ratio(self.tp + self.fp, self.total)


def both_right(pairs: Sequence[tuple[str, str]]) -> float:
    """acc+ of MME: the share of pictures both of whose questions are answered rightly; they come two by two."""
    pictures = [right == read for right, read in pairs]
    return _ratio(sum(a and b for a, b in zip(pictures[::2], pictures[1::2], strict=True)), len(pairs) / 2)


def mme_score(pairs: Sequence[tuple[str, str]]) -> float:
    """The points of one MME task, up to 200."""
    return 100 * Counts.of(pairs).accuracy + 100 * both_right(pairs)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
