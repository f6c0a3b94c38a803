"""Flow charts: a reader of the description alone finds every answer, and every layout can be read."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.world import flowchart, flowchart_art
from mplug_owl.world.canvas import Canvas
from mplug_owl.world.chance import SPLITS
from mplug_owl.world.scene import SIDE, Question, make
from mplug_owl.world.wording import reserved_templates, wordings
from mplug_owl.world.words import home

SCENES = {split: [make("flowchart", number, split) for number in range(200)] for split in SPLITS}
EVERY = [scene for scenes in SCENES.values() for scene in scenes]
PAGE = wordings("flowchart")["en"]
Box = tuple[float, float, float, float]


def fingerprint() -> str:
    digest = hashlib.sha256()
    for number in range(12):
        scene = make("flowchart", number, "test")
        digest.update(json.dumps(scene.graph).encode())
        digest.update(scene.draw()[0].tobytes())
        digest.update(repr([scene.describe(), scene.questions()]).encode())
    return digest.hexdigest()


def read(description: str) -> list[tuple[str, str, str]]:
    """The arrows that a description tells of: from, to, answer."""
    told = description.rstrip(".").rsplit(": ", 1)[1]
    if ", then " in told:
        steps = told.split(", then ")
        return [(steps[i], steps[i + 1], "") for i in range(len(steps) - 1)]
    found = [re.fullmatch(r"(\w+) (?:(yes|no) )?to (\w+)", arrow) for arrow in told.split("; ")]
    return [(arrow[1], arrow[3], arrow[2] or "") for arrow in found if arrow]


def expected(arrows: list[tuple[str, str, str]], question: Question) -> str:
    _, name, number = question.template.split("/")
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(PAGE[name][int(number)]))
    found = re.fullmatch(pattern, question.text)
    assert found, question
    given = found.groupdict()
    step, other = given.get("step", ""), given.get("other", "")
    starts, ends = [start for start, _, _ in arrows], [end for _, end, _ in arrows]
    steps = {*starts, *ends}
    to = {(start, answer): end for start, end, answer in arrows}
    if name in ("after", "skip"):
        return to[step, ""] if name == "after" else to[to[step, ""], ""]
    if name == "before":
        return starts[ends.index(step)]
    if name in ("first", "last"):
        (only,) = steps - set(ends if name == "first" else starts)
        return only
    if name == "count":
        return str(len(steps))
    if name == "with":
        return to[step, given["said"]]
    if name == "which":
        return next(answer for start, end, answer in arrows if (start, end) == (step, other))
    if name == "question":
        return next(start for start, count in Counter(starts).items() if count == 2)
    if name == "order":
        return ", ".join([starts[0], *ends])
    truths = {"follows": (step, other) in zip(starts, ends, strict=True), "exists": step in steps}
    return "yes" if truths[name] else "no"


def test_answers_can_be_found_in_the_description() -> None:
    asked = set()
    for scene in EVERY:
        told = scene.describe()
        arrows, found = read(told), scene.questions()
        steps = scene.graph["steps"]
        assert sorted(arrows) == sorted((steps[a], steps[b], answer) for a, b, answer in scene.graph["arrows"])
        assert len(told.split()) <= 60 and f" {len(steps)} steps" in told
        for question in found:
            assert question.answer == expected(arrows, question), (scene.graph, question)
            asked.add(question.template.split("/")[1])
        assert len({question.text for question in found}) == len(found) >= 8
    assert asked == {name for name in PAGE if "told" not in name}


def test_yes_is_as_frequent_as_no() -> None:
    scenes = [make("flowchart", number, "train") for number in range(1200)]
    for name in ("follows", "exists", "which"):
        answers = Counter(q.answer for scene in scenes for q in scene.questions() if f"/{name}/" in q.template)
        assert 0.45 < answers["yes"] / answers.total() < 0.55, name


def test_the_test_has_layouts_and_words_of_its_own() -> None:
    layouts = {split: [tuple(scene.graph["look"]["layout"]) for scene in scenes] for split, scenes in SCENES.items()}
    known = {*flowchart.CHAIN_LAYOUTS, *flowchart.FORK_LAYOUTS}
    kept = set(flowchart.KEPT)
    assert kept < known
    assert not kept & {*layouts["train"], *layouts["dev"]}
    assert 0.4 < sum(layout in kept for layout in layouts["test"]) / len(layouts["test"]) < 0.6
    assert kept <= set(layouts["test"]) <= known and len(set(layouts["dev"])) > len(known - kept) - 3
    for split, scenes in SCENES.items():
        assert {home(step) for scene in scenes for step in scene.graph["steps"]} == {split}
    keys = [{scene.key for scene in scenes} for scenes in SCENES.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_some_wordings_are_kept_for_the_test() -> None:
    used = {
        split: {question.template for scene in scenes for question in scene.questions()}
        for split, scenes in SCENES.items()
    }
    spare = reserved_templates("flowchart")
    assert not spare & (used["train"] | used["dev"]) and spare <= used["test"]


def boxes_of(plan: flowchart_art.Plan, fork: int | None, look: dict[str, Any]) -> list[Box]:
    """Boxes as left, top, right, bottom; of the diamond, the largest upright box within."""
    found = []
    for i, place in enumerate(plan.places):
        x, y = flowchart_art._mirror(place, look)
        wide, high = (plan.diamond[0] / 2, plan.diamond[1] / 2) if i == fork else plan.half
        found.append((x - wide, y - high, x + wide, y + high))
    return found


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("layout", [*flowchart.CHAIN_LAYOUTS, *flowchart.FORK_LAYOUTS])
def test_nothing_overlaps_or_leaves_the_page(layout: tuple[str, int, str]) -> None:
    name, count, more = layout
    fork = count - 3 - bool(more) if name in flowchart_art.FORKS else None
    plan = flowchart_art.plan(*layout)
    assert len(plan.places) == count and (fork is None or len(plan.labels) == 2)
    canvas = Canvas(SIDE, {"background": [255, 255, 255], "font": "DejaVuSans"})
    widest = ["mmo" if i == fork or name in flowchart_art.NARROW else "mmom" for i in range(count)]
    em = flowchart_art.letters(canvas, widest, plan, fork)
    for i, step in enumerate(widest):
        room = 1.5 * plan.diamond[0] if i == fork else 2 * plan.half[0] - 0.01
        assert canvas.width_of(step, em, "DejaVuSans") <= room
    wide = canvas.width_of("yes", flowchart_art.LABEL, "DejaVuSans-Bold") / 2
    for mirrored, shift in product(product([False, True], repeat=2), ([0.015, 0.015], [-0.015, -0.015])):
        look = {"mirrored": list(mirrored), "shift": shift}
        boxes = boxes_of(plan, fork, look)
        for spot in plan.labels:
            x, y = flowchart_art._mirror(spot, look)
            boxes.append((x - wide, y - 0.03, x + wide, y + 0.03))
        assert all(min(box) >= 0 and max(box) <= 1 for box in boxes), boxes
        for i, box in enumerate(boxes):
            assert not any(overlap(box, other) for other in boxes[:i]), (i, boxes)


@pytest.mark.parametrize("side", [SIDE, 384])
def test_everything_drawn_can_be_read(side: int) -> None:
    for scene in EVERY[:: 1 if side == SIDE else 40]:
        graph, look = scene.graph, scene.graph["look"]
        assert json.loads(json.dumps(graph)) == graph
        (picture,) = scene.draw(side)
        assert picture.size == (side, side) and picture.mode == "RGB"
        plan = flowchart_art.plan(*look["layout"])
        em = flowchart_art.letters(Canvas(side, look), graph["steps"], plan, graph["fork"])
        assert flowchart_art.SMALLEST <= em <= 1.7 * plan.half[1]


def test_charts_have_three_to_five_steps_and_easy_ones_three() -> None:
    counts = Counter(len(scene.graph["steps"]) for scene in SCENES["dev"])
    assert set(counts) == {3, 4, 5} and min(counts.values()) > 25
    assert 0.35 < sum(scene.graph["fork"] is not None for scene in SCENES["dev"]) / 200 < 0.65
    for number in range(50):
        graph = make("flowchart", number, "train", "easy").graph
        assert len(graph["steps"]) == 3 and graph["fork"] is None


def test_the_same_number_is_the_same_chart_in_another_process() -> None:
    code = "import test_world_flowchart; print(test_world_flowchart.fingerprint())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == fingerprint()
