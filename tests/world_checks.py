"""What holds for every kind of scene, and a way back from a question to what was filled into its wording."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mplug_owl.world.chance import SPLITS
from mplug_owl.world.scene import Question, Scene, make
from mplug_owl.world.wording import reserved_templates, wordings

Scenes = dict[str, list[Scene]]


def scenes_of(kind: str, count: int) -> Scenes:
    return {split: [make(kind, number, split) for number in range(count)] for split in SPLITS}


def fields(question: Question) -> tuple[str, dict[str, str]]:
    """The name of a question's wording, and its fields read back from the text."""
    page, name, number = question.template.split("/")
    wording = re.escape(wordings(page)["en"][name][int(number)])
    wording = wording.replace(r"\{when\}", r"(?P<when>(?:at|in) the .+)")  # it may follow another field at once
    found = re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", wording), question.text)
    assert found, question
    return name, found.groupdict()


def check_plain(scenes: Scenes, pictures: int) -> None:
    """Graphs are plain JSON, keys repeat without floats, pictures come in any size, descriptions are short."""
    for scene in [*scenes["train"][:60], *scenes["test"][:60]]:
        assert json.loads(json.dumps(scene.graph)) == scene.graph
        assert "." not in repr(scene.key)
        assert len(scene.describe().split()) <= 60
    for side in (96, 384):
        drawn = scenes["test"][0].draw(side)
        assert [picture.size for picture in drawn] == [(side, side)] * pictures


def check_splits(scenes: Scenes, page: str, unasked: Sequence[str] = ()) -> None:
    """No truth is in two splits, and reserved wordings are asked in the test alone."""
    keys = [{scene.key for scene in some} for some in scenes.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    spare = {label for label in reserved_templates(page) if label.split("/")[1] not in unasked}
    for split, some in scenes.items():
        used = {question.template for scene in some for question in scene.questions()}
        assert spare <= used if split == "test" else not spare & used


def check_balance(scenes: Scenes) -> None:
    answers = Counter(question.answer for some in scenes.values() for scene in some for question in scene.questions())
    assert 0.45 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.55


def fingerprint(kind: str) -> str:
    """A hash of some scenes with their pixels and all that is said of them."""
    digest = hashlib.sha256()
    for number in range(10):
        scene = make(kind, number, "test")
        digest.update(json.dumps(scene.graph).encode())
        digest.update(repr([scene.describe(), scene.questions()]).encode())
        for picture in scene.draw():
            digest.update(picture.tobytes())
    return digest.hexdigest()


def check_repeats(kind: str) -> None:
    """Another process, with other hashes of strings, makes the same scenes."""
    code = f"import world_checks; print(world_checks.fingerprint({kind!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert ran.stdout.strip() == fingerprint(kind), ran.stderr
