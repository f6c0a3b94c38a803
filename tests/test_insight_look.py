"""A look from question to file: words, the part of a picture that is seen, `Owl.look`, `owl look`, and its files."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import mplug_owl
from asking import endless
from mplug_owl import ImagePart, Message, Owl, RequestError, TextPart, VideoPart
from mplug_owl.cli import main
from mplug_owl.engine.insight.ground import ground
from mplug_owl.engine.insight.heat import fitted, overlaid, tile
from mplug_owl.engine.insight.look import Look, View
from mplug_owl.engine.insight.page import fragment
from mplug_owl.engine.insight.sheet import sheet
from mplug_owl.engine.insight.words import words_of
from mplug_owl.models.families import build_processor
from mplug_owl.models.image_processor import OwlImageProcessorPil

QUESTION = "What is <b>this</b>?"


@pytest.fixture(scope="module")
def talker() -> Owl:
    """An owl whose answers end only where they are cut."""
    return Owl(endless("tiny-owl2"), build_processor("tiny-owl2"))


@pytest.fixture(scope="module")
def look(talker: Owl, picture: Image.Image) -> Look:
    return talker.look(QUESTION, images=[picture], max_new_tokens=12)


# ---- words ---------------------------------------------------------------------------------------


def spelled(text: str, family: str = "tiny-owl2") -> list[tuple[str, str]]:
    """Each word with the text that its tokens have together."""
    processor = build_processor(family)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = words_of(processor, ids, text)
    for word in found:
        assert text[word.start : word.end] == word.text
    return [(word.text, processor.decode([ids[i] for i in word.tokens])) for word in found]


def test_words_have_their_tokens() -> None:
    assert spelled("A red  star,\nno?") == [(w, w) for w in ("A", "red", "star,", "no?")]
    assert [word for word, _ in spelled("The red star is small.", "owlet")] == ["The", "red", "star", "is", "small."]
    assert all(word in text for word, text in spelled("The red star is small.", "owlet"))


def test_letters_of_several_tokens_stay_together() -> None:
    assert spelled("caf\u00e9 \u00fcber \U0001f989!") == [(w, w) for w in ("caf\u00e9", "\u00fcber", "\U0001f989!")]
    assert [word for word, _ in spelled("\u732b\u3068 dog")] == ["\u732b", "\u3068", "dog"]


def test_what_was_cut_from_an_answer_has_no_words() -> None:
    processor = build_processor("tiny-owl2")
    ids = processor.tokenizer(" red star STOP", add_special_tokens=False)["input_ids"]
    assert [(word.text, len(word.tokens)) for word in words_of(processor, ids, "red star")] == [("red", 3), ("star", 4)]
    assert words_of(processor, ids, "") == []


# ---- what is seen of a picture -------------------------------------------------------------------

RULES = {
    "square": OwlImageProcessorPil(size={"height": 96, "width": 96}, aspect="square"),
    "resize": OwlImageProcessorPil(size={"height": 96, "width": 96}, aspect="resize"),
    "pad": OwlImageProcessorPil(size={"height": 96, "width": 96}, aspect="pad"),
    "crop": OwlImageProcessorPil(size={"height": 96, "width": 96}, aspect="crop"),
    "crop of more": OwlImageProcessorPil(size={"height": 96, "width": 96}, aspect="crop", edge=128),
}


@pytest.mark.parametrize("size", [(200, 120), (120, 200), (150, 150)])
@pytest.mark.parametrize("rule", RULES)
def test_a_spot_is_found_again_where_it_was(rule: str, size: tuple[int, int]) -> None:
    x, y = 0.42, 0.55
    picture = Image.new("RGB", size, "black")
    spot = [(x * size[0] - 8, y * size[1] - 8), (x * size[0] + 8, y * size[1] + 8)]
    ImageDraw.Draw(picture).rectangle(spot, fill="white")
    pixels = RULES[rule]([picture])["pixel_values"][0].mean(0)
    row, column = (place.double().mean() for place in torch.nonzero(pixels > 1.0, as_tuple=True))
    left, top, right, bottom = ground(size, RULES[rule])
    assert left + (column + 0.5) / 96 * (right - left) == pytest.approx(x, abs=0.02)
    assert top + (row + 0.5) / 96 * (bottom - top) == pytest.approx(y, abs=0.02)


def test_the_hot_part_of_a_picture_is_lit() -> None:
    view = View("image", 0, Image.new("RGB", (60, 30), "white"), ground((60, 30), RULES["crop"]))
    heat = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    shown = overlaid(view, heat, 1.0, (120, 60)).convert("L")
    assert shown.getpixel((85, 55)) > shown.getpixel((35, 5)) + 50
    assert shown.getpixel((5, 30)) == shown.getpixel((115, 5))  # what was cut off is covered alike
    assert tile(heat, 1.0).size == (2, 2) and tile(heat * 0, 0.0).getpixel((0, 0)) == tile(heat, 1.0).getpixel((0, 0))
    assert fitted((200, 100), 50, 50) == (50, 25) and fitted((1, 1000), 50, 50) == (1, 50)


# ---- looks ---------------------------------------------------------------------------------------


def test_looking_gives_the_answer_of_chat(talker: Owl, look: Look, picture: Image.Image) -> None:
    assert look.answer == talker.chat(QUESTION, images=[picture], max_new_tokens=12)
    drawn = {"temperature": 1.2, "seed": 5, "top_k": 40, "max_new_tokens": 9}
    assert talker.look("And?", images=[picture], **drawn).answer == talker.chat("And?", images=[picture], **drawn)


def test_a_look_tells_of_every_word(look: Look) -> None:
    assert look.question == QUESTION and look.sources == ("text", "end of image", "image")
    assert "".join(word.text for word in look.words) == "".join(look.answer.split())
    assert look.maps.shape == (len(look.words), 1, 4, 4) and look.shares.shape == (2, len(look.words), 3)
    torch.testing.assert_close(look.maps.sum((1, 2, 3)), torch.ones(len(look.words)))
    torch.testing.assert_close(look.overall.sum(), torch.tensor(1.0))
    assert all(0 < word.probability <= 1 for word in look.words)
    assert [queries.shape for queries in look.queries] == [(8, 1, 4, 4)]
    assert len(look.lens) == 2 and len(look.lens[0]) == 9 and len(look.lens[0][0]) == 3
    view, x, y = look.peak(0)
    row, column = int(y * 4), int(x * 4)
    assert view == 0 and look.maps[0, 0, row, column] == look.maps[0].max()


def test_images_and_frames_share_a_look(talker: Owl, picture: Image.Image, tmp_path: Path) -> None:
    frames = [picture.rotate(angle) for angle in (0, 30, 60)]
    asked = Message("user", (ImagePart(picture), VideoPart(frames, 3), ImagePart(picture), TextPart("What differs?")))
    look = talker.look([asked], max_new_tokens=6, lens=0)
    names = ["image 1", "video, frame 1", "video, frame 2", "video, frame 3", "image 2"]
    assert [view.name for view in look.views] == names
    assert [view.medium for view in look.views] == [0, 1, 1, 1, 2]
    assert look.sources[2:] == ("image 1", "video", "image 2") and look.lens == ()
    assert look.maps.shape[1] == 5 and len(look.queries) == 3
    # Each frame is seen by queries of its own.
    own = look.queries[1].sum((2, 3))
    torch.testing.assert_close(own, torch.eye(3).repeat_interleave(8, 0))
    for suffix in ("png", "html", "json"):
        assert look.save(tmp_path / f"look.{suffix}").stat().st_size > 1000


def test_a_video_that_is_seen_as_a_whole(picture: Image.Image) -> None:
    owl = Owl(endless("tiny-owl-video"), build_processor("tiny-owl-video"))
    frames = [picture.rotate(angle) for angle in (0, 30, 60, 90)]
    look = owl.look("What moves?", videos=[frames], max_new_tokens=6, rollout=("vision",))
    assert look.maps.shape[1:] == (4, 4, 4) and look.queries[0].shape == (8, 4, 4, 4)
    assert (look.queries[0].sum((2, 3)) > 0).all()
    assert look.answer == owl.chat("What moves?", videos=[frames], max_new_tokens=6)


def test_looks_fail_in_a_sentence(talker: Owl, picture: Image.Image, tmp_path: Path, look: Look) -> None:
    wrongs: list[tuple[Callable[[], object], str]] = [
        (lambda: talker.look("What?"), "nothing was shown"),
        (lambda: talker.look("What?", images=[picture], rollout=["visoin"]), "did you mean 'vision'"),
        (lambda: talker.look("What?", images=[picture], stop="", max_new_tokens=0), "max_new_tokens=0"),
        (lambda: look.save(tmp_path / "look.jpg"), "'look.jpg' ends in '.jpg'"),
    ]
    for wrong, said in wrongs:
        with pytest.raises(RequestError, match=said):
            wrong()


# ---- files ---------------------------------------------------------------------------------------


def test_a_page_needs_nothing_else(look: Look, tmp_path: Path) -> None:
    text = look.save(tmp_path / "sub" / "look.html").read_text(encoding="utf-8")
    assert "<script" not in text and not re.search(r"(src|href)=\"(?!data:)", text)
    assert not re.search(r"url\((?!data:)|@import|https?:", text)
    assert "&lt;b&gt;this&lt;/b&gt;" in text and "<b>" not in text
    assert text.count('type="radio"') == len(look.words) + 1 and text.count(" checked>") == 1
    assert text.count("data:image/png;base64,") > len(look.words)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and all(f"#{name}:checked" in text for name in ids)
    assert not set(re.findall(r' id="([^"]+)"', fragment(look, "other"))) & set(ids)


def test_a_sheet_is_a_picture(look: Look, tmp_path: Path) -> None:
    with Image.open(look.save(tmp_path / "look.png")) as made:
        assert made.format == "PNG" and made.size == sheet(look).size
    assert len(set(sheet(look).convert("L").tobytes())) > 20


def test_numbers_are_all_there(look: Look, tmp_path: Path) -> None:
    read = json.loads(look.save(tmp_path / "look.json").read_text(encoding="utf-8"))
    assert (read["question"], read["answer"]) == (look.question, look.answer)
    torch.testing.assert_close(torch.tensor(read["maps"]), look.maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(read["shares"]), look.shares, atol=1e-5, rtol=0)
    assert [word["text"] for word in read["words"]] == [word.text for word in look.words]
    assert len(read["lens"]) == 2 and read["views"] == [{"name": "image", "size": [90, 60], "box": [0, 0, 1, 1]}]


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_answers_tells_and_writes(
    picture_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [tmp_path / f"look{suffix}" for suffix in (".png", ".html", ".json")]
    given = [word for out in outs for word in ("--out", str(out))]
    words = ["look", str(picture_file), "What is this?", "--model", "owlet", "--device", "cpu"]
    assert main([*words, "--max-new-tokens", "6", "--rollout", "vision,decoder", *given]) == 0
    said = capsys.readouterr().out
    read = json.loads(outs[2].read_text(encoding="utf-8"))
    owl = mplug_owl.load("owlet", device="cpu")
    assert said.startswith(read["answer"]) and all(str(out) in said and out.is_file() for out in outs)
    assert read["answer"] == owl.chat("What is this?", images=[str(picture_file)], max_new_tokens=6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["What?"], "takes a picture or a video, and a question"),
        (["PICTURE", "What?", "--out", "x.gif"], "'x.gif' ends in '.gif'"),
        (["PICTURE", "What?", "--rollout", "eyes"], "rollout through 'eyes'"),
        (["PICTURE", "--pointing", "3"], "draws its own pictures"),
        (["--pointing", "1"], "expected 2 or more"),
        (["--pointing", "3", "--out", "x.png"], "--out FILE.json"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], said: str, picture_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(picture_file) if word == "PICTURE" else word for word in words]
    assert main(["look", *given, "--model", "tiny-owl2", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
