"""Flow charts: three to five steps joined by arrows, one of them perhaps a question with a way for yes and one for no.

The truth is the steps and the arrows between them; where they stand on the page is a matter of the layout, of which
some are kept for the test. Pixels are `flowchart_art`'s.
"""

from itertools import product
from random import Random
from typing import Any

from mplug_owl.world.canvas import look
from mplug_owl.world.chance import Split
from mplug_owl.world.flowchart_art import CHAINS, FORKS, NARROW, draw, style
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.scene import Level, Question
from mplug_owl.world.wording import say
from mplug_owl.world.words import near_miss, word

__all__ = ["describe", "draw", "key", "make", "questions"]

Layout = tuple[str, int, str]
"""Its name, the number of steps, and what follows the two ways of a fork: nothing, a tail of one or a join of both."""
CHAIN_LAYOUTS: tuple[Layout, ...] = tuple((name, count, "") for name, counts in CHAINS.items() for count in counts)
FORK_LAYOUTS: tuple[Layout, ...] = tuple(
    (name, 3 + start + bool(more), more) for name, mores in FORKS.items() for start, more in product((0, 1), mores)
)
SIMPLE = ("column", 3, "")
# Layouts that only the test has.
KEPT = (
    *(("bend", 4, ""), ("bend", 5, ""), ("weave", 4, "")),
    *(("fork", 4, "join"), ("side", 4, ""), ("beside", 4, "tail")),
)


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    if level == "easy" or (split == "train" and random.random() < 0.3):
        layout = SIMPLE
    else:
        family = random.choice([CHAIN_LAYOUTS, FORK_LAYOUTS])
        kept = split == "test" and random.random() < 0.5
        layout = random.choice([layout for layout in family if (layout in KEPT) == kept])
    name, count, more = layout
    longest = 3 if name in NARROW or level == "easy" else 4
    fork = count - 3 - bool(more) if name in FORKS else None
    steps: list[str] = []
    while len(steps) < count:
        new = word(random, random.randint(2, 3 if len(steps) == fork else longest), split)
        if new not in (*steps, "yes", "no"):
            steps.append(new)
    return {
        "steps": steps,
        "arrows": [[i, i + 1, ""] for i in range(count - 1)] if fork is None else _forked(random, fork, count, more),
        "fork": fork,
        "look": look(random) | style(random) | {"layout": list(layout)},
    }


def _forked(random: Random, fork: int, count: int, more: str) -> list[list[Any]]:
    """The arrows of a chart with a question; either answer may lead either way."""
    answers = random.sample(["yes", "no"], 2)
    arrows: list[list[Any]] = [[i, i + 1, ""] for i in range(fork)]
    arrows += [[fork, fork + 1 + i, answer] for i, answer in enumerate(answers)]
    if more:
        arrows.append([fork + 1, count - 1, ""])
    if more == "join":
        arrows.append([fork + 2, count - 1, ""])
    return arrows


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(graph["steps"]), tuple(tuple(arrow) for arrow in graph["arrows"])


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    steps, fork = graph["steps"], graph["fork"]
    if fork is None:
        told = ", then ".join(steps)
        return say("flowchart", "told_chain", random, "train", tongue, count=len(steps), steps=told)[0]
    told = "; ".join(
        f"{steps[start]} {answer} to {steps[end]}" if answer else f"{steps[start]} to {steps[end]}"
        for start, end, answer in graph["arrows"]
    )
    fields = {"count": len(steps), "steps": told, "question": steps[fork]}
    return say("flowchart", "told_branch", random, "train", tongue, **fields)[0]


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    asked = Inquiry("flowchart", "flowcharts", random, split, tongue)
    steps = graph["steps"]
    arrows = [(steps[start], steps[end], answer) for start, end, answer in graph["arrows"]]
    ways = {step: [end for start, end, _ in arrows if start == step] for step in steps}
    sources = {step: [start for start, end, _ in arrows if end == step] for step in steps}
    asked.ask("count", len(steps), "ocr", "vision")
    single = [step for step in steps if len(ways[step]) == 1]
    for step in random.sample(single, min(2, len(single))):
        asked.ask("after", ways[step][0], "ocr", "vision", step=step)
    single = [step for step in steps if len(sources[step]) == 1]
    for step in random.sample(single, 2):
        asked.ask("before", sources[step][0], "ocr", "vision", step=step)
    for name, beside in (("first", sources), ("last", ways)):
        ends = [step for step in steps if not beside[step]]
        if len(ends) == 1:
            asked.ask(name, ends[0], "ocr", "vision")
    start, end, _ = random.choice(arrows)
    follows = random.random() < 0.5
    if not follows:
        start, end = random.choice(_wrong(steps, arrows))
    asked.ask("follows", follows, "ocr", "vision", step=start, other=end)
    step, there = random.choice(steps), random.random() < 0.5
    while not there and step in steps:
        step = near_miss(random, step, split)
    asked.ask("exists", there, "ocr", step=step)
    if graph["fork"] is None:
        step = random.choice(steps[:-2])
        asked.ask("skip", steps[steps.index(step) + 2], "ocr", "vision", "reasoning", step=step)
        asked.ask("order", ", ".join(steps), "ocr", "vision", "instruction", accept=(" ".join(steps),))
    else:
        _ask_fork(asked, random, steps[graph["fork"]], arrows)
    return asked.shuffled()


def _ask_fork(asked: Inquiry, random: Random, fork: str, arrows: list[tuple[str, str, str]]) -> None:
    ways = {answer: end for start, end, answer in arrows if start == fork}
    asked.ask("question", fork, "ocr", "vision")
    for answer, end in ways.items():
        asked.ask("with", end, "ocr", "vision", "reasoning", step=fork, said=answer)
    answer = random.choice(["yes", "no"])
    asked.ask("which", answer, "ocr", "vision", step=fork, other=ways[answer])


def _wrong(steps: list[str], arrows: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Pairs of steps that no arrow joins in this direction; those that one joins in the other count twice."""
    joined = [(start, end) for start, end, _ in arrows]
    apart = [pair for pair in product(steps, steps) if pair[0] != pair[1] and pair not in joined]
    return apart + [(end, start) for start, end in joined]
