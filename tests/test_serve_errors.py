"""Every error of the server, in a sentence and in the shape that clients know.

The transcript holds what the server says to each wrong request; the documentation explains its codes. To write it
anew: OWL_WRITE_TRANSCRIPTS=1.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

import mplug_owl
from mplug_owl import Owl
from mplug_owl.engine.options import EngineOptions
from mplug_owl.serve.desk import Desk
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import KINDS, Refusal
from mplug_owl.serve.schema import ChatRequest, read
from serving import PATH, Place, data_url, endless_owl, said, served, shown

TRANSCRIPT = Path(__file__).parent / "transcripts" / "serve_errors.json"
DOCS = Path(__file__).parent.parent / "docs" / "serving.md"


def wide_png() -> bytes:
    """The header of a picture of 100,000 x 100,000 pixels: 100 bytes that would become 30 GB."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def part(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [fields]}]


def picture_at(url: Any) -> list[dict[str, Any]]:
    return part(type="image_url", image_url={"url": url})


ASKED: dict[str, Any] = {
    # the body
    "no JSON": b"What is an owl?",
    "an empty body": b"",
    "a list": [],
    "half a letter": b'{"messages": "\xff"}',
    # the form
    "no messages": {},
    "messages that are a text": {"messages": "hello"},
    "no message": {"messages": []},
    "a message that is a text": {"messages": ["hello"]},
    "a role that nobody has": {"messages": [{"role": "bird", "content": "tu-whit"}]},
    "content that is a number": {"messages": [{"role": "user", "content": 5}]},
    "no content": {"messages": [{"role": "user"}]},
    "a part of no kind": {"messages": part(text="hello")},
    "a part of an unknown kind": {"messages": part(type="input_audio", input_audio={})},
    "a part without its text": {"messages": part(type="text")},
    "an address that is a text": {"messages": part(type="image_url", image_url="data:image/png;base64,")},
    "a misspelt field": {"messages": said(), "temprature": 1},
    "a misspelt field of a part": {"messages": part(type="text", text="hello", txt="hello")},
    "a late system message": {"messages": [*said(), {"role": "system", "content": "Be short."}]},
    "a tool's message": {"messages": [{"role": "tool", "content": "5"}]},
    # wishes
    "a text for a number": {"messages": said(), "max_tokens": "many"},
    "a broken number": {"messages": said(), "max_tokens": 2.5},
    "no tokens": {"messages": said(), "max_tokens": 0},
    "too many tokens": {"messages": said(), "max_tokens": 1_000_000},
    "two limits": {"messages": said(), "max_tokens": 5, "max_completion_tokens": 6},
    "a temperature below zero": {"messages": said(), "temperature": -1},
    "a share above one": {"messages": said(), "top_p": 1.5},
    "too many choices": {"messages": said(), "n": 100},
    "too many stops": {"messages": said(), "stop": ["a", "b", "c", "d", "e"]},
    "an empty stop": {"messages": said(), "stop": ""},
    "likely tokens without probabilities": {"messages": said(), "top_logprobs": 3},
    "options of a stream without one": {"messages": said(), "stream_options": {"include_usage": True}},
    "tools": {"messages": said(), "tools": [{"type": "function", "function": {"name": "f"}}]},
    "a form of the answer": {"messages": said(), "response_format": {"type": "json_object"}},
    "a penalty owls do not know": {"messages": said(), "presence_penalty": 0.5},
    # media
    "a local path": {"messages": picture_at("/etc/passwd")},
    "a local address": {"messages": picture_at("file:///etc/passwd")},
    "a remote picture": {"messages": picture_at("https://example.org/owl.jpg")},
    "no base64": {"messages": picture_at("data:image/png;base64,@@@")},
    "no picture": {"messages": picture_at(data_url(b"hello"))},
    "a bomb": {"messages": picture_at(data_url(wide_png()))},
    "a page": {"messages": picture_at(data_url(b"%PDF-1.7 ...", "application/pdf"))},
    "too many pictures": {"messages": shown("data:image/png;base64,", "?") * 17},
    "too many frames": {
        "messages": part(type="video_url", video_url={"url": "data:video/mp4;base64,"}, num_frames=1000)
    },
    "a picture for the system": {
        "messages": [{"role": "system", "content": part(type="image_url", image_url={"url": "data:,"})[0]["content"]}]
    },
    "a placeholder in the text": {"messages": said("What is in <|image|>?")},
    # what the model can bear
    "a prompt that is too long": {"messages": said("owl " * 2000)},
    "an unknown model": {"model": "tiny-owl3", "messages": said()},
}
ELSEWHERE = {
    "no such address": ("GET", "/v1/embeddings"),
    "another method": ("GET", PATH),
    "a model that is not there": ("GET", "/v1/models/gpt"),
}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with served({"tiny-owl2": endless_owl()}, EngineOptions(context=512)) as place:
        yield place


def say(place: Place, name: str) -> dict[str, Any]:
    """What comes of a wrong request, as the transcript holds it."""
    method, path = ELSEWHERE.get(name, ("POST", PATH))
    reply = place.ask(method, path, ASKED.get(name))
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.body)
    told = {header: reply.headers[header] for header in ("allow", "retry-after") if header in reply.headers}
    return {"status": reply.status, **({"headers": told} if told else {}), **reply.json}


def test_every_error_is_that_of_the_transcript(place: Place) -> None:
    heard = {name: say(place, name) for name in (*ASKED, *ELSEWHERE)}
    if os.environ.get("OWL_WRITE_TRANSCRIPTS"):
        TRANSCRIPT.write_text(json.dumps(heard, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert heard == json.loads(TRANSCRIPT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [*ASKED, *ELSEWHERE])
def test_an_error_has_its_shape_and_is_a_sentence(name: str) -> None:
    told = json.loads(TRANSCRIPT.read_text(encoding="utf-8"))[name]
    assert 400 <= told["status"] < 500
    error = told["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == KINDS[told["status"]]
    # What was found, what was expected; no words of a library, nothing of our insides, no page of theirs.
    assert 10 < len(error["message"]) < 400
    assert not re.search(r"pydantic|Traceback|object at 0x|Input should|<text>|<list>", error["message"])


def test_the_documentation_explains_every_code() -> None:
    sources = (Path(__file__).parent.parent / "mplug_owl" / "serve").glob("*.py")
    codes = {code for path in sources for code in re.findall(r'\bcode="(\w+)"', path.read_text())}
    documented = set(re.findall(r"`(\w+)`", DOCS.read_text()))
    assert codes <= documented, codes - documented
    statuses = {int(status) for status in re.findall(r"^\| (\d{3}) \|", DOCS.read_text(), re.MULTILINE)}
    assert set(KINDS) == statuses


def test_clients_raise_what_they_raise_for_openai(place: Place) -> None:
    with place.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny-owl2", messages=said(), max_tokens=0)
        assert caught.value.param == "max_tokens"
        for length in (200, 20_000):  # over the context when it is read, and before
            with pytest.raises(openai.BadRequestError) as long:
                client.chat.completions.create(model="tiny-owl2", messages=said("owl " * length))
            assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="tiny-owl3", messages=said())
        assert missing.value.code == "model_not_found"
        assert "did you mean 'tiny-owl2'" in missing.value.message
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt")


def test_what_memory_cannot_hold_is_too_long_as_well() -> None:
    owl = mplug_owl.load("tiny-owl2", device="cpu", options=EngineOptions(memory=2**19))
    positions = owl.engine.admission.positions
    desk = Desk("owl", owl, ServeOptions(max_new_tokens=positions))
    try:
        with pytest.raises(Refusal, match="MiB for conversations") as refused:
            desk.requests(ChatRequest(messages=said(), max_tokens=positions))
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
        assert len(desk.requests(ChatRequest(messages=said(), max_tokens=5, n=2))) == 2
    finally:
        owl.engine.close()


def test_unknown_models_leave_no_trace_in_the_metrics(place: Place) -> None:
    """Whoever invents names would otherwise fill the memory."""
    for number in range(3):
        place.ask("POST", PATH, {"model": f"invented-{number}", "messages": said()})
    assert b"invented" not in place.ask("GET", "/metrics").body


# ---- the form, without a server ------------------------------------------------------------------

HARMLESS = {
    "user": "me",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "prompt_cache_key": "x",
    "safety_identifier": "x",
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "tools": [],
    "tool_choice": "none",
    "n": None,
    "stop": None,
    "stream": False,
    "top_k": -1,
}


def form(options: ServeOptions | None = None, **fields: Any) -> ChatRequest:
    return read(json.dumps({"messages": said(), **fields}).encode(), options or ServeOptions())


def test_fields_that_ask_for_nothing_are_taken() -> None:
    assert form(**HARMLESS).conversation()[0].text == said()[0]["content"]


@pytest.mark.parametrize("value", [{"type": "json_schema"}, "text", [1], 1, True])
@pytest.mark.parametrize(
    "field", ["response_format", "tools", "audio", "functions", "prediction", "web_search_options"]
)
def test_fields_that_would_be_ignored_are_refused(field: str, value: Any) -> None:
    with pytest.raises(Refusal) as caught:
        form(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "field",
    [
        "model",
        "stream",
        "max_tokens",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "stop",
        "seed",
        "logprobs",
        "messages",
    ],
)
@pytest.mark.parametrize("value", [{}, {"a": 1}, [[1]], [{}], "x" * 100_000, -1e300, 2**200, float("nan")])
def test_nothing_of_a_wrong_kind_is_a_fault_of_ours(field: str, value: Any) -> None:
    """Whatever stands where: it is taken, or refused in a short sentence."""
    try:
        form(**{field: value})
    except Refusal as refused:
        assert refused.status == 400
        assert len(refused.message) < 400


def test_a_system_message_may_be_the_developers() -> None:
    spoken = form(messages=[{"role": "developer", "content": [{"type": "text", "text": "Be short."}]}, *said()])
    assert [message.role for message in spoken.conversation()] == ["system", "user"]


def test_limits_are_those_of_the_options(picture: Image.Image) -> None:
    for options, asked, words in (
        (ServeOptions(max_images=0), {"messages": shown(picture)}, "at most 0"),
        (ServeOptions(max_messages=1), {"messages": said() * 2}, "at most 1"),
        (ServeOptions(max_choices=2), {"n": 3}, "at most 2"),
        (ServeOptions(max_new_tokens=10, default_new_tokens=5), {"max_tokens": 11}, "at most 10"),
    ):
        with pytest.raises(Refusal, match=words):
            form(options, **asked)


def test_a_picture_larger_than_allowed_is_refused_by_its_header(picture: Image.Image) -> None:
    owl: Owl = endless_owl()
    with served({"owl": owl}, max_pixels=100) as place:
        reply = place.ask("POST", PATH, {"messages": shown(picture)})
        assert reply.status == 400
        assert "at most 100" in reply.json["error"]["message"]
