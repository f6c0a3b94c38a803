"""The servers that are compared, each in a process of its own on the cores it is given: ours, and Transformers'.

`transformers serve` knows no owls by itself; `main` is its own server with the owls registered, and runs there. What
is asked of the servers is decided elsewhere.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from mplug_owl.bench.plan import Plan
from mplug_owl.errors import EvalError

FOREIGN = ("tools", "load_audio_from_video")  # what an owl's prompt has no place for
PATIENCE = 300.0  # seconds until a server must be ready


class Server:
    """A process that serves; `seconds` is what it took to be ready."""

    def __init__(self, words: Sequence[str], ready: str, cores: Collection[int], log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        began = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
        command = [sys.executable, "-m", *words, "--port", str(self.port)]
        self.log = log
        with log.open("wb") as stream:  # no pipe: nobody would read it, and a full one holds the server up
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stream)
        os.sched_setaffinity(self.process.pid, cores)
        while not self.answers(f"http://127.0.0.1:{self.port}{ready}"):
            if self.process.poll() is not None or time.monotonic() - began > PATIENCE:
                raise EvalError(f"{words[0]} does not serve: {self.close()}")
            time.sleep(0.02)
        self.seconds = time.monotonic() - began

    def answers(self, url: str) -> bool:
        try:
            with urlopen(url, timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def close(self) -> str:
        """End it; the last thing it said."""
        self.process.kill()
        self.process.wait()
        said = self.log.read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "it said nothing"


def ours(plan: Plan, folder: Path, cores: Collection[int]) -> Server:
    words = ["mplug_owl", "serve", str(folder), "--device", plan.device, "--dtype", plan.dtype]
    return Server(words, "/ready", cores, folder.with_name("serve.log"))


def library(plan: Plan, folder: Path, cores: Collection[int]) -> Server:
    """Transformers' own; it has opened the model when it is ready."""
    words = [__name__, str(folder), "--device", plan.device, "--dtype", plan.dtype]
    return Server(words, "/health", cores, folder.with_name("library.log"))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """`transformers serve`, which finds models by lists of names that nobody else can add to from outside."""
    import argparse

    import transformers
    from transformers.cli.serve import Serve
    from transformers.image_utils import load_image
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    from mplug_owl.models import OwlConfig, OwlForConditionalGeneration, OwlProcessor

    template = OwlProcessor.apply_chat_template

    def opening(self: OwlProcessor, conversation: Any, *words: Any, **more: Any) -> Any:
        """With pictures in place of their addresses, and without what this server tells every processor."""
        for part in (part for message in conversation for part in message["content"]):
            if "url" in part:
                part["image"] = load_image(part.pop("url"))
        known = {name: each for name, each in more.items() if name not in FOREIGN}
        return template(self, conversation, *words, **known)

    # In this process alone: the library opens processors by the names of their classes.
    OwlProcessor.apply_chat_template = opening  # type: ignore[method-assign]
    NAMES[OwlConfig.model_type] = OwlForConditionalGeneration.__name__
    transformers.OwlForConditionalGeneration = OwlForConditionalGeneration
    made = argparse.ArgumentParser()
    made.add_argument("folder")
    made.add_argument("--device")
    made.add_argument("--dtype")
    made.add_argument("--port", type=int)
    words = made.parse_args()
    Serve(force_model=words.folder, host="127.0.0.1", port=words.port, device=words.device, dtype=words.dtype)


if __name__ == "__main__":
    main()
