"""Conversations about scenes: which questions are asked in which order, and what is shown with the first of them.

What a scene looks like and what is true of it is known to its kind alone.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from random import Random

from mplug_owl.messages import Message, Part, TextPart
from mplug_owl.world.scene import SKILLS, Question, Scene, Tongue

_READ = {"en": "Picture:", "eo": "Bildo:"}  # before a description that stands for the picture


@dataclass(frozen=True)
class Talk:
    """A conversation with its right answers: messages of user and assistant in turn, media in the first of them."""

    messages: tuple[Message, ...]
    questions: tuple[Question, ...]
    """One for each message of the assistant, in order."""


def talk(questions: Sequence[Question], opening: Sequence[Part] = ()) -> Talk:
    """The questions and their answers in turn, the first behind `opening`."""
    messages = []
    for number, question in enumerate(questions):
        asked = [*opening, TextPart(question.text)] if opening and not number else question.text
        messages += [Message("user", asked), Message("assistant", question.answer)]
    return Talk(tuple(messages), tuple(questions))


def about(scene: Scene, random: Random, turns: int, tongue: Tongue = "en", skills: Container[str] = SKILLS) -> Talk:
    """The picture and up to `turns` of its questions of these skills, in any order."""
    return talk(_some(scene, random, turns, tongue, skills), scene.parts())


def described(scene: Scene, random: Random, turns: int, tongue: Tongue = "en", skills: Container[str] = SKILLS) -> Talk:
    """As `about`, but the scene is read, not seen: its description stands before the first question."""
    return talk(_some(scene, random, turns, tongue, skills), [reading(scene, tongue)])


def dialogue(scene: Scene, random: Random, tongue: Tongue = "en", *, seen: bool = True) -> Talk:
    """Questions that build on each other ("it", "the other one"), of a kind that has them."""
    questions = scene.module.dialogue(scene.graph, random, scene.split, tongue)
    return talk(questions, scene.parts() if seen else [reading(scene, tongue)])


def caption(scene: Scene, tongue: Tongue = "en") -> tuple[Message, ...]:
    """The picture and its description."""
    return Message("user", scene.parts()), Message("assistant", scene.describe(tongue))


def reading(scene: Scene, tongue: Tongue) -> TextPart:
    """The description in place of the picture."""
    return TextPart(f"{_READ[tongue]} {scene.describe(tongue).removesuffix('.')}. ")


def _some(scene: Scene, random: Random, turns: int, tongue: Tongue, skills: Container[str]) -> list[Question]:
    questions = [question for question in scene.questions(tongue) if question.skill in skills]
    return random.sample(questions, min(turns, len(questions)))
