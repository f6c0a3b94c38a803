"""Pairs of pictures: what differs is what is said to differ, in the graph, in the questions and in the pixels."""

from collections import Counter
from itertools import chain
from random import Random
from typing import Any

import numpy as np

import world_checks
from mplug_owl.messages import ImagePart
from mplug_owl.world import pair
from mplug_owl.world.scene import Question, Scene, make
from mplug_owl.world.shape_words import KEPT
from mplug_owl.world.things import Thing
from mplug_owl.world.wording import reserved_templates
from world_checks import fields

SCENES = world_checks.scenes_of("pair", 300)
EVERY = [scene for scenes in SCENES.values() for scene in scenes]
DIALOGUE = {"it_colour", "it_size", "it_place", "and_second", "together", "so_more", "thing_of_it", "was_first"}
DIALOGUE |= {"is_second"}
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def place(thing: Thing) -> str:
    return f"{ROWS[thing['cell'] // 3]} {COLUMNS[thing['cell'] % 3]}".strip() or "middle"


def the(noun: str, things: list[Thing]) -> list[Thing]:
    """The things that a noun such as "star" or "a red star" may mean."""
    *_, colour, shape = ["", *noun.removeprefix("an ").removeprefix("a ").split()]
    return [thing for thing in things if thing["shape"] == shape and colour in ("", thing["colour"])]


def change(graph: dict[str, Any]) -> str:
    """What differs, by comparing both pictures."""
    first, second = graph["pictures"]
    if len(first) != len(second):
        return "number"
    for one in first:
        if one not in second:
            (other,) = (thing for thing in second if thing not in first)
            (part,) = (part for part in one if one[part] != other[part])
            return "place" if part == "cell" else part
    return "nothing"


def answer(scene: Scene, question: Question) -> str:
    """The right answer by another road: from the words of the question and both lists of things."""
    first, second = scene.graph["pictures"]
    name, said = fields(question)
    picture = {"first": first, "second": second}.get(said.get("which", ""), [])
    if name in ("same", "change"):
        found = change(scene.graph)
        return found if name == "change" else "yes" if found == "nothing" else "no"
    if name in ("count", "total"):
        return str(len(picture) if name == "count" else len(first + second))
    if name in ("more", "fewer"):
        larger = len(first) - len(second) if name == "more" else len(second) - len(first)
        return "first" if larger > 0 else "second" if larger < 0 else "neither"
    if name in ("there", "both"):
        return (
            "yes"
            if all(the(said["what"], some) for some in ([picture] if name == "there" else [first, second]))
            else "no"
        )
    lone = [thing for thing in [*first, *second] if (thing in first) != (thing in second)]
    if name in ("changed", "extra"):
        return f"{lone[0]['colour']} {lone[0]['shape']}"
    if picture:
        (thing,) = the(said["what"], picture)
        return place(thing) if name == "place" else thing[name]
    if name == "moved":
        steps = lone[1]["cell"] - lone[0]["cell"]
        return ("right" if steps > 0 else "left") if abs(steps) < 3 else "down" if steps > 0 else "up"
    (one,), (other,) = the(said["what"], first), the(said["what"], second)
    if name == "grown":
        return {("small", "large"): "larger", ("large", "small"): "smaller"}[one["size"], other["size"]]
    part = {"same_colour": "colour", "same_size": "size", "same_place": "cell"}[name]
    return "yes" if one[part] == other[part] else "no"


def test_answers_follow_from_both_pictures() -> None:
    for scene in EVERY:
        found = scene.questions()
        assert 6 <= len(found) <= 16
        for question in found:
            assert question.answer == answer(scene, question), (scene.graph, question)


def test_the_pictures_differ_in_the_one_thing_that_changed() -> None:
    for scene in EVERY:
        graph = scene.graph
        assert change(graph) == graph["change"].replace("none", "nothing")
        for picture in graph["pictures"]:
            names = {(thing["colour"], thing["shape"]) for thing in picture}
            assert len(names) == len(picture) == len({thing["cell"] for thing in picture})


def test_pixels_differ_where_the_graph_does() -> None:
    for number in range(60):
        graph = make("pair", f"pixels {number}", "dev").graph
        one, other = pair.draw(graph | {"look": graph["look"] | {"noise": 0}}, 96)
        differing = (np.asarray(one) != np.asarray(other)).any(axis=2)
        assert differing.any() == (graph["change"] != "none")
        assert differing.mean() < 0.25


def test_a_description_tells_both_pictures() -> None:
    for scene in EVERY:
        first, second = scene.describe().split("second", 1)
        for thing in scene.graph["pictures"][0]:
            assert all(word in first for word in (thing["colour"], thing["shape"], thing["size"], place(thing)))
        for thing in scene.graph["pictures"][1]:
            assert thing in scene.graph["pictures"][0] or thing["shape"] in second


def test_pairs_are_plain_and_repeat() -> None:
    world_checks.check_plain(SCENES, 2)
    world_checks.check_balance(SCENES)
    world_checks.check_repeats("pair")
    parts = SCENES["train"][0].parts()
    assert all(isinstance(part, ImagePart) for part in parts)
    drawn = [part.source.picture().tobytes() for part in parts]
    assert drawn == [picture.tobytes() for picture in SCENES["train"][0].draw()]


def test_the_test_has_compositions_and_wordings_of_its_own() -> None:
    told = {"caption", "listed"} | DIALOGUE
    world_checks.check_splits(SCENES, "pair", sorted(told))
    for split, scenes in SCENES.items():
        shown = [{(t["colour"], t["shape"]) for t in chain(*scene.graph["pictures"])} & KEPT for scene in scenes]
        asked = [question.text for scene in scenes for question in scene.questions()]
        spoken = sum(f"{colour} {shape}" in text for colour, shape in KEPT for text in asked)
        share = sum(map(bool, shown)) / len(shown)
        assert 0.4 < share < 0.65 and spoken if split == "test" else share == spoken == 0


def test_no_answer_is_much_more_frequent_than_the_others() -> None:
    answers: dict[str, Counter[str]] = {}
    for number in range(800):
        for question in make("pair", f"frequent {number}", "dev").questions():
            answers.setdefault(question.template.split("/")[1], Counter())[question.answer] += 1
    for name in ("change", "more", "fewer", "moved", "grown", "same", "both", "there", "same_colour", "same_size"):
        assert max(answers[name].values()) < 2.2 * answers[name].total() / len(answers[name]), (name, answers[name])
    assert set(answers["change"]) == {"colour", "shape", "number", "size", "place", "nothing"}
    assert set(answers["count"]) == set("123456")


def test_dialogues_end_with_what_only_the_talk_before_explains() -> None:
    seen = Counter()
    for split, scenes in SCENES.items():
        for number, scene in enumerate(scenes):
            talk = pair.dialogue(scene.graph, Random(number), split, "en")
            assert len(talk) >= 2 and {question.skill for question in talk} == {"turns"}
            assert all("multi-turn" in question.abilities for question in talk)
            used = {question.template for question in talk}
            assert split == "test" or not used & reserved_templates("pair")
            assert talk[-1].template.split("/")[1] in DIALOGUE
            seen[talk[-1].template.split("/")[1]] += 1
            for question in talk:
                if question.template.split("/")[1] in ("there", "count", "same", "change"):
                    assert question.answer == answer(scene, question)
    assert len(seen) >= 5
