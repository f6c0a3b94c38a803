"""Owls on a Ray cluster of this machine: they answer as one owl does, whatever happens to one of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from mplug_owl import Owl
from mplug_owl.messages import ImagePart, Message, TextPart, to_openai

pytest.importorskip("ray", reason="the cluster extra is not installed")
psutil = pytest.importorskip("psutil", reason="needed to find the processes of replicas")
parser = pytest.importorskip("prometheus_client.parser", reason="the serve extra is not installed")

pytestmark = pytest.mark.slow

NEW = 8
OWL = (sys.executable, "-m", "mplug_owl")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str

    def get(self, path: str) -> str:
        with urlopen(self.url + path, timeout=60) as reply:
            return str(reply.read().decode())

    def ask(self, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One request, without a second try."""
        body = json.dumps({"messages": messages, "max_tokens": NEW, **more}).encode()
        request = Request(self.url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as reply:
            said: dict[str, Any] = json.load(reply)
            return said

    def counted(self, name: str) -> dict[str, float]:
        """A metric by replica."""
        found: dict[str, float] = {}
        for family in parser.text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                if sample.name == name:
                    replica = sample.labels["replica"]
                    found[replica] = found.get(replica, 0.0) + sample.value
        return found

    def replicas(self) -> list[int]:
        """Their processes."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [one.pid for one in family if "ServeReplica" in " ".join(one.cmdline())]


@contextmanager
def serving(*words: str) -> Iterator[Served]:
    """`owl serve` with its own cluster, ready; told to stop in the end, and leaving nothing behind."""
    line = [*OWL, "serve", "tiny-owl2", "--device", "cpu", "--port", "0", *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    family: list[Any] = []
    try:
        assert process.stdout is not None
        said = process.stdout.readline()  # its announcement, once requests are answered
        assert "http" in said, f"it ended with {process.wait(60)}"
        served = Served(process, "http" + said.split("http", 1)[1].split("/v1")[0])
        yield served
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        assert not psutil.wait_procs(family, timeout=30)[1]
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        process.communicate()
        for one in family:
            if one.is_running():
                one.kill()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("--replicas", "2", "--cpus", "0.5") as found:
        yield found


def turn(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_answers_are_those_of_one_owl(served: Served, owl: Owl, picture: Image.Image) -> None:
    plain = [[Message("user", f"And {number}?")] for number in range(6)]
    shown = [[Message("user", [ImagePart(picture), TextPart(f"What {number}?")])] for number in range(4)]
    for messages in [*plain, *shown]:
        expected = owl.chat(messages, max_new_tokens=NEW)
        said = served.ask(to_openai(messages))
        assert said["choices"][0]["message"]["content"] == expected
        assert "".join(streamed(served, to_openai(messages))) == expected


def streamed(served: Served, messages: list[dict[str, Any]]) -> Iterator[str]:
    body = json.dumps({"messages": messages, "max_tokens": NEW, "stream": True}).encode()
    request = Request(served.url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        lines = [line.decode().strip() for line in reply]
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        yield from (choice["delta"].get("content", "") for choice in json.loads(event)["choices"])


def test_turns_of_a_conversation_find_their_replica(served: Served) -> None:
    before = served.counted("owl_prefill_positions_total")
    taken = served.counted("owl_requests_total")
    prompt = cached = 0
    for number in range(20):
        messages = [turn(f"This is conversation number {number}, isn't it?")]
        read = 0
        for follow_up in ("Why?", "And then?"):
            said = served.ask(messages)
            usage = said["usage"]
            prompt += usage["prompt_tokens"]
            cached += usage["prompt_tokens_details"]["cached_tokens"]
            # All that was read the turn before is there; an owl's own words may be spelt otherwise when they come back.
            assert usage["prompt_tokens_details"]["cached_tokens"] >= read
            read = usage["prompt_tokens"] - 2
            messages += [{"role": "assistant", "content": said["choices"][0]["message"]["content"]}, turn(follow_up)]
    after = served.counted("owl_prefill_positions_total")
    assert sum(after.values()) - sum(before.values()) == prompt - cached
    shares = {name: count - taken.get(name, 0) for name, count in served.counted("owl_requests_total").items()}
    assert len(shares) == 2 and all(count > 0 and count % 2 == 0 for count in shares.values())


def test_everything_else_is_as_with_one_owl(served: Served) -> None:
    assert json.loads(served.get("/ready"))["models"] == ["tiny-owl2"]
    assert json.loads(served.get("/v1/models"))["data"][0]["id"] == "tiny-owl2"
    assert "/v1/chat/completions" in json.loads(served.get("/openapi.json"))["paths"]
    for more, status in (({"model": "other"}, 404), ({"max_tokens": 0}, 400), ({"nonsense": 1}, 400)):
        with pytest.raises(OSError, match=str(status)):
            served.ask([turn("?")], **more)


def test_a_killed_replica_costs_nobody_an_answer(served: Served, owl: Owl) -> None:
    questions = [f"Question {number}?" for number in range(120)]
    expected = {question: owl.chat(question, max_new_tokens=NEW) for question in questions}
    victim, *_ = served.replicas()
    answered: dict[str, str] = {}

    def ask(question: str) -> None:
        answered[question] = served.ask([turn(question)])["choices"][0]["message"]["content"]
        if len(answered) == 30:
            os.kill(victim, signal.SIGKILL)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(ask, question) for question in questions]:
            future.result()  # raises where a request failed
    assert not psutil.pid_exists(victim) or victim not in served.replicas()
    assert answered == expected
    until(lambda: len(served.replicas()) == 2 and len(served.counted("owl_running")) == 2)


def until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.2)
    raise AssertionError("it did not come true within two minutes")


def test_a_busy_port_is_seen_before_a_cluster_is_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = [*OWL, "serve", "tiny-owl2", "--replicas", "1", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "cannot listen" in ended.stderr


# ---- files -------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def line(source: Path, target: Path, *words: str) -> list[str]:
    return [*OWL, "batch", str(source), str(target), "--model", "tiny-owl2", "--device", "cpu", *words]


def batch(source: Path, target: Path, *words: str) -> str:
    """`owl batch` to its end; what it said."""
    ended = subprocess.run(
        line(source, target, *words), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=300
    )
    assert ended.returncode == 0
    return ended.stdout


def test_a_file_is_answered_as_by_one_owl_though_an_owl_dies(tmp_path: Path, picture_file: Path) -> None:
    shown = [{"type": "image", "path": str(picture_file)}, {"type": "text", "text": "What?"}]
    rows: list[dict[str, Any]] = [
        {"id": "shown", "messages": [{"role": "user", "content": shown}]},
        {"id": "lost", "question": "What?", "images": ["nowhere.png"]},
        {"id": "song", "question": "Sing!", "options": {"temperature": 1.0, "seed": 3}},
        *({"question": f"And {number}?"} for number in range(600)),
    ]
    source, wishes = write(tmp_path / "in.jsonl", rows), ("--max-new-tokens", str(NEW))
    batch(source, tmp_path / "one.jsonl", *wishes)
    target = tmp_path / "many.jsonl"
    words = line(source, target, *wishes, "--cluster", "--replicas", "2", "--cpus", "0.5")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            until(lambda: target.exists() and target.read_bytes().count(b"\n") >= 32)
            family = psutil.Process(process.pid).children(recursive=True)
            victims = [one for one in family if "MapWorker" in " ".join(one.cmdline())]
            assert victims, "all was answered before an owl could be killed"
            victims[0].kill()
            said, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 0 and "602 answered, 1 failed, 0 there before" in said
    assert read(target) == read(tmp_path / "one.jsonl")
    assert "0 answered, 0 failed, 603 there before" in batch(source, target, *wishes, "--cluster")


def test_a_cluster_goes_on_where_one_owl_stopped(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"question": f"And {number}?"} for number in range(40)])
    wishes = ("--max-new-tokens", str(NEW))
    batch(source, tmp_path / "one.jsonl", *wishes)
    whole = read(tmp_path / "one.jsonl")
    target = write(tmp_path / "many.jsonl", whole[:13])
    assert "27 answered, 0 failed, 13 there before" in batch(source, target, *wishes, "--cluster")
    assert read(target) == whole
