"""The door of a cluster: conversations are told apart, and what a replica takes with it is asked of another.

Replicas are scripted here, for they die as told; `test_cluster.py` asks real ones.
"""

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Ray uses of other libraries is not ours to mend
    pytest.importorskip("ray.serve", reason="the cluster extra is not installed")
pytest.importorskip("fastapi", reason="the serve extra is not installed")

from prometheus_client import CollectorRegistry, Counter, generate_latest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError

from mplug_owl.errors import ConfigError
from mplug_owl.serve.account import SCOPE, Account, account_of
from mplug_owl.serve.cluster import Place, deployment
from mplug_owl.serve.door import TRIES, Replicas, conversation_of, make_door
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replica import Opening

Message = dict[str, Any]
JSON, STREAM = [(b"content-type", b"application/json")], [(b"content-type", b"text/event-stream; charset=utf-8")]


def reply(*bodies: bytes, headers: list[tuple[bytes, bytes]] = JSON) -> list[Message]:
    ends = [number + 1 < len(bodies) for number in range(len(bodies))]
    said = [
        {"type": "http.response.body", "body": body, "more_body": more} for body, more in zip(bodies, ends, strict=True)
    ]
    return [{"type": "http.response.start", "status": 200, "headers": headers}, *said]


class Script:
    """Replicas that say what they are told, one list after the other; an error in a list is raised there."""

    def __init__(self, *scripts: list[Any], pause: float = 0.0) -> None:
        self.scripts, self.pause = list(scripts), pause
        self.sessions: list[str] = []
        self.asked: list[tuple[Message, bytes]] = []
        self.cancelled = 0
        self.answer = self

    def options(self, *, stream: bool, session_id: str) -> "Script":
        assert stream
        self.sessions.append(session_id)
        return self

    def remote(self, scope: Message, body: bytes) -> "Run":
        self.asked.append((scope, body))
        return Run(self, self.scripts.pop(0))


class Run:
    def __init__(self, script: Script, said: list[Any]) -> None:
        self.script, self.said = script, said

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        await asyncio.sleep(self.script.pause)
        if not self.said:
            raise StopAsyncIteration
        if isinstance(self.said[0], Exception):
            raise self.said.pop(0)
        return self.said.pop(0)

    def cancel(self) -> None:
        self.script.cancelled += 1


def ask(script: Script, body: Any = None, *, leave: float | None = None, **more: Any) -> list[Message]:
    """What a client of the door is sent; it hangs up after `leave` seconds."""
    sent: list[Message] = []
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": [],
        "client": ("127.0.0.1", 1), "state": {"key": None, "secret": object()}, **more,
    }  # fmt: skip
    pieces = [{"type": "http.request", "body": json.dumps(body or CHAT).encode(), "more_body": False}]

    async def receive() -> Message:
        if pieces:
            return pieces.pop(0)
        await asyncio.sleep(3600 if leave is None else leave)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    door = make_door(script, ServeOptions(request_timeout=2.0))  # type: ignore[arg-type]
    asyncio.run(door(scope, receive, send))
    assert not door.state.service.busy
    return sent


CHAT = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]}
DEAD = ActorDiedError()


def body_of(sent: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


# ---- replies -----------------------------------------------------------------------------------------


def test_a_reply_is_handed_on_and_a_request_as_it_is() -> None:
    script = Script(reply(b'{"a": 1}'))
    sent = ask(script, CHAT)
    assert sent[0]["status"] == 200 and body_of(sent) == b'{"a": 1}'
    [(scope, body)] = script.asked
    assert json.loads(body) == CHAT and scope["path"] == "/v1/chat/completions"
    assert scope["state"] == {"key": None}  # what cannot travel stays here
    assert script.cancelled == 0


@pytest.mark.parametrize("lost", [DEAD, ActorUnavailableError("gone", None), RayTaskError("answer", "", DEAD)])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_whole_reply_survives_the_death_of_replicas(lost: Exception, kept: int) -> None:
    script = Script([*reply(b"half", b"")[:kept], lost], [lost], reply(b"whole"))
    sent = ask(script)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert body_of(sent) == b"whole" and len(set(script.sessions)) == 1


def test_a_stream_that_has_begun_ends_with_an_error() -> None:
    sent = ask(Script([*reply(b"data: 1\n\n", b"", headers=STREAM)[:2], DEAD]))
    first, error = body_of(sent).decode().strip().split("\n\n")
    assert first == "data: 1" and json.loads(error.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert sent[-1]["more_body"] is False


def test_a_stream_that_has_not_begun_goes_elsewhere() -> None:
    sent = ask(Script([DEAD], reply(b"data: 1\n\n", b"data: [DONE]\n\n", headers=STREAM)))
    assert body_of(sent) == b"data: 1\n\ndata: [DONE]\n\n"


def test_nobody_is_asked_for_ever() -> None:
    script = Script(*([DEAD] for _ in range(TRIES)))
    sent = ask(script)
    assert sent[0]["status"] == 503 and not script.scripts
    assert json.loads(body_of(sent))["error"]["code"] == "replica_lost"
    assert (b"retry-after", b"2") in sent[0]["headers"]


def test_all_busy_is_said_at_once() -> None:
    script = Script([BackPressureError(9, 9)])
    sent = ask(script)
    assert sent[0]["status"] == 503 and json.loads(body_of(sent))["error"]["code"] == "busy"


def test_a_replica_that_says_nothing_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug_owl.serve.door.LOOK", 0.05)
    script = Script(reply(b"late"), pause=30.0)
    sent = ask(script, method="GET", path="/ready")
    assert sent[0]["status"] == 503 and json.loads(body_of(sent))["error"]["code"] == "no_replica"
    assert script.cancelled == 1


def test_who_hangs_up_frees_the_replica() -> None:
    script = Script(reply(b"late"), pause=30.0)
    assert ask(script, leave=0.05) == []
    assert script.cancelled == 1


def test_who_stops_takes_nothing_in() -> None:
    async def stopped() -> int:
        door = make_door(Script(), ServeOptions())  # type: ignore[arg-type]
        door.state.service.stopping = True
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/ready", "query_string": b"", "headers": []}
        await door(scope, lambda: None, send)
        return int(sent[0]["status"])

    assert asyncio.run(stopped()) == 503


def test_what_a_request_came_to_reaches_the_log_of_the_door() -> None:
    account = Account(model="owl", outcome="answered", prompt=9, cached=4, generated=3, began=-1.0)
    scope: dict[str, Any] = {}
    before = account_of(scope).began
    ask(Script([*reply(b"{}"), {"type": SCOPE, "account": account}]), **scope)
    found = scope[SCOPE]
    assert (found.model, found.outcome, found.prompt, found.cached, found.generated) == ("owl", "answered", 9, 4, 3)
    assert found.began == before


# ---- conversations -----------------------------------------------------------------------------------


def session(body: Any, method: str = "POST", **headers: str) -> str:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    return conversation_of({"method": method, "headers": named}, said)


def chat(*turns: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": said} for n, said in enumerate(turns)], **more}


def test_all_turns_of_a_conversation_have_one_name() -> None:
    first = session(chat("What?"))
    assert first == session(chat("What?", "A moon.", "Sure?")) == session(chat("What?", temperature=1, stream=True))
    assert len({first, session(chat("Why?")), session(chat("What?", model="b")), session(CHAT)}) == 4
    assert first != session(chat("What?"), authorization="Bearer a") != session(chat("What?"), authorization="Bearer b")


def test_pictures_tell_conversations_apart() -> None:
    def shown(url: str) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
        return {"messages": [{"role": "user", "content": parts}]}

    assert session(shown("data:a")) != session(shown("data:b"))
    assert session(shown("data:a")) == session(shown("data:a"))


def test_clients_may_name_their_conversations() -> None:
    assert session(chat("a", prompt_cache_key="x")) == session(chat("b", prompt_cache_key="x"))
    assert session(chat("a"), x_session_id="x") == session(chat("b"), x_session_id="x") != session(chat("a"))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"messages": 3}', b'{"messages": []}', b'{"messages": [1]}', b"null"]
)
def test_what_is_no_conversation_has_no_name(body: bytes) -> None:
    assert session(body) == ""
    assert session(chat("a"), method="GET") == ""


def test_metrics_of_replicas_stand_side_by_side() -> None:
    def page(value: float) -> str:
        registry = CollectorRegistry()
        Counter("owl_requests", "Requests.", ["model"], registry=registry).labels("a").inc(value)
        return generate_latest(registry).decode()

    registry = CollectorRegistry()
    registry.register(Replicas([("one", page(3)), ("two", page(4))]))
    lines = generate_latest(registry).decode().splitlines()
    assert 'owl_requests_total{model="a",replica="one"} 3.0' in lines
    assert 'owl_requests_total{model="a",replica="two"} 4.0' in lines
    assert lines.count("# TYPE owl_requests_total counter") == 1


# ---- what is asked of Ray ----------------------------------------------------------------------------


def test_options_of_the_deployment() -> None:
    opening = Opening([])
    few = deployment(Place(replicas=3, cpus=0.5, gpus=0.25), opening, ServeOptions(drain=9.0))
    assert few["num_replicas"] == 3 and "autoscaling_config" not in few
    assert few["ray_actor_options"] == {"num_cpus": 0.5, "num_gpus": 0.25}
    assert few["graceful_shutdown_timeout_s"] == 9.0
    overrides = ["health_check_period_s=3", "autoscaling_config.target_ongoing_requests=5", "max_surge_percent=50"]
    many = deployment(Place(autoscale=(2, 8)), opening, ServeOptions(), overrides)
    assert "num_replicas" not in many and many["health_check_period_s"] == 3 and many["max_surge_percent"] == 50
    assert many["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 8, "target_ongoing_requests": 5}
    with pytest.raises(ConfigError, match="did you mean 'max_ongoing_requests'"):
        deployment(Place(), opening, ServeOptions(), ["max_ongoing_request=3"])


def test_ray_takes_the_options() -> None:
    from ray import serve

    options = deployment(Place(autoscale=(1, 2)), Opening([]), ServeOptions(), ["rolling_update_percentage=0.5"])
    made = serve.deployment(Script, **options)
    assert made.name == "Script"


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("local", None, None, None), Place()),
        (("auto", "3", 0.5, 1.0), Place("auto", 3, None, 0.5, 1.0)),
        (("local", "2:5", None, None), Place("local", 2, (2, 5))),
    ],
)
def test_places(words: tuple[Any, ...], place: Place) -> None:
    assert Place.of(*words) == place
    assert place.most in (1, 3, 5)


@pytest.mark.parametrize(
    "make", [lambda: Place(replicas=0), lambda: Place(cpus=-1), lambda: Place.of("local", "x", None, None)]
)
def test_places_that_cannot_be(make: Callable[[], Place]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()
