"""Dice and dominoes: the answers follow from the numbers, and the numbers can be counted in the pixels."""

from collections import Counter
from itertools import pairwise

import numpy as np
from PIL import Image

import world_checks
from mplug_owl.world.chance import SPLITS
from mplug_owl.world.dice import COLOURED, kept_value
from mplug_owl.world.scene import Question, Scene, make
from mplug_owl.world.shape_art import COLOURS
from world_checks import fields

SCENES = world_checks.scenes_of("dice", 300)
EVERY = [scene for some in SCENES.values() for scene in some]
FACES = ["nought", "one", "two", "three", "four", "five", "six"]
NAMED = {"left": 0, "leftmost": 0, "upper": 0, "only": 0, "second": 1, "middle": 1, "third": 2}  # others are last


def yes(truth: bool) -> str:
    return "yes" if truth else "no"


def of_dice(scene: Scene, question: Question) -> str:
    """The right answer by another road: from the words of the question and the list of values."""
    values, colours = scene.graph["values"], scene.graph["colours"]
    name, said = fields(question)
    spot = NAMED.get(said.get("place", ""), -1)
    word = said.get("word", said.get("plural", ""))
    face = next((number for number, written in enumerate(FACES) if word in (written, f"{written}s", f"{written}es")), 0)
    if name in ("side", "coloured"):
        return str(values[spot if name == "side" else colours.index(said["colour"])])
    if name == "colour_of":
        return str(colours[spot])
    if name == "highest_colour":
        return str(sorted(zip(values, colours, strict=True))[-1][1])
    if name in ("count_value", "any_value"):
        found = sum(value == face for value in values)
        return str(found) if name == "count_value" else yes(found > 0)
    ordered = sorted(values)
    return {
        "list": ", ".join(str(value) for value in values),
        "total": str(sum(values)),
        "count": str(len(values)),
        "highest": str(ordered[-1]),
        "lowest": str(ordered[0]),
        "equal": yes(any(a == b for a, b in pairwise(ordered))),
        "more_side": "left" if values[0] > values[-1] else "right",
        "more_than": yes(sum(values) > int(said.get("number", 0))),
    }[name]


def of_dominoes(scene: Scene, question: Question) -> str:
    tiles, (name, said) = scene.graph["tiles"], fields(question)
    tile = tiles[NAMED.get(said.get("tile", ""), -1)]
    if name in ("half", "half_of"):
        return str(tile[NAMED.get(said["half"], -1)])
    return {
        "dominoes": str(len(tiles)),
        "all_total": str(sum(a + b for a, b in tiles)),
        "tile_total": str(tile[0] + tile[1]),
        "double": yes(tile[0] == tile[1]),
    }[name]


def test_answers_follow_from_the_numbers() -> None:
    for scene in EVERY:
        for question in scene.questions():
            answer = of_dice if scene.graph["form"] == "dice" else of_dominoes
            assert question.answer == answer(scene, question), (scene.graph, question)


def test_a_description_holds_every_number() -> None:
    for scene in EVERY:
        graph, told = scene.graph, scene.describe().replace(",", "").replace(".", "").split()
        numbers = [int(word) for word in told if word.isdigit()]
        shown = graph["values"] if graph["form"] == "dice" else [half for tile in graph["tiles"] for half in tile]
        assert numbers[-len(shown) :] == shown


def lit(picture: Image.Image, place: list[float], colour: str, upright: bool = True, halves: int = 1) -> list[int]:
    """How many of the spots of each half are not in the tile's own colour."""
    x, y, size, degrees = place
    turned = picture.rotate(degrees if upright else degrees - 90, Image.Resampling.BILINEAR, center=(x * 384, y * 384))
    pixels, own = np.asarray(turned, np.int16), np.array(COLOURS[colour])
    found = []
    for middle in (0.0,) if halves == 1 else (-0.5, 0.5):
        spots = [(i, middle + j) for i in (-0.25, 0, 0.25) for j in (-0.25, 0, 0.25)]
        seen = [pixels[round((y + j * size) * 384), round((x + i * size) * 384)] for i, j in spots]
        found.append(sum(bool(np.abs(pixel - own).sum() > 150) for pixel in seen))
    return found


def test_the_numbers_are_in_the_pixels() -> None:
    for scene in SCENES["train"][:60]:
        graph = scene.graph | {"look": scene.graph["look"] | {"noise": 0}}
        (picture,) = scene.module.draw(graph, 384)
        if graph["form"] == "dice":
            places = zip(graph["look"]["places"], graph["colours"], strict=True)
            assert [lit(picture, place, colour)[0] for place, colour in places] == graph["values"]
        else:
            places = graph["look"]["places"]
            assert [lit(picture, place, graph["colour"], graph["upright"], 2) for place in places] == graph["tiles"]


def test_dice_lie_apart_from_left_to_right() -> None:
    for scene in EVERY:
        places = scene.graph["look"]["places"]
        if scene.graph["form"] == "dice":
            assert all(b[0] - a[0] > 0.15 for a, b in pairwise(places))
        for i, (x, y, size, _) in enumerate(places):
            for other_x, other_y, _, _ in places[:i]:
                assert np.hypot(x - other_x, y - other_y) > size


def test_dice_are_plain_and_repeat() -> None:
    world_checks.check_plain(SCENES, 1)
    world_checks.check_balance(SCENES)
    world_checks.check_repeats("dice")


def test_yes_and_no_and_left_and_right_are_as_frequent() -> None:
    answers: dict[str, Counter[str]] = {}
    for scene in EVERY:
        for question in scene.questions():
            answers.setdefault(fields(question)[0], Counter())[question.answer] += 1
    for name in ("equal", "any_value", "more_than", "double"):
        assert 0.4 < answers[name]["yes"] / answers[name].total() < 0.6, (name, answers[name])
    assert 0.4 < answers["more_side"]["left"] / answers["more_side"].total() < 0.6
    assert set(answers["count_value"]) >= {"0", "1", "2", "3"}


def test_the_test_has_dice_and_wordings_of_its_own() -> None:
    world_checks.check_splits(SCENES, "dice")
    shares = {}
    for split in SPLITS:
        graphs = [scene.graph for scene in SCENES[split] if scene.graph["form"] == "dice"]
        pairs = [list(zip(graph["colours"], graph["values"], strict=True)) for graph in graphs]
        shares[split] = sum(any(kept_value(c) == v for c, v in some) for some in pairs) / len(pairs)
    assert shares["train"] == shares["dev"] == 0 and 0.4 < shares["test"] < 0.6


def test_the_test_spans_the_whole_difficulty() -> None:
    graphs = [make("dice", number, "test").graph for number in range(400)]
    counts = Counter(len(graph["values"]) for graph in graphs if graph["form"] == "dice")
    colours = Counter(colour for graph in graphs if graph["form"] == "dice" for colour in graph["colours"])
    assert set(counts) == {2, 3, 4} and min(counts.values()) > 70
    assert set(colours) == set(COLOURED)
    assert 0.7 < counts.total() / len(graphs) < 0.9


def test_easy_dice_are_one_or_two() -> None:
    graphs = [make("dice", number, "train", "easy").graph for number in range(100)]
    assert {len(graph.get("values", graph.get("tiles"))) for graph in graphs} == {1, 2}
