"""`owl bench scoring`: how long it takes to score answers of the shapes that benchmarks have.

Answers are made up from a fixed seed; every round starts with empty memories, as a run does. What is right is not
looked at here: the scorers are proved elsewhere.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.stopwatch import Job, compare, interleave
from mplug_owl.eval.scores import captions, vqa
from mplug_owl.eval.scores.anls import anls
from mplug_owl.eval.scores.choice import mmbench_reading
from mplug_owl.eval.scores.tokens import tokenised
from mplug_owl.eval.scores.yesno import pope_reading

ANSWERS, QUICK, CAPTIONS, PEOPLE = 10_000, 200, 1_000, 10
WORDS = (
    *("a", "the", "man", "woman", "two", "three", "red", "white", "yes", "no", "it's", "dont", "on", "table", "park"),
    *("skateboard", "tennis racket", "12:30", "1,000", "left/right", "t-shirt", "stop.", "none", "kitchen", "giraffe"),
)
Question = tuple[str, tuple[str, ...]]


def measure(plan: Plan) -> list[Measurement]:
    """Milliseconds for all answers of a shape."""
    answers = QUICK if plan.shape == "tiny" else ANSWERS
    random = Random(0)
    asked: list[Question] = [(_said(random), tuple(_said(random) for _ in range(PEOPLE))) for _ in range(answers)]
    told = [(_sentence(random), [_sentence(random) for _ in range(5)]) for _ in range(min(answers, CAPTIONS))]
    jobs = {
        "vqa": Job(partial(_vqa, asked, vqa.accuracy, vqa.alike)),
        "textvqa": Job(partial(_vqa, asked, vqa.textvqa_accuracy, vqa.textvqa_alike)),
        "anls": Job(partial(_each, asked, anls)),
        "choice": Job(partial(_each, asked, lambda answer, _: mmbench_reading(answer, {"A": "owl", "B": "cat"}))),
        "yes or no": Job(partial(_each, asked, lambda answer, _: pope_reading(answer))),
        "captions": Job(partial(_captions, told)),
    }
    setting = {**plan.setting, "answers": answers, "captions": len(told), "people": PEOPLE}
    return list(compare("all answers", interleave(jobs, plan), [(name, None, 1.0) for name in jobs], setting))


def _vqa(asked: Sequence[Question], accuracy: Callable[[str, Sequence[str]], float], memory: Any) -> float:
    memory.cache_clear()
    return sum(accuracy(answer, people) for answer, people in asked)


def _each(asked: Sequence[Question], score: Callable[[str, Sequence[str]], object]) -> None:
    for answer, people in asked:
        score(answer, people)


def _captions(told: Sequence[tuple[str, list[str]]]) -> float:
    said = tokenised(caption for caption, _ in told)
    return captions.scores(said, [tokenised(references) for _, references in told]).overall["CIDEr"]


def _said(random: Random) -> str:
    return " ".join(random.choices(WORDS, k=random.randint(1, 3)))


def _sentence(random: Random) -> str:
    return " ".join(random.choices(WORDS, k=11)).capitalize() + "."
