"""Words to read: real ones, made-up ones that can only be read letter by letter, and lists of names and things.

Every word of a sign has one split for good: that of the sign that says it, so a word of the test is on no sign of
training, nor in its questions. Of the lists, some are kept from all splits but the test. Nothing here knows how a word
is drawn.
"""

from functools import cache
from itertools import count
from random import Random
from string import ascii_lowercase

from mplug_owl.world.chance import Split, reserved, split_of
from mplug_owl.world.wording import wordings

REAL = 0.4  # the share of words that mean something
_VOWELS = "aeiou"
_CONSONANTS = "".join(letter for letter in ascii_lowercase if letter not in _VOWELS)


def home(word: str) -> Split:
    """The split a word belongs to."""
    return split_of("sign", word)


@cache
def real_words(length: int, split: Split) -> tuple[str, ...]:
    return tuple(word for word in wordings("words")["en"][str(length)].split() if home(word) == split)


def word(random: Random, length: int, split: Split) -> str:
    """A word of so many letters that belongs to the split."""
    if random.random() < REAL:
        return random.choice(real_words(length, split))
    while True:
        made = made_up(random, length)
        if home(made) == split and decent(made):
            return made


def near_miss(random: Random, truth: str, split: Split) -> str:
    """A word of the same split that differs from `truth` in one letter; in more only where no such word exists."""
    for attempt in count():
        letters = list(truth)
        for spot in random.sample(range(len(truth)), 1 + attempt // 500):
            letters[spot] = random.choice(ascii_lowercase)
        other = "".join(letters)
        if other != truth and home(other) == split and decent(other):
            return other
    raise AssertionError("unreachable")


@cache
def listed(name: str, split: Split) -> tuple[str, ...]:
    """What a split may use of a list, such as "names"."""
    words = wordings("words")["en"][name].split()
    return tuple(word for word in words if split == "test" or not reserved("word", word, percent=15))


def pick(random: Random, name: str, count: int, split: Split) -> list[str]:
    """Different words of a list; half of the test's picks hold one that no other split has."""
    usual = listed(name, "train")
    chosen = random.sample(usual, count)
    kept = [word for word in listed(name, split) if word not in usual]
    if kept and random.random() < 0.5:
        chosen[random.randrange(count)] = random.choice(kept)
    return chosen


def made_up(random: Random, length: int) -> str:
    """Letters that a mouth could say: vowels and consonants in turn, or two of a kind, never three."""
    kinds = [random.random() < 0.35]
    for _ in range(length - 1):
        double = len(kinds) > 1 and kinds[-1] == kinds[-2]
        kinds.append(kinds[-1] if not double and random.random() < 0.2 else not kinds[-1])
    return "".join(random.choice(_VOWELS if vowel else _CONSONANTS) for vowel in kinds)


def decent(letters: str) -> bool:
    return not any(part in letters for part in _avoided())


@cache
def _avoided() -> tuple[str, ...]:
    return tuple(wordings("words")["en"]["avoid"].split())
