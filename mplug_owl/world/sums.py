"""Talk about numbers: sums, comparisons, order; each topic is a question and perhaps a few that follow from it.

Which sums, pairs and lists are kept for testing is decided by what they are, not by how they are put.
"""

from random import Random

from mplug_owl.world.chance import Split, split_of
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.wording import wordings

NUMERALS: tuple[str, ...] = tuple(wordings("text")["tables"]["numerals"].split())
THINGS: tuple[str, ...] = tuple(wordings("text")["tables"]["things"].split())
MOST = 20  # no sum goes beyond it
_FACTOR = 10
Sum = tuple[str, int, int]


def value(sum: Sum) -> int:
    name, a, b = sum
    return {"add": a + b, "subtract": a - b, "multiply": a * b}[name]


def one_sum(random: Random, split: Split, name: str) -> Sum:
    """A sum of the split: none of the test's was ever in training."""
    while True:
        a, b = random.randint(0, MOST), random.randint(0, MOST)
        if name == "multiply":
            a, b = random.randint(0, _FACTOR), random.randint(0, _FACTOR)
        fits = {"add": a + b <= MOST, "subtract": b <= a, "multiply": True}[name]
        if fits and split_of("sum", name, a, b) == split:
            return name, a, b


def arithmetic(ask: Inquiry) -> None:
    """A sum of two numbers, and others that go on from it."""
    random = ask.random
    found = one_sum(random, ask.split, random.choices(["add", "subtract", "multiply"], [4, 3, 1])[0])
    name, a, b = found
    # Digits mostly; sometimes in words.
    shown = [NUMERALS[n] if n <= MOST and random.random() < 0.1 else n for n in (a, b)]
    ask.ask(name, value(found), "reasoning", a=shown[0], b=shown[1], things=random.choice(THINGS))
    ask.skill = "turns"
    total = value(found)
    for _ in range(random.choice([0, 0, 1, 2])):
        step = random.choice(["add", "subtract"])
        steps = _steps(ask.split, step, total)
        if not steps:
            return
        c = random.choice(steps)
        total = value((step, total, c))
        ask.ask("and_plus" if step == "add" else "and_minus", total, "reasoning", "multi-turn", c=c)


def corrected(ask: Inquiry) -> None:
    """A sum, and the same with another number."""
    random = ask.random
    name, a, b = one_sum(random, ask.split, random.choice(["add", "subtract"]))
    ask.ask(name, value((name, a, b)), "reasoning", a=a, b=b, things=random.choice(THINGS))
    others = [c for c in range(MOST + 1) if c != b and _fits(name, a, c) and split_of("sum", name, a, c) == ask.split]
    ask.skill = "turns"
    for c in random.sample(others, min(len(others), random.choice([1, 1, 2]))):
        ask.ask("and_with", value((name, a, c)), "reasoning", "multi-turn", a=a, c=c)


def more_sums(ask: Inquiry) -> None:
    """Three numbers, twice, half."""
    random, name = ask.random, ask.random.choice(["add_three", "add_three", "double", "half"])
    if name == "add_three":
        a, b, c = _list(random, ask.split, name, 3, 6)
        ask.ask(name, a + b + c, "reasoning", a=a, b=b, c=c)
        return
    a = random.randint(0, MOST // 2)  # facts: only their wording is kept for testing
    shown, answer = (a, 2 * a) if name == "double" else (2 * a, a)
    ask.ask(name, answer, "reasoning", a=shown)


def comparison(ask: Inquiry) -> None:
    random = ask.random
    most = random.choice([20, 20, 99])
    while True:
        a, b = random.randint(0, most), random.randint(0, most)
        if a != b and split_of("pair", a, b) == ask.split:
            break
    name = random.choice(["larger", "smaller", "is_larger", "is_smaller"])
    answers = {"larger": max(a, b), "smaller": min(a, b), "is_larger": a > b, "is_smaller": a < b}
    ask.ask(name, answers[name], "reasoning", a=a, b=b)


def neighbours(ask: Inquiry) -> None:
    """The next number, the one before; odd and even."""
    random, a = ask.random, ask.random.randint(0, 99 if ask.random.random() < 0.4 else MOST)
    name = random.choice(["next_number", "previous_number", "is_even"])
    if name == "is_even":
        ask.ask(name, a % 2 == 0, "reasoning", a=a)
        return
    step = 1 if name == "next_number" else -1
    a += step < 0  # nothing is before zero
    ask.ask(name, a + step, "reasoning", a=a)
    ask.skill = "turns"
    if a + 2 * step >= 0 and random.random() < 0.3 and step > 0:
        ask.ask("and_after", a + 2 * step, "reasoning", "multi-turn")


def sorting(ask: Inquiry) -> None:
    """A list put in order, and what can be asked of it then."""
    random = ask.random
    numbers = _list(random, ask.split, "sort", random.randint(3, 5), random.choice([9, 20, 20, 50]))
    up = random.random() < 0.6
    ordered = sorted(numbers, reverse=not up)
    ask.ask("sort_up" if up else "sort_down", _listed(ordered), "reasoning", "instruction", list=_listed(numbers))
    ask.skill = "turns"
    then: dict[str, str | int] = {
        "and_reversed": _listed(ordered[::-1]),
        "and_largest": max(numbers),
        "and_smallest": min(numbers),
        "and_how_many": len(numbers),
    }
    for name in random.sample([*then], random.choice([0, 0, 1, 2])):
        ask.ask(name, then[name], "reasoning", "multi-turn")
        if name == "and_reversed":
            return  # what comes after would be about which order?


def extremes(ask: Inquiry) -> None:
    random = ask.random
    numbers = _list(random, ask.split, "most", random.randint(3, 5), random.choice([9, 20, 50]))
    name = random.choice(["largest", "smallest"])
    ask.ask(name, max(numbers) if name == "largest" else min(numbers), "reasoning", list=_listed(numbers))


def _steps(split: Split, name: str, total: int) -> list[int]:
    """The numbers that make a sum of the split with what has been reached."""
    return [c for c in range(1, 11) if _fits(name, total, c) and split_of("sum", name, total, c) == split]


def _fits(name: str, a: int, b: int) -> bool:
    return 0 <= value((name, a, b)) <= MOST


def _list(random: Random, split: Split, name: str, count: int, most: int) -> list[int]:
    """Different numbers; the list belongs to the split."""
    while True:
        numbers = random.sample(range(most + 1), count)
        if split_of(name, *numbers) == split:
            return numbers


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
