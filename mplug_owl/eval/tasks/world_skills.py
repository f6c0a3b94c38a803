"""What an owl is asked to be able to do in the drawn world, and how a skill's answers are judged.

A skill of the eye counts only where the question's own picture is worth 20 points more than a grey one and more than
another question's. Where questions and pictures come from is not known here.
"""

from collections.abc import Sequence
from typing import Any

from mplug_owl.eval.scoring import difference, majority
from mplug_owl.eval.task import Example, Record, Row, mean

MARGIN = 0.20
# Shares of right answers: what the owlet must reach, and what it is hoped to. Of one trained on a GPU half of the
# error that they leave is asked (`sterner`).
REQUIRED = dict(existence=0.90, attributes=0.85, counting=0.80, dice=0.85, flags=0.90, text=0.90, form=0.90, turns=0.80)
WANTED = dict(
    relations=0.85, ocr=0.80, clocks=0.75, charts=0.75, tables=0.70, flowcharts=0.70, pairs=0.75, video=0.80,
    knowledge=0.80, language=0.70,
)  # fmt: skip


def sterner(goal: float) -> float:
    return (1 + goal) / 2


def asked_type(example: Example) -> str:
    """What is asked, whatever the wording: the template without its number."""
    return str(example.meta["template"]).rpartition("/")[0]


def row(skill: str, records: Sequence[Record]) -> Row:
    """A skill's scores with its own pictures, beside its controls and goals."""
    own = [record for record in records if record.example.meta["control"] is None]
    looking = [record for record in own if record.example.meta["looks"]]
    controls: dict[str, dict[str, Record]] = {}
    for record in records:
        if (control := record.example.meta["control"]) is not None:
            controls.setdefault(control, {})[record.example.id.removesuffix(f"/{control}")] = record
    beside = {control: [found[r.example.id] for r in looking] for control, found in controls.items()}
    chance = majority((asked_type(record.example), record.example.answers) for record in own)
    goal = (REQUIRED | WANTED)[skill]
    made = mean(skill, own, chance, **{name: mean(name, found).score for name, found in beside.items()})
    made.more.update(_gap(looking, beside))
    for name in ("new_words", "new_pair"):
        for value, label in ((False, "old"), (True, "new")):
            part = [record for record in own if record.example.meta[name] is value]
            made.more[name.replace("new", label)] = mean(name, part).score if part else None
    counts = not looking or made.more["sees"]
    made.more["goal"] = goal
    made.more["required"] = skill in REQUIRED
    made.more["met"] = counts and made.score >= goal
    made.more["gpu_goal"] = sterner(goal)
    made.more["gpu_met"] = counts and made.score >= sterner(goal)
    return made


def _gap(looking: Sequence[Record], beside: dict[str, list[Record]]) -> dict[str, Any]:
    """What the picture is worth: the way down to the better control, and whether it is far enough."""
    if not looking or not beside:
        return {"gap": None, "gap_interval": None, "sees": None}
    scores = {name: [record.score.correct for record in found] for name, found in beside.items()}
    own = [record.score.correct for record in looking]
    best = max(scores.values(), key=sum)
    gap = (sum(own) - sum(best)) / len(own)
    sees = gap >= MARGIN if {"grey", "other"} <= scores.keys() else None
    return {"gap": gap, "gap_interval": difference(own, best), "sees": sees}


def verdict(rows: Sequence[Row]) -> tuple[str, ...]:
    """How many goals are met, in words."""
    lines = []
    for label, required in (("required", True), ("wanted", False)):
        asked = [row for row in rows if row.more["required"] is required]
        met, missed = ([row.name for row in asked if bool(row.more["met"]) is value] for value in (True, False))
        if asked:
            lines.append(
                f"{label}: {len(met)} of {len(asked)} met" + (f"; missed: {', '.join(missed)}" if missed else "")
            )
    judged = [row for row in rows if row.more["sees"] is not None]
    if judged:
        blind = [row.name for row in judged if not row.more["sees"]]
        lines.append(
            f"{len(judged) - len(blind)} of {len(judged)} skills of the eye are worth {100 * MARGIN:.0f} points more "
            "than both controls" + (f"; not: {', '.join(blind)}" if blind else "")
        )
    return tuple(lines)
