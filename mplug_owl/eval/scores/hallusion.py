"""HallusionBench: accuracy by question, by pair and by figure, and what kind of error each wrong answer is.

Each question is judged right, wrong or unclear, by a judge or by its yes or no (`verdict`). The rules are those of
tianyi-lab/HallusionBench (utils.py): a question asked without its figure may be left open; "easy" and "hard" are
accuracies of pairs, over questions whose picture was not altered and over the others; figures that do not exist (VS,
figure 0) do not count as figures. VLMEvalKit groups otherwise: see `vlmevalkit`.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from mplug_owl.eval.scores.yesno import word_reading

WRONG, RIGHT, UNCLEAR = "0", "1", "2"
_ORIGINAL = "0"  # the figure that the others of its set are altered from; with VS there is none
_ALTERED = "2"
Kind = tuple[bool, bool]  # made up by the language model; seen wrongly
_NONE, _LANGUAGE, _VISION, _MIXED = (False, False), (True, False), (False, True), (True, True)


@dataclass(frozen=True)
class Judged:
    """One question with what was found of its answer."""

    category: str
    """VD: cannot be answered without the picture; VS: can."""
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: str
    """0: no picture, 1: the original, 2: altered."""
    answer: str
    """What is right: 0 for no, 1 for yes."""
    judgement: str
    same: bool = True
    """Whether it was answered as the same question about the original figure was."""

    @property
    def correct(self) -> bool:
        open_question = self.category == "VS" and self.figure_id == _ORIGINAL
        return self.judgement == RIGHT or (open_question and self.judgement == UNCLEAR)

    @property
    def pair(self) -> tuple[str, ...]:
        """The same question about all figures of a set."""
        return self.category, self.subcategory, self.set_id, self.question_id

    @property
    def figure(self) -> tuple[str, ...]:
        return self.category, self.subcategory, self.set_id, self.figure_id


@dataclass(frozen=True)
class Groups:
    """How many groups of questions are all right, all wrong, or neither."""

    total: int
    questions: int
    correct: int
    wrong: int
    share: float
    """The mean share of right questions in a group."""
    coin: float = 0.0
    """The accuracy to be expected of who tosses a coin for each question."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0


@dataclass(frozen=True)
class Figures:
    """The scores of HallusionBench, as shares."""

    question: Groups
    pair: Groups
    figure: Groups
    easy: Groups
    hard: Groups
    question_errors: dict[str, int] = field(default_factory=dict)
    """LH: the language model made it up, VI: seen wrongly, Mix: could be both."""
    pair_errors: dict[str, int] = field(default_factory=dict)
    blame: dict[str, int] = field(default_factory=dict)
    """The same of each question beside the one about the original figure."""
    yes_bias: float = 0.0
    """How much more often than right it says yes, by the official formula, which takes "right" for "says yes"."""
    false_positives: float = 0.0
    """The share of wrong answers whose right one is no."""


def verdict(answer: str, right: str) -> str:
    """What a judge would be asked, by the words yes and no alone; `right` is 0 or 1."""
    read = word_reading(answer)
    if read == "Unknown":
        return UNCLEAR
    return RIGHT if (read == "Yes") == (right == "1") else WRONG


def check_reading(reply: str) -> str | None:
    """The label in a judge's reply, as the official code finds it; None where it finds none and says unclear."""
    words = reply.lower()
    if "incorrect" in words:
        return WRONG
    return RIGHT if "correct" in words else UNCLEAR if "unclear" in words else None


def same_reading(reply: str) -> bool | None:
    """Whether a judge's reply calls two answers the same; None where it says neither, which counts as different."""
    words = reply.lower()
    return True if "same" in words else False if "different" in words else None


def figures(judged: Sequence[Judged]) -> Figures:
    """All scores of some judged questions."""
    originals = {one.pair: one.judgement for one in judged if one.figure_id == _ORIGINAL}
    kinds = [_beside(one, originals.get(one.pair, RIGHT)) for one in judged]
    pairs: dict[tuple[str, ...], list[Kind]] = {}
    for one, kind in zip(judged, kinds, strict=True):
        pairs.setdefault(one.pair, []).append(kind)
    right_yes = sum(one.answer == "1" for one in judged)
    said_yes = sum(one.correct == (one.answer == "1") for one in judged)
    missed = [one for one in judged if not one.correct]
    seen = [one for one in judged if not (one.category == "VS" and one.figure_id == _ORIGINAL)]
    return Figures(
        question=_groups(judged, lambda one: (*one.pair, one.figure_id)),
        pair=_groups(judged, lambda one: one.pair),
        figure=_groups(seen, lambda one: one.figure),
        easy=_groups([one for one in judged if one.visual_input != _ALTERED], lambda one: one.pair),
        hard=_groups([one for one in judged if one.visual_input == _ALTERED], lambda one: one.pair),
        question_errors=_named(map(_alone, judged)),
        pair_errors=_named((any(k[0] for k in found), any(k[1] for k in found)) for found in pairs.values()),
        blame=_named(kinds),
        yes_bias=(said_yes - right_yes) / len(judged) if judged else 0.0,
        false_positives=sum(one.answer == "0" for one in missed) / len(missed) if missed else 0.0,
    )


def vlmevalkit(judged: Sequence[Judged]) -> tuple[float, float, float]:
    """aAcc, fAcc and qAcc as VLMEvalKit has them: questions with a picture only, and a set of VD and one of VS are one
    where their subcategory and number agree.
    """
    seen = [one for one in judged if one.visual_input != "0"]
    figure = _groups(seen, lambda one: (one.subcategory, one.set_id, one.figure_id))
    pair = _groups(seen, lambda one: (one.subcategory, one.set_id, one.question_id))
    share = sum(one.correct for one in seen) / len(seen) if seen else 0.0
    return share, figure.accuracy, pair.accuracy


def _groups(judged: Sequence[Judged], key: Callable[[Judged], Hashable]) -> Groups:
    groups: dict[Hashable, list[bool]] = {}
    for one in judged:
        groups.setdefault(key(one), []).append(one.correct)
    found = list(groups.values())
    return Groups(
        total=len(found),
        questions=len(judged),
        correct=sum(map(all, found)),
        wrong=sum(not any(group) for group in found),
        share=sum(sum(group) / len(group) for group in found) / len(found) if found else 0.0,
        coin=sum(0.5 ** len(group) for group in found) / len(found) if found else 0.0,
    )


def _alone(one: Judged) -> Kind:
    """The kind of error of a question taken by itself."""
    if one.category == "VD" and one.figure_id == _ORIGINAL:
        return _NONE if one.judgement == RIGHT else _VISION
    if one.category == "VS" and one.visual_input == "0":
        return _LANGUAGE if one.judgement == WRONG else _NONE
    return {RIGHT: _NONE, WRONG: _MIXED, UNCLEAR: _VISION}[one.judgement]


def _beside(one: Judged, original: str) -> Kind:
    """The kind of error of a question beside the judgement of the one about the original figure."""
    if one.judgement == RIGHT or (one.category == "VS" and one.figure_id == _ORIGINAL and one.judgement == UNCLEAR):
        return _NONE
    wrong = one.judgement == WRONG
    if one.figure_id == _ORIGINAL:
        return _VISION if one.category == "VD" else _LANGUAGE
    if one.category == "VD":
        return _MIXED if original == RIGHT and wrong and one.same else _VISION
    if original == WRONG:
        return _LANGUAGE if wrong and one.same else _MIXED
    if original == RIGHT and wrong and one.visual_input == _ALTERED and one.same:
        return _LANGUAGE
    return _VISION


def _named(kinds: Iterable[Kind]) -> dict[str, int]:
    counts = Counter(kinds)
    return {"LH": counts[_LANGUAGE], "VI": counts[_VISION], "Mix": counts[_MIXED]}
