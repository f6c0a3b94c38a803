"""The drawn world's held-out questions, and the same about a grey picture and about another question's.

The questions are the world's own (`world.sets.examples`); how scenes are drawn is not known here, nor what is asked of
an owl (`world_skills.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from PIL import Image

from mplug_owl.errors import EvalError, did_you_mean
from mplug_owl.eval.scoring import formal, is_right, normal
from mplug_owl.eval.task import Example, Record, Score, Table, Task, mean
from mplug_owl.eval.tasks.world_skills import asked_type, row, verdict
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, media
from mplug_owl.world.chance import SPLITS, Split
from mplug_owl.world.scene import ABILITIES, SKILLS, Drawing, Scene
from mplug_owl.world.sets import examples
from mplug_owl.world.shape_words import KEPT
from mplug_owl.world.talk import Talk
from mplug_owl.world.wording import reserved_templates

Control = Literal["grey", "other"]
CONTROLS: tuple[Control, ...] = get_args(Control)
GREY = (128, 128, 128)


@dataclass(frozen=True)
class WorldTask(Task):
    name = "world"
    about = "the drawn world's held-out scenes, skill by skill, beside grey and strange pictures"
    needs = "nothing: drawn when asked"
    max_new_tokens = 64

    skills: tuple[str, ...] = SKILLS
    count: int = 500
    """Questions of each skill."""
    controls: tuple[Control, ...] = CONTROLS
    split: Split = "test"

    def __post_init__(self) -> None:
        for name, given, known in (
            ("skill", self.skills, SKILLS),
            ("control", self.controls, CONTROLS),
            ("split", (self.split,), SPLITS),
        ):
            for value in given:
                if value not in known:
                    raise EvalError(f"unknown {name} {value!r}{did_you_mean(value, known)}")
        if self.count < 1:
            raise EvalError(f"count={self.count}; expected 1 question of each skill, or more")

    def examples(self) -> Iterator[Example]:
        for skill in self.skills:
            talks = examples(skill, self.count, self.split)
            own = [_example(skill, number, talk) for number, talk in enumerate(talks)]
            yield from own
            looking = [example for example in own if example.meta["looks"]]
            for control in self.controls:
                yield from _controlled(looking, control)

    def score(self, example: Example, answer: str) -> Score:
        form = example.meta["skill"] == "form"
        return Score(float(is_right(answer, example.answers, form=form)), (formal if form else normal)(answer))

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        own = [record for record in records if record.example.meta["control"] is None]
        of_skills = [(skill, [r for r in records if r.example.meta["skill"] == skill]) for skill in self.skills]
        skills = [row(skill, found) for skill, found in of_skills if found]  # a limit may leave none of a skill
        abilities = [(name, [r for r in own if name in r.example.meta["abilities"]]) for name in ABILITIES]
        return [
            Table("skills", (*skills, mean("all", own)), verdict(skills)),
            Table("abilities", tuple(mean(name, found) for name, found in abilities if found)),
        ]


def _example(skill: str, number: int, talk: Talk) -> Example:
    question = talk.questions[-1]
    scene = next((drawing.scene for part in media(talk.messages) for drawing in _drawings(part)), None)
    meta = {
        "skill": skill,
        "control": None,
        "scene": scene.kind if scene else None,
        "template": question.template,
        "new_words": question.template in reserved_templates(question.template.partition("/")[0]),
        "new_pair": _has_new_pair(scene) if scene else None,
        "abilities": list(question.abilities),
        "looks": scene is not None and question.needs_picture,
    }
    name = f"{skill}/{number}"
    return Example(name, talk.messages[:-1], (question.answer, *question.accept), meta, group=name)


def _drawings(part: ImagePart | VideoPart) -> list[Drawing]:
    return list(part.source) if isinstance(part, VideoPart) else [part.source]


def _has_new_pair(scene: Scene) -> bool | None:
    """Whether shapes show a colour on a shape that training never did."""
    if scene.kind != "shapes":
        return None
    return any((thing["colour"], thing["shape"]) in KEPT for thing in scene.graph["things"])


# ---- controls ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grey:
    """A picture of nothing."""

    side: int

    def picture(self) -> Image.Image:
        return Image.new("RGB", (self.side, self.side), GREY)

    def __str__(self) -> str:
        return "grey picture"


def _controlled(asked: Sequence[Example], control: Control) -> Iterator[Example]:
    """The examples with another picture in place of theirs."""
    for place, example in enumerate(asked):
        if control == "grey":
            shown = [_grey(part) for part in media(example.messages)]
        elif len(asked) > 1:
            shown = media(_stranger(example, [*asked[place + 1 :], *asked[:place]]).messages)
        else:
            return  # there is no other picture to show
        first, *rest = example.messages
        words = [part for part in first.content if isinstance(part, TextPart)]
        messages = (Message(first.role, (*shown, *words)), *rest)
        yield replace(
            example, id=f"{example.id}/{control}", messages=messages, meta={**example.meta, "control": control}
        )


def _grey(part: ImagePart | VideoPart) -> ImagePart | VideoPart:
    greys = [Grey(drawing.side) for drawing in _drawings(part)]
    return VideoPart(greys, part.num_frames) if isinstance(part, VideoPart) else ImagePart(greys[0])


def _stranger(example: Example, others: Sequence[Example]) -> Example:
    """Whose picture to show: of the same kind, asked the same, with another answer, as far as there is one."""

    def unfit(other: Example) -> tuple[bool, ...]:
        same_answer = normal(other.answers[0]) == normal(example.answers[0])
        return other.meta["scene"] != example.meta["scene"], same_answer, asked_type(other) != asked_type(example)

    return next((other for other in others if not any(unfit(other))), None) or min(others, key=unfit)
