"""Receipts: a few things with their prices, and the total, as one form of the kind `table`.

Prices are whole numbers, all different. It knows nothing of tables of people.
"""

from random import Random
from typing import Any

from mplug_owl.world.canvas import Canvas, look
from mplug_owl.world.chance import Split
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.scene import Level
from mplug_owl.world.wording import say
from mplug_owl.world.words import listed, pick

SHOPS = ("SHOP", "STORE", "MARKET", "BILL", "RECEIPT")
FONTS = ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSans", "DejaVuSans-Bold")
HIGHEST = 30  # price


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    simple = level == "easy" or (split == "train" and random.random() < 0.4)
    count = 2 if level == "easy" else 3 if simple else random.randint(3, 5)
    goods = pick(random, "goods", count, split)
    prices = random.sample(range(1, (9 if simple else HIGHEST) + 1), count)
    return {
        "form": "receipt",
        "lines": [[item, price] for item, price in zip(goods, prices, strict=True)],
        "look": look(random)
        | {
            "font": random.choice(FONTS),
            "shop": random.choice([None, *SHOPS]),
            "coin": random.random() < 0.4,
            "capitals": random.random() < 0.25,
            "paper": [random.randint(238, 255) for _ in range(3)],
            "dots": random.random() < 0.3,
            "teeth": random.random() < 0.5,
            "wide": round(random.uniform(0.82, 0.96), 3),
            "place": [round(random.random(), 3), round(random.random(), 3)],
            "size": round(random.uniform(0.85, 1.0), 3),
        },
    }


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    return "receipt", tuple(tuple(line) for line in graph["lines"])


def total(graph: dict[str, Any]) -> int:
    return sum(price for _, price in graph["lines"])


def draw(canvas: Canvas, graph: dict[str, Any]) -> None:
    look = canvas.look
    rows = [(item.upper() if look["capitals"] else item, price) for item, price in graph["lines"]]
    rows.append(("TOTAL" if look["capitals"] else "total", total(graph)))
    count = len(rows) + (look["shop"] is not None)
    high = look["size"] * min(0.18, 0.9 / count)
    wide, tall = look["wide"], high * count + 0.06
    left, top = look["place"][0] * (1 - wide), look["place"][1] * (1 - tall)
    _paper(canvas, left, top, wide, tall)
    ink = (25, 25, 30)
    y = top + 0.03 + high / 2
    if look["shop"]:
        canvas.text((left + wide / 2, y), look["shop"], 0.75 * high, name=look["font"], fill=ink)
        y += high
    prices = [f"${price}" if look["coin"] else str(price) for _, price in rows]
    longest = max(
        canvas.width_of(f"{item} {price}", 0.25, look["font"]) for (item, _), price in zip(rows, prices, strict=True)
    )
    em = min(0.8 * high, (wide - 0.06) / (longest / 0.25))
    for (item, _), price in zip(rows, prices, strict=True):
        if item == rows[-1][0]:
            canvas.line([(left + 0.03, y - high / 2), (left + wide - 0.03, y - high / 2)], ink, 0.01)
        canvas.text((left + 0.04, y), item, em, name=look["font"], fill=ink, anchor="lm")
        canvas.text((left + wide - 0.04, y), price, em, name=look["font"], fill=ink, anchor="rm")
        if look["dots"]:
            start = left + 0.06 + canvas.width_of(item, em, look["font"])
            end = left + wide - 0.06 - canvas.width_of(price, em, look["font"])
            for i in range(int((end - start) / 0.04)):
                canvas.rectangle(
                    (start + i * 0.04, y + 0.2 * em, start + i * 0.04 + 0.012, y + 0.2 * em + 0.012), (150, 150, 150)
                )
        y += high


def _paper(canvas: Canvas, left: float, top: float, wide: float, tall: float) -> None:
    """A light slip, torn along its lower edge if it has teeth, with a shadow that shows it on light ground too."""
    teeth = 12
    depth = 0.02 if canvas.look["teeth"] else 0.0
    edge = [(left + wide * i / teeth, top + tall - depth * (i % 2)) for i in range(teeth, -1, -1)]
    outline = [(left, top), (left + wide, top), *edge]
    canvas.polygon([(x + 0.012, y + 0.012) for x, y in outline], (120, 120, 125))
    canvas.polygon(outline, tuple(canvas.look["paper"]))


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    rows = ", ".join(f"{item} {price}" for item, price in graph["lines"])
    fields = {"count": len(graph["lines"]), "rows": rows, "total": total(graph)}
    return say("table", "told_receipt", random, "train", tongue, **fields)[0]


def ask(asked: Inquiry, graph: dict[str, Any], random: Random) -> None:
    prices = dict(graph["lines"])
    goods = list(prices)
    for item in random.sample(goods, 2):
        asked.ask("price", prices[item], "ocr", accept=(f"${prices[item]}",), item=item)
    asked.ask("total", total(graph), "ocr", accept=(f"${total(graph)}",))
    asked.ask("cheapest", min(goods, key=prices.__getitem__), "ocr", "reasoning")
    asked.ask("dearest", max(goods, key=prices.__getitem__), "ocr", "reasoning")
    item = random.choice(goods)
    asked.ask("costs", item, "ocr", number=prices[item])
    asked.ask("items", len(goods), "ocr", "vision")
    item, other = random.sample(goods, 2)
    if (both := prices[item] + prices[other]) <= 20:
        asked.ask("both", both, "ocr", "reasoning", accept=(f"${both}",), item=item, other=other)
    item, other = random.sample(goods, 2)
    asked.ask("dearer", prices[item] > prices[other], "ocr", "reasoning", item=item, other=other)
    bought = random.random() < 0.5
    missing = [item for item in listed("goods", asked.split) if item not in prices]
    asked.ask("bought", bought, "ocr", item=random.choice(goods if bought else missing))
