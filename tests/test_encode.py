"""Records to conversations to rows: formats, labels, and what happens to rows that are too long."""

from typing import Any

import pytest

from mplug_owl.data.encode import IGNORED, Cuts, Encoded, encode, encode_caption
from mplug_owl.data.formats import from_llava_record, from_owl_record, parse_owl_text
from mplug_owl.errors import DataError
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, chat_dicts
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.templates import FORMATS
from mplug_owl.models.tokenizers import byte_tokenizer


def make(form: str, temporal: bool = False) -> OwlProcessor:
    tokenizer = byte_tokenizer()
    return OwlProcessor.for_format(
        form,
        OwlImageProcessorPil(size=28),
        tokenizer,
        image_token_id=len(tokenizer),
        media_length=3,
        temporal=temporal,
        system="",
    )


@pytest.fixture(scope="module")
def owl() -> OwlProcessor:
    return make("owl")


def user(*parts: Any) -> Message:
    return Message("user", [TextPart(part) if isinstance(part, str) else part for part in parts])


def ai(text: str) -> Message:
    return Message("assistant", text)


def learnt(row: Encoded, processor: OwlProcessor) -> str:
    return processor.decode([label for label in row.labels if label != IGNORED])


def shown(row: Encoded, processor: OwlProcessor) -> str:
    """The row as text, a picture as `#` for each of its positions."""
    media = {processor.image_token_id: "#", processor.video_token_id: "%"}
    return "".join(media.get(token) or processor.decode([token]) for token in row.ids)


# ---- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "System line.\nHuman: <image>\nHuman: what?\nAI: a dog.\nHuman: why?\nAI: so.",
        "Human: what?\nAI: ",
        "<image>\nHuman: what?\nAI: dog.",
        "Two\nlines.\nHuman: a\nb\n\nAI: c\nd\n",
        "Human: an OpenAI: x Human: y\nAI: Human: z",
        "Human: between <image> and <image> words\nAI: a",
        "Human: <image><|video|>\nAI: a\nAI: b\nHuman: c",
        "AI: hello\nHuman:  spaces \nAI:  b ",
        "Human: \nAI: x",
    ],
)
def test_owl_text_survives(text: str, owl: OwlProcessor) -> None:
    images = [f"{index}.jpg" for index in range(text.count("<image>"))]
    videos = ["v.mp4"] * text.count("<|video|>")
    messages = parse_owl_text(text, images, videos)
    assert owl.render(chat_dicts(messages))[0] == text
    sources = [p.source for m in messages for p in m.content if isinstance(p, ImagePart)]
    assert sources == images


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "text=None"),
        ({"text": "just words"}, "no line that starts with"),
        ({"text": "Human: <image>\nAI: a"}, r"1 image placeholder\(s\) and 0 image"),
        ({"text": "Human: b\nAI: a", "image": "x.jpg"}, r"0 image placeholder\(s\) and 1 image"),
        ({"text": "Human: <|video|>\nAI: a"}, r"1 video placeholder\(s\) and 0 video"),
    ],
)
def test_owl_records_that_cannot_be_read(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_owl_record(record)


def llava(*values: str, first: str = "human", **media: Any) -> dict[str, Any]:
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    turns = [{"from": speakers[i % 2], "value": value} for i, value in enumerate(values)]
    return {"conversations": turns, **media}


def test_llava_records() -> None:
    image = ImagePart("x.jpg")
    assert from_llava_record(llava("<image>\nwhat?", "a", image="x.jpg")) == [user(image, "what?"), ai("a")]
    assert from_llava_record(llava("what?\n<|image|>", "a", image=["x.jpg"]))[0] == user("what?", image)
    mid = from_llava_record(llava("is <image> \nnew?", "a", image="x.jpg"))
    assert mid[0] == user("is ", image, " \nnew?")
    assert from_llava_record(llava("lost", "q", "a", first="gpt")) == [user("q"), ai("a")]
    assert from_llava_record(llava("<video>\nq", "a", video="v.mp4"))[0] == user(VideoPart("v.mp4"), "q")
    named = {"conversations": [{"from": "system", "value": "s"}, {"from": "user", "value": "q"}]}
    assert [message.role for message in from_llava_record(named)] == ["system", "user"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "conversations=None"),
        ({"conversations": []}, r"conversations=\[\]"),
        ({"conversations": [{"from": "gtp", "value": "x"}]}, "did you mean 'gpt'"),
        ({"conversations": [{"from": "human"}]}, "value=None"),
        (llava("<image> and <image>", "a", image="x.jpg"), r"2 image placeholder\(s\) and 1"),
        (llava("what?", "a", image="x.jpg"), r"0 image placeholder\(s\) and 1"),
    ],
)
def test_llava_records_that_cannot_be_read(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_llava_record(record)


# ---- labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("template", ["training", "default"])
def test_answers_are_learnt_and_nothing_else(form: str, template: str) -> None:
    processor = make(form)
    talk = [user(ImagePart("a"), "q"), ai("one"), user("r"), ai("two")]
    row = encode(talk, processor, template=template)
    end = "" if (form, template) == ("owl", "default") else "</s>"
    space = "" if form in ("owl", "owlet") else " "
    assert learnt(row, processor) == f"{space}one{end}{space}two{end}"
    assert [p.source for p in row.media] == ["a"]
    assert all(label in (IGNORED, token) for label, token in zip(row.labels, row.ids, strict=True))
    assert row.cuts == Cuts()


def test_empty_answers(owl: OwlProcessor) -> None:
    """Upstream learns that an empty answer ends, in rows without pictures only."""
    assert learnt(encode([user("q"), ai("")], owl), owl) == "</s>"
    with pytest.raises(DataError, match="without an answer"):
        encode([user(ImagePart("a")), ai("")], owl)


def test_rows_with_nothing_to_learn(owl: OwlProcessor) -> None:
    for talk in ([], [user("q")], [Message("system", "s")]):
        with pytest.raises(DataError, match="without an answer"):
            encode(talk, owl)


def test_placeholders_in_the_text_are_not_taken_for_media(owl: OwlProcessor) -> None:
    with pytest.raises(DataError, match=r"1 placeholder\(s\) but the conversation 0"):
        encode([user("what does <image> mean?"), ai("a")], owl)


@pytest.mark.parametrize("temporal", [False, True])
def test_videos_take_their_frames(temporal: bool) -> None:
    processor = make("owl", temporal)
    row = encode([user(VideoPart("v", 2), VideoPart("w")), ai("a")], processor)
    frames = 1 + 1 if temporal else 2 + processor.num_frames
    assert row.ids.count(processor.video_token_id) == 3 * frames


# ---- too long --------------------------------------------------------------------------------

TALK = [Message("system", "S"), user("a"), ai("one"), user("b"), ai("two"), user("c"), ai("three")]


def test_the_oldest_turns_go_first(owl: OwlProcessor) -> None:
    whole = encode(TALK, owl)
    text = "<s>S\nHuman: a\nAI: one</s>\nHuman: b\nAI: two</s>\nHuman: c\nAI: three</s>"
    assert shown(whole, owl) == text
    assert encode(TALK, owl, max_length=len(whole.ids)) == whole
    row = encode(TALK, owl, max_length=len(whole.ids) - 1)
    assert shown(row, owl) == text.replace("\nHuman: a\nAI: one</s>", "")
    assert row.cuts == Cuts(turns=1)
    row = encode(TALK, owl, max_length=len(row.ids) - 1)
    assert shown(row, owl) == "<s>S\nHuman: c\nAI: three</s>"
    assert row.cuts == Cuts(turns=2)


def test_an_unanswered_question_goes_too(owl: OwlProcessor) -> None:
    talk = [*TALK, user("nobody answers")]
    whole = encode(talk, owl)
    row = encode(talk, owl, max_length=len(whole.ids) - 1)
    assert row.ids == encode(TALK, owl).ids


def test_the_last_answer_is_cut_but_ends(owl: OwlProcessor) -> None:
    row = encode(TALK, owl, max_length=len("?S\nHuman: c\nAI: thr?"))
    assert shown(row, owl) == "<s>S\nHuman: c\nAI: thr</s>"
    assert learnt(row, owl) == "thr</s>"
    assert row.cuts == Cuts(turns=2, answer_tokens=2)


def test_a_prompt_is_cut_only_if_it_must(owl: OwlProcessor) -> None:
    talk = [Message("system", "S"), user("0123456789" * 3), ai("yes")]
    row = encode(talk, owl, max_length=len("?S\nHuman: 56789\nAI: yes?"))
    assert shown(row, owl) == "<s>S\nHuman: 56789\nAI: yes</s>"
    assert row.cuts == Cuts(prompt_characters=25)
    with pytest.raises(DataError, match="does not fit into 9"):
        encode(talk, owl, max_length=9)


def test_both_are_cut_when_both_are_too_long(owl: OwlProcessor) -> None:
    row = encode([user("q" * 100), ai("a" * 100)], owl, max_length=60)
    assert len(row.ids) == 60
    assert learnt(row, owl) == "a" * 29 + "</s>"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("length", [80, 120, 200, 400])
def test_every_length_gives_a_sound_row(form: str, length: int) -> None:
    processor = make(form)
    talk = [Message("system", "S")]
    for index in range(4):
        talk += [user(ImagePart(str(index)), "ask " * 7), ai(f"answer{index} " * 5)]
    row = encode(talk, processor, max_length=length)
    assert len(row.ids) <= length
    assert row.ids.count(processor.image_token_id) == 3 * 4  # no picture is lost
    assert [part.source for part in row.media] == ["0", "1", "2", "3"]
    assert learnt(row, processor).endswith("</s>")
    assert "answer3" in learnt(row, processor)
    with pytest.raises(DataError, match=r"for 4 image\(s\).*does not fit into 30"):
        encode(talk, processor, max_length=30)


def test_pictures_of_lost_turns_stay(owl: OwlProcessor) -> None:
    talk = [user(ImagePart("a"), "what?"), ai("a dog"), user("why?"), ai("so")]
    whole = encode(talk, owl)
    row = encode(talk, owl, max_length=len(whole.ids) - 1)
    assert shown(row, owl) == "<s>Human: ###\nHuman: why?\nAI: so</s>"
    assert [part.source for part in row.media] == ["a"]


def test_pictures_are_never_cut(owl: OwlProcessor) -> None:
    talk = [user(*map(ImagePart, "abcdef"), "q"), ai("a")]
    with pytest.raises(DataError, match=r"18 of them for 6 image\(s\).*does not fit into 30"):
        encode(talk, owl, max_length=30)


# ---- captions --------------------------------------------------------------------------------


def caption(text: str) -> list[Message]:
    return [user(ImagePart("a")), ai(text)]


@pytest.mark.parametrize("form", FORMATS)
def test_captions_are_picture_words_and_end(form: str) -> None:
    processor = make(form)
    row = encode_caption(caption(" a dog\n"), processor)
    assert learnt(row, processor) == "a dog</s>"
    start = {"owl": "<s>###", "owl2": "###<s>", "owl2.1": "###", "owlet": "###"}[form]
    assert shown(row, processor) == f"{start}a dog</s>"
    assert [part.source for part in row.media] == ["a"]


def test_long_captions_are_cut_but_end(owl: OwlProcessor) -> None:
    whole = encode_caption(caption("word " * 50), owl)
    assert encode_caption(caption("word " * 50), owl, max_length=len(whole.ids)) == whole
    row = encode_caption(caption("word " * 50), owl, max_length=20)
    assert shown(row, owl) == "<s>###" + "word word word " + "</s>"
    assert row.cuts == Cuts(answer_tokens=len(whole.ids) - 20)
    for length in (0, 1, 4, 5):
        with pytest.raises(DataError, match=f"does not fit into {length}"):
            encode_caption(caption("word"), owl, max_length=length)


def test_captions_without_words(owl: OwlProcessor) -> None:
    with pytest.raises(DataError, match="an empty caption"):
        encode_caption(caption(" "), owl)
    with pytest.raises(DataError, match=r"2 placeholder\(s\) but the conversation 1"):
        encode_caption(caption("what <image> means"), owl)
