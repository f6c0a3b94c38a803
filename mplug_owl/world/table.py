"""Small tables of people and their things, and receipts, to be looked up and reasoned about.

A table is a list of names, a list of items and a row of cells for each name; it may be drawn with the names across the
top. What can be asked of receipts is in `receipt`; nothing here reads other kinds of pictures.
"""

from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world import receipt
from mplug_owl.world.canvas import Canvas, look
from mplug_owl.world.chance import Split, reserved
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.scene import Level, Question
from mplug_owl.world.wording import say
from mplug_owl.world.words import listed, pick

ORDINALS = ("first", "second", "third", "fourth")
FONTS = ("DejaVuSans-Bold", "DejaVuSans", "DejaVuSansMono", "DejaVuSansMono-Bold")  # the first one is the widest
# Behind the first row: a colour and the ink on it.
HEADS = [
    *([[205, 222, 245], [15, 15, 30]], [[245, 225, 180], [40, 25, 0]], [[205, 235, 205], [5, 40, 5]]),
    *([[35, 70, 140], [255, 255, 255]], [[130, 30, 40], [255, 255, 255]], [[60, 60, 60], [255, 255, 255]]),
]
SMALLEST = 0.085  # of the side, the height of letters
_PAD = 0.45  # between columns, in heights of letters


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    if random.random() < 0.35:
        return receipt.make(random, split, level)
    simple = level == "easy" or (split == "train" and random.random() < 0.4)
    while True:
        people, things = (2, 2) if simple else (random.randint(2, 4), random.randint(2, 3))
        turned = people < 4 and random.random() < 0.3
        if split == "test" or not reserved_layout(people, things, turned):
            break
    names = pick(random, "names", people, split)
    items = pick(random, "things", things, split)
    highest = 9 if simple or random.random() < 0.3 else 99
    columns: list[list[Any]] = [random.sample(range(highest + 1), people) for _ in items]
    if level == "standard" and random.random() < 0.35:
        spot, item = random.randrange(things), random.choice(listed("traits", split))
        items[spot], columns[spot] = item, pick(random, item, people, split)
    cells = [list(row) for row in zip(*columns, strict=True)]
    return {
        "form": "table",
        "names": names,
        "items": items,
        "cells": cells,
        "turned": turned,
        "look": _look(random, 1 + (things if turned else people), 1 + (people if turned else things)),
    }


def reserved_layout(people: int, things: int, turned: bool) -> bool:
    """Whether tables of this form are only in the test; the smallest never are."""
    return (people, things) != (2, 2) and reserved("table", people, things, turned, percent=25)


def _look(random: Random, rows: int, columns: int) -> dict[str, Any]:
    return look(random) | {
        "font": random.choice(FONTS if columns < 4 else FONTS[1:]),
        "lines": random.choice(["all", "all", "rows", "head", "none"]),
        "stroke": random.choice([0.006, 0.01, 0.014]),
        "head": random.choice([None, *HEADS]),
        "panel": random.random() < 0.5,
        "stripes": random.random() < 0.3,
        "left": random.random() < 0.5,
        "wide": round(random.uniform(0.9 if columns < 4 else 0.97, 0.98), 3),
        "row": round(random.uniform(0.15, min(0.24, 0.94 / rows)), 3),
        "place": [round(random.random(), 3), round(random.random(), 3)],
    }


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    if graph["form"] == "receipt":
        return receipt.key(graph)
    cells = tuple(tuple(row) for row in graph["cells"])
    return "table", tuple(graph["names"]), tuple(graph["items"]), cells, graph["turned"]


def grid(graph: dict[str, Any]) -> list[list[str]]:
    """The table as it is drawn: rows of text, the corner empty."""
    rows = [
        ["", *graph["items"]],
        *([name, *map(str, row)] for name, row in zip(graph["names"], graph["cells"], strict=True)),
    ]
    return [list(column) for column in zip(*rows, strict=True)] if graph["turned"] else rows


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    canvas = Canvas(side, graph["look"])
    if graph["form"] == "receipt":
        receipt.draw(canvas, graph)
    else:
        _rule(canvas, grid(graph))
    return [canvas.done()]


def _rule(canvas: Canvas, rows: list[list[str]]) -> None:
    look = canvas.look
    em, widths, high = measure(canvas, rows)
    left = look["place"][0] * (1 - sum(widths))
    top = 0.01 + look["place"][1] * (0.98 - high * len(rows))
    right, bottom = left + sum(widths), top + high * len(rows)
    ink = (15, 15, 20) if look["panel"] else canvas.ink
    if look["panel"]:
        canvas.rectangle((left, top, right, bottom), (252, 252, 248))
    if look["stripes"]:
        shade = (226, 230, 236) if look["panel"] or not canvas.dark else (72, 72, 84)
        for i in range(2, len(rows), 2):
            canvas.rectangle((left, top + i * high, right, top + (i + 1) * high), shade)
    if look["head"]:
        canvas.rectangle((left, top, right, top + high), tuple(look["head"][0]))
    borders = {"all": range(len(rows) + 1), "rows": range(1, len(rows)), "head": [1], "none": []}[look["lines"]]
    for i in borders:
        canvas.line([(left, top + i * high), (right, top + i * high)], ink, look["stroke"])
    for i in range(len(widths) + 1) if look["lines"] == "all" else []:
        x = left + sum(widths[:i])
        canvas.line([(x, top), (x, bottom)], ink, look["stroke"])
    for i, row in enumerate(rows):
        fill = tuple(look["head"][1]) if look["head"] and i == 0 else ink
        for j, text in enumerate(row):
            x, y = left + sum(widths[:j]), top + (i + 0.5) * high
            if look["left"] and j == 0:
                canvas.text((x + 0.25 * em, y), text, em, name=look["font"], fill=fill, anchor="lm")
            else:
                canvas.text((x + widths[j] / 2, y), text, em, name=look["font"], fill=fill)


def measure(canvas: Canvas, rows: list[list[str]]) -> tuple[float, list[float], float]:
    """The height of letters, the widths of the columns and the height of a row."""
    look = canvas.look
    needs = [
        max(canvas.width_of(text, 0.25, look["font"]) for text in column) / 0.25 + _PAD
        for column in zip(*rows, strict=True)
    ]
    high = min(look["row"], 0.98 / len(rows))
    em = min(0.7 * high, look["wide"] / sum(needs))
    wide = min(look["wide"], sum(needs) * em * 1.5)
    spare = (wide - sum(needs) * em) / len(needs)
    return em, [need * em + spare for need in needs], high


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    if graph["form"] == "receipt":
        return receipt.describe(graph, random, tongue)
    rows = " ".join(
        f"{name}: {', '.join(_entry(item, cell) for item, cell in zip(graph['items'], row, strict=True))}."
        for name, row in zip(graph["names"], graph["cells"], strict=True)
    )
    return say("table", "told_table", random, "train", tongue, count=len(graph["names"]), rows=rows)[0]


def _entry(item: str, cell: int | str) -> str:
    return f"{cell} {item}" if isinstance(cell, int) else f"{item} {cell}"


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    asked = Inquiry("table", "tables", random, split, tongue)
    if graph["form"] == "receipt":
        receipt.ask(asked, graph, random)
        return asked.shuffled()
    names, items = graph["names"], graph["items"]
    table = {name: dict(zip(items, row, strict=True)) for name, row in zip(names, graph["cells"], strict=True)}
    for name, item in random.sample([(name, item) for name in names for item in items], 3):
        cell = table[name][item]
        asked.ask("cell" if isinstance(cell, int) else "entry", cell, "ocr", who=name, item=item)
    numbered = [item for item in items if isinstance(table[names[0]][item], int)]
    for item in items:
        if item not in numbered:
            name = random.choice(names)
            asked.ask("holder", name, "ocr", item=item, value=table[name][item])
    asked.ask("people", len(names), "ocr", "vision")
    spot = random.randrange(len(names))
    last = spot == len(names) - 1 and random.random() < 0.5
    asked.ask("order", names[spot], "ocr", "vision", nth="last" if last else ORDINALS[spot])
    present = random.random() < 0.5
    strangers = [name for name in listed("names", split) if name not in names]
    asked.ask("listed", present, "ocr", who=random.choice(names if present else strangers))
    _ask_numbers(asked, random, {name: {item: table[name][item] for item in numbered} for name in names})
    return asked.shuffled()


def _ask_numbers(asked: Inquiry, random: Random, table: dict[str, dict[str, int]]) -> None:
    """What needs the numbers of a table compared, added or found; a column has none twice."""
    names = list(table)
    items = list(table[names[0]])
    item, name = random.choice(items), random.choice(names)
    asked.ask("who", name, "ocr", item=item, number=table[name][item])
    for wording, extreme in (("most", max), ("fewest", min)):
        item = random.choice(items)
        owners = {table[name][item]: name for name in names}
        asked.ask(wording, owners[extreme(owners)], "ocr", "reasoning", item=item)
    (name, rival), item = random.sample(names, 2), random.choice(items)
    asked.ask("more", table[name][item] > table[rival][item], "ocr", "reasoning", who=name, rival=rival, item=item)
    truth = table[name][item]
    others = [number for row in table.values() for number in row.values() if number != truth]
    number = truth if random.random() < 0.5 else random.choice(others)
    asked.ask("exactly", number == truth, "ocr", who=name, item=item, number=number)
    if len(items) > 1:
        item, other = random.sample(items, 2)
        if (both := table[name][item] + table[name][other]) <= 20:
            asked.ask("sum", both, "ocr", "reasoning", who=name, item=item, other=other)
