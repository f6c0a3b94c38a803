"""The world's rows: functions of their names alone, true to their sets, and free of what is kept for testing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mplug_owl.errors import ConfigError
from mplug_owl.messages import ImagePart, VideoPart, media
from mplug_owl.world import talk
from mplug_owl.world.chance import Split, stream
from mplug_owl.world.countries import COUNTRIES
from mplug_owl.world.scene import KINDS, PAIRS, SKILLS, Drawing, Scene, make
from mplug_owl.world.sets import SETS, Row, corpus, examples, rows
from mplug_owl.world.wording import reserved_templates

PAGES = [path.stem for path in Path(talk.__file__).parent.joinpath("wording").glob("*.toml")]
KEPT = {label for page in PAGES if page not in ("countries", "words") for label in reserved_templates(page)}


def scenes(row: Row) -> list[Scene]:
    found = []
    for part in media(row.messages):
        drawings: list[Drawing] = part.source if isinstance(part, VideoPart) else [part.source]
        found += [drawing.scene for drawing in drawings]
    return found


def texts(row: Row) -> list[str]:
    return [message.text for message in row.messages]


@pytest.mark.parametrize("set", SETS)
def test_rows_are_what_their_set_says(set: str) -> None:
    chosen = rows(f"{set}:200")
    for number in range(200):
        row = chosen.row(number)
        assert row.id == f"{set}:{number}"
        assert bool(media(row.messages)) == chosen.shows_media
        assert row.kind == ("caption" if set in ("captions", "prose", "places") else "chat")
        assert bool(row.places) == (set == "places")
        assert [message.role for message in row.messages] == ["user", "assistant"] * (len(row.messages) // 2)
        assert [message.text for message in row.messages[1::2]] == [
            q.answer for q in row.questions
        ] or not row.questions
        assert all(message.text for message in row.messages[1::2])
        assert all(scene.split == "train" for scene in scenes(row))
        if set == "described" and row.messages[0].text.startswith("Picture:"):
            assert row.messages[0].text.endswith(row.questions[0].text)


def test_rows_repeat_in_another_process() -> None:
    names = [*SETS, "questions/sign+dice@easy#test"]
    code = f"from mplug_owl.world.sets import rows; print([rows(name).identity for name in {names}])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str([rows(name).identity for name in names])


def test_sets_differ() -> None:
    names = ["questions", "questions/shapes", "questions@easy", "questions#dev", "questions:5000", "captions"]
    assert len({rows(name).identity for name in names}) == len(names)
    assert rows("questions").row(7) == rows("questions:5000").row(7)


def test_names() -> None:
    chosen = rows("questions/shapes+dice@easy#dev:30")
    assert (chosen.kinds, chosen.level, chosen.split, len(chosen)) == (("shapes", "dice"), "easy", "dev", 30)
    assert chosen.name == "questions/shapes+dice@easy#dev"
    assert rows("captions").name == "captions" and len(rows("captions")) == 1_000_000
    assert {scene.kind for number in range(30) for scene in scenes(chosen.row(number))} == {"shapes", "dice"}
    with pytest.raises(IndexError):
        chosen.row(30)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("question", "did you mean 'questions'"),
        ("questions/shape", "did you mean 'shapes'"),
        ("dialogues/dice", "unknown kind 'dice'"),
        ("questions@hard", "unknown level 'hard'"),
        ("questions#training", "did you mean 'train'"),
        ("text/shapes", "text has none"),
        ("text@easy", "text has none"),
        ("questions:0", "positive number"),
        ("questions/", "expected SET"),
        ("", "expected SET"),
    ],
)
def test_wrong_names(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rows(name)


def test_kinds_come_by_their_weights() -> None:
    met = Counter(scenes(rows("questions").row(number))[0].kind for number in range(1500))
    assert set(met) == set(KINDS)
    assert 0.25 < met["shapes"] / 1500 < 0.45
    assert min(met.values()) > 20


@pytest.mark.parametrize("split", ["train", "dev"])
def test_nothing_kept_for_testing_is_in_training(split: Split) -> None:
    for set in SETS:
        chosen = rows(f"{set}#{split}")
        for number in range(400):
            assert not {question.template for question in chosen.row(number).questions} & KEPT


def test_scenes_of_training_and_testing_differ() -> None:
    keys = [
        {scene.key for number in range(600) for scene in scenes(rows(f"questions#{split}").row(number))}
        for split in ("train", "dev", "test")
    ]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])


def test_skills_can_be_chosen() -> None:
    for name in ("questions/shapes~attributes", "described/shapes+dice~form+dice@easy#dev"):
        chosen = rows(name)
        assert chosen.name == name
        for number in range(300):
            asked = [question.skill for question in chosen.row(number).questions]
            assert asked and set(asked) <= set(chosen.skills)
    for name, wrong in (
        ("questions/dice~existence", "no question of skill 'existence'"),
        ("described/shapes+pair~existence", "pair in .*: no question of existence"),
        ("questions/shapes~existance", "did you mean 'existence'"),
        ("captions/shapes~existence", "only questions and described"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            rows(name)


def test_esperanto_about_pictures_asks_little_before_the_test() -> None:
    asked: dict[str, Counter[str]] = {}
    for name in ("questions/shapes", "described/shapes", "questions/shapes#test"):
        found = [question for number in range(600) for question in rows(name).row(number).questions]
        asked[name] = Counter(question.skill for question in found if "/eo/" in question.template)
    assert set(asked["questions/shapes"]) == {"existence", "counting"}
    assert {"attributes", "relations"} < set(asked["described/shapes"])
    assert {"attributes", "relations"} < set(asked["questions/shapes#test"])
    captions = [texts(rows("captions/shapes").row(number))[1] for number in range(300)]
    assert not any("granda" in caption for caption in captions)


def test_turns_of_questions() -> None:
    turns = Counter(len(rows("questions/shapes").row(number).questions) for number in range(400))
    assert max(turns) == 8 and min(turns) == 1
    assert sum(count for length, count in turns.items() if length >= 4) > 250


@pytest.mark.parametrize("skill", SKILLS)
def test_examples_of_every_skill(skill: str) -> None:
    found = examples(skill, 40)
    assert found == examples(skill, 40)
    assert len(found) == 40
    for each in found:
        assert each.questions[-1].skill == skill
        assert (len(each.questions) > 1) == (skill == "turns")
        assert each.messages[-1].text == each.questions[-1].answer
        for part in media(each.messages):
            drawing = part.source[0] if isinstance(part, VideoPart) else part.source
            assert drawing.scene.split == "test" and "standard" in drawing.scene.seed
    pictures = {str(part.source) for each in found for part in media(each.messages)}
    kinds = {question.template.split("/")[0] for each in found for question in each.questions[-1:]}
    if skill not in ("text", "form", "turns"):
        assert len(pictures) == 40 * (2 if kinds == set(PAIRS) else 1), "a scene was asked about twice"
    if skill == "language":
        assert all("/eo/" in each.questions[-1].template for each in found)
    if skill in ("form", "turns"):
        assert len(kinds) > 1


def test_examples_use_wordings_that_training_does_not_know() -> None:
    asked = [each.questions[-1].template for skill in SKILLS for each in examples(skill, 30)]
    assert 0.3 < sum(label in KEPT for label in asked) / len(asked) < 0.7
    assert not {each.questions[-1].template for each in examples("counting", 50, "dev")} & KEPT
    with pytest.raises(ConfigError, match="did you mean 'counting'"):
        examples("count", 1)


def test_the_corpus_holds_everything_that_is_said() -> None:
    said = [*corpus(4000)]
    assert said == [*corpus(4000)]
    whole = "\n".join(said)
    assert set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\u016d\u011d") < set(whole)
    assert all(country.name in whole.lower() and country.capital in whole.lower() for country in COUNTRIES)
    assert "Bildo:" in whole and "Picture:" in whole


def test_pairs_and_videos_are_shown_whole() -> None:
    first, second = make("pair", 1).parts()
    assert isinstance(first, ImagePart) and isinstance(second, ImagePart)
    [video] = make("video", 1).parts()
    assert isinstance(video, VideoPart) and video.num_frames == len(video.source)
    asked = talk.about(make("pair", 1), stream("asked"), 3)
    assert media(asked.messages[:1]) == [first, second] and not media(asked.messages[1:])
