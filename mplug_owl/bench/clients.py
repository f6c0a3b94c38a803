"""Many clients of a server at once, in a process of their own: what they are sent, and when.

`Clients` starts the process and hands it requests; `main` is what runs there. It imports nothing heavy, so that a core
is enough for all of them, and knows nothing of models.
"""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from os import sched_setaffinity
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from mplug_owl.errors import EvalError

TIMEOUT = 3600.0


@dataclass(frozen=True)
class Heard:
    """One streamed answer; times in milliseconds since all were asked."""

    text: str
    pieces: list[float]
    """When each piece of text came."""
    end: float
    usage: dict[str, Any]


class Clients:
    """A process that asks; `cores` are those it may use."""

    def __init__(self, cores: Collection[int]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        sched_setaffinity(self.process.pid, cores)

    def ask(self, url: str, bodies: Sequence[dict[str, Any]]) -> list[Heard]:
        """Stream the answers to all requests, sent at the same moment.

        Raises: EvalError where one is refused.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([url, list(bodies)]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise EvalError("the clients ended; their words stand above")
        found = json.loads(line)
        if refused := [each["refused"] for each in found if "refused" in each]:
            raise EvalError(f"{url} refuses: {refused[0]}")
        return [Heard(**heard) for heard in found]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def main() -> None:
    for line in sys.stdin:
        url, bodies = json.loads(line)
        print(json.dumps(ask_all(url, bodies)), flush=True)


def ask_all(url: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{} for _ in bodies]
    start = threading.Barrier(len(bodies) + 1)
    began: list[float] = []

    def one(number: int, body: bytes) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
        connection.connect()
        start.wait()
        start.wait()  # once it is known when that was
        connection.request("POST", f"{parts.path}/chat/completions", body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            found[number] = listen(response, began[0])
        connection.close()

    threads = [threading.Thread(target=one, args=each) for each in enumerate(json.dumps(b).encode() for b in bodies)]
    for thread in threads:
        thread.start()
    start.wait()
    began.append(perf_counter())
    start.wait()
    for thread in threads:
        thread.join()
    return found


def listen(response: http.client.HTTPResponse, began: float) -> dict[str, Any]:
    """What comes, and when."""
    said: list[str] = []
    pieces: list[float] = []
    usage: dict[str, Any] = {}
    if response.status != 200:
        return {"refused": f"{response.status} {response.read()[:500]!r}"}
    for line in response:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        chunk = json.loads(line[6:])
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            if text := choice["delta"].get("content"):
                said.append(text)
                pieces.append(1e3 * (perf_counter() - began))
    return {"text": "".join(said), "pieces": pieces, "end": 1e3 * (perf_counter() - began), "usage": usage}


if __name__ == "__main__":
    main()
