"""A conversation as an API call: what the shell and Python make of the text is what an owl was asked."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, from_openai
from mplug_owl.serve.ui.apicall import EXAMPLE, curl, python
from mplug_owl.serve.ui.conversation import Turn
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.upload import Upload

NASTY = 'It\'s "50 $HOME" `ls` \\n \\\\ {x!r} $(date)\nJSON\n\'\'\'""" \u017e @file-0@'


@pytest.fixture
def turns(tmp_path: Path) -> list[Turn]:
    """Two answered questions, about files whose names are not made for a shell."""
    picture, clip = tmp_path / "it's a $cat.png", tmp_path / "a clip.mp4"
    picture.write_bytes(b"\x00picture\xff" * 50)
    clip.write_bytes(b"video" * 40)
    return [
        Turn(NASTY, (Upload(picture, "image", "0", 1), Upload(clip, "video", "1", 1)), answer="One.\n" + NASTY),
        Turn("And now?", answer="The answer that is asked for again."),
    ]


def conversation(request: dict[str, Any]) -> list[Message]:
    return from_openai(request["messages"])


def check(request: dict[str, Any], turns: list[Turn]) -> None:
    """The request asks what the turns asked, with the content of the files in it."""
    first, answer, last = conversation(request)
    picture, clip, words = first.content
    assert isinstance(picture, ImagePart) and isinstance(clip, VideoPart) and words == TextPart(NASTY)
    for part, upload in zip((picture, clip), turns[0].uploads, strict=True):
        from mplug_owl.media import Limits
        from mplug_owl.media.source import read

        assert read(part.source, Limits()) == upload.path.read_bytes()
    assert (answer.role, answer.text, last.text) == ("assistant", turns[0].answer, "And now?")


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that writes requests down and answers with nothing but an end."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            heard[-1]["path"] = self.path
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, format: str, *values: object) -> None:
            """Nothing: the test says what matters."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", heard
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_shell_sends_what_was_asked(turns: list[Turn], tmp_path: Path) -> None:
    text = curl("http://localhost:1/v1", "owlet", turns, Parameters(0.5, 0.9, 40, 64, 7, NASTY))
    ran = subprocess.run(
        ["bash", "-euc", 'curl() { printf "%s\\n" "$@" >&2; cat; }\n' + text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    request = json.loads(ran.stdout)
    assert request["messages"].pop(0) == {"role": "system", "content": NASTY}
    check(request, turns)
    assert ran.stderr.splitlines()[0] == "http://localhost:1/v1/chat/completions"
    wished = {"model": "owlet", "temperature": 0.5, "max_tokens": 64, "top_p": 0.9, "top_k": 40, "seed": 7}
    assert {name: value for name, value in request.items() if name != "messages"} == wished


def test_python_sends_what_was_asked(turns: list[Turn], tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="needs the openai package")
    with listening() as (base, heard):
        text = python(base, "owl's", turns, Parameters(0.5, 0.9, 40, 64, 7, NASTY), has_keys=True)
        subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, check=True, timeout=120)
    (request,) = heard
    assert request.pop("path") == "/v1/chat/completions"
    assert request["messages"].pop(0) == {"role": "system", "content": NASTY}
    check(request, turns)
    wished = {"model": "owl's", "temperature": 0.5, "max_tokens": 64, "top_p": 0.9, "top_k": 40, "seed": 7}
    assert {name: value for name, value in request.items() if name != "messages"} == {**wished, "stream": True}


def test_before_the_first_question_there_is_an_example_of_one() -> None:
    text = curl("http://localhost:1/v1", "owlet", [], Parameters())
    request = json.loads(text.partition("<<JSON\n")[2].rpartition("\nJSON")[0])
    assert [message.text for message in conversation(request)] == [EXAMPLE]
    assert "top_p" not in request and "seed" not in request
    compile(python("http://localhost:1/v1", "owlet", [], Parameters()), "example", "exec")


def test_a_server_with_keys_is_asked_with_one() -> None:
    assert "Authorization: Bearer" in curl("http://localhost:1/v1", "owlet", [], Parameters(), has_keys=True)
    assert "Authorization" not in curl("http://localhost:1/v1", "owlet", [], Parameters())
