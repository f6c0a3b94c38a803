"""Conversations of a page and the files shown in them: what an owl reads, what the page shows, what is written down."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mplug_owl.errors import DataError, RequestError
from mplug_owl.media import Limits
from mplug_owl.messages import ImagePart, TextPart, VideoPart
from mplug_owl.serve.ui.conversation import SILENCE, Turn, keep, messages, record, shown, turn_at
from mplug_owl.serve.ui.page import EXAMPLES
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.upload import check_counts, looked_into

LIMITS = Limits(max_pixels=100_000, max_bytes=200_000)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (40, 30), "teal").save(path)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in range(0, 240, 40):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_files_are_known_by_what_they_hold(picture: Path, clip: Path, tmp_path: Path) -> None:
    moving, named_wrongly = tmp_path / "moving.gif", tmp_path / "really-a-clip.png"
    frames = [Image.new("L", (20, 20), shade) for shade in (0, 128, 255)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    named_wrongly.write_bytes(clip.read_bytes())
    found = looked_into([str(path) for path in (picture, clip, moving, named_wrongly)], LIMITS)
    assert [upload.kind for upload in found] == ["image", "video", "video", "video"]
    assert found[0].sha256 == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert found[0].part() == ImagePart(picture.read_bytes()) and found[1].part() == VideoPart(clip.read_bytes())
    assert found[1].sha256 == found[3].sha256
    json.dumps([upload.record() for upload in found])


def test_files_are_kept_once_beside_the_records(picture: Path, clip: Path, tmp_path: Path) -> None:
    turns = [Turn("What?", looked_into([str(path)], LIMITS)) for path in (picture, clip, picture)]
    for _ in range(2):
        keep(turns, tmp_path / "votes.jsonl")
        kept = {path.name: path for path in (tmp_path / "votes-media").iterdir()}
        assert {kept[f"{turn.uploads[0].sha256}{turn.uploads[0].path.suffix}"].read_bytes() for turn in turns} == {
            path.read_bytes() for path in (picture, clip)
        }
        assert len(kept) == 2
        for path in kept.values():
            path.chmod(0o444)  # it would be replaced if it were copied again
    assert {path.stat().st_mode & 0o777 for path in kept.values()} == {0o444}
    picture.unlink()
    with pytest.raises(DataError, match=r"cat\.png cannot be kept"):
        keep(turns, tmp_path / "others.jsonl")


def test_what_cannot_be_used_is_named_and_its_folder_is_not(picture: Path, clip: Path, tmp_path: Path) -> None:
    cut, large, many, text, wrong = (tmp_path / name for name in ("cut.png", "large.png", "many.bmp", "a.txt", "b.mp4"))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))
    noise.save(tmp_path / "noise.png")
    cut.write_bytes((tmp_path / "noise.png").read_bytes()[:3000])
    Image.new("RGB", (400, 400)).save(large)
    many.write_bytes(b"BM" + b"\0" * 300_000)
    text.write_text("no picture")
    wrong.write_text("no video")
    gone = tmp_path / "gone.png"
    for path, said in (
        (cut, "damaged or cut short"),
        (large, "400x400 pixels"),
        (many, "MiB"),
        (text, "expected one of"),
        (wrong, "cannot be used"),
        (gone, "upload it again"),
    ):
        with pytest.raises(DataError, match=said) as error:
            looked_into([str(picture), str(path)], LIMITS)
        assert path.name in str(error.value) and str(tmp_path) not in str(error.value)


def test_a_file_that_was_dropped_meanwhile_is_asked_for_again(picture: Path) -> None:
    (upload,) = looked_into([str(picture)], LIMITS)
    picture.unlink()
    with pytest.raises(DataError, match="show it again"):
        messages([Turn("What is this?", (upload,))])


def test_too_much_is_refused_with_the_numbers(picture: Path) -> None:
    uploads = looked_into([str(picture)] * 3, LIMITS)
    check_counts(uploads, 3, 0)
    with pytest.raises(RequestError, match="3 images in one conversation; at most 2"):
        check_counts(uploads, 2, 0)


def test_an_owl_reads_media_in_front_of_words(picture: Path, clip: Path) -> None:
    uploads = looked_into([str(picture), str(clip)], LIMITS)
    said = messages([Turn("What?", uploads, answer="A cat."), Turn("", uploads[:1], answer=""), Turn("Why?")])
    assert [message.role for message in said] == ["user", "assistant", "user", "assistant", "user"]
    assert [type(part) for part in said[0].content] == [ImagePart, VideoPart, TextPart]
    assert [type(part) for part in said[2].content] == [ImagePart]
    assert said[4].text == "Why?"


def test_a_page_shows_a_message_for_each_side_and_finds_back(picture: Path) -> None:
    (upload,) = looked_into([str(picture)], LIMITS)
    turns = [Turn("  Two\n  lines", (upload,), answer="Yes."), Turn("", answer="", ended="stop"), Turn("Last?")]
    seen = shown(turns)
    assert [message["role"] for message in seen] == ["user", "assistant", "user", "assistant", "user"]
    assert [part["type"] for part in seen[0]["content"]] == ["file", "text"]
    assert seen[0]["content"][1]["text"] == "  Two\n  lines"
    assert seen[0]["content"][0]["alt_text"] == "cat.png"
    assert seen[3]["content"][0]["text"] == SILENCE
    assert [turn_at(turns, index) for index in range(5)] == [0, 0, 1, 1, 2]
    assert turn_at(turns, [3, 0]) == turn_at(turns, (2, 1)) == 1
    for wrong in (5, -1, None, [], "1", [9, 0]):
        with pytest.raises(IndexError):
            turn_at(turns, wrong)


def test_a_record_says_all_but_where_files_lie(picture: Path, tmp_path: Path) -> None:
    uploads = looked_into([str(picture)], LIMITS)
    wished = Parameters(0.7, 0.9, 40, 16, 3, "Be brief.")
    (row,) = record([Turn("What?", uploads, "A cat.", "owlet", wished, "stop", "up")])
    assert str(tmp_path) not in json.dumps(row)
    assert (row["question"], row["answer"], row["model"], row["rating"]) == ("What?", "A cat.", "owlet", "up")
    assert row["media"][0]["sha256"] == uploads[0].sha256
    assert Parameters(**row["parameters"]) == wished


def test_controls_become_parameters() -> None:
    assert Parameters.read([0.5, 1, 0, 32, None, "  "]) == Parameters(0.5, 1.0, 0, 32)
    assert Parameters.read([0, 0.9, 40.0, 64, 7.0, "Hi"]) == Parameters(0.0, 0.9, 40, 64, 7, "Hi")
    with pytest.raises(RequestError, match="without a value"):
        Parameters.read([None, 1, 0, 32, None, ""])


def test_the_examples_can_be_shown() -> None:
    limits = replace(LIMITS, max_pixels=10_000_000, max_bytes=10_000_000)
    rows = json.loads((EXAMPLES / "questions.json").read_text())
    found = looked_into([str(EXAMPLES / row["file"]) for row in rows], limits)
    assert {upload.kind for upload in found} == {"image", "video"}
