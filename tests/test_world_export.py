"""What the world writes is what it says by number: rows read back from files, pictures pixel for pixel."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl.data.sources import open_source
from mplug_owl.errors import ConfigError, RequestError
from mplug_owl.media import load_image, load_video
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, media
from mplug_owl.world.command import add_arguments, run
from mplug_owl.world.export import export, writable
from mplug_owl.world.sets import rows


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWL_CACHE", str(tmp_path / "cache"))


def command(*words: Any) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def plain(messages: tuple[Message, ...]) -> list[Any]:
    """Messages with the kinds of their media alone."""
    return [
        (message.role, [part.text if isinstance(part, TextPart) else type(part).__name__ for part in message.content])
        for message in messages
    ]


def pixels(part: ImagePart | VideoPart, frames: int) -> list[bytes]:
    pictures = load_video(part.source, frames) if isinstance(part, VideoPart) else [load_image(part.source)]
    assert all(picture.size == (96, 96) for picture in pictures)
    return [picture.convert("RGB").tobytes() for picture in pictures]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("questions:40", "jsonl"),
        ("captions:40", "jsonl"),
        ("dialogues#test:20", "jsonl"),
        ("described@easy:20", "jsonl"),
        ("text:30", "jsonl"),
        ("questions:40", "tar"),
        ("captions:40", "tar"),
    ],
)
def test_files_hold_what_the_world_says(name: str, format: Any, tmp_path: Path) -> None:
    chosen = writable(rows(name), format)
    paths = export(rows(name), tmp_path, format)
    source = open_source(paths[0] if format == "jsonl" else tmp_path)
    assert len(source) == len(chosen)
    for number in range(len(chosen)):
        found, wanted = source[number], chosen.row(number)
        assert found.kind == wanted.kind
        assert plain(found.messages) == plain(wanted.messages)
        for ours, theirs in zip(media(found.messages), media(wanted.messages), strict=True):
            frames = len(theirs.source) if isinstance(theirs, VideoPart) else 0
            assert pixels(ours, frames) == pixels(theirs, frames)
            if wanted.kind == "chat" and isinstance(theirs, VideoPart):
                assert isinstance(ours, VideoPart) and ours.num_frames == theirs.num_frames
        if format == "jsonl":
            assert found.id == f"world:{wanted.id}"


def test_rows_tell_their_skills(tmp_path: Path) -> None:
    [path] = export(rows("questions:5"), tmp_path)
    for number, line in enumerate(path.read_text().splitlines()):
        assert json.loads(line)["skills"] == [question.skill for question in rows("questions").row(number).questions]
    assert not [*tmp_path.rglob("*.part")]


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug_owl.world.export._SHARD", 4)
    paths = export(rows("captions/dice:10"), tmp_path, "tar")
    assert [path.name for path in paths] == [f"captions-dice-{shard:05d}.tar" for shard in range(3)]
    assert [open_source(tmp_path)[row].id for row in (0, 9)] == ["000000000", "000000009"]


def test_what_files_cannot_hold() -> None:
    assert "pair" not in writable(rows("captions"), "jsonl").kinds
    assert "video" in writable(rows("captions"), "jsonl").kinds
    assert "video" not in writable(rows("questions"), "tar").kinds
    assert writable(rows("text"), "tar") == rows("text")
    for name in ("prose", "questions/video"):
        with pytest.raises(RequestError):
            writable(rows(name), "tar")


def test_the_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert command("export", out, "--sets", "questions/dice@easy,text", "--rows", 3, "--split", "test") == 0
    files = capsys.readouterr().out.split()
    assert files == [str(out / "questions-dice-easy-test.jsonl"), str(out / "text-test.jsonl")]
    assert [len(open_source(file)) for file in files] == [3, 3]


def test_the_command_draws_a_sheet(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        assert command("--show", 11, "--split", "test", "--out", path) == 0
    pictures = [Image.open(path) for path in paths]
    assert pictures[0].size == pictures[1].size and pictures[0].width > 1000
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert command("--show", 1, "--kinds", "sign,clock", "--level", "easy", "--out", paths[0]) == 0


def test_the_command_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--list") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("captions", "flowchart", "standard", "dev", "knowledge"))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ([], RequestError, "expected one of"),
        (["--list", "--show", "3"], RequestError, "expected one of"),
        (["--show", "0"], RequestError, "positive number of scenes"),
        (["--show", "1", "--kinds", "shape"], ConfigError, "did you mean 'shapes'"),
        (["--show", "1", "--split", "tests"], ConfigError, "did you mean 'test'"),
        (["--show", "1", "--level", "hard"], ConfigError, "unknown level"),
        (["--show", "1", "--out", "none/of/it.png"], RequestError, "folder does not exist"),
        (["--show", "1", "--out", "sheet.jpg"], RequestError, "name of a .png"),
        (["export"], RequestError, "owl world export OUT"),
        (["write", "x"], RequestError, "owl world export OUT"),
        (["export", "x", "--sets", "question"], ConfigError, "did you mean 'questions'"),
        (["export", "x", "--format", "tars"], RequestError, "did you mean 'tar'"),
        (["export", "x", "--rows", "0"], RequestError, "positive number"),
        (["export", "x", "--kinds", "dice"], RequestError, "name them with the sets"),
        (["export", "x", "--sets", "text,prose"], RequestError, "prose"),
    ],
)
def test_wrong_command_lines(
    words: list[str], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        command(*words)
    assert not [*tmp_path.iterdir()]


def test_the_command_is_light_to_import() -> None:
    heavy = ("torch", "numpy", "PIL", "tqdm")
    code = f"import sys, mplug_owl.world.command; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
