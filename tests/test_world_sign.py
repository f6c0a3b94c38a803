"""Signs: what they say can be read, asked and answered, and no word of the test is ever trained on."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import ImageChops

from mplug_owl.world import words
from mplug_owl.world.chance import SPLITS, stream
from mplug_owl.world.scene import SIDE, Question, Scene, make
from mplug_owl.world.sign import draw
from mplug_owl.world.wording import reserved_templates, wordings

SCENES = {split: [make("sign", number, split) for number in range(150)] for split in SPLITS}
EVERY = [scene for scenes in SCENES.values() for scene in scenes]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]


def fingerprint() -> str:
    digest = hashlib.sha256()
    for number in range(12):
        scene = make("sign", number, "test")
        digest.update(json.dumps(scene.graph).encode())
        digest.update(scene.draw()[0].tobytes())
        digest.update(repr([scene.describe(), scene.questions()]).encode())
    return digest.hexdigest()


def expected(lines: list[str], question: Question) -> str:
    """The answer by another road: from the words of the question."""
    name, text = question.template.split("/")[1], question.text
    line = lines[1] if "the bottom word" in text else lines[0]
    if name in ("read", "words"):
        return " ".join(lines) if name == "read" else str(len(lines))
    if name in ("top", "bottom"):
        return lines[("top", "bottom").index(name)]
    if name == "spell":
        return "-".join(line)
    if name == "letters":
        return str(sum(1 for _ in line))
    if name in ("start", "end"):
        return line[0 if name == "start" else -1]
    if name == "nth":
        return line[[ordinal in text for ordinal in ORDINALS].index(True)]
    if name == "says":
        named = re.search('"(.*)"', text)
        assert named
        return "yes" if named[1] in lines else "no"
    letter = re.search(r"\b([a-z])\b(?! letter)", text.replace("a letter", "letter"))
    assert name == "has" and letter, text
    return "yes" if letter[1] in line else "no"


def test_answers_follow_from_the_words_of_the_question() -> None:
    for scene in EVERY:
        found = scene.questions()
        for question in found:
            assert question.answer == expected(scene.graph["lines"], question), question
        assert len({question.text for question in found}) == len(found) >= 8


def test_a_description_holds_every_answer() -> None:
    for scene in EVERY[::5]:
        told = scene.describe()
        assert len(told.split()) <= 60
        for line in scene.graph["lines"]:
            assert line in told and "-".join(line) in told and str(len(line)) in told


def test_yes_is_as_frequent_as_no() -> None:
    for name in ("says", "has"):
        scenes = [make("sign", number, "train") for number in range(1000)]
        answers = Counter(q.answer for scene in scenes for q in scene.questions() if f"/{name}/" in q.template)
        assert 0.45 < answers["yes"] / answers.total() < 0.55
    numbers = (make("sign", number, "dev") for number in range(150, 400))
    lengths = Counter(len(scene.graph["lines"][0]) for scene in numbers if len(scene.graph["lines"]) == 1)
    assert set(lengths) == set(range(3, 9)) and min(lengths.values()) > 15


def test_no_word_is_in_two_splits() -> None:
    for split, scenes in SCENES.items():
        for scene in scenes:
            named = re.findall('"(.*?)"', " ".join(question.text for question in scene.questions()))
            assert {words.home(word) for word in [*named, *scene.graph["lines"]]} == {split}
    keys = [{scene.key for scene in scenes} for scenes in SCENES.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_some_wordings_are_kept_for_the_test() -> None:
    used = {
        split: {question.template for scene in scenes for question in scene.questions()}
        for split, scenes in SCENES.items()
    }
    spare = reserved_templates("sign")
    assert not spare & (used["train"] | used["dev"]) and spare <= used["test"]


def test_easy_signs_have_one_short_word() -> None:
    for number in range(100):
        (line,) = make("sign", number, "train", "easy").graph["lines"]
        assert 3 <= len(line) <= 4


def test_the_same_number_is_the_same_sign_in_another_process() -> None:
    code = "import test_world_sign; print(test_world_sign.fingerprint())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == fingerprint()


def letters_box(scene: Scene, side: int) -> tuple[int, int, int, int]:
    """Where the letters are: where the picture changes when they are painted over."""
    look = scene.graph["look"] | {"noise": 0, "gradient": 0, "rim": None}
    with_ink = draw(scene.graph | {"look": look}, side)[0]
    without = draw(scene.graph | {"look": look | {"ink": look["paint"]}}, side)[0]
    box = ImageChops.difference(with_ink, without).convert("L").point(lambda grey: 255 * (grey > 24)).getbbox()
    assert box
    return box


@pytest.mark.parametrize("side", [SIDE, 384])
def test_letters_are_large_and_inside_the_picture(side: int) -> None:
    for scene in EVERY[:: 2 if side == SIDE else 40]:
        assert json.loads(json.dumps(scene.graph)) == scene.graph
        (picture,) = scene.draw(side)
        assert picture.size == (side, side) and picture.mode == "RGB"
        left, top, right, bottom = letters_box(scene, side)
        assert min(left, top) > 0 and max(right, bottom) < side, scene
        if scene.graph["look"]["tilt"] == 0:
            assert (right - left) / max(map(len, scene.graph["lines"])) >= 0.075 * side, scene
            assert (bottom - top) / len(scene.graph["lines"]) >= 0.08 * side, scene


def test_made_up_words_can_be_said() -> None:
    random = stream("made up")
    for _ in range(300):
        made = words.made_up(random, 7)
        assert len(made) == 7 and not re.search("[aeiou]{3}|[^aeiou]{3}", made)


def test_real_words_are_real_words() -> None:
    for length in range(3, 9):
        listed = wordings("words")["en"][str(length)].split()
        assert len(set(listed)) == len(listed) >= 150
        assert all(len(word) == length and word.isascii() and word.islower() for word in listed)
        assert all(words.real_words(length, split) for split in SPLITS)


def test_a_near_miss_differs_in_one_letter() -> None:
    random = stream("near")
    for split in SPLITS:
        for _ in range(100):
            truth = words.word(random, random.randint(3, 8), split)
            other = words.near_miss(random, truth, split)
            assert sum(a != b for a, b in zip(truth, other, strict=True)) == 1 and words.home(other) == split
