"""`owl batch`: who answers a file - an owl here, a server, or a cluster - and nothing of how."""

import argparse
import os
from functools import partial
from typing import Any

from mplug_owl.engine import batch
from mplug_owl.errors import RequestError

HERE = {"adapter": None, "device": "auto", "dtype": "auto", "quantize": None, "remote": False}
"""What is said of an owl that is opened for the file, and means nothing to a server."""


USAGE = "owl batch IN OUT [options]"
EXAMPLE = "example: owl batch in.jsonl out.jsonl --server http://localhost:8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    batch.add_arguments(parser)
    parser.usage, parser.epilog = USAGE, EXAMPLE
    far = parser.add_argument_group("answered elsewhere")
    far.add_argument("--server", metavar="URL", help="an OpenAI-compatible server; --model is a name there")
    far.add_argument("--key", metavar="KEY", help="of the server (OWL_API_KEY of the environment)")
    far.add_argument("--at-once", type=int, metavar="N", help="requests to the server at a time (16)")
    far.add_argument("--patience", type=float, metavar="S", help="seconds that it may be away (600)")
    far.add_argument("--cluster", nargs="?", const="local", metavar="A", help="owls on Ray: local, auto, HOST:PORT")
    far.add_argument("--replicas", metavar="N", help="how many owls; MIN:MAX as there is work (1)")
    far.add_argument("--cpus", type=float, metavar="C", help="cores of each (1)")
    far.add_argument("--gpus", type=float, metavar="G", help="GPUs of each (0)")


def run(arguments: argparse.Namespace) -> int:
    """Raises: RequestError for options that do not go together."""
    if arguments.server and arguments.cluster:
        raise RequestError("--server and --cluster; expected one of them")
    check_unused(arguments, "--server", arguments.server, ("key", "at_once", "patience"))
    check_unused(arguments, "--cluster", arguments.cluster, ("replicas", "cpus", "gpus"))
    if arguments.server:
        return batch.carry_out(arguments, partial(by_server, arguments))
    if arguments.cluster:
        return batch.carry_out(arguments, partial(by_cluster, arguments))
    return batch.run(arguments)


def check_unused(arguments: argparse.Namespace, owner: str, chosen: str | None, names: tuple[str, ...]) -> None:
    for name in names:
        if not chosen and getattr(arguments, name) is not None:
            raise RequestError(f"--{name.replace('_', '-')} without {owner}; it means nothing there, leave it out")


def by_server(arguments: argparse.Namespace, options: dict[str, Any]) -> batch.Answering:
    from mplug_owl.serve.remote import Server

    for name, usual in HERE.items():
        if getattr(arguments, name) != usual:
            raise RequestError(f"--{name} is for an owl that is opened here; a server has its own, leave it out")
    bounds = {name: getattr(arguments, name) for name in ("at_once", "patience")}
    given = {name: value for name, value in bounds.items() if value is not None}
    key = arguments.key or os.environ.get("OWL_API_KEY")
    server = Server(arguments.server, key=key, model=arguments.model, **given)
    return server.answering(arguments.source.parent, options)


def by_cluster(arguments: argparse.Namespace, options: dict[str, Any]) -> batch.Answering:
    from mplug_owl.serve.cluster import Place
    from mplug_owl.serve.spread import answering

    place = Place.of(arguments.cluster, arguments.replicas, arguments.cpus, arguments.gpus)
    opening = {name: getattr(arguments, name) for name in batch.OPENING}
    return answering(place, opening, arguments.source.parent, options)
