"""What can be said and asked about a short video: what moves and where to, what comes, goes or turns, in which order.

It knows the things and their events, and nothing of drawing.
"""

from random import Random
from typing import Any

from mplug_owl.world.chance import Split
from mplug_owl.world.inquiry import Inquiry, article
from mplug_owl.world.scene import Question
from mplug_owl.world.shape_words import ALSO, PLACES
from mplug_owl.world.things import Thing, name, near, nouns, other_names
from mplug_owl.world.wording import say

WAYS = ("left", "right", "up", "down")
WHENS = {"start": ("at the start", "in the first frame"), "end": ("at the end", "in the last frame")}
# How often a number is asked for that is 1, so that the others are about as frequent.
_ONE_MOVES, _ONE_CHANGES = 0.6, 0.35
Event = dict[str, Any]


def at(graph: dict[str, Any], when: str) -> list[Thing]:
    """The things that are there in the first or the last frame, as they are then."""
    things = {number: dict(thing) for number, thing in enumerate(graph["things"])}
    for event in graph["events"]:
        if event["kind"] == ("appears" if when == "start" else "disappears"):
            del things[event["thing"]]
        elif when == "end":
            things[event["thing"]] |= {part: event[part] for part in ("colour", "cell") if part in event}
    return list(things.values())


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    start = at(graph, "start")
    random.shuffle(start)
    listed = [say("video", "listed", random, "train", tongue, thing=name(t), place=PLACES[t["cell"]])[0] for t in start]
    told = [_told(graph, event, random, tongue) for event in graph["events"]]
    story = f"first {', then '.join(told)}" if _ordered(graph) else " while ".join(told)
    return say("video", "caption", random, "train", tongue, start=", ".join(listed) or "nothing", story=story)[0]


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    inquiry = Inquiry("video", "video", random, split, tongue)
    _ask_motion(inquiry, graph)
    _ask_change(inquiry, graph)
    _ask_events(inquiry, graph)
    _ask_moments(inquiry, graph)
    return inquiry.shuffled()


def _ordered(graph: dict[str, Any]) -> bool:
    """Whether there are events of which one ends before the next begins."""
    return len({event["from"] for event in graph["events"]}) > 1


def _told(graph: dict[str, Any], event: Event, random: Random, tongue: str) -> str:
    thing = graph["things"][event["thing"]]
    place = PLACES[event.get("cell", thing["cell"])]
    fields = {"thing": name(thing), "place": place, "way": event.get("way"), "colour": event.get("colour")}
    return say("video", event["kind"], random, "train", tongue, **fields)[0]


def _ask_motion(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    random, things = inquiry.random, graph["things"]
    moves = [event for event in graph["events"] if event["kind"] == "moves"]
    if len(moves) != 1 or random.random() < _ONE_MOVES:
        inquiry.ask("movers", len(moves), "vision", "reasoning")
    moving = [event["thing"] for event in moves]
    resting = [number for number in range(len(things)) if number not in moving]
    if moving and resting:
        truth = random.random() < 0.5
        thing = things[random.choice(moving if truth else resting)]
        inquiry.ask("does_move", truth, "vision", what=thing["shape"])
    if len(moves) == 1:
        thing = things[moving[0]]
        inquiry.ask("mover", name(thing), "vision", accept=other_names(thing, things))
    for event in random.sample(moves, min(2, len(moves))):
        what = things[event["thing"]]["shape"]
        inquiry.ask("way", event["way"], "vision", "reasoning", accept=(f"to the {event['way']}",), what=what)
    if moves:
        event, truth = random.choice(moves), random.random() < 0.5
        way = event["way"] if truth else random.choice([way for way in WAYS if way != event["way"]])
        inquiry.ask("is_way", truth, "vision", "reasoning", what=things[event["thing"]]["shape"], way=way)


def _ask_change(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """What comes, goes or gets another colour."""
    for kind, asked in (("appears", "appearing"), ("disappears", "disappearing"), ("turns", "turning")):
        found = [event for event in graph["events"] if event["kind"] == kind]
        if len(found) != 1:
            continue
        thing = graph["things"][found[0]["thing"]]
        accept = other_names(thing, graph["things"])
        if kind == "turns":
            inquiry.ask("becomes", found[0]["colour"], "vision", "reasoning", what=thing["shape"])
            inquiry.ask("was", thing["colour"], "vision", "reasoning", what=thing["shape"])
            accept += (name(thing | {"colour": found[0]["colour"]}),)
        inquiry.ask(asked, name(thing), "vision", "reasoning", accept=accept)
    if len(graph["events"]) != 1 or inquiry.random.random() < _ONE_CHANGES:
        inquiry.ask("events", len(graph["events"]), "vision", "reasoning")


def _ask_events(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """What happens, and what of it first and last; events are in their order."""
    things, events = graph["things"], graph["events"]
    if len(events) == 1:
        _ask_event(inquiry, things, events[0], "happens")
    if not _ordered(graph):
        return
    for event, happens, whose in (
        (events[0], "happens_first", "first_thing"),
        (events[-1], "happens_last", "last_thing"),
    ):
        thing = things[event["thing"]]
        _ask_event(inquiry, things, event, happens)
        inquiry.ask(whose, name(thing), "vision", "reasoning", accept=other_names(thing, things))
    earlier, later = (events[number] for number in sorted(inquiry.random.sample(range(len(events)), 2)))
    truth = inquiry.random.random() < 0.5
    one, other = (earlier, later) if truth else (later, earlier)
    fields: dict[str, Any] = {"one": things[one["thing"]]["shape"], "other": things[other["thing"]]["shape"]}
    fields |= {"does": _does(one, third=False), "acts": _does(one, third=True), "follows": _does(other, third=True)}
    inquiry.ask("before", truth, "vision", "reasoning", **fields)


def _ask_event(inquiry: Inquiry, things: list[Thing], event: Event, asked: str) -> None:
    thing, does = things[event["thing"]], _does(event, third=True)
    accept = tuple(f"{who} {does}" for who in (thing["shape"], name(thing), f"the {name(thing)}"))
    inquiry.ask(asked, f"the {thing['shape']} {does}", "vision", "reasoning", accept=accept)


def _ask_moments(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """How it is at the start and at the end."""
    random, moments = inquiry.random, {when: at(graph, when) for when in WHENS}
    every = nouns(moments["start"]) | nouns(moments["end"])
    for when, things in moments.items():
        said = random.choice(WHENS[when])
        inquiry.ask("count", len(things), "vision", when=said)
        if things:
            thing = random.choice(things)
            place = PLACES[thing["cell"]]
            inquiry.ask("place", place, "vision", accept=ALSO.get(place, ()), what=thing["shape"], when=said)
        truth = random.random() < 0.5 and bool(things)
        found = nouns(things) if truth else (every - nouns(things)) or near(inquiry.split, every)
        inquiry.ask("there", truth, "vision", what=article(random.choice(sorted(found))), when=said)


def _does(event: Event, *, third: bool) -> str:
    """What happens, as a verb: "moves left", or "move left" after "does it"."""
    verb = event["kind"] if third else event["kind"].removesuffix("s")
    return " ".join([verb, *(event[part] for part in ("way", "colour") if part in event)])
