"""Talk about the form of an answer: in capitals, in one word, as a sentence, as a list, in words."""

from mplug_owl.world.countries import COUNTRIES, FACTS
from mplug_owl.world.facts import DAYS, MONTHS, fields
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.letters import some_word, some_words
from mplug_owl.world.sums import NUMERALS, THINGS, one_sum, value
from mplug_owl.world.wording import say, wordings


def rewriting(ask: Inquiry) -> None:
    """Given words in another form."""
    random = ask.random
    name = random.choice(["upper", "upper", "twice", "thrice", "stop", "commas"])
    if name in ("twice", "thrice"):
        one = some_word(random, ask.split)
        ask.ask(name, " ".join([one] * (2 if name == "twice" else 3)), "instruction", word=one)
        return
    words = some_words(random, ask.split, random.randint(2 if name == "commas" else 1, 3))
    said = " ".join(words)
    answers = {"upper": said.upper(), "stop": f"{said}.", "commas": ", ".join(words)}
    ask.ask(name, answers[name], "instruction", words=said)


def counting(ask: Inquiry) -> None:
    """Numbers as words and as digits; numbers, days and months in a row."""
    random = ask.random
    name = random.choice(["in_words", "in_digits", "count_up", "count_down", "first_months", "first_days"])
    a, b = random.randrange(len(NUMERALS)), random.randint(2, 6)
    if name in ("in_words", "in_digits"):
        answer = NUMERALS[a] if name == "in_words" else str(a)
        ask.ask(name, answer, "instruction", a=a, word=NUMERALS[a])
    elif name in ("count_up", "count_down"):
        row = [str(number) for number in range(a, a + b)]
        row = row[::-1] if name == "count_down" else row
        ask.ask(name, ", ".join(row), "instruction", a=a, b=a + b - 1)
    else:
        names = MONTHS if name == "first_months" else DAYS
        ask.ask(name, ", ".join(names[:b]), "instruction", a=b)


def answering(ask: Inquiry) -> None:
    """A sum or the fact of a country, its answer in the form asked for."""
    random = ask.random
    if random.random() < 0.4:
        name, a, b = one_sum(random, ask.split, random.choice(["add", "subtract"]))
        answer = str(value((name, a, b)))
        named = {"a": str(a), "b": str(b), "things": random.choice(THINGS)}
        form = random.choice(["worded", "worded", "sentence"])
    else:
        country, name = random.choice(COUNTRIES), random.choice(FACTS)
        answer, named = getattr(country, name), fields(random, country)
        form = random.choice(["one_word", "sentence", "loud"])
        if form == "one_word" and " " in answer:
            form = "loud"
    question, _ = say("text", name, random, "train", **named)
    if form == "worded":
        answer = NUMERALS[int(answer)]
    elif form == "loud":
        answer = answer.upper()
    elif form == "sentence":
        said: str = wordings("text")["sentences"][name]
        answer = said.format(answer=answer, **named)
    ask.ask(form, answer, "instruction", "knowledge" if name in FACTS else "reasoning", question=question)
