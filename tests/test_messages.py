"""The conversation type: its OpenAI form, its JSON form and what it refuses."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl.errors import DataError
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, chat_dicts, from_openai, media, to_openai

TALK = [
    Message("system", "Be brief."),
    Message("user", [ImagePart("a.jpg"), TextPart("What is "), ImagePart("https://x.org/b.png")]),
    Message("assistant", "A dog."),
    Message("user", [VideoPart("c.mp4", num_frames=4), VideoPart("data:video/mp4;base64,AA==")]),
    Message("user", [TextPart(""), ImagePart("d.png"), TextPart("")]),
    Message("user", ""),
]


def test_text_becomes_parts() -> None:
    assert Message("user", "hi") == Message("user", [TextPart("hi")])
    assert Message("user", "hi").content == (TextPart("hi"),)
    assert TALK[1].text == "What is "
    assert hash(Message("user", "hi")) == hash(Message("user", (TextPart("hi"),)))


def test_json_round_trip() -> None:
    assert from_openai(json.loads(json.dumps(to_openai(TALK)))) == TALK


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "x"}, TextPart("x")),
        ({"type": "image_url", "image_url": {"url": "u"}}, ImagePart("u")),
        ({"type": "image_url", "image_url": "u"}, ImagePart("u")),
        ({"type": "video_url", "video_url": {"url": "u"}, "num_frames": 3}, VideoPart("u", 3)),
        ({"type": "image", "path": "p"}, ImagePart("p")),
        ({"type": "image", "url": "u"}, ImagePart("u")),
        ({"type": "image", "image": b"bytes"}, ImagePart(b"bytes")),
        ({"type": "video", "video": ["a", "b"]}, VideoPart(["a", "b"])),
        ({"type": "input_text", "text": "x"}, TextPart("x")),
        ({"type": "input_image", "image_url": "u"}, ImagePart("u")),
        ("x", TextPart("x")),
    ],
)
def test_every_form_of_a_part(part: Any, expected: Any) -> None:
    assert from_openai([{"role": "user", "content": [part]}])[0].content == (expected,)


def test_forms_of_messages() -> None:
    read = from_openai([{"role": "developer", "content": "s"}, {"role": "assistant", "content": None}])
    assert read == [Message("system", "s"), Message("assistant", "")]


def test_bytes_and_pictures_become_data_urls() -> None:
    picture = Image.new("RGB", (3, 2), "red")
    talk = [Message("user", [ImagePart(picture), ImagePart(b"abc"), ImagePart(Path("p.png"))])]
    first, second, third = to_openai(talk)[0]["content"]
    url = first["image_url"]["url"]
    again = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert again.tobytes() == picture.tobytes()
    assert second["image_url"]["url"].endswith(";base64,YWJj")
    assert third == {"type": "image", "path": "p.png"}
    with pytest.raises(DataError, match="a float cannot be written"):
        to_openai([Message("user", [ImagePart(1.5)])])


def test_what_templates_and_loaders_read() -> None:
    kinds = [[part["type"] for part in message["content"]] for message in chat_dicts(TALK)]
    assert kinds[1] == ["image", "text", "image"]
    assert kinds[3] == ["video", "video"]
    assert all(set(p) <= {"type", "text"} for m in chat_dicts(TALK) for p in m["content"])
    assert [part.source for part in media(TALK)] == [
        "a.jpg",
        "https://x.org/b.png",
        "c.mp4",
        "data:video/mp4;base64,AA==",
        "d.png",
    ]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "messages of type str"),
        ({"role": "user"}, "messages of type dict"),
        (["hi"], "message 0 is a str"),
        ([{"role": "usr", "content": "x"}], "did you mean 'user'"),
        ([{"content": "x"}], "role None"),
        ([{"role": "tool", "content": "x"}], "role 'tool'"),
        ([{"role": "user", "content": None}], "content of type NoneType"),
        ([{"role": "user", "content": 3}], "content of type int"),
        ([{"role": "user", "content": [3]}], "part 0 is a int"),
        ([{"role": "user", "content": [{"type": "img"}]}], "did you mean 'image'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text is None"),
        ([{"role": "user", "content": [{"type": "image"}]}], "has no source"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "no source"),
        ([{"role": "user", "content": [{"type": "video", "path": "v", "num_frames": 0}]}], "num_frames=0"),
    ],
)
def test_what_is_no_conversation(messages: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_openai(messages)


def test_a_message_checks_itself() -> None:
    with pytest.raises(DataError, match="did you mean 'assistant'"):
        Message("asistant", "x")
    with pytest.raises(DataError, match="part of type dict"):
        Message("user", [{"type": "text", "text": "x"}])  # type: ignore[list-item]


def test_messages_load_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import mplug_owl.messages, mplug_owl.media; "
        "print([m for m in ('torch', 'transformers', 'av') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
