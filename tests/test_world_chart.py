"""Charts: what is asked can be read off the values and, in pixels, off the bars."""

from collections import Counter

import numpy as np
import pytest

import world_checks
from mplug_owl.world import chart
from mplug_owl.world.scene import Question, Scene, make
from mplug_owl.world.shape_art import COLOURS
from world_checks import fields

SCENES = world_checks.scenes_of("chart", 250)
EVERY = [scene for scenes in SCENES.values() for scene in scenes]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth"]


def answer(scene: Scene, question: Question) -> str:
    """The right answer by another road: from the words of the question and the list of values."""
    values: dict[str, int] = dict(scene.graph["entries"])
    name, said = fields(question)
    named = {field: text.removeprefix("the ").removesuffix(" bar") for field, text in said.items()}
    by_value = sorted(values, key=lambda label: values[label])
    one, other = values.get(named.get("one", "")), values.get(named.get("other", ""))
    if name in ("highest", "lowest"):
        return by_value[-1 if name == "highest" else 0]
    if name == "value":
        return str(values[named["what"]])
    if name == "owner":
        (label,) = (label for label in values if str(values[label]) == said["value"])
        return label
    if name == "place":
        return list(values)[ORDINALS.index(said["ordinal"])]
    if name == "present":
        words = said["which"].split()
        return "yes" if words[-1 if "for" in words else 1] in values else "no"
    if name in ("count", "kind"):
        return str(len(values)) if name == "count" else "line chart" if scene.graph["form"] == "line" else "bar chart"
    if name == "over":
        return str(len([value for value in values.values() if value > int(said["value"])]))
    assert one is not None and other is not None, question
    if name in ("sum", "difference"):
        return str(one + other if name == "sum" else one - other)
    if name == "trend":
        return "rises" if other > one else "falls"
    return ["no", "yes"][{"above": one > other, "below": one < other, "equal": one == other}[name]]


def test_answers_follow_from_the_values() -> None:
    for scene in EVERY:
        found = scene.questions()
        assert 8 <= len(found) <= 18
        for question in found:
            assert question.answer == answer(scene, question), (scene.graph, question)


def test_a_description_holds_every_value() -> None:
    for scene in EVERY:
        told = scene.describe().replace(" is ", " ")
        assert all(f"{label} {value}" in told for label, value in scene.graph["entries"])


def test_charts_are_plain_and_repeat() -> None:
    world_checks.check_plain(SCENES, 1)
    world_checks.check_balance(SCENES)
    world_checks.check_repeats("chart")


def test_the_test_has_layouts_values_and_wordings_of_its_own() -> None:
    world_checks.check_splits(SCENES, "chart")
    fresh = {split: 0 for split in SCENES}
    for split, scenes in SCENES.items():
        for scene in scenes:
            graph = scene.graph
            layout = (graph["form"], len(graph["entries"]), graph["family"])
            pairs = [chart.reserved("chart", label, value) for label, value in graph["entries"]]
            fresh[split] += layout in chart.layouts(True) or any(pairs)
    assert fresh["train"] == fresh["dev"] == 0
    assert 0.4 < fresh["test"] / len(SCENES["test"]) < 0.8


def test_the_test_spans_the_whole_difficulty() -> None:
    graphs = [make("chart", number, "dev").graph for number in range(400)]
    counts = Counter(len(graph["entries"]) for graph in graphs)
    forms = Counter(graph["form"] for graph in graphs)
    values = Counter(value for graph in graphs for _, value in graph["entries"])
    assert set(counts) == {3, 4, 5, 6} and min(counts.values()) > 70
    assert set(forms) == set(chart.FORMS) and min(forms.values()) > 90
    assert set(values) == set(range(10))


def test_easy_charts_print_three_small_values() -> None:
    for number in range(50):
        graph = make("chart", number, "train", "easy").graph
        assert [len(graph["entries"]), graph["form"], graph["look"]["printed"]] == [3, "bars", True]
        assert all(1 <= value <= 5 for _, value in graph["entries"])


@pytest.mark.parametrize("form", ["bars", "rows"])
def test_bars_are_as_long_as_their_values(form: str) -> None:
    measured = 0
    for number in range(150):
        graph = make("chart", f"bars {number}", "dev").graph
        if graph["form"] != form or graph["family"] != "colours":
            continue
        if {"black", "white"} & {label for label, _ in graph["entries"]}:
            continue  # numbers and axes may be of that colour too
        plain = {"noise": 0, "grid": "none", "outline": False, "printed": False, "numbers": True, "frame": False}
        (picture,) = chart.draw(graph | {"look": graph["look"] | plain}, 384)
        pixels = np.asarray(picture, np.int16)
        ratios = []
        for label, value in graph["entries"]:
            painted = (np.abs(pixels - np.array(COLOURS[label])).sum(axis=2) < 12).sum(axis=0 if form == "bars" else 1)
            ratios.append(np.median(painted[painted > painted.max() / 2]) / value)
        measured += 1
        assert max(ratios) - min(ratios) < 0.12 * max(ratios), (graph, ratios)
    assert measured > 2
