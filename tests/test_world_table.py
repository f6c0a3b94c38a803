"""Tables and receipts: every answer can be looked up again, and everything drawn can be read."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl.world import table
from mplug_owl.world.canvas import Canvas
from mplug_owl.world.chance import SPLITS
from mplug_owl.world.scene import SIDE, Question, make
from mplug_owl.world.wording import reserved_templates, wordings
from mplug_owl.world.words import listed

SCENES = {split: [make("table", number, split) for number in range(200)] for split in SPLITS}
EVERY = [scene for scenes in SCENES.values() for scene in scenes]
PAGE = wordings("table")["en"]
ORDINALS = ["first", "second", "third", "fourth"]


def fingerprint() -> str:
    digest = hashlib.sha256()
    for number in range(12):
        scene = make("table", number, "test")
        digest.update(json.dumps(scene.graph).encode())
        digest.update(scene.draw()[0].tobytes())
        digest.update(repr([scene.describe(), scene.questions()]).encode())
    return digest.hexdigest()


def fields_of(question: Question) -> dict[str, str]:
    """What was filled into the wording, read back from the question."""
    _, name, number = question.template.split("/")
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(PAGE[name][int(number)]))
    found = re.fullmatch(pattern, question.text)
    assert found, question
    return found.groupdict()


def facts_of(graph: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """The graph as (who, what, value); of a receipt, who is nobody."""
    if graph["form"] == "receipt":
        return [("", item, price) for item, price in graph["lines"]]
    return [
        (name, item, graph["cells"][i][j])
        for i, name in enumerate(graph["names"])
        for j, item in enumerate(graph["items"])
    ]


def expected(facts: list[tuple[str, str, Any]], question: Question) -> str:
    """The answer by search through the facts."""
    name, given = question.template.split("/")[1], fields_of(question)
    who, item = given.get("who"), given.get("item")
    here = {value for person, thing, value in facts if (who or person) == person and thing == item}
    column = sorted((value, person) for person, thing, value in facts if thing == item)
    people = list(dict.fromkeys(person for person, _, _ in facts))
    things = list(dict.fromkeys(thing for _, thing, _ in facts))
    slips = sorted((value, thing) for _, thing, value in facts) if people == [""] else []
    if name in ("cell", "entry", "price"):
        return str(here.pop())
    if name in ("sum", "both"):
        others = {value for person, thing, value in facts if (who or person) == person and thing == given["other"]}
        return str(here.pop() + others.pop())
    if name in ("most", "fewest"):
        return column[-1 if name == "most" else 0][1]
    if name in ("cheapest", "dearest"):
        return slips[-1 if name == "dearest" else 0][1]
    if name in ("who", "holder"):
        wanted = given.get("number") or given["value"]
        return next(person for value, person in column if str(value) == wanted)
    if name == "costs":
        return next(thing for value, thing in slips if str(value) == given["number"])
    if name in ("people", "items"):
        return str(len(people if name == "people" else things))
    if name == "total":
        return str(sum(value for value, _ in slips))
    if name == "order":
        return people[-1 if given["nth"] == "last" else ORDINALS.index(given["nth"])]
    truths = {
        "more": lambda: dict(map(reversed, column))[who] > dict(map(reversed, column))[given["rival"]],
        "exactly": lambda: given["number"] in {str(value) for value in here},
        "listed": lambda: who in people,
        "bought": lambda: item in things,
        "dearer": lambda: dict(map(reversed, slips))[item] > dict(map(reversed, slips))[given["other"]],
    }
    return "yes" if truths[name]() else "no"


def test_answers_are_found_again_by_search() -> None:
    asked = set()
    for scene in EVERY:
        found = scene.questions()
        for question in found:
            assert question.answer == expected(facts_of(scene.graph), question), (scene.graph, question)
            asked.add(question.template.split("/")[1])
        assert len({question.text for question in found}) == len(found) >= 7
    assert asked == {name for name, options in PAGE.items() if isinstance(options, list) and "told" not in name}


def test_a_description_holds_every_cell() -> None:
    for scene in EVERY[::4]:
        told = scene.describe()
        assert len(told.split()) <= 60
        for who, what, value in facts_of(scene.graph):
            assert who in told and what in told and str(value) in told


def test_yes_is_as_frequent_as_no() -> None:
    answers = Counter(q.answer for scene in EVERY for q in scene.questions() if q.answer in ("yes", "no"))
    assert 0.45 < answers["yes"] / answers.total() < 0.55


def test_the_test_has_names_things_and_layouts_of_its_own() -> None:
    lists = ("names", "things", "goods", *listed("traits", "test"))
    kept = {word for name in lists for word in listed(name, "test")}
    kept -= {word for name in lists for word in listed(name, "train")}
    assert len(kept) >= 12
    seen = {split: set() for split in SPLITS}
    layouts: dict[str, list[bool]] = {split: [] for split in SPLITS}
    for split, scenes in SCENES.items():
        for scene in scenes:
            seen[split] |= {word for question in scene.questions() for word in re.findall(r"\w+", question.text)}
            seen[split] |= set(re.findall(r"\w+", scene.describe()))
            if scene.graph["form"] == "table":
                names, items = scene.graph["names"], scene.graph["items"]
                layouts[split].append(table.reserved_layout(len(names), len(items), scene.graph["turned"]))
    assert not kept & (seen["train"] | seen["dev"]) and kept & seen["test"]
    assert not any(layouts["train"] + layouts["dev"]) and sum(layouts["test"]) > 10
    keys = [{scene.key for scene in scenes} for scenes in SCENES.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_some_wordings_are_kept_for_the_test() -> None:
    used = {
        split: {question.template for scene in scenes for question in scene.questions()}
        for split, scenes in SCENES.items()
    }
    spare = reserved_templates("table")
    assert not spare & (used["train"] | used["dev"]) and spare <= used["test"]


def test_tables_have_three_rows_and_columns_or_more() -> None:
    for scene in SCENES["dev"] + SCENES["test"]:
        if scene.graph["form"] == "table":
            rows = table.grid(scene.graph)
            assert 3 <= len(rows) <= 5 and all(3 <= len(row) <= 4 for row in rows)
            assert rows[0][0] == ""
        else:
            assert 3 <= len(scene.graph["lines"]) <= 5


@pytest.mark.parametrize("side", [SIDE, 384])
def test_everything_drawn_can_be_read(side: int) -> None:
    for scene in EVERY[:: 2 if side == SIDE else 40]:
        assert json.loads(json.dumps(scene.graph)) == scene.graph
        (picture,) = scene.draw(side)
        assert picture.size == (side, side) and picture.mode == "RGB"
        canvas = Canvas(side, scene.graph["look"])
        if scene.graph["form"] == "table":
            rows = table.grid(scene.graph)
            em, widths, high = table.measure(canvas, rows)
            assert em >= table.SMALLEST and em <= high and sum(widths) <= 1 and high * len(rows) <= 1
            for column, width in zip(zip(*rows, strict=True), widths, strict=True):
                assert all(canvas.width_of(text, em, scene.graph["look"]["font"]) < width for text in column)


def test_another_number_is_another_picture() -> None:
    for scene in EVERY[::10]:
        cells = json.loads(json.dumps(scene.graph))
        row = cells["lines"][0] if cells["form"] == "receipt" else cells["cells"][0]
        spot = next(i for i, value in enumerate(row) if isinstance(value, int))
        row[spot] = row[spot] % 9 + 1 if row[spot] != row[spot] % 9 + 1 else 5
        (changed,), (picture,) = table.draw(cells, SIDE), scene.draw()
        assert isinstance(picture, Image.Image) and changed.tobytes() != picture.tobytes()


def test_easy_tables_are_two_by_two() -> None:
    for number in range(60):
        graph = make("table", number, "train", "easy").graph
        assert len(graph.get("lines", graph.get("names"))) == 2
        assert all(value < 10 for _, _, value in facts_of(graph))


def test_the_same_number_is_the_same_table_in_another_process() -> None:
    code = "import test_world_table; print(test_world_table.fingerprint())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == fingerprint()
