"""Talk about what is so: countries, the calendar, a few properties of things.

Facts are for all splits, since a picture of a flag may call on any of them; only wordings are kept for testing.
"""

from random import Random
from string import capwords
from typing import Any

from mplug_owl.world.chance import Split
from mplug_owl.world.countries import COUNTRIES, FACTS, Country
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.wording import say, wordings

_TABLES = wordings("text")["tables"]
DAYS: list[str] = _TABLES["days"].split()
MONTHS: list[str] = _TABLES["months"].split()
_BETWEEN = ("russia", "indonesia", "panama")  # on two continents, or where two meet
_LOWER = 0.3  # share of the questions that write names in lower case, as answers do


def fields(random: Random, country: Country) -> dict[str, Any]:
    """A country and its facts as a sentence names them."""
    written = capwords if random.random() >= _LOWER else str
    return {"country": written(country.name), **{fact: written(getattr(country, fact)) for fact in FACTS}}


def sentence(random: Random, split: Split) -> str:
    """A fact of a country, or all of them, to be read."""
    named = fields(random, random.choice(COUNTRIES))
    text, _ = say("text", random.choice([*FACTS, "all"]), random, split, "facts", **named)
    return text


def countries(ask: Inquiry) -> None:
    """A fact of a country, and others of it or of another one."""
    random, country = ask.random, ask.random.choice(COUNTRIES)
    name = random.choices(["capital_of", *FACTS], [2, 4, 3, 3])[0]
    answer = country.name if name == "capital_of" else getattr(country, name)
    ask.ask(name, answer, "knowledge", **fields(random, country))
    ask.skill = "turns"
    left = [fact for fact in FACTS if fact not in (name, name.removesuffix("_of"))]
    for _ in range(random.choice([0, 0, 1, 2])):
        if name != "capital_of" and random.random() < 0.3:
            country = random.choice([other for other in COUNTRIES if other is not country])
            ask.ask("and_country", getattr(country, name), "knowledge", "multi-turn", **fields(random, country))
            left = [fact for fact in FACTS if fact != name]
        else:
            name = random.choice(left)
            left.remove(name)
            ask.ask(f"and_{name}", getattr(country, name), "knowledge", "multi-turn")
        if not left:
            return


def claims(ask: Inquiry) -> None:
    """Whether it is so: the capital, the continent."""
    random, fact = ask.random, ask.random.choice(["capital", "continent"])
    country = random.choice([each for each in COUNTRIES if fact == "capital" or each.name not in _BETWEEN])
    named, true = fields(random, country), random.random() < 0.5
    if not true:
        truth = getattr(country, fact)
        others = [each for each in COUNTRIES if getattr(each, fact) != truth]
        named[fact] = fields(random, random.choice(others))[fact]
    ask.ask(f"is_{fact}", true, "knowledge", **named)


def calendar(ask: Inquiry) -> None:
    random = ask.random
    names, kind = (DAYS, "day") if random.random() < 0.4 else (MONTHS, "month")
    if kind == "month" and random.random() < 0.3:
        number = random.randrange(12)
        ask.ask("which_month", MONTHS[number], "knowledge", number=number + 1)
        return
    place, step = random.randrange(len(names)), random.choice([1, -1])
    written = str.capitalize if random.random() < 0.5 else str
    answer = names[(place + step) % len(names)]
    named: dict[str, Any] = {kind: written(names[place])}
    ask.ask(f"{'next' if step > 0 else 'previous'}_{kind}", answer, "knowledge", **named)
    ask.skill = "turns"
    if step > 0 and random.random() < 0.3:
        ask.ask("and_after", names[(place + 2) % len(names)], "knowledge", "multi-turn")


def properties(ask: Inquiry) -> None:
    """Corners, sides, colours, opposites."""
    random = ask.random
    name = random.choice(["corners", "sides", "amount", "mixed", "usual", "opposite"])
    what, answer = random.choice([*_TABLES[name].items()])
    named: dict[str, Any] = {"shape": what, "thing": what, "a": what}
    if name == "amount":
        one, many = what.split(": ")
        named = {"one": one, "many": many}
    elif name == "mixed":
        a, b = random.sample(what.split(), 2)
        named = {"a": a, "b": b}
    elif name == "opposite" and random.random() < 0.5:
        named["a"], answer = answer, what
    ask.ask(name, answer, "knowledge", **named)
