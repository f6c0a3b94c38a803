"""Who hangs up frees a slot, who is wrong fails alone, and who tells the server to stop is obeyed in peace."""

import asyncio
import base64
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from openai import APIError, InternalServerError, OpenAI
from PIL import Image

from mplug_owl import Owl
from mplug_owl.engine.options import EngineOptions
from mplug_owl.engine.request import Failure, Finish
from mplug_owl.messages import from_openai
from mplug_owl.serve.account import Account
from mplug_owl.serve.app import make_app
from mplug_owl.serve.bell import Bell
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.options import ServeOptions
from serving import PATH, PATIENCE, Place, data_url, endless_owl, said, served, serving, shown, until

HEADERS = {"Content-Type": "application/json"}
LONG = {"messages": said(), "max_tokens": 4000}  # longer than any test; somebody has to end it


@contextmanager
def one_slot(**options: object) -> Iterator[tuple[Place, Owl]]:
    """A server whose owl answers one at a time, and without end."""
    owl = endless_owl(context=100_000)
    with served(
        {"owl": owl}, EngineOptions(slots=1, queue=2, context=100_000), max_new_tokens=50_000, **options
    ) as place:
        yield place, owl


def outcomes(place: Place) -> dict[str, int]:
    page = place.ask("GET", "/metrics").body.decode()
    found = re.findall(r'owl_requests_total\{model="\w*",outcome="(\w+)"\} ([\d.]+)', page)
    return {name: int(float(count)) for name, count in found}


# ---- whoever hangs up ----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_in_the_midst_frees_its_slot(stream: bool) -> None:
    with one_slot() as (place, owl):
        with closing(place.connection()) as connection:
            connection.request("POST", PATH, json.dumps({**LONG, "max_tokens": 50_000, "stream": stream}), HEADERS)
            if stream:
                assert connection.getresponse().readline().startswith(b"data: {")
            until(lambda: owl.engine.counts["tokens"] > 3)
            assert owl.engine.running == 1
        until(lambda: not owl.engine.running)
        until(lambda: outcomes(place) == {"disconnected": 1})
        assert owl.engine.counts["ended_abort"] == 1
        assert owl.engine.counts["tokens"] < 50_000


def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    with one_slot() as (place, owl), place.client() as client:
        first = client.chat.completions.create(model="owl", stream=True, **{**LONG, "max_tokens": 50_000})
        next(iter(first))
        with closing(place.connection()) as connection:
            connection.request("POST", PATH, json.dumps(LONG), HEADERS)
            until(lambda: owl.engine.waiting == 1)
        until(lambda: not owl.engine.waiting)
        assert owl.engine.running == 1  # the other goes on
        assert owl.engine.counts["ended_abort"] == 1
        first.close()
        until(lambda: not owl.engine.running)


def test_all_choices_end_with_their_client() -> None:
    owl = endless_owl(context=100_000)
    with served({"owl": owl}, EngineOptions(context=100_000), max_new_tokens=50_000) as place:
        with closing(place.connection()) as connection:
            connection.request("POST", PATH, json.dumps({**LONG, "max_tokens": 50_000, "n": 3}), HEADERS)
            until(lambda: owl.engine.running == 3)
        until(lambda: not owl.engine.running)
        assert owl.engine.counts["ended_abort"] == 3


def test_an_answer_that_takes_too_long_is_ended() -> None:
    with one_slot(request_timeout=2.0) as (place, owl):  # in which the first token must come
        reply = place.ask("POST", PATH, {**LONG, "max_tokens": 50_000})
        assert (reply.status, reply.json["error"]["code"]) == (504, "timeout")
        events = place.ask("POST", PATH, {**LONG, "max_tokens": 50_000, "stream": True}).body.split(b"\n\n")
        assert b'"code":"timeout"' in events[-2]
        until(lambda: not owl.engine.running)
        assert outcomes(place) == {"timeout": 2}


# ---- whoever is wrong ----------------------------------------------------------------------------


def test_one_bad_request_fails_alone(picture: Image.Image) -> None:
    owl = endless_owl()
    bad = shown(data_url(b"no picture at all"))
    with served({"owl": owl}) as place:
        expected = owl.chat(shown(picture), max_new_tokens=30)
        replies: dict[int, object] = {}

        def ask(number: int) -> None:
            messages = shown(picture) if number % 2 else bad
            replies[number] = place.ask("POST", PATH, {"messages": messages, "max_tokens": 30})

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, reply in replies.items():
            assert reply.status == (200 if number % 2 else 400)
            if number % 2:
                assert reply.json["choices"][0]["message"]["content"] == expected
        assert outcomes(place) == {"answered": 4, "refused": 4}


def test_a_fault_of_the_model_is_ours_and_says_nothing_of_our_insides(monkeypatch: pytest.MonkeyPatch) -> None:
    owl = endless_owl()
    with served({"owl": owl}) as place:
        with monkeypatch.context() as patch:
            patch.setattr(owl.engine.forward, "prefill", _fails)
            reply = place.ask("POST", PATH, {"messages": said()})
            assert reply.status == 500
            assert reply.json["error"]["type"] == "server_error"
            assert b"secret" not in reply.body
        assert place.ask("POST", PATH, {"messages": said(), "max_tokens": 3}).status == 200


def test_a_fault_in_the_midst_of_a_stream_is_its_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    with one_slot() as (place, owl), place.client() as client:
        stream = client.chat.completions.create(model="owl", stream=True, **LONG)
        next(iter(stream))
        monkeypatch.setattr(owl.engine.forward, "decode", _fails)
        with pytest.raises(APIError) as caught:
            list(stream)
        assert not isinstance(caught.value, InternalServerError)  # its status had gone out already
        assert "secret" not in str(caught.value)
        monkeypatch.undo()
        until(lambda: not owl.engine.running)


def _fails(*_: object) -> None:
    raise RuntimeError("secret")


def test_a_full_queue_sends_away_and_says_when_to_come_back() -> None:
    with one_slot() as (place, owl), place.client() as client:
        with client.chat.completions.create(model="owl", stream=True, **{**LONG, "max_tokens": 50_000}) as first:
            next(iter(first))
            waiting = [place.connection() for _ in range(2)]
            for connection in waiting:
                connection.request("POST", PATH, json.dumps(LONG), HEADERS)
            until(lambda: owl.engine.waiting == 2)
            reply = place.ask("POST", PATH, LONG)
            assert (reply.status, reply.json["error"]["code"]) == (503, "busy")
            assert int(reply.headers["retry-after"]) > 0
            for connection in waiting:
                connection.close()
            until(lambda: not owl.engine.waiting)
        until(lambda: not owl.engine.running)


# ---- pictures from elsewhere ---------------------------------------------------------------------


@pytest.fixture
def elsewhere(picture: Image.Image) -> Iterator[str]:
    """A server of pictures, as private as can be."""
    body = base64.b64decode(data_url(picture).partition(",")[2])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/picture.png"
        server.shutdown()
        thread.join()


def test_addresses_are_fetched_only_where_that_is_wanted_and_only_from_public_hosts(
    elsewhere: str, picture: Image.Image
) -> None:
    owl = endless_owl()
    asked = {"messages": shown(elsewhere), "max_tokens": 6}
    with served({"owl": owl}) as place:
        assert place.ask("POST", PATH, asked).json["error"]["code"] == "remote_media_off"
    with served({"owl": owl}, remote_media=True) as place:
        assert "private address" in place.ask("POST", PATH, asked).json["error"]["message"]
    with served({"owl": owl}, remote_media=True, trusted_hosts=("127.0.0.1",)) as place:
        text = place.ask("POST", PATH, asked).json["choices"][0]["message"]["content"]
        assert text == owl.chat(shown(picture), max_new_tokens=6)


# ---- the word to stop ----------------------------------------------------------------------------


def test_whoever_comes_after_the_word_to_stop_is_sent_on() -> None:
    owl = endless_owl()
    with served({"owl": owl}) as place:
        place.service.stopping = True
        for reply in (place.ask("GET", "/ready"), place.ask("POST", PATH, {"messages": said()})):
            assert (reply.status, reply.json["error"]["code"]) == (503, "stopping")
            assert int(reply.headers["retry-after"]) > 0
        assert place.ask("GET", "/health").status == 200


def test_a_server_that_is_told_to_stop_lets_answers_end() -> None:
    """The answer goes on after the word, and no other is begun."""
    owl = endless_owl()
    catalogue = Catalogue({"owl": owl})
    catalogue.start()
    with serving(make_app(catalogue, ServeOptions())) as place, place.client() as client:
        expected = owl.chat(said(), max_new_tokens=300)
        stream = iter(client.chat.completions.create(model="owl", messages=said(), max_tokens=300, stream=True))
        text = next(stream).choices[0].delta.content or ""
        place.server.should_exit = True
        text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == expected


def test_an_answer_that_outlasts_the_patience_is_told_why() -> None:
    owl = endless_owl(context=100_000)
    catalogue = Catalogue({"owl": owl})
    catalogue.start(EngineOptions(context=100_000))
    app = make_app(catalogue, ServeOptions(max_new_tokens=50_000))
    with serving(app) as place, place.client() as client:
        place.server.options = ServeOptions(drain=0.2)
        stream = iter(client.chat.completions.create(model="owl", stream=True, **{**LONG, "max_tokens": 50_000}))
        next(stream)
        place.server.should_exit = True
        with pytest.raises(APIError, match="stopped before the answer ended"):
            list(stream)
    until(lambda: not owl.engine.running)


@pytest.mark.slow
def test_sigterm_ends_the_process_in_peace() -> None:
    """A stream that runs when the signal comes ends as it should, and the process leaves with status 0."""
    code = (
        "import argparse\n"
        "from mplug_owl.serve.command import add_arguments, run\n"
        "parser = argparse.ArgumentParser()\n"
        "add_arguments(parser)\n"
        "run(parser.parse_args(['tiny-owl2', '--port', '0', '--device', 'cpu']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout is not None
        found = re.search(r"tiny-owl2 at (http://\S+)/v1", process.stdout.readline())
        assert found is not None
        with OpenAI(base_url=f"{found[1]}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client:
            stream = iter(client.chat.completions.create(model="tiny-owl2", messages=said(), stream=True))
            chunks = [next(stream)]
            process.send_signal(signal.SIGTERM)
            chunks += stream
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert process.wait(PATIENCE) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


# ---- the parts -----------------------------------------------------------------------------------


def test_however_many_ring_the_loop_is_woken_once() -> None:
    class Loop(asyncio.SelectorEventLoop):
        calls = 0

        def call_soon_threadsafe(self, *args: object, **kwargs: object) -> asyncio.Handle:
            self.calls += 1
            return super().call_soon_threadsafe(*args, **kwargs)  # type: ignore[arg-type]

    async def ring() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        bell, flags = Bell(loop), [asyncio.Event() for _ in range(50)]
        thread = threading.Thread(target=lambda: [bell.ring(flag) for flag in flags])
        thread.start()
        thread.join()  # the loop has not run in the meantime
        calls = loop.calls
        for flag in flags:
            await flag.wait()
        flags[0].clear()
        bell.ring(flags[0])  # and the next one is heard too
        await flags[0].wait()
        return calls

    with closing(Loop()) as loop:
        assert loop.run_until_complete(ring()) == 1


def test_an_answer_tells_what_has_come_without_waiting() -> None:
    owl = endless_owl()
    rung = threading.Event()
    asked = owl.desk.request(from_openai(said()), max_new_tokens=5)
    answer = owl.desk.ask(asked, notify=rung.set)
    text = ""
    while answer.finish is None:
        assert rung.wait(PATIENCE)
        rung.clear()
        text += "".join(piece.text for piece in answer.ready())
    assert answer.finish == Finish("length", len(asked.ids), 0, 5)
    assert answer.ready() == []
    assert text == owl.chat(said(), max_new_tokens=5)
    assert len(answer.times) == 5
    assert answer.times == sorted(answer.times)
    failed = owl.desk.ask(asked)
    failed.close()
    failed.finish = None
    failed.hear(Failure(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        failed.ready()


def test_an_account_knows_its_times() -> None:
    account = Account(began=1.0)
    account.times = [[1.5, 1.7, 2.0], [], [1.25]]
    assert account.to_first_token == 0.25
    assert account.between_tokens == pytest.approx([0.2, 0.3])
