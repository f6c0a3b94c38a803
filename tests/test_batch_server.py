"""`owl batch --server`: one answer a line, in order, whatever the server goes through.

A scripted server shows the faults that a real one cannot be made to show; everything else asks a real one.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image

from mplug_owl import DataError, Owl, RequestError
from mplug_owl.engine.batch import Tally, answer_file, by_owl
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart
from mplug_owl.serve import batch_command
from mplug_owl.serve.remote import Server, pause_of, request

NEW = {"max_new_tokens": 8, "temperature": 0.0}
Heard = dict[str, Any]
Said = tuple[int, dict[str, str], bytes] | None
"""Status, headers and body; None hangs up."""


# ---- a scripted server -----------------------------------------------------------------------------


@contextmanager
def scripted(reply: Callable[[int, Heard], Said]) -> Iterator[tuple[str, list[Heard]]]:
    """A server that does what it is told, request by request; gives its address and what it heard."""
    heard: list[Heard] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.say((200, {}, b'{"data": [{"id": "parrot"}]}'))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                heard.append({"path": self.path, "headers": dict(self.headers), "time": time.monotonic(), **body})
                number = len(heard)
            self.say(reply(number, body))

        def say(self, said: Said) -> None:
            if said is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            status, headers, body = said
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """A test is quiet."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Clients that hang up are part of the script."""

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def echo(body: Heard) -> Said:
    """The question as the answer."""
    said = {"message": {"role": "assistant", "content": question_of(body)}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return 200, {}, json.dumps({"choices": [said], "usage": usage}).encode()


def question_of(body: Heard) -> str:
    content = body["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[-1]["text"])


def fault(status: int, words: str = "no", **headers: str) -> Said:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"message": words}}).encode()


def questions(folder: Path, count: int, **more: Any) -> Path:
    path = folder / "in.jsonl"
    rows = [{"id": f"q{number}", "question": f"number {number}?", **more} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(url: str, source: Path, target: Path, options: dict[str, Any] | None = None, **bounds: Any) -> Tally:
    server = Server(url, **{"patience": 20.0, **bounds})
    return answer_file(lambda: server.answering(source.parent, options or NEW), source, target)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_answers_come_in_the_order_of_the_file_and_no_more_are_asked_at_once(tmp_path: Path) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def reply(number: int, body: Heard) -> Said:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02 if number % 3 else 0.06)
        with lock:
            running -= 1
        return echo(body)

    source = questions(tmp_path, 40)
    with scripted(reply) as (url, heard):
        assert asked(url, source, tmp_path / "out.jsonl", at_once=4) == Tally(0, 40, 0)
    found = read(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [f"q{number}" for number in range(40)]
    assert [row["answer"] for row in found] == [f"number {number}?" for number in range(40)]
    assert found[0] | {"id": 0} == {
        "id": 0, "answer": "number 0?", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 2
    }  # fmt: skip
    assert len(heard) == 40 and 1 < most <= 4
    assert {one["model"] for one in heard} == {"parrot"} and {one["path"] for one in heard} == {"/v1/chat/completions"}


@pytest.mark.parametrize("trouble", [fault(429), fault(503), fault(502), fault(500), None])
def test_what_may_pass_is_asked_again(tmp_path: Path, trouble: Said) -> None:
    source = questions(tmp_path, 3)
    with scripted(lambda number, body: trouble if number in (1, 3) else echo(body)) as (url, heard):
        assert asked(url, source, tmp_path / "out.jsonl", at_once=1) == Tally(0, 3, 0)
    assert [question_of(one) for one in heard] == [f"number {number}?" for number in (0, 0, 1, 1, 2)]


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    source = questions(tmp_path, 1)
    with scripted(lambda number, body: fault(429, Retry_After="1") if number == 1 else echo(body)) as (url, heard):
        asked(url, source, tmp_path / "out.jsonl")
    assert heard[1]["time"] - heard[0]["time"] >= 1.0


def test_retry_after_may_be_a_date() -> None:
    assert pause_of("2.5") == 2.5
    assert pause_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (pause_of("Wed, 21 Oct 2115 07:28:00 GMT") or 0) > 1e9
    assert pause_of("soon") is None and pause_of(None) is None


def test_what_is_wrong_with_a_line_is_its_record(tmp_path: Path) -> None:
    def reply(number: int, body: Heard) -> Said:
        number = int(question_of(body).strip("number ?"))
        return {
            1: fault(400, "too long"),
            2: fault(500, "broken"),
            3: (200, {}, b"[]"),
            4: (413, {}, b"too large"),
        }.get(number, echo(body))

    source = questions(tmp_path, 6)
    with scripted(reply) as (url, heard):
        assert asked(url, source, tmp_path / "out.jsonl") == Tally(0, 2, 4)
    found = read(tmp_path / "out.jsonl")
    errors = [row.get("error") for row in found]
    assert errors[1] == "400 too long" and errors[2] == "500 broken" and errors[4] == "413 too large"
    assert "no chat completion" in errors[3]
    assert sum("number 2?" in question_of(one) for one in heard) == 4  # a fault is not tried for ever
    assert sum("number 1?" in question_of(one) for one in heard) == 1


def test_a_line_that_always_loses_its_connection_does_not_stop_the_others(tmp_path: Path) -> None:
    source = questions(tmp_path, 30)
    with scripted(lambda number, body: None if question_of(body) == "number 3?" else echo(body)) as (url, _):
        assert asked(url, source, tmp_path / "out.jsonl", at_once=2) == Tally(0, 29, 1)
    found = read(tmp_path / "out.jsonl")
    assert "connection was lost" in found[3]["error"]


@pytest.mark.parametrize(("status", "words"), [(401, "no such key"), (404, "no model 'x'")])
def test_what_is_true_of_every_line_stops_the_run(tmp_path: Path, status: int, words: str) -> None:
    source = questions(tmp_path, 50)
    with (
        scripted(lambda number, body: echo(body) if number < 10 else fault(status, words)) as (url, heard),
        pytest.raises(RequestError, match=words),
    ):
        asked(url, source, tmp_path / "out.jsonl", at_once=1)
    kept = read(tmp_path / "out.jsonl")
    assert len(kept) <= 9 and len(heard) in (10, 11)  # the next one may be on its way when the word comes
    with scripted(lambda number, body: echo(body)) as (url, heard):
        tally = asked(url, source, tmp_path / "out.jsonl")
    assert tally == Tally(len(kept), 50 - len(kept), 0) and len(heard) == 50 - len(kept)


def test_patience_ends(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RequestError, match="the same command goes on"):
            asked(url, questions(tmp_path, 3), tmp_path / "out.jsonl", patience=0.6)
    assert not (tmp_path / "out.jsonl").read_text()


def test_leaving_early_ends_what_is_being_asked(tmp_path: Path) -> None:
    release = threading.Event()

    def reply(number: int, body: Heard) -> Said:
        if question_of(body) != "number 0?":
            release.wait(30)
        return echo(body)

    with scripted(reply) as (url, heard):
        server = Server(url, at_once=2)
        lines = (json.dumps({"question": f"number {number}?"}) for number in range(100))
        records = server.answering(tmp_path, NEW)(lines)
        first = next(records)
        began = time.monotonic()
        records.close()
        left = time.monotonic() - began
        release.set()
    assert first["answer"] == "number 0?" and len(heard) <= 3  # the one that was answered, and two under way
    assert left < 15  # the answers under way would have taken 30


# ---- what is sent ------------------------------------------------------------------------------------


def test_files_are_sent_along(picture: Image.Image, picture_file: Path) -> None:
    shown = [
        ImagePart(str(picture_file)),
        VideoPart(str(picture_file), 3),
        ImagePart("http://far/a.png"),
        TextPart("?"),
    ]
    [message] = request([Message("user", shown)], NEW)["messages"]
    image, video, far, text = message["content"]
    head, _, body = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(body) == picture_file.read_bytes()
    assert video["type"] == "video_url" and video["num_frames"] == 3
    assert far == {"type": "image_url", "image_url": {"url": "http://far/a.png"}}
    assert text == {"type": "text", "text": "?"}
    with pytest.raises(DataError, match="folder of frames"):
        request([Message("user", [VideoPart(str(picture_file.parent))])], NEW)
    with pytest.raises(DataError, match=r"no\.png"):
        request([Message("user", [ImagePart("no.png")])], NEW)


def test_wishes_have_the_names_of_the_api() -> None:
    usual = {
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": None,
        "stop": [],
        "system": None,
    }
    plain = request([Message("user", "?")], {**usual, "max_new_tokens": 9, "temperature": 0.0, "template": None})
    assert plain == {"messages": [{"role": "user", "content": "?"}], "max_tokens": 9, "temperature": 0.0}
    unusual = {"top_p": 0.5, "top_k": 3, "seed": 0, "stop": ["."], "system": ""}
    found = request([Message("user", "?")], unusual)
    assert found.pop("messages") == [{"role": "system", "content": ""}, {"role": "user", "content": "?"}]
    assert found == {"top_p": 0.5, "top_k": 3, "seed": 0, "stop": ["."]}
    own = request([Message("system", "Be brief."), Message("user", "?")], {"system": "Be long."})
    assert own["messages"][0]["content"] == "Be brief."
    with pytest.raises(RequestError, match="template 'training'"):
        request([Message("user", "?")], {"template": "training"})


@pytest.mark.parametrize(
    ("url", "path"),
    [("localhost:8000", "/v1"), ("http://a/v1/", "/v1"), ("https://a:1/owls", "/owls/v1"), ("http://a/x/v1", "/x/v1")],
)
def test_addresses_come_with_and_without_their_version(url: str, path: str) -> None:
    assert Server(url).path == path


def test_keys_go_along() -> None:
    assert Server("a", key="secret").headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in Server("a").headers
    with pytest.raises(RequestError, match="'ftp://a'"):
        Server("ftp://a")


# ---- a real server -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, picture: Image.Image) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    (folder / "media").mkdir()
    picture.save(folder / "media" / "moon.png")
    return folder


def mixed(count: int) -> list[dict[str, Any]]:
    """Pictures and videos, turns, sampling, and lines that cannot be answered."""
    shown = [{"type": "image", "path": "media/moon.png"}, {"type": "text", "text": "What?"}]
    rows: list[dict[str, Any]] = [
        {"id": "talk", "messages": [{"role": "user", "content": shown}, {"role": "assistant", "content": "A moon."}]},
        {"question": "Where?", "images": ["media/moon.png"], "videos": ["media/moon.png"]},
        {"id": 7, "question": "Sing!", "options": {"temperature": 1.0, "seed": 3, "max_new_tokens": 4}},
        {"id": "lost", "question": "What?", "images": ["media/nowhere.png"]},
        {"id": "system", "question": "Who?", "options": {"system": "You are an owl."}},
    ]
    rows[0]["messages"].append({"role": "user", "content": "Sure?"})
    return (rows + [{"id": f"more {number}", "question": f"And {number}?"} for number in range(count)])[:count]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextmanager
def serving(port: int, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`owl serve` in a process of its own, ready; killed in the end."""
    line = [sys.executable, "-m", "mplug_owl", "serve", "tiny-owl2", "--device", "cpu", "--port", str(port), *words]
    process = subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        until_ready(port, process)
        yield process
    finally:
        process.kill()
        process.wait()


def until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert process.poll() is None, "the server ended"
        try:
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
                assert reply.status == 200
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server is not ready after two minutes")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_a_server_killed_and_restarted_loses_and_doubles_nothing(owl: Owl, folder: Path) -> None:
    source, port = write(folder / "many.jsonl", mixed(400)), free_port()
    answer_file(lambda: by_owl(owl, folder, NEW), source, folder / "here.jsonl")
    expected = read(folder / "here.jsonl")
    target = folder / "there.jsonl"
    tallies: list[Tally] = []

    def run() -> None:
        tallies.append(asked(f"http://127.0.0.1:{port}", source, target, at_once=8, patience=120.0))

    thread = threading.Thread(target=run)
    thread.start()  # the server is not there yet
    for enough in (60, 180):
        with serving(port) as process:
            while thread.is_alive() and (not target.exists() or target.read_bytes().count(b"\n") < enough):
                time.sleep(0.02)
            assert thread.is_alive(), "all was answered before the server could be killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
    with serving(port):
        thread.join(300)
    assert tallies == [Tally(0, len(expected) - 1, 1)]
    found = read(target)
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    assert [row.get("answer") for row in found] == [row.get("answer") for row in expected]


@pytest.mark.slow
def test_a_server_answers_as_the_owl_does_here(owl: Owl, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, port = write(folder / "few.jsonl", mixed(12)), free_port()
    answer_file(lambda: by_owl(owl, folder, NEW), source, folder / "few-here.jsonl")
    made = ArgumentParser()
    batch_command.add_arguments(made)
    words = [str(source), str(folder / "few-there.jsonl"), "--server", f"127.0.0.1:{port}", "--max-new-tokens", "8"]
    with serving(port):
        assert batch_command.run(made.parse_args(words)) == 0
    assert "11 answered, 1 failed, 0 there before" in capsys.readouterr().out
    assert read(folder / "few-there.jsonl") == read(folder / "few-here.jsonl")


# ---- the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--server", "a", "--cluster"], "expected one of them"),
        (["--key", "x"], "--key without --server"),
        (["--at-once", "3", "--cluster"], "--at-once without --server"),
        (["--replicas", "3"], "--replicas without --cluster"),
        (["--server", "a", "--quantize", "int4"], "--quantize is for an owl that is opened here"),
        (["--server", "a", "--device", "cpu"], "--device is for an owl"),
        (["--server", "a", "--at-once", "0"], "0 requests at once"),
        (["--cluster", "ray://a:1"], "cannot stream"),
        (["--cluster", "--replicas", "3:1"], "3 to 1 replicas"),
        (["--cluster", "--replicas", "many"], "a number, or MIN:MAX"),
    ],
)
def test_options_that_do_not_go_together(folder: Path, words: list[str], said: str) -> None:
    made = ArgumentParser()
    batch_command.add_arguments(made)
    source = write(folder / "one.jsonl", mixed(1))
    with pytest.raises(ValueError, match=said):
        batch_command.run(made.parse_args([str(source), str(folder / "none.jsonl"), *words]))


def test_help_fits_a_screen_and_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = ArgumentParser(prog="owl batch", description="Answer a file of conversations.")
    batch_command.add_arguments(made)
    made.add_argument("--debug", action="store_true", help="show where an error came from")
    lines = made.format_help().splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    assert any("owl batch in.jsonl out.jsonl --server" in line for line in lines)
