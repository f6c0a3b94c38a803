"""The endpoint of a server: what passes is tried again, what is wrong fails alone, nothing that was said is lost."""

import base64
import io
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from PIL import Image

from eval_tasks import Adder, Pictures, Sums, disc, files
from mplug_owl import EvalError, ImagePart, Message, TextPart, VideoPart
from mplug_owl.eval.endpoints import Failure, Said
from mplug_owl.eval.openai_endpoint import OpenAIEndpoint, _asked_wait
from mplug_owl.eval.run import run
from scripted import Answer, Body, Drop, Raw, Refusal, Reply, said, scripted

PATIENCE = 20.0  # seconds after which a test gives up


def added(body: Body, before: int = 0) -> Reply:
    return Answer(f"{int(said(body).split()[0]) + 1}.")


def conversations(count: int) -> list[tuple[Message, ...]]:
    return [example.messages for example in Sums(count).examples()]


def right(count: int) -> list[str]:
    return [f"{number + 1}." for number in range(count)]


def ask(endpoint: OpenAIEndpoint, count: int) -> list[Said]:
    return list(endpoint.answers(conversations(count), 8))


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_answers_come_in_order_however_they_arrive(concurrency: int) -> None:
    arrived, lock = threading.Condition(), threading.Lock()
    served: list[int] = []

    def reply(body: Body, before: int) -> Reply:
        number = int(said(body).split()[0])
        with arrived:
            if number == 0 and concurrency > 1:  # the first is answered after two others
                assert arrived.wait_for(lambda: len(served) >= 2, PATIENCE)
            with lock:
                served.append(number)
            arrived.notify_all()
        return added(body)

    with scripted(reply) as script:
        assert ask(OpenAIEndpoint(script.url, "m", concurrency=concurrency), 12) == right(12)
        assert sorted(served) == list(range(12)) and script.most <= concurrency
        assert (served[0] == 0) == (concurrency == 1)


def test_what_is_sent(tmp_path: Path) -> None:
    disc("red").save(tmp_path / "a.png")
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "b.bmp")
    parts = (
        TextPart("Look: "),
        ImagePart(str(tmp_path / "a.png")),
        ImagePart(tmp_path / "b.bmp"),
        ImagePart(disc("green")),
        ImagePart("https://example.org/c.png"),
        VideoPart([disc("white"), disc("black")], 2),
        TextPart("what?"),
    )
    talk = [Message("system", "Be brief."), Message("user", parts), Message("assistant", "A."), Message("user", "So?")]
    with scripted(lambda body, before: Answer("yes")) as script:
        endpoint = OpenAIEndpoint(script.url, "m", "secret", request={"seed": 5, "temperature": None})
        assert list(endpoint.answers([talk], 9)) == ["yes"]
        assert (endpoint.usage.requests, endpoint.usage.prompt_tokens, endpoint.usage.completion_tokens) == (1, 7, 3)
    [body], [headers] = script.bodies, script.headers
    assert body["path"] == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["seed"], "temperature" in body) == ("m", 9, 5, False)
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][3]["content"] == "So?"
    content = body["messages"][1]["content"]
    assert [part["type"] for part in content] == ["text", *["image_url"] * 6, "text"]
    urls = [part["image_url"]["url"] for part in content[1:-1]]
    assert base64.b64decode(urls[0].removeprefix("data:image/png;base64,")) == (tmp_path / "a.png").read_bytes()
    assert urls[3] == "https://example.org/c.png"
    shown = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in (*urls[1:3], *urls[4:])]
    assert [picture.format for picture in shown] == ["PNG"] * 4
    assert shown[1].tobytes() == disc("green").tobytes() and shown[3].tobytes() == disc("black").tobytes()


def test_nothing_is_sent_that_nobody_gave() -> None:
    with scripted(added) as script:
        ask(OpenAIEndpoint(script.url, "m"), 1)
    assert "Authorization" not in script.headers[0] and script.bodies[0]["temperature"] == 0


@pytest.mark.parametrize(
    "trouble",
    [
        Refusal(429, headers={"Retry-After": "0"}),
        Refusal(503),
        Refusal(500),
        Drop(),
        Raw(b"<html>"),
        Raw(b'{"choices": []}'),
        Raw(b"[]"),
    ],
    ids=["429", "503", "500", "dropped", "page", "no choices", "list"],
)
def test_what_passes_is_tried_again(trouble: Reply) -> None:
    def reply(body: Body, before: int) -> Reply:
        return trouble if before < 2 and said(body).startswith(("1 ", "4 ")) else added(body)

    with scripted(reply) as script:
        endpoint = OpenAIEndpoint(script.url, "m", concurrency=2, backoff=0.001)
        assert ask(endpoint, 6) == right(6)
    assert endpoint.usage.retries == 4 and endpoint.usage.requests == 10


def test_a_server_is_not_asked_before_it_wants() -> None:
    """A wait of hours would be the endpoint's own; the server says none, and at another time a tenth of a second."""
    with scripted(lambda body, before: Refusal(429, headers={"Retry-After": "0"}) if not before else added(body)) as s:
        assert ask(OpenAIEndpoint(s.url, "m", backoff=1e5), 1) == right(1)
    times: list[float] = []

    def reply(body: Body, before: int) -> Reply:
        times.append(time.monotonic())
        return Refusal(503, headers={"Retry-After": "0.3"}) if not before else added(body)

    with scripted(reply) as script:
        assert ask(OpenAIEndpoint(script.url, "m", backoff=0.0), 1) == right(1)
    assert times[1] - times[0] >= 0.3


def test_waits_are_seconds_or_dates() -> None:
    assert _asked_wait(None) is _asked_wait("") is _asked_wait("soon") is None
    assert (_asked_wait("7"), _asked_wait("1.5"), _asked_wait("-3")) == (7, 1.5, 0)
    assert _asked_wait(formatdate(time.time() - 99, usegmt=True)) == 0
    later = _asked_wait(formatdate(time.time() + 50, usegmt=True))
    assert later is not None and 40 < later <= 51


@pytest.mark.parametrize(
    ("reply", "word"), [(Refusal(400, "too long"), "answers 400: too long"), (Answer(None), "no text")]
)
def test_what_is_wrong_with_one_fails_alone(reply: Reply, word: str) -> None:
    with scripted(lambda body, before: reply if said(body).startswith("2 ") else added(body)) as script:
        found = ask(OpenAIEndpoint(script.url, "m", concurrency=3, backoff=0.001), 5)
    assert isinstance(found[2], Failure) and word in found[2].reason
    assert [*found[:2], *found[3:]] == [answer for answer in right(5) if answer != "3."]
    assert len(script.asked) == 5


def test_a_picture_that_cannot_be_opened_fails_alone() -> None:
    bad = (Message("user", (ImagePart("gone.png"), TextPart("1 + 1?"))),)
    with scripted(added) as script:
        found = list(OpenAIEndpoint(script.url, "m").answers([bad, *conversations(1)], 8))
    assert isinstance(found[0], Failure) and "gone.png" in found[0].reason and found[1] == "1."


def test_one_conversation_that_the_server_cannot_bear_fails_alone() -> None:
    with scripted(lambda body, before: Refusal(500) if said(body).startswith("2 ") else added(body)) as script:
        found = ask(OpenAIEndpoint(script.url, "m", concurrency=1, retries=2, backoff=0.001), 5)
    assert isinstance(found[2], Failure) and "after 3 attempts" in found[2].reason
    assert [*found[:2], *found[3:]] == [answer for answer in right(5) if answer != "3."]


def test_a_slow_server_is_out_of_time() -> None:
    free = threading.Event()

    def reply(body: Body, before: int) -> Reply:
        if said(body).startswith("1 "):
            free.wait(PATIENCE)
        return added(body)

    with scripted(reply) as script:
        try:
            found = ask(OpenAIEndpoint(script.url, "m", timeout=0.3, retries=1, backoff=0.001), 3)
        finally:
            free.set()
    assert found[0] == "1." and found[2] == "3."
    assert isinstance(found[1], Failure) and "no answer within 0.3 s, after 2 attempts" in found[1].reason


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_wants_nobody_ends_the_run_at_once(status: int, tmp_path: Path) -> None:
    with (
        scripted(lambda body, before: Refusal(status, "who are you?")) as script,
        pytest.raises(EvalError, match=f"answers {status}: who are you.*the same command goes on"),
    ):
        run(OpenAIEndpoint(script.url, "m", concurrency=2), [Sums(200)], tmp_path)
    assert len(script.asked) < 20


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_goes_down_loses_nothing(concurrency: int, tmp_path: Path) -> None:
    """It falls down after some answers; the same command goes on when it is there again, to the same bytes."""
    good: list[str] = []
    down, lock = threading.Event(), threading.Lock()

    def failing(body: Body, before: int) -> Reply:
        with lock:
            if len(good) == 9:
                down.set()
            if down.is_set():
                return Drop()
            good.append(said(body))
        return added(body)

    with scripted(failing) as script:
        port = script.port
        endpoint = OpenAIEndpoint(script.url, "m", concurrency=concurrency, retries=1, backoff=0.001)
        with pytest.raises(EvalError, match=r"the connection broke off.*after 2 attempts; what it answered is kept"):
            run(endpoint, [Sums(60)], tmp_path / "down")
    lines = (tmp_path / "down/sums/samples.jsonl").read_text().splitlines()
    assert sum('"error"' not in line for line in lines) == len(good) == 9
    assert not (tmp_path / "down/results.json").exists()
    with scripted(added, port) as script:
        run(endpoint, [Sums(60)], tmp_path / "down")
        assert len(script.asked) == 51 and not set(script.asked) & set(good)
        run(OpenAIEndpoint(script.url, "m"), [Sums(60)], tmp_path / "whole")
    assert files(tmp_path / "down") == files(tmp_path / "whole")


def test_no_server_at_all(tmp_path: Path) -> None:
    with scripted(added) as script:
        url = script.url
    endpoint = OpenAIEndpoint(url, "m", retries=1, backoff=0.001)
    with pytest.raises(EvalError, match="cannot be reached"):
        run(endpoint, [Sums(200)], tmp_path)


@pytest.mark.parametrize("task", [Sums(), Pictures()], ids=lambda task: task.name)
def test_one_worker_eight_and_two_shards_are_the_same(task: Sums | Pictures, tmp_path: Path) -> None:
    from mplug_owl.eval.samples import Shard

    with scripted(lambda body, before: Answer(f"{len(str(body))}")) as script:
        for concurrency in (1, 8):
            endpoint = OpenAIEndpoint(script.url, "m", concurrency=concurrency)
            run(endpoint, [task], tmp_path / str(concurrency))
        for number in range(2):
            run(endpoint, [task], tmp_path / "shards", shard=Shard(number, 2))
    assert files(tmp_path / "1") == files(tmp_path / "8") == files(tmp_path / "shards")


def test_records_are_those_of_whoever_says_the_same(tmp_path: Path) -> None:
    run(Adder(), [Sums()], tmp_path / "here")
    with scripted(added) as script:
        run(OpenAIEndpoint(script.url, "m"), [Sums()], tmp_path / "there")
    for name in ("samples.jsonl", "rows.json"):
        assert (tmp_path / "here/sums" / name).read_bytes() == (tmp_path / "there/sums" / name).read_bytes()


def test_a_run_that_is_left_stops_asking() -> None:
    with scripted(added) as script:
        answers = OpenAIEndpoint(script.url, "m", concurrency=2).answers(conversations(500), 8)
        assert next(answers) == "1."
        answers.close()  # type: ignore[attr-defined]
        asked = len(script.asked)
        assert asked < 50


@pytest.mark.parametrize(
    "wrong", [{"url": "localhost:8000"}, {"url": "ftp://a/v1"}, {"concurrency": 0}, {"timeout": 0}]
)
def test_settings_that_cannot_be_right(wrong: dict[str, object]) -> None:
    with pytest.raises(EvalError, match="expected"):
        OpenAIEndpoint(**{"url": "http://a/v1", **wrong})  # type: ignore[arg-type]
