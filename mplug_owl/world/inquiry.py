"""An inquiry: the questions about one scene while they are being collected.

It fills wordings in and knows no scene.
"""

from random import Random
from typing import Any

from mplug_owl.world.chance import Split
from mplug_owl.world.scene import Question
from mplug_owl.world.wording import say


class Inquiry:
    def __init__(self, page: str, skill: str, random: Random, split: Split, tongue: str) -> None:
        self.page, self.skill = page, skill
        self.random, self.split, self.tongue = random, split, tongue
        self.questions: list[Question] = []

    def ask(
        self, name: str, answer: str | int | bool, *abilities: str, accept: tuple[str, ...] = (), **fields: Any
    ) -> None:
        """Add a question in one of the wordings called `name`; a truth value is answered by yes or no."""
        text, template = say(self.page, name, self.random, self.split, self.tongue, **fields)
        said = ("no", "yes")[answer] if isinstance(answer, bool) else str(answer)
        self.questions.append(Question(self.skill, text, said, template, abilities, accept))

    def shuffled(self) -> list[Question]:
        self.random.shuffle(self.questions)
        return self.questions


def article(words: str) -> str:
    """Words with the article they need: "a red star", "an orange star"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
