"""Short videos: one to three things on an invisible grid of three by three, and what happens to them in four frames.

An event has a thing, a kind (moves, appears, disappears, turns), the frame before it and the frame at which it is done.
It knows what happens and how to draw it; what can be asked is in `video_questions`.
"""

from itertools import combinations
from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world import canvas
from mplug_owl.world.canvas import Canvas, Point
from mplug_owl.world.chance import Split
from mplug_owl.world.scene import Level, choose
from mplug_owl.world.shape_art import draw_shape
from mplug_owl.world.things import Thing, composition, compositions, jitter, usable
from mplug_owl.world.video_questions import describe, questions

__all__ = ["FRAMES", "describe", "draw", "draw_frame", "key", "make", "questions"]

FRAMES = 4
CELLS = 9
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
EVENTS = {"moves": 0.5, "appears": 0.16, "disappears": 0.16, "turns": 0.18}
_APART = 0.9  # cells between the middles of two things, at least
Event = dict[str, Any]


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    simple = level == "easy" or (split == "train" and random.random() < 0.4)
    slow = level == "easy" or random.random() < 0.5
    count = random.randint(1, 2 if simple else 3)
    acting = 1 if simple else random.randint(1, min(2, count) if slow else count)
    while True:
        things: list[Thing] = []
        for colour, shape in compositions(random, split, count):
            things.append({"shape": shape, "colour": colour, "cell": random.randrange(CELLS)})
        events = _at_once(random, things, acting) if slow else _in_order(random, things, acting, split)
        graph: dict[str, Any] = {"things": things, "events": events}
        if len({thing["shape"] for thing in things}) == len(things) and _clear(graph):
            break
    look = canvas.look(random) | {"spots": [jitter(random) for _ in things], "outline": random.random() < 0.3}
    graph["look"] = look | {"size": round(random.uniform(0.19, 0.27), 3), "grain": random.random() < 0.5}
    return graph


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    """Which things, where, and what happens to each of them."""
    told = []
    for number, thing in enumerate(graph["things"]):
        events = sorted(tuple(sorted(event.items())) for event in graph["events"] if event["thing"] == number)
        fates = tuple(tuple(pair for pair in event if pair[0] != "thing") for event in events)
        told.append((thing["shape"], thing["colour"], thing["cell"], fates))
    return tuple(sorted(told))


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    return [draw_frame(graph, index, side) for index in range(FRAMES)]


def draw_frame(graph: dict[str, Any], index: int, side: int) -> Image.Image:
    look = graph["look"]
    seed = (
        look["seed"] + 2 * index * look["grain"]
    )  # other noise, and the same slope of light, which is in the last bit
    page = Canvas(side, look | {"seed": seed})
    for number, thing in enumerate(graph["things"]):
        colour = _colour(graph, number, index)
        if colour:
            right, down, turn, factor = look["spots"][number]
            column, row = _spot(graph, number, index)
            x, y = column * 0.31 + 0.19 + right, row * 0.31 + 0.19 + down
            draw_shape(page, thing["shape"], colour, x, y, look["size"] * factor, turn, look["outline"])
    return page.done()


def _at_once(random: Random, things: list[Thing], count: int) -> list[Event]:
    """Some things move, slowly and all the time."""
    return [_move(random, actor, things[actor], 0, FRAMES - 1) for actor in random.sample(range(len(things)), count)]


def _in_order(random: Random, things: list[Thing], count: int, split: Split) -> list[Event]:
    """One event after the other, each to another thing and at a jump."""
    actors, gaps = random.sample(range(len(things)), count), sorted(random.sample(range(FRAMES - 1), count))
    events = []
    for actor, gap in zip(actors, gaps, strict=True):
        kind = choose(random, EVENTS)
        if kind == "moves":
            events.append(_move(random, actor, things[actor], gap, gap + 1))
            continue
        event = {"thing": actor, "kind": kind, "from": gap, "to": gap + 1}
        if kind == "turns":
            taken = {composition(thing)[0] for thing in things}
            options = [c for c, s in usable(split) if s == things[actor]["shape"] and c not in taken]
            event["colour"] = random.choice(options)
        events.append(event)
    return events


def _move(random: Random, actor: int, thing: Thing, start: int, end: int) -> Event:
    """One or two cells in one direction, from wherever it can: a direction is as likely as any other."""
    way, cells = random.choice(list(STEPS)), random.randint(1, 2)
    line, across = random.randrange(3), random.randrange(3 - cells)
    first = across if way in ("right", "down") else 2 - across
    thing["cell"] = 3 * line + first if way in ("left", "right") else 3 * first + line
    column, row = STEPS[way]
    done = thing["cell"] + cells * (column + 3 * row)
    return {"thing": actor, "kind": "moves", "way": way, "cell": done, "from": start, "to": end}


def _of(graph: dict[str, Any], number: int) -> Event | None:
    return next((event for event in graph["events"] if event["thing"] == number), None)


def _colour(graph: dict[str, Any], number: int, frame: int) -> str | None:
    """The colour of a thing in a frame; None where it is not there."""
    event, colour = _of(graph, number), graph["things"][number]["colour"]
    if event is None or event["kind"] == "moves":
        return colour
    if event["kind"] == "turns":
        return event["colour"] if frame >= event["to"] else colour
    there = (frame >= event["to"]) == (event["kind"] == "appears")
    return colour if there else None


def _spot(graph: dict[str, Any], number: int, frame: int) -> Point:
    """Where a thing is in a frame, in cells."""
    event, start = _of(graph, number), graph["things"][number]["cell"]
    if event is None or event["kind"] != "moves":
        return start % 3, start // 3
    share = min(1.0, max(0.0, (frame - event["from"]) / (event["to"] - event["from"])))
    end = event["cell"]
    return start % 3 + share * (end % 3 - start % 3), start // 3 + share * (end // 3 - start // 3)


def _clear(graph: dict[str, Any]) -> bool:
    """Whether no two things ever touch."""
    for one, other in combinations(range(len(graph["things"])), 2):
        for frame in range(FRAMES):
            (x, y), (u, v) = _spot(graph, one, frame), _spot(graph, other, frame)
            if (x - u) ** 2 + (y - v) ** 2 < _APART**2:
                return False
    return True
