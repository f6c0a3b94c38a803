"""Every record format of the papers, recognised and read; what cannot be read says why."""

from typing import Any

import pytest

from mplug_owl.data.formats import FORMATS, document_records, recognise
from mplug_owl.errors import DataError
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart

SYSTEM = "The following is a conversation."

LAION = {
    "url": "https://example.org/a/owl.jpg",
    "caption": "A barn owl on a fence post",
    "SAMPLE_ID": 1581282014547.0,
    "similarity": 0.3321,
    "key": "000000012",
    "status": "success",
    "error_message": None,
    "width": 256,
    "exif": "{}",
    "image": "000000012.jpg",
}
ALPACA = {
    "instruction": "Name the capital of the country.",
    "input": "Portugal",
    "output": "The capital of Portugal is Lisbon.",
}
SHAREGPT = {
    "id": "a1B2c3_0",
    "conversations": [
        {"from": "gpt", "value": "How can I help?"},
        {"from": "human", "value": "How do I boil an egg?"},
        {"from": "chatgpt", "value": "Put it in boiling water for eight minutes."},
    ],
}
BAIZE = {
    "topic": "How do bees find flowers?",
    "input": "The conversation between human and AI assistant.\n[|Human|] How do bees find "
    "flowers?\n[|AI|] By colour,\nscent and memory.\n[|Human|] Do they see red?\n[|AI|] No, red "
    "looks dark to them.\n[|Human|] ",
}
LLAVA = {
    "id": "000000000101",
    "image": "000000000101.jpg",
    "conversations": [
        {"from": "human", "value": "What animal is on the books?\n<image>"},
        {"from": "gpt", "value": "A cat is sleeping on the books."},
    ],
}
OWL = {
    "image": ["images/0001.jpg"],
    "text": f"{SYSTEM}\nHuman: <image>\nHuman: What animal?\nAI: A cat.",
    "task_type": "llava_sft",
}
MESSAGES = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]},
        {"role": "assistant", "content": "Hello"},
    ],
    "images": [{"bytes": b"picture", "path": None}],
}


def user(*parts: Any) -> Message:
    return Message("user", [TextPart(part) if isinstance(part, str) else part for part in parts])


def ai(text: str) -> Message:
    return Message("assistant", text)


@pytest.mark.parametrize(
    ("name", "record", "messages"),
    [
        ("caption", LAION, [user(ImagePart("000000012.jpg")), ai("A barn owl on a fence post")]),
        ("alpaca", ALPACA, [user("Name the capital of the country.\nPortugal"), ai(ALPACA["output"])]),
        ("alpaca", {**ALPACA, "input": ""}, [user(ALPACA["instruction"]), ai(ALPACA["output"])]),
        ("llava", SHAREGPT, [user("How do I boil an egg?"), ai("Put it in boiling water for eight minutes.")]),
        (
            "baize",
            BAIZE,
            [
                user("How do bees find flowers?"),
                ai("By colour,\nscent and memory."),
                user("Do they see red?"),
                ai("No, red looks dark to them."),
            ],
        ),
        (
            "llava",
            LLAVA,
            [
                user("What animal is on the books?", ImagePart("000000000101.jpg")),
                ai("A cat is sleeping on the books."),
            ],
        ),
        (
            "owl",
            OWL,
            [Message("system", SYSTEM), user("", ImagePart("images/0001.jpg")), user("What animal?"), ai("A cat.")],
        ),
        ("messages", MESSAGES, [user("Hi", ImagePart(b"picture")), ai("Hello")]),
    ],
)
def test_records_are_recognised_and_read(name: str, record: dict[str, Any], messages: list[Message]) -> None:
    assert recognise(record) == name
    assert FORMATS[name].read(record) == messages


def test_every_paper_has_its_name() -> None:
    named = {"laion", "coyo", "cc", "coco", "karpathy", "alpaca", "sharegpt", "baize", "llava"}
    assert named <= set(FORMATS)
    assert {name for name, form in FORMATS.items() if form.kind == "caption"} == {
        *("caption", "laion", "coyo", "cc", "coco", "karpathy", "karpathy-val", "karpathy-test")
    }


def test_messages_take_media_from_beside_them() -> None:
    record = {
        "messages": [
            {"role": "user", "content": "<image>Then <video> and <image>?"},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
            {"role": "user", "content": [{"type": "image", "path": "own.jpg"}]},
            {"role": "assistant", "content": "No"},
        ],
        "images": ["a.jpg", "b.jpg"],
        "videos": ["c.mp4"],
    }
    first, *_, third, _ = FORMATS["messages"].read(record)
    shown = [ImagePart("a.jpg"), "Then ", VideoPart("c.mp4"), " and ", ImagePart("b.jpg"), "?"]
    assert first == user(*shown)
    assert third == user(ImagePart("own.jpg"))


def test_coco_captions() -> None:
    document = {
        "images": [{"id": 101, "file_name": "COCO_val2014_000000000101.jpg", "width": 640}],
        "annotations": [
            {"image_id": 101, "id": 9001, "caption": "A cat sleeps."},
            {"image_id": 999, "id": 9002, "caption": "Of a lost picture."},
        ],
    }
    first, second = document_records(document)
    assert FORMATS[recognise(first)].read(first) == [
        user(ImagePart("COCO_val2014_000000000101.jpg")),
        ai("A cat sleeps."),
    ]
    with pytest.raises(DataError, match="0 images and videos for its caption"):
        FORMATS["coco"].read(second)


def test_karpathy_splits() -> None:
    def image(split: str, number: int) -> dict[str, Any]:
        sentences = [{"raw": f"{split} {n}", "sentid": number + n} for n in range(2)]
        return {"filepath": "val2014", "filename": f"{number}.jpg", "split": split, "sentences": sentences}

    splits = ("train", "val", "restval", "test")
    document = {"images": [image(split, 10 * n) for n, split in enumerate(splits)]}

    def captions(name: str | None) -> list[str]:
        return [record["caption"] for record in document_records(document, name)]

    assert captions(None) == ["train 0", "train 1", "restval 0", "restval 1"]
    assert captions("karpathy") == captions(None)
    assert captions("karpathy-val") == ["val 0", "val 1"]
    assert captions("karpathy-test") == ["test 0", "test 1"]
    assert document_records(document)[0]["image"] == "val2014/0.jpg"


@pytest.mark.parametrize(
    ("name", "record", "words"),
    [
        ("caption", {**LAION, "caption": "  "}, "expected a text"),
        ("caption", {**LAION, "caption": None}, "the caption None"),
        ("caption", {**LAION, "caption": "see <image>"}, "placeholder"),
        ("caption", {**LAION, "image": ["a.jpg", "b.jpg"]}, "2 images and videos"),
        ("alpaca", {**ALPACA, "output": None}, "output=None"),
        ("alpaca", {**ALPACA, "input": "<image>"}, r"1 image placeholder\(s\) and 0 image"),
        ("llava", {**LLAVA, "image": None}, r"1 image placeholder\(s\) and 0 image"),
        ("llava", {**LLAVA, "image": ["a", "b"]}, r"1 image placeholder\(s\) and 2 image"),
        ("llava", {"conversations": ["hi"]}, "turn 0 is a str"),
        ("llava", {"conversations": [{"from": [], "value": "hi"}]}, r"from \[\]"),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "a"}, {"from": "user", "value": "b"}]},
            "two turns of the user in a row",
        ),
        ("messages", {**MESSAGES, "images": ["a", "b"]}, r"1 image placeholder\(s\) and 2 image"),
        ("messages", {"messages": None}, "NoneType"),
        ("messages", {"messages": [{"role": "user", "content": 3}], "images": ["a"]}, "0 image"),
        ("owl", {**OWL, "image": []}, r"1 image placeholder\(s\) and 0 image"),
    ],
)
def test_bad_records_say_why(name: str, record: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        FORMATS[name].read(record)


def test_records_of_no_format_name_their_keys() -> None:
    with pytest.raises(DataError, match="keys question, reply is of no known format"):
        recognise({"question": "a", "reply": "b"})


def test_nonsense_is_never_worse_than_a_data_error() -> None:
    """Whatever stands in a field of a record, reading it works or is a DataError."""
    junk: list[Any] = [None, 3, 1.5, "", "text", [], [None], [[]], {}, {"type": []}, True, b"x"]
    records = [LAION, ALPACA, SHAREGPT, BAIZE, LLAVA, OWL, MESSAGES]
    spoilt: list[dict[str, Any]] = [{}]
    for record in records:
        for key in record:
            spoilt += [{**record, key: value} for value in junk]
    turns = [{"from": a, "value": b} for a in [*junk, "human"] for b in junk]
    spoilt += [{"conversations": [turn]} for turn in turns] + [{"conversations": turns}]
    chats = [{"role": a, "content": b} for a in [*junk, "user"] for b in [*junk, [{"type": "x"}]]]
    spoilt += [{"messages": [chat], "images": ["a"]} for chat in chats]
    spoilt += [{"messages": [chat]} for chat in [*chats, *junk]]
    for record in spoilt:
        for form in FORMATS.values():
            try:
                form.fits(record)
                form.read(record)
            except DataError:
                continue
