"""Flags: the answers follow from the table of countries, the colours from the pixels, and facts stay apart."""

import re
from collections import Counter
from math import cos, radians, sin

import numpy as np
import pytest

import world_checks
from mplug_owl.world.chance import reserved
from mplug_owl.world.countries import BY_NAME, COUNTRIES, FACTS
from mplug_owl.world.flag import alikes, draw, fact_reserved, in_words, kept_style
from mplug_owl.world.flag_art import cloth
from mplug_owl.world.scene import Question, Scene, make
from world_checks import fields

SCENES = world_checks.scenes_of("flag", 350)
EVERY = [scene for some in SCENES.values() for scene in some]


def answer(scene: Scene, question: Question) -> str:
    """The right answer by another road: from the words of the question and what a flag looks like in words."""
    names = scene.graph["flags"]
    name, said = fields(question)
    shown = names[1] if said.get("side") == "right" else names[0]
    country, looks = BY_NAME[shown], in_words(BY_NAME[shown].flag)
    stripes = looks.partition(" with ")[0].removeprefix("vertical stripes ").removeprefix("horizontal stripes ")
    if name.removesuffix("_side") in FACTS:
        return str(getattr(country, name.removesuffix("_side")))
    if name in ("is_it", "is_there", "which_side"):
        meant = said["country"].lower()
        return ("left", "right")[names.index(meant)] if name == "which_side" else ["no", "yes"][meant in names]
    if name in ("has_colour", "has_mark"):
        return "yes" if re.search(rf"\b{said.get('colour', said.get('mark'))}", looks) else "no"
    if name == "mark_colour":
        (colour,) = re.findall(rf"a (\w+) {said['mark']}\b", looks)
        return str(colour)
    return {
        "name": shown,
        "name_side": shown,
        "how_many_flags": str(len(names)),
        "columns": stripes,
        "rows": stripes,
        "stripes": str(len(stripes.split(", "))),
        "direction": looks.split()[0],
    }[name]


def test_answers_follow_from_the_table() -> None:
    for scene in EVERY:
        for question in scene.questions():
            assert question.answer == answer(scene, question), (scene.graph["flags"], question)


def test_a_description_names_countries_and_looks() -> None:
    for scene in EVERY:
        told = scene.describe()
        for name in scene.graph["flags"]:
            assert BY_NAME[name].title in told and in_words(BY_NAME[name].flag) in told


def test_countries_are_many_and_their_facts_plausible() -> None:
    assert len(COUNTRIES) == len(BY_NAME) >= 45
    assert {country.continent for country in COUNTRIES} == {
        *("africa", "asia", "europe", "north america", "south america", "oceania")
    }
    assert len({country.capital for country in COUNTRIES}) == len(COUNTRIES)
    for country in COUNTRIES:
        assert country.name == country.name.lower() and country.capital == country.capital.lower()
        assert 1 <= country.flag.ratio < 2.6 and len(country.flag.colours) >= 2


def test_no_two_flags_are_painted_alike() -> None:
    flat = {c.name: np.asarray(cloth(c.name, 24).convert("RGB").resize((36, 24)), np.int16) for c in COUNTRIES}
    names = list(flat)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert np.abs(flat[one] - flat[other]).mean() > 10, (one, other)


def test_look_alikes_come_first() -> None:
    assert "ireland" in alikes("ivory coast")[:3] and "indonesia" in alikes("poland")[:1]
    assert "iceland" in alikes("norway")[:2] and "france" not in alikes("france")


@pytest.mark.parametrize("name", ["france", "latvia", "botswana", "colombia", "ukraine", "nigeria"])
def test_stripes_are_in_the_pixels_where_they_belong(name: str) -> None:
    graph = next(
        graph
        for graph in (make("flag", number, "train").graph for number in range(5000))
        if graph["flags"] == [name] and graph["style"] in ("flat", "edged")
    )
    (picture,) = draw(graph | {"look": graph["look"] | {"noise": 0}}, 384)
    hung, flag, seen = graph["look"]["hung"][0], BY_NAME[name].flag, []
    total = sum(flag.base.weights)
    for i, weight in enumerate(flag.base.weights):
        middle = (sum(flag.base.weights[:i]) + weight / 2) / total - 0.5
        u, v = (middle, 0.2) if flag.base.kind == "columns" else (0.2, middle)
        x, y, turn = u * hung["width"], v * hung["width"] / flag.ratio, radians(hung["angle"])
        spot = (hung["x"] + x * cos(turn) - y * sin(turn), hung["y"] + x * sin(turn) + y * cos(turn))
        seen.append(picture.getpixel((round(spot[0] * 384), round(spot[1] * 384))))
    wanted = [[hung["light"] * part for part in colour] for colour in flag.base.colours]
    assert np.abs(np.array(seen) - np.array(wanted)).max() < 8


def test_flags_are_plain_and_repeat() -> None:
    world_checks.check_plain(SCENES, 1)
    world_checks.check_balance(SCENES)
    world_checks.check_repeats("flag")


def test_answers_are_balanced() -> None:
    answers: dict[str, Counter[str]] = {}
    for number in range(1500):
        for question in make("flag", number).questions():
            answers.setdefault(fields(question)[0], Counter())[question.answer] += 1
    for name in ("is_it", "is_there", "has_colour", "has_mark"):
        assert 0.44 < answers[name]["yes"] / answers[name].total() < 0.56, (name, answers[name])
    assert 0.44 < answers["which_side"]["left"] / answers["which_side"].total() < 0.56
    assert 0.4 < answers["direction"]["vertical"] / answers["direction"].total() < 0.6
    assert len(answers["name"]) == len(COUNTRIES)


def test_some_facts_are_asked_beside_flags_in_the_test_alone() -> None:
    kept = {(c.name, fact) for c in COUNTRIES for fact in FACTS if reserved("fact", c.name, fact, percent=50)}
    assert 0.35 < len(kept) / (3 * len(COUNTRIES)) < 0.65
    for split, some in SCENES.items():
        for scene in some:
            for question in scene.questions():
                name, said = fields(question)
                fact = name.removesuffix("_side")
                if fact in FACTS:
                    country = scene.graph["flags"][said.get("side") == "right"]
                    assert ((country, fact) in kept) == (split == "test") == fact_reserved(country, fact)
                    assert question.skill == "knowledge" and set(question.abilities) == {"knowledge", "vision"}


def test_the_test_has_styles_and_wordings_of_its_own() -> None:
    world_checks.check_splits(SCENES, "flag")
    kept = {
        split: [any(kept_style(name) == scene.graph["style"] for name in scene.graph["flags"]) for scene in some]
        for split, some in SCENES.items()
    }
    assert not any(kept["train"]) and not any(kept["dev"])
    assert 0.4 < sum(kept["test"]) / len(kept["test"]) < 0.6


def test_every_country_is_trained_and_tested() -> None:
    for split in ("train", "test"):
        shown = Counter(name for number in range(1200) for name in make("flag", number, split).graph["flags"])
        assert len(shown) == len(COUNTRIES) and max(shown.values()) < 120


def test_easy_flags_are_one_and_straight() -> None:
    for number in range(40):
        graph = make("flag", number, "train", "easy").graph
        assert len(graph["flags"]) == 1 and graph["style"] in ("flat", "edged") and graph["tilt"] == "level"
