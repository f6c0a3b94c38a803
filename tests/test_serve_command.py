"""What a command line says of a server reaches it, or is wrong at once."""

import argparse
import socket
from pathlib import Path

import pytest

from mplug_owl.engine.options import EngineOptions
from mplug_owl.errors import ConfigError
from mplug_owl.serve import command
from mplug_owl.serve.catalogue import Catalogue, ModelSpec, specs
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.server import bound, url


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_what_is_not_said_is_as_usual() -> None:
    assert command.read_options(parsed()) == (ServeOptions(), EngineOptions())


def test_flags_and_settings_go_where_they_belong() -> None:
    words = "--port 0 --slots 3 --keys k.jsonl --ui --rate 5 --set max_images=2 --set chunk=64 --set host=0.0.0.0"
    server, engine = command.read_options(parsed(*words.split()))
    assert server == ServeOptions(port=0, keys=Path("k.jsonl"), ui=True, rate=5.0, max_images=2, host="0.0.0.0")
    assert engine == EngineOptions(slots=3, chunk=64)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--set max_imges=2", "did you mean 'max_images'"),
        ("--set max_images=many", "expected int"),
        ("--set max_images=-1", "expected 0 or more"),
        ("--slots 0", "expected 1 or more"),
        ("--port 70000", "65535"),
        ("--set default_new_tokens=5000", "max_new_tokens=1024"),
    ],
)
def test_options_that_cannot_be_are_refused_with_their_name(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        command.read_options(parsed(*words.split()))


def test_a_port_that_is_taken_is_found_before_a_model_is_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
            command.run(parsed("no-such-model", "--port", str(port)))


def test_pages_need_their_owls_beside_them() -> None:
    with pytest.raises(ConfigError, match="owl ui"):
        command.run(parsed("tiny-owl2", "--port", "0", "--ui", "--replicas", "2"))


def test_a_name_is_that_of_one_model() -> None:
    with pytest.raises(ConfigError, match="'a' names two models"):
        Catalogue.open(specs(["a=x", "b=y", "a=z"]))


@pytest.mark.parametrize("text", ["", "=x", "a=", "a=x+", "+b"])
def test_a_model_without_a_part_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected MODEL"):
        ModelSpec.parse(text)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://localhost:")])
def test_an_address_is_one_that_a_browser_takes(host: str, shown: str) -> None:
    with bound(host, 0) as listener:
        assert url(listener) == f"{shown}{listener.getsockname()[1]}"
