"""Videos: what happens is what is said to happen, in the graph, in the questions and in the pixels of the frames."""

from collections import Counter
from typing import Any

import numpy as np

import world_checks
from mplug_owl.messages import VideoPart
from mplug_owl.world import video
from mplug_owl.world.scene import Question, Scene, make
from mplug_owl.world.shape_words import KEPT
from world_checks import fields

SCENES = world_checks.scenes_of("video", 400)
EVERY = [scene for scenes in SCENES.values() for scene in scenes]
PLACES = [f"{row} {column}".strip() or "middle" for row in ("top", "", "bottom") for column in ("left", "", "right")]
Seen = dict[int, tuple[str, str, int]]  # number of a thing -> shape, colour and cell


def moment(graph: dict[str, Any], frame: int) -> Seen:
    """What is there in a frame between events, by playing them one after the other."""
    seen: Seen = {}
    for number, thing in enumerate(graph["things"]):
        if not any(e["thing"] == number and e["kind"] == "appears" for e in graph["events"]):
            seen[number] = (thing["shape"], thing["colour"], thing["cell"])
    for event in graph["events"]:
        if event["to"] <= frame:
            number, thing = event["thing"], graph["things"][event["thing"]]
            colour, cell = event.get("colour", thing["colour"]), event.get("cell", thing["cell"])
            seen[number] = (thing["shape"], colour, cell)
            if event["kind"] == "disappears":
                del seen[number]
    return seen


def way(start: int, end: int) -> str:
    if start // 3 == end // 3:
        return "left" if end < start else "right"
    return "up" if end < start else "down"


def answer(scene: Scene, question: Question) -> str:
    """The right answer by another road: from the words of the question and what is there at both ends."""
    graph = scene.graph
    name, said = fields(question)
    start, end = moment(graph, 0), moment(graph, 3)
    moved = {n: way(start[n][2], end[n][2]) for n in start if n in end and start[n][2] != end[n][2]}
    new, gone = set(end) - set(start), set(start) - set(end)
    turned = {n for n in start if n in end and start[n][1] != end[n][1]}
    called = {n: f"{(start.get(n) or end[n])[1]} {(start.get(n) or end[n])[0]}" for n in {*start, *end}}
    what = next((n for n in called if called[n].endswith(" " + said.get("what", "?"))), -1)
    when = start if said.get("when") in ("at the start", "in the first frame") else end
    if name in ("mover", "appearing", "disappearing", "turning"):
        (one,) = {"mover": moved, "appearing": new, "disappearing": gone, "turning": turned}[name]
        return called[one]
    if name in ("movers", "events", "count"):
        return str(len({"movers": moved, "events": {*moved, *new, *gone, *turned}, "count": when}[name]))
    if name in ("becomes", "was", "way", "place"):
        found = {"becomes": end, "was": start, "way": moved, "place": when}[name][what]
        return found if isinstance(found, str) else PLACES[found[2]] if name == "place" else found[1]
    if name == "there":
        words = said["what"].split()[1:]
        return ["no", "yes"][any(set(words) <= {shape, colour} for shape, colour, _ in when.values())]
    if name in ("does_move", "is_way"):
        return ["no", "yes"][what in moved and said.get("way", moved[what]) == moved[what]]
    verbs = {n: f"moves {moved[n]}" for n in moved} | {n: "appears" for n in new} | {n: "disappears" for n in gone}
    verbs |= {n: f"turns {end[n][1]}" for n in turned}
    order = sorted(verbs, key=lambda n: next(frame for frame in range(4) if differs(graph, n, frame)))
    if name in ("first_thing", "last_thing"):
        return called[order[0 if name == "first_thing" else -1]]
    if name.startswith("happens"):
        one = order[-1 if name == "happens_last" else 0]
        return f"the {called[one].split()[1]} {verbs[one]}"
    one, other = (next(n for n in called if called[n].endswith(said[part])) for part in ("one", "other"))
    assert name == "before" and verbs[other] == said["follows"], question
    return ["no", "yes"][order.index(one) < order.index(other)]


def differs(graph: dict[str, Any], number: int, frame: int) -> bool:
    return moment(graph, frame).get(number) != moment(graph, 0).get(number)


def test_answers_follow_from_what_happens() -> None:
    for scene in EVERY:
        found = scene.questions()
        assert 6 <= len(found) <= 22
        for question in found:
            assert question.answer == answer(scene, question), (scene.graph, question)


def test_frames_differ_where_something_happens() -> None:
    for number in range(80):
        graph = make("video", f"frames {number}", "dev").graph
        look = graph["look"] | {"noise": 0}
        frames = [np.asarray(frame) for frame in video.draw(graph | {"look": look}, 96)]
        for gap in range(video.FRAMES - 1):
            happens = any(event["from"] <= gap < event["to"] for event in graph["events"])
            assert happens != (frames[gap] == frames[gap + 1]).all()


def test_a_thing_goes_where_it_is_said_to_go() -> None:
    for number in range(150):
        graph = make("video", f"goes {number}", "dev").graph
        if len(graph["things"]) > 1 or graph["events"][0]["kind"] != "moves":
            continue
        look = graph["look"] | {"noise": 0, "gradient": 0}
        ends = []
        for index in (0, video.FRAMES - 1):
            frame = np.asarray(video.draw_frame(graph | {"look": look}, index, 96), np.int16)
            drawn = np.abs(frame - np.array(look["background"])).sum(axis=2) > 40
            ends.append(np.argwhere(drawn).mean(axis=0))
        down, right = ends[1] - ends[0]
        far = max(abs(down), abs(right))
        assert far > 20 and min(abs(down), abs(right)) < 2
        seen = ("right" if right > 0 else "left") if abs(right) == far else "down" if down > 0 else "up"
        assert seen == graph["events"][0]["way"]


def test_a_description_tells_the_story_in_order() -> None:
    for scene in EVERY:
        story = scene.describe().split(". ")[-1].replace("goes away", "disappears").replace("becomes", "turns")
        story = story.replace(" comes ", " appears ")
        spots = [
            story.index(f"{scene.graph['things'][e['thing']]['shape']} {e['kind']}") for e in scene.graph["events"]
        ]
        assert spots == sorted(spots)
        for shape, colour, cell in moment(scene.graph, 0).values():
            assert f"{colour} {shape} {PLACES[cell]}" in scene.describe()


def test_videos_are_plain_and_repeat() -> None:
    world_checks.check_plain(SCENES, video.FRAMES)
    world_checks.check_balance(SCENES)
    world_checks.check_repeats("video")
    scene = SCENES["train"][0]
    (part,) = scene.parts()
    assert isinstance(part, VideoPart) and part.num_frames == video.FRAMES
    assert [frame.picture().tobytes() for frame in part.source] == [frame.tobytes() for frame in scene.draw()]


def test_the_test_has_compositions_and_wordings_of_its_own() -> None:
    world_checks.check_splits(SCENES, "video")
    for split, scenes in SCENES.items():
        shown = [{(t["colour"], t["shape"]) for t in scene.graph["things"]} & KEPT for scene in scenes]
        share = sum(map(bool, shown)) / len(shown)
        assert 0.4 < share < 0.6 if split == "test" else share == 0


def test_the_test_spans_the_whole_difficulty() -> None:
    graphs = [make("video", f"span {number}", "dev").graph for number in range(600)]
    things, events = (Counter(len(graph[part]) for graph in graphs) for part in ("things", "events"))
    ways = Counter(event["way"] for graph in graphs for event in graph["events"] if event["kind"] == "moves")
    kinds = Counter(event["kind"] for graph in graphs for event in graph["events"])
    assert min(things.values()) > 150 and set(things) == {1, 2, 3}
    assert min(events[number] for number in (1, 2, 3)) > 20
    assert set(ways) == {"left", "right", "up", "down"} and max(ways.values()) < 1.4 * min(ways.values())
    assert len(kinds) == 4 and min(kinds.values()) > 50
