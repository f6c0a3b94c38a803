"""`owl demo`: the pictures that come along, what is said about them, and who is believed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl import Owl, cli
from mplug_owl.engine import demo
from mplug_owl.errors import DataError
from mplug_owl.media import load_video
from mplug_owl.models.families import build
from mplug_owl.world import showcase

ASKED = list(demo.read(demo.PICTURES))
QUESTIONS = {text: answers for asked in ASKED for text, answers in asked.questions}


@pytest.fixture(scope="module")
def nano() -> Owl:
    return Owl(*build("owlet-nano"))


def speak(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    """Let every owl answer as told."""

    def chat(owl: Owl, messages: Any, **options: Any) -> Iterator[str]:
        yield from answers[messages[-1].text]

    monkeypatch.setattr(Owl, "chat", chat)


def test_six_pictures_come_along() -> None:
    assert [asked.path.name for asked in ASKED] == [shown[0] for shown in showcase.SHOWN]
    assert {path.name for path in demo.PICTURES.iterdir()} == {
        "questions.json",
        *(shown[0] for shown in showcase.SHOWN),
    }
    for asked in ASKED:
        with Image.open(asked.path) as picture:
            assert picture.size == (showcase.SIDE, showcase.SIDE)
            assert getattr(picture, "n_frames", 1) == (4 if asked.path.suffix == ".webp" else 1)


def test_they_are_what_the_world_draws(tmp_path: Path) -> None:
    showcase.write(tmp_path)
    assert list(demo.read(tmp_path)) == [demo.Asked(tmp_path / asked.path.name, asked.questions) for asked in ASKED]
    for asked in ASKED:
        ours, drawn = (load_video(path, 4) for path in (asked.path, tmp_path / asked.path.name))
        assert [frame.tobytes() for frame in ours] == [frame.tobytes() for frame in drawn]


def test_an_owl_that_learned_nothing(nano: Owl, capsys: pytest.CaptureFixture[str]) -> None:
    demo.run(nano)
    said = capsys.readouterr().out
    for asked in ASKED:
        assert asked.path.name in said
    for question, answers in QUESTIONS.items():
        assert f"> {question}\n" in said
        assert f"  wrong: {answers[0]}\n" in said
    assert f"0 of {len(QUESTIONS)} right" in said
    assert "Now you" not in said


def test_right_and_wrong_are_told_apart(
    nano: Owl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(QUESTIONS))
    speak(
        monkeypatch, {question: f" {answers[-1].upper()}." for question, answers in QUESTIONS.items()} | {first: "owl"}
    )
    demo.run(nano)
    said = capsys.readouterr().out
    assert said.count("  right\n") == len(QUESTIONS) - 1
    assert f"  wrong: {QUESTIONS[first][0]}\n" in said
    assert f"{len(QUESTIONS) - 1} of {len(QUESTIONS)} right" in said


def test_on_a_terminal_people_go_on(
    nano: Owl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speak(monkeypatch, dict.fromkeys([*QUESTIONS, "And you?"], "hoo"))
    lines = iter(["And you?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    demo.run(nano)
    assert capsys.readouterr().out.rstrip().endswith("hoo")
    assert next(lines, None) is None


def test_a_folder_without_pictures(nano: Owl, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"questions\.json is not here.*owl demo --draw"):
        demo.run(nano, tmp_path)


def test_drawn_anew_by_command(tmp_path: Path) -> None:
    assert cli.main(["demo", "--draw", str(tmp_path / "new")]) == 0
    page = json.loads((tmp_path / "new" / "questions.json").read_text())
    assert [row["file"] for row in page] == [asked.path.name for asked in ASKED]
