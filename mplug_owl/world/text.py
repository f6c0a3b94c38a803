"""Conversations without a picture, one topic after another.

What a topic says is written beside its likes: sums, letters, facts, forms, esperanto; here stand small talk, what is
to be remembered, and how often each comes up.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from mplug_owl.world import esperanto, facts, forms, letters, sums
from mplug_owl.world.chance import Split, split_of
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.scene import Question
from mplug_owl.world.talk import Talk, talk
from mplug_owl.world.wording import wordings

Topic = Callable[[Inquiry], None]

TURNS = 6  # of a conversation, at most
_NAMES: tuple[str, ...] = tuple(wordings("text")["tables"]["names"].split())
_SMALL = ("hello", "who", "can", "thanks", "bye", "well", "can_see", "no_picture")
_KEPT = {"name": "my_name", "number": "my_number", "word": "my_word"}  # what is said, and asked for later
_REMEMBERING = 0.12  # share of the conversations


def small_talk(ask: Inquiry) -> None:
    name = ask.random.choice(_SMALL)
    ask.ask(name, wordings("text")["answers"][name], "instruction")


# Each begins with a question of its skill that can stand alone; what follows from it is of the skill "turns".
TOPICS: dict[Topic, tuple[str, str, float]] = {
    sums.arithmetic: ("text", "en", 4.0),
    sums.corrected: ("text", "en", 1.0),
    sums.more_sums: ("text", "en", 1.0),
    sums.comparison: ("text", "en", 1.5),
    sums.neighbours: ("text", "en", 1.0),
    sums.sorting: ("text", "en", 1.5),
    sums.extremes: ("text", "en", 1.0),
    letters.copying: ("text", "en", 2.0),
    letters.spelling: ("text", "en", 2.5),
    letters.letters_of: ("text", "en", 1.5),
    letters.reversing: ("text", "en", 1.0),
    letters.lists: ("text", "en", 1.5),
    letters.occurrences: ("text", "en", 1.5),
    letters.sameness: ("text", "en", 0.7),
    letters.alphabet: ("text", "en", 0.7),
    facts.countries: ("text", "en", 6.0),
    facts.claims: ("text", "en", 1.0),
    facts.calendar: ("text", "en", 1.0),
    facts.properties: ("text", "en", 1.0),
    small_talk: ("text", "en", 0.7),
    forms.rewriting: ("form", "en", 1.5),
    forms.counting: ("form", "en", 1.0),
    forms.answering: ("form", "en", 2.0),
    esperanto.translation: ("language", "eo", 2.5),
    esperanto.arithmetic: ("language", "eo", 1.0),
    esperanto.lists: ("language", "eo", 0.7),
    esperanto.courtesy: ("language", "eo", 0.3),
}


def conversation(random: Random, split: Split) -> Talk:
    """One to six questions on one to three topics, and sometimes one that goes back to the first words."""
    remembered = _remembered(random, split) if random.random() < _REMEMBERING else []
    questions = remembered[:1]
    for _ in range(random.choice([1, 1, 2, 2, 3])):
        questions += _questions(random, split, _topic(random))
    return talk([*questions[: TURNS - bool(remembered)], *remembered[1:]])


def single(random: Random, split: Split, skill: str) -> Talk:
    """A conversation that ends with a question of the skill: one question alone, unless the skill is "turns"."""
    while True:
        if skill == "turns" and random.random() < 0.25:
            first, last = _remembered(random, split)
            return talk([first, *_questions(random, split, _topic(random))[:2], last])
        questions = _questions(random, split, _topic(random))
        asked = [place for place, question in enumerate(questions) if question.skill == skill]
        if asked:
            place = random.choice(asked)
            return talk(questions[: place + 1])


def _topic(random: Random) -> Topic:
    return random.choices([*TOPICS], [weight for _, _, weight in TOPICS.values()])[0]


def _questions(random: Random, split: Split, topic: Topic) -> list[Question]:
    skill, tongue, _ = TOPICS[topic]
    ask = Inquiry("text", skill, random, split, tongue)
    topic(ask)
    return ask.questions


def _remembered(random: Random, split: Split) -> list[Question]:
    """Something said, and the question that asks for it later."""
    ask = Inquiry("text", "turns", random, split, "en")
    said = random.choice([*_KEPT])
    if said == "name":
        what = random.choice([name for name in _NAMES if split_of("name", name) == split]).capitalize()
    else:
        what = letters.some_word(random, split) if said == "word" else str(random.randint(0, 99))
    named: dict[str, Any] = {"who": what, "a": what, "word": what}
    ask.ask(said, wordings("text")["answers"][said].format(**named), "instruction", **named)
    ask.ask(_KEPT[said], what, "instruction", "multi-turn")
    return ask.questions
