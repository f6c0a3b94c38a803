"""The world as rows by number: pictures with captions or questions, the same read instead of seen, and text alone.

A set is named `SET[/KIND+KIND][~SKILL+SKILL][@LEVEL][#SPLIT][:ROWS]`, such as "questions/shapes+dice@easy",
"described/shapes~existence" or "captions#dev:500".
Row i is a function of that name and i alone. What becomes of rows is not known here.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Literal, NamedTuple

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.messages import Message
from mplug_owl.world import facts, talk, text
from mplug_owl.world.chance import Split, check_split, stream
from mplug_owl.world.scene import KINDS, LEVELS, PLACED, SKILLS, Level, Place, Question, Scene, Tongue, choose, make
from mplug_owl.world.talk import Talk

SETS = {
    "captions": "a picture and its description",
    "questions": "a picture and 1 to 8 of its questions",
    "dialogues": "a picture and questions that build on each other",
    "described": "a description instead of the picture, and questions",
    "text": "questions without any picture",
    "places": "a picture and what is where in it, for the eyes alone",
    "prose": "descriptions and facts to read, without question or answer",
}
ROWS = 1_000_000
_SHOWN = ("captions", "questions", "dialogues", "places")
_WORDS_ALONE = ("text",)  # sets that know no kinds and levels
_TALKING = ("shapes", "pair")  # kinds with dialogues
# How often a kind is met among others: shapes carry most skills.
_WEIGHTS = {kind: 1.5 for kind in KINDS} | {"shapes": 8.0, "dice": 1.0, "sign": 2.0, "chart": 2.0, "table": 2.0}
_ASKING = ("questions", "described")  # sets whose questions can be chosen by skill
_NAME = re.compile(r"(\w+)(?:/([\w+]+))?(?:~([\w+]+))?(?:@(\w+))?(?:#(\w+))?(?::(\d+))?")
_TURNS = {1: 1.0, 2: 1.0, 3: 2.0, 4: 4.0, 5: 4.0, 6: 5.0, 7: 4.0, 8: 4.0}  # pictures are dear, questions are cheap
_ESPERANTO = 0.12  # of the rows of shapes
# All that is asked about pictures in Esperanto before the test; the rest is met in descriptions, and must carry over.
_SEEN_IN_ESPERANTO = ("existence", "counting")
_DIALOGUES = 0.2  # share of dialogues among what is read of the kinds that have them
_FACTS = 0.2  # share of facts among prose
# Where questions of a skill are found, text being no kind of scene; the others are of shapes.
_KINDS_OF = {
    "dice": ("dice",),
    "clocks": ("clock",),
    "flags": ("flag",),
    "knowledge": ("flag",),
    "ocr": ("sign",),
    "charts": ("chart",),
    "tables": ("table",),
    "flowcharts": ("flowchart",),
    "pairs": ("pair",),
    "video": ("video",),
    "text": ("text",),
    "form": ("shapes", "text"),
    "turns": ("shapes", "pair", "text"),
}
_SAMPLED = 32  # rows that tell one world from another


class Row(NamedTuple):
    id: str
    kind: Literal["chat", "caption"]
    messages: tuple[Message, ...]
    questions: tuple[Question, ...]
    """One for each answer; none of a caption."""
    places: tuple[Place, ...] = ()
    """What is where in the picture, in the set that says so; its message is a caption."""


@dataclass(frozen=True)
class RowSet:
    """Rows by number; `rows` makes one of a name."""

    set: str
    kinds: tuple[str, ...]
    level: Level = "standard"
    split: Split = "train"
    count: int = ROWS
    skills: tuple[str, ...] = SKILLS
    """What is asked about; a scene of which nothing of it can be asked is passed over."""

    @property
    def name(self) -> str:
        """Its whole name, without what goes without saying."""
        kinds = "" if self.kinds == _kinds(self.set) else "/" + "+".join(self.kinds)
        level = "" if self.level == "standard" else f"@{self.level}"
        skills = "" if self.skills == SKILLS else "~" + "+".join(self.skills)
        return f"{self.set}{kinds}{skills}{level}" + ("" if self.split == "train" else f"#{self.split}")

    @property
    def shows_media(self) -> bool:
        return self.set in _SHOWN

    @cached_property
    def identity(self) -> str:
        """A hash of the words of some rows: whether this is still the same world."""
        rows = [self.row(number * self.count // _SAMPLED) for number in range(_SAMPLED)]
        said = [self.name, self.count, [[message.text for message in row.messages] for row in rows]]
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.count

    def row(self, number: int) -> Row:
        if not 0 <= number < self.count:
            raise IndexError(f"row {number} of {self.name}, which has {self.count}")
        name = f"{self.name}:{number}"
        random = stream("row", name)
        if self.set == "text":
            return _chat(name, text.conversation(random, self.split))
        if self.set == "prose" and random.random() < _FACTS:
            return _prose(name, facts.sentence(random, self.split))
        kind = choose(random, {kind: _WEIGHTS[kind] for kind in self.kinds})
        scene = make(kind, name, self.split, self.level)
        if self.set == "captions":
            return Row(name, "caption", talk.caption(scene), ())
        if self.set == "places":
            return Row(name, "caption", talk.caption(scene), (), scene.places)
        tongue: Tongue = "eo" if scene.kind == "shapes" and random.random() < _ESPERANTO else "en"
        if self.set == "prose":
            return _prose(name, scene.describe(tongue))
        made = self._talk(scene, random, tongue)
        for further in itertools.count(1):
            if made.questions:
                break
            scene = make(kind, f"{name}+{further}", self.split, self.level)
            made = self._talk(scene, random, "en")  # some skills are not asked for in Esperanto
        return _chat(name, made)

    def _talk(self, scene: Scene, random: Random, tongue: Tongue) -> Talk:
        turns = random.choices([*_TURNS], [*_TURNS.values()])[0]
        if self.set == "dialogues":
            return talk.dialogue(scene, random)
        if self.set == "described":
            talks = scene.kind in _TALKING and random.random() < _DIALOGUES
            if talks and self.skills == SKILLS:
                return talk.dialogue(scene, random, seen=False)
            return talk.described(scene, random, turns, tongue, self.skills)
        carries_over = tongue == "eo" and self.split != "test"
        asked = [skill for skill in self.skills if not carries_over or skill in _SEEN_IN_ESPERANTO]
        return talk.about(scene, random, turns, tongue, asked)


def rows(name: str) -> RowSet:
    """The set of a name. Raises: ConfigError where there is none."""
    found = _NAME.fullmatch(name)
    if not found:
        raise ConfigError(f"world set {name!r}; expected SET[/KIND+KIND][~SKILL+SKILL][@LEVEL][#SPLIT][:ROWS]")
    set, listed, sought, level, split, count = found.groups()
    if set not in SETS:
        raise ConfigError(f"unknown world set {set!r}{did_you_mean(set, SETS)}")
    known = _kinds(set)
    kinds = tuple(dict.fromkeys(listed.split("+"))) if listed else known
    for kind in kinds:
        if not known:
            raise ConfigError(f"kind {kind!r} in {name!r}; {set} has none")
        if kind not in known:
            raise ConfigError(f"unknown kind {kind!r} in {name!r}{did_you_mean(kind, known)}")
    if level and level not in LEVELS:
        raise ConfigError(f"unknown level {level!r} in {name!r}{did_you_mean(level, LEVELS)}")
    if split:
        check_split(split)
    if level and not known:
        raise ConfigError(f"level {level!r} in {name!r}; {set} has none")
    skills = tuple(dict.fromkeys(sought.split("+"))) if sought else SKILLS
    if sought and set not in _ASKING:
        raise ConfigError(f"skills {sought!r} in {name!r}; only {' and '.join(_ASKING)} are chosen by skill")
    possible = {skill for skill in SKILLS if {*_KINDS_OF.get(skill, ("shapes",))} & {*kinds}}
    for skill in skills if sought else ():
        if skill not in possible:
            raise ConfigError(f"no question of skill {skill!r} in {name!r}{did_you_mean(skill, possible)}")
    silent = [kind for kind in kinds if not any(kind in _KINDS_OF.get(skill, ("shapes",)) for skill in skills)]
    if sought and silent:
        raise ConfigError(f"{', '.join(silent)} in {name!r}: no question of {sought}; leave out such kinds")
    if count and not int(count):
        raise ConfigError(f"world set {name!r} without rows; expected a positive number of them")
    return RowSet(set, kinds, level or "standard", split or "train", int(count or ROWS), skills)  # type: ignore[arg-type]


def _chat(name: str, made: Talk) -> Row:
    return Row(name, "chat", made.messages, made.questions)


def _prose(name: str, words: str) -> Row:
    return Row(name, "caption", (Message("user", ()), Message("assistant", words)), ())


def _kinds(set: str) -> tuple[str, ...]:
    """The kinds that a set may hold."""
    if set in _WORDS_ALONE:
        return ()
    return {"dialogues": _TALKING, "places": PLACED}.get(set, KINDS)


def examples(skill: str, count: int, split: Split = "test", level: Level = "standard") -> list[Talk]:
    """Conversations whose last question is of the skill: one a scene, the kinds in turn, types as often as they are
    asked in training, so that answers are as balanced as there.

    Only with the skill "turns" are there questions before the last one.
    """
    check_split(split)
    if skill not in SKILLS:
        raise ConfigError(f"unknown skill {skill!r}{did_you_mean(skill, SKILLS)}")
    found: list[Talk] = []
    kinds = _KINDS_OF.get(skill, ("shapes",))
    for number in itertools.count():
        if len(found) == count:
            break
        found += _example(skill, kinds[len(found) % len(kinds)], number, split, level)
    return found


def _example(skill: str, kind: str, number: int, split: Split, level: Level) -> list[Talk]:
    """One question of the skill, unless the scene has none."""
    name = f"{skill}-{number}"
    random = stream("example", name, kind, split, level)
    if kind == "text":
        return [text.single(random, split, skill)]
    scene = make(kind, name, split, level)
    if skill == "turns":
        whole = talk.dialogue(scene, random)
        places = [place for place, question in enumerate(whole.questions) if place and question.skill == skill]
        last = random.choice(places) + 1 if places else 0
        return [Talk(whole.messages[: 2 * last], whole.questions[:last])] if places else []
    if skill == "language":  # what is known of pictures from one tongue, and of words from the other
        asked = [replace(question, skill=skill) for question in scene.questions("eo") if question.skill == "attributes"]
    else:
        asked = [question for question in scene.questions() if question.skill == skill]
    return [talk.talk([random.choice(asked)], scene.parts())] if asked else []


def corpus(count: int) -> Iterator[str]:
    """Texts of training, for a tokenizer: all sets and kinds, both tongues, every letter and digit, all countries."""
    yield from (" ".join(letters) for letters in (ascii_lowercase, ascii_uppercase, digits))
    sources = [rows(f"{set}/{kind}") for set in ("described", "prose") for kind in KINDS]
    sources += [rows("text")] * len(KINDS) + [rows("dialogues")]
    for number in range(count):
        row = sources[number % len(sources)].row(number)
        yield "\n".join(message.text for message in row.messages if message.text)
