"""Answers in batches: each is the one that `Owl.chat` gives alone, whatever shares its batch."""

import random
from collections.abc import Sequence

import pytest
import torch
from PIL import Image

from mplug_owl import ImagePart, Message, Owl, RequestError, TextPart, VideoPart
from mplug_owl.models.families import FAMILIES, build_processor
from owls import random_owl

FAMILY_NAMES = ["tiny-owl", "tiny-owl-video", "tiny-owl-bloomz", "tiny-owl2", "tiny-owl2.1", "owlet-nano"]


def picture(number: int) -> Image.Image:
    chance = random.Random(number)
    return Image.new("RGB", (40 + number, 60), tuple(chance.randrange(256) for _ in range(3)))


def conversations(count: int) -> list[list[Message]]:
    """Texts of all lengths, some with pictures, videos and earlier turns."""
    made = []
    for number in range(count):
        question = TextPart("What is it? " * (number % 5 + 1) + str(number))
        media = [(), (ImagePart(picture(number)),), (VideoPart([picture(number + i) for i in range(4)]),)][number % 3]
        turns = [Message("user", (*media, question))]
        if number % 4 == 1:
            turns += [Message("assistant", "A barn."), Message("user", "And now?")]
        made.append(turns)
    return made


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_batched_answers_are_those_of_chat(family: str) -> None:
    # Random owls that do not say the same to everything.
    owl = Owl(random_owl(family, torch.float32, seed=1 if family == "owlet-nano" else 0), build_processor(family))
    asked = conversations(11)
    alone = [owl.chat(messages, max_new_tokens=6) for messages in asked]
    assert len(set(alone)) > 3
    assert list(owl.answers(asked, batch_size=4, max_new_tokens=6)) == alone
    assert list(owl.answers(asked, batch_size=64, max_new_tokens=6)) == alone


def test_answers_end_at_the_end_token_and_at_stop_text(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = conversations(6)
    whole = list(owl.answers(asked, max_new_tokens=30))
    stop = whole[0][3:5]
    monkeypatch.setattr(owl, "_stops", lambda template: [stop])
    cut = list(owl.answers(asked, batch_size=3, max_new_tokens=30))
    assert cut == [text.partition(stop)[0] for text in whole] == [owl.chat(a, max_new_tokens=30) for a in asked]
    monkeypatch.undo()
    ids = owl.model.generate(**owl.prepare(asked[0]), max_new_tokens=5, do_sample=False)
    monkeypatch.setattr(owl.model.generation_config, "eos_token_id", [int(ids[0, -2])])
    ended = list(owl.answers(asked, max_new_tokens=30))
    assert ended == [owl.chat(a, max_new_tokens=30) for a in asked]
    assert 0 < len(ended[0]) < len(whole[0])


def test_the_same_batches_get_the_same_answers_to_the_last_bit() -> None:
    """In bfloat16 a neighbour more or less may round a score another way; here no neighbour comes by chance."""
    asked = conversations(20)
    found = []
    for _ in range(2):
        owl = Owl(random_owl("tiny-owl2", torch.bfloat16), build_processor("tiny-owl2"))
        found.append((list(owl.answers(asked, batch_size=8, max_new_tokens=12)), dict(owl.engine.counts)))
    assert found[0] == found[1]


def test_questions_about_one_picture_share_what_was_read(owl: Owl) -> None:
    asked = [[Message("user", (ImagePart(picture(1)), TextPart(f"Question {number}?")))] for number in range(6)]
    before = owl.engine.counts.copy()
    assert list(owl.answers(asked, batch_size=2, max_new_tokens=3))
    assert owl.engine.counts["media_encoded"] - before["media_encoded"] <= 1
    assert owl.engine.counts["positions_reused"] - before["positions_reused"] > 4 * owl.processor.media_length


def test_media_of_two_batches_are_open_at_a_time(owl: Owl) -> None:
    opened: list[int] = []

    class Watched:
        def __init__(self, number: int) -> None:
            self.number = number

        def picture(self) -> Image.Image:
            opened.append(self.number)
            return picture(self.number)

    asked = [[Message("user", (ImagePart(Watched(number)), TextPart("What?")))] for number in range(12)]
    stream = owl.answers(asked, batch_size=2, max_new_tokens=2)
    assert opened == []
    next(stream)
    assert opened and set(opened) <= {0, 1, 2, 3, 4, 5}
    assert len(list(stream)) == 11
    assert sorted(opened) == list(range(12))


def test_nothing_asked_is_nothing_answered(owl: Owl) -> None:
    assert list(owl.answers([])) == []
    empty: Sequence[Sequence[Message]] = []
    for wrong in ({"batch_size": 0}, {"max_new_tokens": 0}):
        with pytest.raises(RequestError, match="expected 1 or more"):
            owl.answers(empty, **wrong)
    assert "tiny-owl2" in FAMILIES
