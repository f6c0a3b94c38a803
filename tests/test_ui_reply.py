"""Answers on their way into a page: the same as anybody's, stopped when nobody wants them, explained when they fail."""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import mplug_owl
from mplug_owl.engine.options import EngineOptions
from mplug_owl.errors import DataError, RequestError
from mplug_owl.messages import ImagePart, Message, TextPart
from mplug_owl.serve.catalogue import Catalogue, UnknownModel
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import Refusal
from mplug_owl.serve.ui.conversation import Turn
from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.reply import Asker, Reply, changes, explained
from mplug_owl.serve.ui.session import Session
from mplug_owl.serve.ui.upload import looked_into

ANYBODY: dict[str, Any] = {}
"""The scope of a request without a key."""


@pytest.fixture(scope="module")
def catalogue() -> Iterator[Catalogue]:
    owls = {name: mplug_owl.load("tiny-owl2", device="cpu") for name in ("one", "two")}
    found = Catalogue(owls)
    found.start(EngineOptions(slots=4, queue=2, memory=64 * 2**20))
    yield found
    found.close()


@pytest.fixture
def asker(catalogue: Catalogue) -> Asker:
    return Asker(catalogue, ServeOptions(max_images=2), PageOptions())


def idle(catalogue: Catalogue) -> bool:
    return all(not owl.engine.running and not owl.engine.waiting for owl in catalogue.owls)


def until(true: Callable[[], bool]) -> None:
    """Wait for something that comes soon; a test that waits for long has failed."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def follow(*replies: Reply) -> list[str]:
    """The text of the first at every change."""

    async def run() -> list[str]:
        return [replies[0].text async for _ in changes(*replies)]

    return asyncio.run(run())


def test_an_answer_is_the_one_that_anybody_gets(asker: Asker, catalogue: Catalogue, picture_file: Path) -> None:
    uploads = looked_into([str(picture_file)], asker.limits)
    turns = [Turn("What is this?", uploads, answer="A circle."), Turn("Its colour?")]
    with asker.ask(ANYBODY, "one", turns, Parameters(max_new_tokens=24, temperature=1, seed=5, system="Hm.")) as reply:
        seen = follow(reply)
    picture = ImagePart(picture_file.read_bytes())
    asked = [
        Message("user", (picture, TextPart("What is this?"))),
        Message("assistant", "A circle."),
        Message("user", "Its colour?"),
    ]
    expected = catalogue.owl("one").chat(asked, max_new_tokens=24, temperature=1, seed=5, system="Hm.")
    assert reply.text == seen[-1] == expected
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert reply.ended in ("stop", "length")


def test_two_answers_come_side_by_side(asker: Asker) -> None:
    with (
        asker.ask(ANYBODY, "one", [Turn("Hello")], Parameters(max_new_tokens=12)) as first,
        asker.ask(ANYBODY, "two", [Turn("Hello")], Parameters(max_new_tokens=12)) as second,
    ):
        follow(first, second)
    assert first.ended and second.ended


def test_whoever_leaves_frees_the_place(asker: Asker, catalogue: Catalogue) -> None:
    async def leave() -> Reply:
        with asker.ask(
            ANYBODY, "one", [Turn("Hello")], Parameters(max_new_tokens=4000, temperature=1, seed=3)
        ) as reply:
            async for _ in changes(reply):
                if reply.text:
                    break
        return reply

    reply = asyncio.run(leave())
    until(lambda: idle(catalogue))
    while not reply.ended:
        reply.look()
    assert reply.ended == "abort"


def test_an_answer_is_stopped_wherever_it_is(asker: Asker, catalogue: Catalogue) -> None:
    reply = asker.ask(ANYBODY, "one", [Turn("Hello")], Parameters(max_new_tokens=4000, temperature=1))
    reply.stop()
    assert follow(reply)[-1:] == [reply.text]
    assert reply.ended == "abort"
    until(lambda: idle(catalogue))


def test_too_many_questions_are_told_so(asker: Asker, catalogue: Catalogue) -> None:
    endless = Parameters(max_new_tokens=4000, temperature=1)
    replies = [asker.ask(ANYBODY, "one", [Turn("Hello")], endless) for _ in range(12)]
    try:
        said = set()
        for reply in replies:
            until(lambda reply=reply: reply._opening.done())  # type: ignore[misc]
            try:
                reply.look()
            except RequestError as error:
                said.add(explained(error))
        assert said == {"Many questions are waiting already. Try again in a moment."}
    finally:
        for reply in replies:
            reply.stop()
    until(lambda: idle(catalogue))


def test_a_refusal_is_a_sentence() -> None:
    refused = Refusal(429, "over 3 requests a minute; the next may come in 20.0 s", code="rate_limit_exceeded")
    assert explained(refused) == "Over 3 requests a minute; the next may come in 20.0 s."


def test_what_cannot_be_asked_is_refused_at_once(asker: Asker, picture_file: Path) -> None:
    uploads = looked_into([str(picture_file)] * 3, asker.limits)
    for turns, model, said in (
        ([], "one", "nothing was asked"),
        ([Turn("")], "one", "nothing was asked"),
        ([Turn("What?", uploads)], "one", "3 images"),
    ):
        with pytest.raises(RequestError, match=said):
            asker.ask(ANYBODY, model, turns, Parameters())
    with pytest.raises(UnknownModel, match="known: one, two"):
        asker.ask(ANYBODY, "three", [Turn("What?")], Parameters())


def test_a_key_reaches_its_own_models_only(asker: Asker) -> None:
    from mplug_owl.serve.keys import Key

    key = Key("ann", "id", "salt", "hash", "2030-01-01T00:00:00+00:00", models=("two",))
    scope = {"state": {"key": key}}
    assert asker.names(scope) == ["two"]
    with pytest.raises(UnknownModel):
        asker.ask(scope, "one", [Turn("What?")], Parameters())


def test_a_question_that_is_too_long_says_by_how_much(asker: Asker) -> None:
    with (
        asker.ask(ANYBODY, "one", [Turn("very " * 20_000)], Parameters()) as reply,
        pytest.raises(RequestError, match="positions") as error,
    ):
        follow(reply)
    assert explained(error.value).endswith(".") and "Traceback" not in explained(error.value)


def test_errors_are_sentences_and_faults_keep_our_insides(caplog: pytest.LogCaptureFixture) -> None:
    assert explained(DataError("cat.png is damaged")) == "Cat.png is damaged."
    said = explained(KeyError("/secret/path"))
    assert "secret" not in said and said.endswith(".")
    assert "secret" in caplog.text


def test_one_question_at_a_time() -> None:
    session = Session()
    with session.busy():
        with pytest.raises(RequestError, match="stop it"), session.busy():
            pass
        assert session.is_busy
    assert not session.is_busy
