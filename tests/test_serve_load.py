"""Ten thousand requests, a fifth of them hostile: right answers, errors in shape, and nothing left behind."""

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest
from PIL import Image

from mplug_owl.engine.options import EngineOptions
from mplug_owl.serve.app import make_app
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.connection import Connection
from mplug_owl.serve.intake import Intake, protect
from mplug_owl.serve.options import ServeOptions
from serving import Place, data_url, endless_owl, serving, shown, until
from test_serve_hostile import encoded, gif_of, png_of

WARM_UP, MORE = 2_000, 8_000
SECRET = "palimpsest"  # in every question, and in no line of the log
GROWTH = 48 * 2**20
"""Bytes that the process may grow by after the warm-up: the allocator's, not a request's."""
NEW = 4


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "log.jsonl").open("w+") as log:
        yield log


@pytest.fixture
def place(log: TextIO) -> Iterator[Place]:
    options = ServeOptions(
        max_body_mib=1, max_pixels=1_000_000, max_new_tokens=64, default_new_tokens=4, remote_media=True
    )
    catalogue = Catalogue({"owl": endless_owl()})
    catalogue.start(EngineOptions(slots=32, memory=128 * 2**20))
    app = make_app(catalogue, options)
    protect(app, options, log=log, patience=2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "head_seconds", 20.0)
        with serving(app) as place:
            yield place


def right_ones(place: Place, picture: Image.Image) -> list[dict[str, Any]]:
    """Requests and the answers to them, as chat gives them: texts, pictures, a video, drawn ones."""
    owl = place.app.state.catalogue.owl()
    other = Image.new("RGB", (40, 70), "olive")
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    clip = data_url(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "image/gif")
    several = [*shown(picture, "and")[0]["content"], *shown(other, f"Which {SECRET}?")[0]["content"]]
    moving = [{"type": "video_url", "video_url": {"url": clip}, "num_frames": 2}, {"type": "text", "text": SECRET}]
    questions: list[Any] = [f"{SECRET} {'very ' * count}long?" for count in (0, 1, 5, 40)]
    questions += [shown(image, f"A {SECRET}?")[0]["content"] for image in (picture, other)] + [several, moving]
    talks = [[{"role": "user", "content": question}] for question in questions]
    talks.append([*talks[4], {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Sure?"}])
    found = []
    for number, talk in enumerate(talks):
        drawn = {"temperature": 1.0, "seed": number} if number % 3 == 2 else {}
        text = owl.chat(talk, max_new_tokens=NEW, **drawn)
        found.append({"messages": talk, "max_tokens": NEW, "text": text, **drawn})
    return found


def crowd(job: dict[str, Any]) -> Counter[str]:
    """Let the clients loose, and hear that none of them has a complaint."""
    script = Path(__file__).parent / "load_client.py"
    ran = subprocess.run([sys.executable, script], input=json.dumps(job), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    met = json.loads(ran.stdout)
    assert not met["complaints"], (len(met["complaints"]), met["complaints"][:3])
    return Counter(met["done"])


def nothing_is_left(place: Place) -> None:
    owl = place.app.state.catalogue.owl()
    until(lambda: not place.service.busy and not place.app.state.callers.running)
    until(lambda: not place.server.server_state.connections)
    assert owl.engine.running == owl.engine.waiting == 0
    layer = place.app.middleware_stack
    while not isinstance(layer, Intake):
        layer = layer.app
    assert layer.held == 0


@pytest.mark.slow
def test_ten_thousand_requests(place: Place, log: TextIO, picture: Image.Image) -> None:
    bombs = [
        png_of(60_000, 60_000),
        png_of(1001, 1000),
        gif_of((9000, 9000)),
        encoded(picture, "PNG")[:90],
        b"%PDF-1.7",
    ]
    job = {"url": place.url, "right": right_ones(place, picture), "bombs": [data_url(bomb) for bomb in bombs]}
    done = crowd(job | {"seed": 1, "count": WARM_UP})
    nothing_is_left(place)
    process = psutil.Process(os.getpid())
    gc.collect()
    before, files, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
    done += crowd(job | {"seed": 2, "count": MORE})
    nothing_is_left(place)
    gc.collect()
    assert sum(done.values()) == WARM_UP + MORE
    assert 0.18 < 1 - done["right"] / sum(done.values()) < 0.22
    assert len(done) == 13  # every kind of hostility was met
    assert process.num_fds() <= files + 2
    assert process.num_threads() <= threads + 2
    assert process.memory_info().rss - before < GROWTH

    log.seek(0)
    lines = [json.loads(line) for line in log]
    assert not [line for line in lines if line.get("status") == 500 or "fault" in line]
    assert sum(line.get("outcome") == "answered" for line in lines) >= done["right"]
    assert SECRET not in json.dumps(lines)
    for wish in job["right"]:
        reply = place.ask("POST", "/v1/chat/completions", {name: wish[name] for name in wish if name != "text"})
        assert reply.json["choices"][0]["message"]["content"] == wish["text"]
