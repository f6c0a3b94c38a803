"""Who may ask and how much, and what the log says of it: the layers around an application, spoken to in ASGI."""

import asyncio
import base64
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mplug_owl.serve import keys
from mplug_owl.serve.account import account_of
from mplug_owl.serve.app import answer_error
from mplug_owl.serve.intake import protect
from mplug_owl.serve.keys import Key
from mplug_owl.serve.limits import Callers, Meter, allowed_models, as_request, check_model, local_hosts
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import Json, Refusal

ASK = "/v1/chat/completions"
QUESTION = "/ui/question"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Heard:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert found.keys() == {"message", "type", "param", "code"}
        return found


def application(options: ServeOptions, log: io.StringIO | None = None) -> Starlette:
    """A few addresses behind all layers."""

    async def answer(request: Request) -> Response:
        said = await request.json()
        if said.get("fault"):
            raise RuntimeError(f"secret of {said['fault']}")
        account = account_of(request.scope)
        account.id, account.model, account.outcome = "answer-1", said.get("model"), "answered"
        account.prompt, account.generated = 7, 3
        account.asked, account.answers = said.get("messages"), ["a word in confidence"]
        await asyncio.sleep(said.get("seconds", 0))
        return Json({"said": said})

    async def page(request: Request) -> Response:
        return Json({"page": request.url.path})

    async def question(request: Request) -> Response:
        with as_request(request.scope):
            return await answer(request)

    found = ("/health", "/ready", "/metrics", "/v1/models", "/ui/index", "/ui/assets/index.js", "/ui/theme.css")
    pages = [Route(path, page) for path in found]
    asked = [Route(ASK, answer, methods=["POST"]), Route(QUESTION, question, methods=["POST"])]
    app = Starlette(routes=[*asked, *pages], exception_handlers={Refusal: answer_error})
    protect(app, options, log=log or io.StringIO())
    return app


async def ask(
    app: Starlette, method: str = "POST", path: str = ASK, body: Any = None, client: str = "192.0.2.1", **headers: str
) -> Heard:
    given = {"host": "localhost:8000", "content-type": "application/json", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": (client, 4242),
        "state": {},
    }
    messages = [{"type": "http.request", "body": json.dumps(body or {}).encode(), "more_body": False}]
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        said.append(message)

    await app(scope, receive, send)
    start, *rest = said
    named = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Heard(start["status"], named, b"".join(message.get("body", b"") for message in rest))


def heard(app: Starlette, *words: Any, **more: Any) -> Heard:
    return asyncio.run(ask(app, *words, **more))


# ---- meters --------------------------------------------------------------------------------------


def test_a_minute_worth_of_requests_may_come_at_once_and_then_one_after_the_other() -> None:
    clock = Clock()
    callers = Callers(rate=30, clock=clock)
    for _ in range(30):
        callers.leave(callers.enter("a"))
    with pytest.raises(Refusal, match="over 30 requests a minute") as refused:
        callers.enter("a")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "2")
    callers.enter("b")  # another caller has a bucket of its own
    clock.now = 2.01
    callers.enter("a")
    with pytest.raises(Refusal):
        callers.enter("a")


@pytest.mark.parametrize("rate", [0.5, 1, 7, 600])
def test_never_more_than_the_rate(rate: float) -> None:
    """In any stretch of time, at most a bucket and what filled it meanwhile."""
    clock, chance = Clock(), random.Random(0)
    callers, taken = Callers(rate=rate, clock=clock), list[float]()
    for _ in range(3000):
        clock.now += chance.expovariate(rate / 60 * chance.choice([0.3, 3, 100]))
        try:
            callers.leave(callers.enter("a"))
            taken.append(clock.now)
        except Refusal as refused:
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
    for first in range(0, len(taken), 7):
        for last in range(first, min(len(taken), first + 900), 11):
            assert last - first + 1 <= max(1, rate) + (taken[last] - taken[first]) * rate / 60 + 1e-6
    assert len(taken) > clock.now * rate / 60 * 0.2  # and not next to nothing


def test_places_are_given_back() -> None:
    callers = Callers(concurrent=2)
    one, two = callers.enter("a"), callers.enter("a")
    with pytest.raises(Refusal, match="2 requests are under way, of 2") as refused:
        callers.enter("a")
    assert (refused.value.status, refused.value.code) == (429, "too_many_at_once")
    callers.leave(one)
    callers.leave(callers.enter("a"))
    callers.leave(two)
    assert callers.running == 0


def test_all_callers_together_have_a_limit() -> None:
    callers = Callers(at_once=3)
    meters = [callers.enter(str(number)) for number in range(3)]
    with pytest.raises(Refusal) as refused:
        callers.enter("another")
    assert refused.value.status == 503
    assert "Retry-After" in refused.value.headers
    callers.leave(meters[0])
    callers.enter("another")


def test_inventing_addresses_takes_no_memory_and_wins_nothing() -> None:
    clock = Clock()
    callers = Callers(rate=2, most=100, clock=clock)
    won = 0
    for number in range(20_000):
        clock.now += 1e-4
        try:
            callers.leave(callers.enter(f"address {number}"))
            won += 1
        except Refusal as refused:
            assert refused.status == 429
    assert len(callers) == 100
    assert won <= 100 + 2 + 1  # one each for those who found a place, and one bucket for all others
    clock.now += 60  # the buckets are full again: their owners are forgotten
    callers.enter("a new one")
    assert len(callers) == 1


def test_who_is_under_way_is_not_forgotten() -> None:
    clock = Clock()
    callers = Callers(concurrent=1, most=4, clock=clock)
    busy = callers.enter("busy")
    for number in range(50):
        clock.now += 10
        callers.leave(callers.enter(str(number)))
    with pytest.raises(Refusal):
        callers.enter("busy")
    callers.leave(busy)
    callers.enter("busy")


def test_a_key_may_have_limits_of_its_own_and_get_others() -> None:
    callers = Callers(rate=1, concurrent=1, clock=Clock())
    key = Key("a", "1", "s", "h", "now", rate=5, concurrent=3)
    assert callers.meter("a", key).size == 5
    callers.enter("a", key)
    callers.enter("a", key)
    narrow = Key("a", "1", "s", "h", "now", rate=2)
    assert callers.meter("a", narrow).left <= 2
    with pytest.raises(Refusal, match="of 1 at a time"):
        callers.enter("a", narrow)


def test_headers_tell_what_is_left() -> None:
    meter = Meter(60, None)
    meter.take(0.0)
    assert meter.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
    }
    assert Meter(None, 3).headers() == {}


# ---- the gate ------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> tuple[Starlette, str, Path]:
    path = tmp_path / "keys.jsonl"
    key = keys.add(path, "alice", models=["owlet"])
    return application(ServeOptions(keys=path)), key, path


def test_a_key_is_asked_for(guarded: tuple[Starlette, str, Path]) -> None:
    app, key, _ = guarded
    for authorization in ("", "Bearer", "Bearer ", "Bearer wrong", f"Bearer {key}x", key, "Basic !!", "Digest x"):
        refused = heard(app, authorization=authorization)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (refused.error["type"], refused.error["code"]) == ("authentication_error", "invalid_api_key")
    assert heard(app, authorization=f"Bearer {key}").status == 200
    assert heard(app, authorization=f"bearer {key}").status == 200
    for path in ("/v1/models", "/metrics", "/nowhere"):
        assert heard(app, "GET", path).status == 401
    for path in ("/health", "/ready"):
        assert heard(app, "GET", path).status == 200


def test_a_browser_is_asked_for_the_key_as_a_password(guarded: tuple[Starlette, str, Path]) -> None:
    app, key, _ = guarded
    assert heard(app, "GET", "/ui/index").headers["www-authenticate"].startswith("Basic")
    said = base64.b64encode(f"anybody:{key}".encode()).decode()
    assert heard(app, "GET", "/ui/index", authorization=f"Basic {said}").status == 200


def test_keys_are_refused_from_the_moment_they_are_removed(guarded: tuple[Starlette, str, Path]) -> None:
    app, key, path = guarded
    assert heard(app, authorization=f"Bearer {key}").status == 200
    keys.remove(path, "alice")
    assert heard(app, authorization=f"Bearer {key}").status == 401


def test_an_expired_key_is_told_so(guarded: tuple[Starlette, str, Path]) -> None:
    app, key, path = guarded
    entry = json.loads(path.read_text()) | {"expires": "2020-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(entry) + "\n")
    refused = heard(app, authorization=f"Bearer {key}")
    assert refused.status == 401
    assert "expired" in refused.error["message"]


def test_keys_that_cannot_be_read_are_the_operators_business(tmp_path: Path) -> None:
    path, log = tmp_path / "keys.jsonl", io.StringIO()
    key = keys.add(path, "alice")
    app = application(ServeOptions(keys=path), log)
    path.write_text("not a key\n")
    refused = heard(app, authorization=f"Bearer {key}")
    assert refused.status == 503
    assert "retry-after" in refused.headers
    assert "keys.jsonl" not in refused.error["message"]
    assert "line 1" in json.loads(log.getvalue())["reason"]


def test_a_key_may_be_for_some_models_only() -> None:
    key = Key("a", "1", "s", "h", "now", models=("owlet",))
    scope: dict[str, Any] = {"state": {"key": key}}
    check_model(scope, "owlet")
    with pytest.raises(Refusal, match="may not ask 'owl-7b'") as refused:
        check_model(scope, "owl-7b")
    assert (refused.value.status, refused.value.code) == (403, "model_not_allowed")
    assert allowed_models(scope, ["owlet", "owl-7b"]) == ["owlet"]
    for open_scope in ({"state": {}}, {"state": {"key": None}}, {}):
        check_model(open_scope, "owl-7b")
        assert allowed_models(open_scope, ["owlet", "owl-7b"]) == ["owlet", "owl-7b"]


def test_the_rate_holds_for_a_key_wherever_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    alice, bob = keys.add(path, "alice", rate=2), keys.add(path, "bob")
    app = application(ServeOptions(keys=path, rate=5))
    found = [heard(app, authorization=f"Bearer {alice}", client=f"192.0.2.{n}") for n in range(3)]
    assert [reply.status for reply in found] == [200, 200, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in found] == ["1", "0", "0"]
    assert found[2].error["type"] == "rate_limit_error"
    assert 1 <= int(found[2].headers["retry-after"]) <= 30
    assert heard(app, authorization=f"Bearer {bob}").status == 200
    assert heard(app, "GET", "/v1/models", authorization=f"Bearer {alice}").status == 200  # looking costs nothing


def test_a_question_on_a_page_counts_for_the_key_and_nothing_else_there_does(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    alice, bob = keys.add(path, "alice", rate=3, concurrent=1), keys.add(path, "bob")
    app = application(ServeOptions(keys=path))
    password = "Basic " + base64.b64encode(f"anybody:{alice}".encode()).decode()
    for _ in range(5):
        assert heard(app, "GET", "/ui/index", authorization=password).status == 200

    async def at_once() -> list[int]:
        ways = [(ASK, f"Bearer {alice}"), (QUESTION, password)]
        asked = [ask(app, path=to, body={"seconds": 0.05}, authorization=shown) for to, shown in ways]
        return sorted(reply.status for reply in await asyncio.gather(*asked))

    assert asyncio.run(at_once()) == [200, 429]
    assert heard(app, path=QUESTION, body={"fault": "x"}, authorization=password).status == 500
    assert heard(app, path=QUESTION, authorization=password).status == 200
    refused = heard(app, path=QUESTION, authorization=password)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert heard(app, authorization=f"Bearer {alice}").status == 429
    assert heard(app, path=QUESTION, authorization=f"Bearer {bob}").status == 200
    assert app.state.callers.running == 0


def test_without_a_gate_nobody_is_counted() -> None:
    with as_request({}):
        pass


def test_without_keys_addresses_are_counted() -> None:
    app = application(ServeOptions(rate=1))
    household = ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9")
    for several in (("192.0.2.1", "192.0.2.1"), household, ("::ffff:192.0.2.77", "192.0.2.77"), ("fe80::1%eth0",) * 2):
        assert [heard(app, client=client).status for client in several] == [200, 429]
    assert heard(app, client="2001:db8:1:3::1").status == 200


def test_places_are_free_again_whatever_becomes_of_a_request() -> None:
    app = application(ServeOptions(concurrent=2))

    async def several() -> list[int]:
        bodies = [{"seconds": 0.05}] * 4
        return sorted(reply.status for reply in await asyncio.gather(*(ask(app, body=body) for body in bodies)))

    assert asyncio.run(several()) == [200, 200, 429, 429]
    assert heard(app, body={"fault": "x"}).status == 500
    assert heard(app, body={"seconds": 0.0}).status == 200

    async def left() -> None:
        task = asyncio.create_task(ask(app, body={"seconds": 60}))
        while not app.state.callers.running:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(left())
    assert app.state.callers.running == 0


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("owl.example.org", 403),
        ("127.0.0.1.example.org:8000", 403),
        ("", 403),
    ],
)
def test_a_page_with_a_name_of_its_own_cannot_ask_a_server_of_this_machine(host: str, status: int) -> None:
    assert heard(application(ServeOptions()), host=host).status == status


def test_a_server_for_others_answers_by_any_name(guarded: tuple[Starlette, str, Path]) -> None:
    assert heard(application(ServeOptions(host="0.0.0.0")), host="owl.example.org").status == 200
    app, key, _ = guarded
    assert heard(app, host="owl.example.org", authorization=f"Bearer {key}").status == 200
    assert [local_hosts(host) is None for host in ("127.0.0.1", "::1", "localhost", "::", "192.0.2.1")] == (
        [False, False, False, True, True]
    )


def test_websockets_are_closed() -> None:
    said: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    app = application(ServeOptions())
    asyncio.run(app({"type": "websocket", "path": "/ui/index", "headers": [], "state": {}}, receive, send))
    assert [message["type"] for message in said] == ["websocket.close"]


# ---- the journal ---------------------------------------------------------------------------------


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_a_line_says_what_came_of_a_request_and_not_what_it_was(tmp_path: Path) -> None:
    path, log = tmp_path / "keys.jsonl", io.StringIO()
    key = keys.add(path, "alice")
    app = application(ServeOptions(keys=path), log)
    question = {"model": "owlet", "messages": [{"role": "user", "content": "my secret question"}]}
    reply = heard(app, body=question, authorization=f"Bearer {key}", x_request_id="mine-1")
    (line,) = lines(log)
    assert reply.headers["x-request-id"] == line["id"] == "mine-1"
    expected = {"key": "alice", "model": "owlet", "status": 200, "outcome": "answered", "from": "192.0.2.1"}
    assert expected.items() <= line.items()
    assert (line["prompt_tokens"], line["completion_tokens"], line["method"]) == (7, 3, "POST")
    assert line["seconds"] >= 0
    for secret in ("secret", "confidence", key):
        assert secret not in log.getvalue()


def test_contents_are_kept_where_that_is_wanted() -> None:
    log = io.StringIO()
    app = application(ServeOptions(log_contents=True), log)
    heard(app, body={"model": "owlet", "messages": ["what is it?"]})
    (line,) = lines(log)
    assert (line["asked"], line["answers"]) == (["what is it?"], ["a word in confidence"])


def test_a_fault_is_an_error_in_shape_and_its_place_in_the_log() -> None:
    for contents in (False, True):
        log = io.StringIO()
        reply = heard(application(ServeOptions(log_contents=contents), log), body={"fault": "the client"})
        assert reply.status == 500
        assert reply.error["type"] == "server_error"
        assert "secret" not in reply.error["message"]
        (line,) = lines(log)
        assert (line["status"], line["fault"]) == (500, "RuntimeError")
        assert any(place.endswith(" answer") for place in line["at"])
        assert ("secret" in log.getvalue()) is contents


@pytest.mark.parametrize("hostile", ["x" * 65, "two\nlines", 'quote"', "a b", "", "\xe9"])
def test_only_plain_request_ids_are_taken_over(hostile: str) -> None:
    log = io.StringIO()
    reply = heard(application(ServeOptions(), log), x_request_id=hostile)
    assert reply.headers["x-request-id"].startswith("req-")
    assert len(lines(log)) == 1


def test_whoever_looks_after_the_machine_fills_no_log() -> None:
    log = io.StringIO()
    app = application(ServeOptions(), log)
    for path in ("/health", "/ready", "/metrics"):
        heard(app, "GET", path)
    assert lines(log) == []
    heard(app, "GET", "/" + "x" * 5000)
    (line,) = lines(log)
    assert line["status"] == 404
    assert len(line["path"]) == 200


def test_a_page_is_one_line_and_not_one_for_each_of_its_parts() -> None:
    log = io.StringIO()
    app = application(ServeOptions(), log)
    for path in ("/ui/index", "/ui/assets/index.js", "/ui/theme.css", "/ui/static/gone.js", "/assets/x"):
        heard(app, "GET", path)
    found = [(line["path"], line["status"]) for line in lines(log)]
    assert found == [("/ui/index", 200), ("/ui/static/gone.js", 404), ("/assets/x", 404)]


def test_a_log_that_nobody_reads_stops_no_answers() -> None:
    log = io.StringIO()
    log.close()
    assert heard(application(ServeOptions(), log)).status == 200


@pytest.mark.parametrize("gone", [lambda path: path.unlink(), lambda path: path.write_text("x")])
def test_a_server_does_not_start_with_keys_it_cannot_read(tmp_path: Path, gone: Callable[[Path], object]) -> None:
    path = tmp_path / "keys.jsonl"
    keys.add(path, "alice")
    gone(path)
    with pytest.raises(keys.ConfigError, match=r"keys\.jsonl"):
        application(ServeOptions(keys=path))
