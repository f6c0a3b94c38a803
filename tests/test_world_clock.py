"""Clocks: the answers follow from the time, and the time can be read off the pixels of the hands."""

from collections import Counter
from math import atan2, pi

import numpy as np
from PIL import Image

import world_checks
from mplug_owl.world.clock import NUMBERED, also, kept_face, written
from mplug_owl.world.scene import Question, Scene, make
from world_checks import fields

SCENES = world_checks.scenes_of("clock", 300)
EVERY = [scene for some in SCENES.values() for scene in some]
SPANS = {"one hour": (1, 0), "two hours": (2, 0), "half an hour": (0, 30), "ten minutes": (0, 10)}


def shifted(hour: int, minute: int, hours: int, minutes: int) -> str:
    """Another time, moved by hours and minutes, one by one as hands would."""
    minute += minutes
    while minute >= 60:
        minute, hours = minute - 60, hours + 1
    while minute < 0:
        minute, hours = minute + 60, hours - 1
    return f"{(hour - 1 + hours) % 12 + 1}:{minute:02d}"


def answer(scene: Scene, question: Question) -> str:
    """The right answer by another road: from the words of the question and the hands."""
    graph, (name, said) = scene.graph, fields(question)
    hour, minute = graph["hour"], graph["minute"]
    now = f"{hour}:{minute:02d}"
    if name in ("later", "earlier"):
        sign = 1 if name == "later" else -1
        return shifted(hour, minute, *(sign * part for part in SPANS[said["span"]]))
    if name in ("before", "after"):
        assert hour != 12  # noon and midnight would differ
        limit = int(said["time"].removesuffix(":00"))
        return "yes" if (hour < limit if name == "before" else (hour, minute) > (limit, 0)) else "no"
    return {
        "time": now,
        "hour": str(hour),
        "minutes": str(minute),
        "long_hand": str({0: 12}.get(minute, minute // 5)),
        "is_it": "yes" if said.get("time") == now else "no",
        "shape": graph["shape"],
        "numbers": "yes" if graph["marks"] in ("numbers", "quarters") else "no",
    }[name]


def test_answers_follow_from_the_time() -> None:
    for scene in EVERY:
        for question in scene.questions():
            assert question.answer == answer(scene, question), (scene.graph, question)
            assert question.answer not in question.accept


def test_a_description_holds_time_and_face() -> None:
    for scene in EVERY:
        graph, told = scene.graph, scene.describe()
        assert f"{graph['hour']}:{graph['minute']:02d}" in told and graph["shape"] in told
        assert ("with numbers" in told) == (graph["marks"] in NUMBERED)


def test_times_have_other_names() -> None:
    assert [written(minutes) for minutes in (0, 5, 205, 719, 720, -60)] == [
        *("12:00", "12:05", "3:25", "11:59", "12:00", "11:00")
    ]
    assert also(225) == ("3.45", "03:45", "15:45", "quarter to 4")
    assert also(30) == ("12.30", "00:30", "half past 12")
    assert also(600) == ("10.00", "22:00", "10 o'clock", "10")


def direction(picture: Image.Image, ink: tuple[int, int, int], x: float, y: float) -> float:
    """Where a hand points, as a share of the whole round from twelve on."""
    near = np.abs(np.asarray(picture, np.int16) - np.array(ink)).sum(axis=2) < 60
    rows, columns = np.nonzero(near)
    east, south = columns / 384 - x, rows / 384 - y
    tip = np.hypot(east, south) > 0.9 * np.hypot(east, south).max()
    return float(atan2(east[tip].mean(), -south[tip].mean()) / (2 * pi) % 1)


def test_the_time_is_in_the_pixels() -> None:
    violet, cyan = (255, 0, 255), (0, 255, 255)
    for scene in SCENES["train"][:60]:
        look = scene.graph["look"] | {"noise": 0, "dial": [250] * 3, "rim": [90] * 3, "ink": [20] * 3}
        graph = scene.graph | {"look": look | {"short_ink": violet, "long_ink": cyan, "background": [200] * 3}}
        (picture,) = scene.module.draw(graph, 384)
        long_hand = direction(picture, cyan, look["x"], look["y"])
        assert abs((long_hand * 60 - graph["minute"] + 30) % 60 - 30) < 1.2
        if abs((graph["hour"] * 5 + graph["minute"] / 12 - graph["minute"] + 30) % 60 - 30) > 8:  # not one on the other
            short_hand = direction(picture, violet, look["x"], look["y"])
            there = graph["hour"] + graph["minute"] / 60
            assert abs((short_hand * 12 - there + 6) % 12 - 6) < 0.25


def test_clocks_are_plain_and_repeat() -> None:
    world_checks.check_plain(SCENES, 1)
    world_checks.check_balance(SCENES)
    world_checks.check_repeats("clock")


def test_yes_and_no_are_as_frequent() -> None:
    answers: dict[str, Counter[str]] = {}
    for scene in EVERY:
        for question in scene.questions():
            answers.setdefault(fields(question)[0], Counter())[question.answer] += 1
    for name in ("before", "after", "is_it", "numbers"):
        assert 0.4 < answers[name]["yes"] / answers[name].total() < 0.6, (name, answers[name])


def test_the_test_has_faces_and_wordings_of_its_own() -> None:
    world_checks.check_splits(SCENES, "clock")
    graphs = {split: [scene.graph for scene in some] for split, some in SCENES.items()}
    kept = {
        split: sum(kept_face(graph["hour"]) == (graph["shape"], graph["marks"]) for graph in some) / len(some)
        for split, some in graphs.items()
    }
    assert kept["train"] == kept["dev"] == 0 and 0.4 < kept["test"] < 0.6


def test_every_time_is_trained_and_tested() -> None:
    train = Counter((g["hour"], g["minute"]) for g in (make("clock", n).graph for n in range(3000)))
    test = Counter((g["hour"], g["minute"]) for g in (make("clock", n, "test").graph for n in range(1500)))
    assert len(train) == 144 and len(test) > 130
    assert max(test.values()) < 50
    quarters = sum(count for (_, minute), count in train.items() if minute % 15 == 0)
    assert 0.4 < quarters / 3000 < 0.55


def test_easy_clocks_show_full_and_half_hours() -> None:
    assert {make("clock", number, "train", "easy").graph["minute"] for number in range(60)} == {0, 30}
