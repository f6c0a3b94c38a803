"""Talk in Esperanto, and about its words: what a picture may later be asked about in that tongue."""

from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.letters import some_words
from mplug_owl.world.shape_art import COLOURS, SHAPES
from mplug_owl.world.shape_words import SIZES, word
from mplug_owl.world.sums import NUMERALS, one_sum, value
from mplug_owl.world.wording import wordings

NUMBERS: tuple[str, ...] = tuple(wordings("text")["tables"]["esperanto"].split())
WORDS: dict[str, str] = {
    **{english: word(english, "eo") for english in (*COLOURS, *SHAPES, *SIZES)},
    **dict(zip(NUMERALS, NUMBERS, strict=False)),
}
_SAID = ("hello", "who", "thanks")


def translation(ask: Inquiry) -> None:
    english, other = ask.random.choice([*WORDS.items()])
    if ask.random.random() < 0.5:
        ask.ask("to_eo", other, "knowledge", word=english)
    else:
        ask.ask("from_eo", english, "knowledge", word=other)


def arithmetic(ask: Inquiry) -> None:
    """Sums up to ten, in digits or numerals; comparisons and the next number."""
    random, name = ask.random, ask.random.choice(["add", "add", "subtract", "larger", "next_number"])
    while True:
        _, a, b = found = one_sum(random, ask.split, "subtract" if name == "subtract" else "add")
        if max(a, b, value(found)) < len(NUMBERS) - 1 and (name != "larger" or a != b):
            break
    answer = {"larger": max(a, b), "next_number": a + 1}.get(name, value(found))
    worded = random.random() < 0.4
    shown = [NUMBERS[n] if worded else n for n in (a, b)]
    ask.ask(name, NUMBERS[answer] if worded else answer, "reasoning", a=shown[0], b=shown[1])


def lists(ask: Inquiry) -> None:
    """Words repeated, counted, looked for."""
    random, name = ask.random, ask.random.choice(["repeat", "count", "in_list"])
    if name == "repeat":
        said = " ".join(some_words(random, ask.split, random.randint(1, 3)))
        ask.ask(name, said, "instruction", words=said)
        return
    words = random.sample([*WORDS.values()], random.randint(2, 5))
    if name == "count":
        ask.ask(name, len(words), "reasoning", list=", ".join(words))
        return
    there = random.random() < 0.5
    one = random.choice(words if there else [each for each in WORDS.values() if each not in words])
    ask.ask(name, word("yes" if there else "no", "eo"), "reasoning", word=one, list=", ".join(words))


def courtesy(ask: Inquiry) -> None:
    name = ask.random.choice(_SAID)
    ask.ask(name, wordings("text")["eo_answers"][name], "instruction")
