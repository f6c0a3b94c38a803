"""The scene of shapes against an independent reader: words of a question in, the answer from the graph out."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mplug_owl.world import shapes
from mplug_owl.world.chance import stream
from mplug_owl.world.scene import Question, Scene, make
from mplug_owl.world.shape_art import COLOURS, SHAPES
from mplug_owl.world.shape_words import KEPT, PLACES
from mplug_owl.world.wording import reserved_templates, wordings

Thing = dict[str, Any]
COLOUR, SHAPE, PLACE = "|".join(COLOURS), "|".join(SHAPES), "|".join(sorted(PLACES, key=len, reverse=True))
NAME = re.compile(rf"\b(?:(small|large) )?(?:({COLOUR}) )?({SHAPE}|thing)(?:e?s)?\b")
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six"]
RELATIONS = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    return {split: [make("shapes", i, split) for i in range(300)] for split in ("train", "dev", "test")}


@pytest.fixture(scope="module")
def asked(scenes: dict[str, list[Scene]]) -> dict[str, list[tuple[Scene, Question]]]:
    return {split: [(s, q) for s in found for q in s.questions()] for split, found in scenes.items()}


def talk(scene: Scene) -> list[Question]:
    return shapes.dialogue(scene.graph, stream("talk", *scene.seed), scene.split, "en")


def kind(question: Question) -> str:
    return question.template.split("/")[-2]


def english(text: str) -> str:
    """Esperanto word by word, without endings, so that one reader can read both."""
    words = wordings("shapes")["eo"]["words"]
    text = text.replace("Maldekstre", "maldekstre").replace("Super", "super")
    for value, word in sorted(words.items(), key=lambda pair: -len(pair[1])):
        text = re.sub(
            rf"\b{word}j?n?\b(?! de\b)" if f"{word} de" in words.values() else rf"\b{word}j?n?\b", value, text
        )
    return text


def names(text: str) -> list[tuple[str, ...]]:
    return [tuple(mark for mark in found if mark not in ("", "thing")) for found in NAME.findall(text)]


def fits(thing: Thing, name: tuple[str, ...]) -> bool:
    return all(mark in (thing["size"], thing["colour"], thing["shape"]) for mark in name)


def told(thing: Thing) -> str:
    return f"{thing['colour']} {thing['shape']}"


def far(a: Thing, b: Thing) -> float:
    return float(np.hypot(a["x"] - b["x"], a["y"] - b["y"]))


def answer(things: list[Thing], kind: str, text: str) -> str:
    """The answer of somebody who reads the question's words and looks at the things one by one."""

    def count(name: tuple[str, ...]) -> int:
        return sum(fits(thing, name) for thing in things)

    def the(index: int) -> Thing:
        [thing] = [thing for thing in things if fits(thing, found[index])]
        return thing

    def yes(truth: bool) -> str:
        return "yes" if truth else "no"

    found = names(text)
    place = re.search(rf"\b({PLACE})\b", text)
    there = [thing for thing in things if place and thing["place"] == place[0]]
    relation = re.search("left of|right of|above|below", text)
    if kind == "existence":
        return yes(count(found[0]) > 0)
    if kind == "count":
        return str(count(found[0]))
    if kind in ("count_colours", "count_shapes"):
        return str(len({thing[kind[6:-1]] for thing in things}))
    if kind == "more":
        return yes(count(found[0]) > count(found[1]))
    if kind in ("colour", "shape", "size"):
        assert not set(found[0]) & {the(0)[kind]}
        return str(the(0)[kind])
    if kind in ("colour_at", "shape_at"):
        return str(there[0][kind[:-3]])
    if kind == "check":
        [value] = re.findall(rf"\b(?:small|large|{COLOUR})\b", NAME.sub("", text))
        return yes(value in the(0).values())
    if kind.startswith("same"):
        return yes(the(0)[kind[5:]] == the(1)[kind[5:]])
    if kind == "relation":
        axis, sign = RELATIONS[relation[0]]
        assert abs(the(0)[axis] - the(1)[axis]) > 0.15
        return yes((the(0)[axis] - the(1)[axis]) * sign > 0)
    if kind == "left_or_right":
        a = min(the(0), the(1), key=lambda t: t["x"])
        first = text.startswith(("On", "To", "left"))  # these wordings name the other thing first
        return "left" if a is the(1 if first else 0) else "right"
    if kind == "above_or_below":
        a = min(the(0), the(1), key=lambda t: t["y"])
        first = text.startswith(("Above", "above"))
        return "above" if a is the(1 if first else 0) else "below"
    if kind == "beside":
        axis, sign = RELATIONS[relation[0]]
        [only] = [t for t in things if (t[axis] - the(-1)[axis]) * sign > 0.04]
        return told(only)
    if kind == "nearest":
        return told(min((t for t in things if t is not the(-1)), key=lambda t: far(t, the(-1))))
    if kind in ("leftmost", "rightmost", "topmost", "lowest"):
        axis = "x" if kind in ("leftmost", "rightmost") else "y"
        return told(sorted(things, key=lambda t: t[axis])[0 if kind in ("leftmost", "topmost") else -1])
    if kind in ("largest", "smallest"):
        [only] = [t for t in things if t["size"] == ("large" if kind == "largest" else "small")]
        return told(only)
    if kind == "where":
        return str(the(0)["place"])
    assert kind == "at", kind
    return told(there[0]) if there else "nothing"


def test_every_answer_is_what_an_independent_reader_finds(asked: dict[str, list[tuple[Scene, Question]]]) -> None:
    kinds = Counter()
    for scene, question in [pair for pairs in asked.values() for pair in pairs]:
        if question.skill != "form":
            assert answer(scene.graph["things"], kind(question), question.text) == question.answer, question
            assert question.answer not in question.accept
            kinds[kind(question)] += 1
    assert len(kinds) == 26 and min(kinds.values()) > 30, kinds


def test_esperanto_asks_and_answers_the_same(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["train"] + scenes["test"]:
        for question in scene.questions("eo"):
            assert question.skill != "form" and question.template.startswith("shapes/eo/")
            text = english(question.text)
            assert answer(scene.graph["things"], kind(question), text) == english(question.answer), (question, text)


def test_forms_are_as_demanded(asked: dict[str, list[tuple[Scene, Question]]]) -> None:
    kinds = Counter()
    for scene, question in [pair for pairs in asked.values() for pair in pairs if pair[1].skill == "form"]:
        check_form(scene.graph["things"], kind(question), question.text, question.answer)
        assert question.abilities == ("instruction", "vision")
        kinds[kind(question)] += 1
    assert len(kinds) == 9 and min(kinds.values()) > 30, kinds


def check_form(things: list[Thing], kind: str, text: str, given: str) -> None:
    count = sum(fits(thing, names(text)[0]) for thing in things) if names(text) else 0
    if kind in ("one_word", "upper_case"):
        [thing] = [thing for thing in things if fits(thing, names(text)[0])]
        assert given == (given.upper() if kind == "upper_case" else given.lower()) and " " not in given
        assert given.lower() in thing.values() and given.lower() not in names(text)[0]
    elif kind == "sentence" and given.startswith("There"):
        assert names(given) == names(text)[:1] and given.endswith(".") and re.findall(r"\d", given) == [str(count)]
        assert given.startswith("There is") == (count == 1)
    elif kind == "sentence":
        [thing] = [thing for thing in things if fits(thing, names(text)[0])]
        subject, value = re.fullmatch(r"The (.*) is (?:a )?(\w+)\.", given).groups()
        assert names(subject) == names(text)[:1] and fits(thing, (value,)) and value not in names(text)[0]
    elif kind in ("number_only", "number_word"):
        assert given == (str(count) if kind == "number_only" else NUMBERS[count])
    elif kind == "json":
        [thing] = [thing for thing in things if thing["place"] == re.search(PLACE, text)[0]]
        assert json.loads(given) == {"colour": thing["colour"], "shape": thing["shape"]}
    elif kind == "colours_by_letter":
        assert given == ", ".join(sorted({thing["colour"] for thing in things}))
    else:
        axis = "x" if "left to right" in text else "y"
        assert given == ", ".join(thing[kind[:-10]] for thing in sorted(things, key=lambda thing: thing[axis]))


def test_a_caption_tells_all_things(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["dev"]:
        truth = Counter((t["size"], t["colour"], t["shape"], t["place"]) for t in scene.graph["things"])
        for tongue in ("en", "eo"):
            text = scene.describe(tongue)
            assert len(text.split()) <= 60
            text = text if tongue == "en" else english(text)
            before = re.findall(rf"(small|large) ({COLOUR}) ({SHAPE}) ({PLACE})", text)
            after = [(s, c, h, p) for p, s, c, h in re.findall(rf"({PLACE}): (small|large) ({COLOUR}) ({SHAPE})", text)]
            assert truth in (Counter(before), Counter(after)), text


def test_dialogues_hold_together(scenes: dict[str, list[Scene]]) -> None:
    kinds = Counter()
    for scene in [scene for found in scenes.values() for scene in found]:
        turns = talk(scene)
        assert 2 <= len(turns) <= 4 and all(turn.skill == "turns" for turn in turns)
        for at in range(len(turns)):
            check_turn(scene.graph["things"], turns[: at + 1])
            kinds[kind(turns[at])] += 1
        assert kind(turns[-1]) not in ("existence", "count", "colour", "shape", "size", "beside")
    assert {kind for kind in wordings("shapes")["en"] if kind.startswith(("it_", "and_", "they_", "the_"))} <= set(
        kinds
    )
    assert shapes.dialogue(scenes["train"][0].graph, stream("x"), "train", "eo") == []


def check_turn(things: list[Thing], turns: list[Question]) -> None:
    """The last of some turns against what the ones before were about."""
    *before, turn = turns
    mentioned = [name for t in turns for name in names(t.text)]
    about = [[thing for thing in things if fits(thing, name)] for name in mentioned]
    if kind(turn) in ("existence", "count", "colour", "shape", "size", "beside"):
        assert not before and answer(things, kind(turn), turn.text) == turn.answer
    elif kind(turn).startswith("it_"):
        it = [t for t in things if told(t) == before[0].answer] if kind(before[0]) == "beside" else about[-1]
        mark = {"it_where": "place"}.get(kind(turn), kind(turn)[3:])
        assert turn.answer in [thing[mark] for thing in it] and (len(it) == 1 or kind(before[0]) == "beside")
    elif kind(turn) == "and_a":
        assert turn.answer == ("yes" if about[-1] else "no")
    elif kind(turn) in ("and_the", "no_the"):
        assert turn.answer == about[-1][0][kind(before[-1])] and len(about[-1]) == 1
    elif kind(turn) == "of_them":
        [value] = re.findall(rf"\b(small|large|{COLOUR})\b", turn.text)
        assert turn.answer == str(sum(value in thing.values() for thing in about[0]))
    elif kind(turn) in ("the_one", "the_other", "no_the_one"):
        pair = sorted(about[0], key=lambda thing: thing["x"])
        left = ("left" in (turn if kind(turn) != "the_other" else before[-1]).text) == (kind(turn) != "the_other")
        assert len(pair) == 2 and turn.answer == pair[not left]["colour"]
    elif kind(turn).startswith("please_"):
        form = {"upper": "upper_case", "word": "number_word"}.get(kind(turn)[7:], kind(turn)[7:])
        check_form(things, form, before[0].text, turn.answer)
    elif kind(turn) in ("they_left", "they_top"):
        axis = "x" if kind(turn) == "they_left" else "y"
        first = min(range(2), key=lambda i: about[i][0][axis])
        assert names(turn.answer) == [mentioned[first]]
    elif kind(turn).startswith("they_"):
        (a,), (b,) = about
        assert turn.answer == ("yes" if a[kind(turn)[5:]] == b[kind(turn)[5:]] else "no")
    elif kind(turn) == "about_first":
        assert names(turn.answer) == mentioned[:1]
    else:
        assert kind(turn) == "your_first" and turn.answer == before[0].answer


def test_the_same_number_is_the_same_scene_in_another_process() -> None:
    program = (
        "import hashlib, json\nfrom mplug_owl.world.scene import make\n"
        "scenes = [make('shapes', i, 'test') for i in range(20)]\n"
        "text = json.dumps([(s.graph, s.describe(), [repr(q) for q in s.questions()]) for s in scenes])\n"
        "pixels = b''.join(s.draw()[0].tobytes() for s in scenes)\n"
        "print(hashlib.sha256(text.encode() + pixels).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    scenes = [make("shapes", i, "test") for i in range(20)]
    text = json.dumps([(s.graph, s.describe(), [repr(q) for q in s.questions()]) for s in scenes])
    assert told == hashlib.sha256(text.encode() + b"".join(s.draw()[0].tobytes() for s in scenes)).hexdigest()


def test_graphs_are_plain_json_and_keys_have_no_look(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["train"]:
        assert json.loads(json.dumps(scene.graph)) == scene.graph
        bare = {"things": [dict(thing) for thing in reversed(scene.graph["things"])]}
        assert shapes.key(bare) == shapes.key(scene.graph) and hash(scene.key)


def test_the_colour_in_the_middle_of_a_thing_is_its_colour(scenes: dict[str, list[Scene]]) -> None:
    for side, found in ((96, scenes["test"]), (384, scenes["test"][:20])):
        for scene in found:
            pixels = np.asarray(scene.draw(side)[0], int)
            assert pixels.shape == (side, side, 3)
            for thing in scene.graph["things"]:
                if thing["shape"] not in ("ring", "moon"):
                    pixel = pixels[int(thing["y"] * side), int(thing["x"] * side)]
                    nearest = min(COLOURS, key=lambda colour: sum((pixel - COLOURS[colour]) ** 2))
                    assert nearest == thing["colour"], scene.graph


def test_things_are_where_and_as_large_as_told(scenes: dict[str, list[Scene]]) -> None:
    numbers = Counter()
    for scene in [scene for found in scenes.values() for scene in found]:
        things, drawn = scene.graph["things"], scene.graph["look"]["things"]
        numbers[scene.split, len(things)] += 1
        for thing, how in zip(things, drawn, strict=True):
            assert PLACES[3 * int(thing["y"] * 3) + int(thing["x"] * 3)] == thing["place"]
            assert (how["diameter"] > 0.22) == (thing["size"] == "large")
    assert all(numbers[split, n] for split in scenes for n in range(1, 7))


def test_what_is_kept_for_the_test_is_in_no_other_split(scenes: dict[str, list[Scene]]) -> None:
    keys = {split: {scene.key for scene in found} for split, found in scenes.items()}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["dev"] and not keys["dev"] & keys["test"]
    kept = re.compile("|".join(rf"\b{colour} {shape}" for colour, shape in sorted(KEPT)))
    for scene in scenes["train"] + scenes["dev"]:
        texts = [scene.describe(), *(text for q in scene.questions() + talk(scene) for text in (q.text, q.answer))]
        assert not any(kept.search(text) for text in texts)
    tested = [any((t["colour"], t["shape"]) in KEPT for t in scene.graph["things"]) for scene in scenes["test"]]
    assert KEPT and 0.4 < np.mean(tested) < 0.6


def test_some_wordings_are_only_for_the_test(scenes: dict[str, list[Scene]]) -> None:
    spare = reserved_templates("shapes")

    def used(split: str) -> Iterator[bool]:
        for scene in scenes[split]:
            yield from (q.template in spare for q in [*scene.questions(), *talk(scene), *scene.questions("eo")])

    assert not any(used("train")) and not any(used("dev")) and 0.45 < np.mean(list(used("test"))) < 0.55


def test_answers_are_balanced() -> None:
    answers: dict[str, Counter[str]] = {}
    for number in range(1500):
        for question in make("shapes", number, "train").questions():
            answers.setdefault(kind(question), Counter())[question.answer] += 1
    for either in ("existence", "check", "relation", "more", "left_or_right", "above_or_below", "size"):
        (_, most), (_, least) = answers[either].most_common()
        assert 0.45 < most / (most + least) < 0.55, (either, answers[either])
    counts = answers["count"]
    assert all(counts[str(n)] > 0.03 * counts.total() for n in range(7)) and max(counts.values()) < 0.3 * counts.total()


def test_easy_scenes_are_one_or_two_things_far_apart() -> None:
    for number in range(100):
        things = make("shapes", number, "train", "easy").graph["things"]
        assert len(things) in (1, 2) and (len(things) == 1 or far(*things) > 0.2)
