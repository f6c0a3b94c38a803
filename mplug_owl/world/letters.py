"""Talk about words as they stand: copying, spelling, order, lists. What words mean is of no matter here.

A word of the test is in no question of training.
"""

from random import Random
from string import ascii_lowercase

from mplug_owl.world.chance import Split
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.words import near_miss, word

SHORT, LONG = 3, 8  # letters of a word


def some_word(random: Random, split: Split, longest: int = LONG) -> str:
    return word(random, random.randint(SHORT, longest), split)


def some_words(random: Random, split: Split, count: int) -> list[str]:
    """Different words, shorter ones."""
    found: list[str] = []
    while len(found) < count:
        new = some_word(random, split, 6)
        if new not in found:
            found.append(new)
    return found


def copying(ask: Inquiry) -> None:
    """Words repeated, and then asked about."""
    random = ask.random
    words = some_words(random, ask.split, random.choice([1, 1, 2, 3, 4]))
    said = " ".join(words)
    ask.ask("repeat", said, "instruction", words=said)
    ask.skill = "turns"
    then = {"and_upper": said.upper()}
    if len(words) == 1:
        then["and_spelled"] = "-".join(said)
    else:
        then |= {"and_first": words[0], "and_last": words[-1], "and_how_many": str(len(words))}
    for name in random.sample([*then], min(len(then), random.choice([0, 0, 1, 2]))):
        ask.ask(name, then[name], "instruction", "multi-turn")


def spelling(ask: Inquiry) -> None:
    random, name = ask.random, ask.random.choice(["spell", "spell", "join", "join", "letters"])
    one = some_word(random, ask.split, 6)
    spelled = "-".join(one)
    answers = {"spell": spelled, "join": one, "letters": str(len(one))}
    ask.ask(name, answers[name], "instruction", word=one, spelled=spelled)


def letters_of(ask: Inquiry) -> None:
    """One letter of a word."""
    random, name = ask.random, ask.random.choice(["first_letter", "last_letter", "has_letter", "has_letter"])
    one = some_word(random, ask.split)
    if name != "has_letter":
        ask.ask(name, one[0] if name == "first_letter" else one[-1], "reasoning", word=one)
        return
    there = random.random() < 0.5
    letter = random.choice(one if there else [each for each in ascii_lowercase if each not in one])
    ask.ask(name, there, "reasoning", word=one, letter=letter)


def reversing(ask: Inquiry) -> None:
    """The order of words turned around."""
    words = some_words(ask.random, ask.split, ask.random.randint(2, 4))
    ask.ask("reverse", " ".join(words[::-1]), "instruction", "reasoning", words=" ".join(words))
    ask.skill = "turns"
    if ask.random.random() < 0.3:
        ask.ask("and_reversed", " ".join(words), "instruction", "multi-turn")


def lists(ask: Inquiry) -> None:
    """Which word stands where in a list, how many there are, and the order of the alphabet."""
    random = ask.random
    words = some_words(random, ask.split, random.randint(2, 5))
    said = ", ".join(words)
    answers = {
        "first_word": words[0],
        "second_word": words[1],
        "last_word": words[-1],
        "count_words": str(len(words)),
        "alphabet": ", ".join(sorted(words)),
    }
    name = random.choice([*answers])
    ask.ask(name, answers[name], "reasoning", list=said)
    ask.skill = "turns"
    then = {"and_first": words[0], "and_last": words[-1], "and_how_many": str(len(words))}
    if name in ("first_word", "second_word", "last_word") and random.random() < 0.4:
        follow = random.choice([each for each in then if each != f"and_{name.partition('_')[0]}"])
        ask.ask(follow, then[follow], "reasoning", "multi-turn")


def occurrences(ask: Inquiry) -> None:
    """How often a word is in a list, or whether it is there at all."""
    random = ask.random
    few = some_words(random, ask.split, 3)
    if random.random() < 0.5:
        words = [random.choice(few) for _ in range(random.randint(3, 6))]
        ask.ask("count_same", words.count(few[0]), "reasoning", word=few[0], list=", ".join(words))
        return
    there = random.random() < 0.5
    one = random.choice(few) if there else some_word(random, ask.split, 6)
    ask.ask("in_list", one in few, "reasoning", word=one, list=", ".join(few))


def sameness(ask: Inquiry) -> None:
    one = some_word(ask.random, ask.split)
    other = one if ask.random.random() < 0.5 else near_miss(ask.random, one, ask.split)
    ask.ask("same_word", one == other, "reasoning", a=one, b=other)


def alphabet(ask: Inquiry) -> None:
    """The letter after, the letter before."""
    place = ask.random.randrange(25)
    name = ask.random.choice(["next_letter", "previous_letter"])
    a, b = ascii_lowercase[place], ascii_lowercase[place + 1]
    ask.ask(name, b if name == "next_letter" else a, "reasoning", a=a if name == "next_letter" else b)
