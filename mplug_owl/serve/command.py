"""`owl serve`: open the owls, make the application, serve it. Parses and prints; the work is in the parts."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mplug_owl.engine.options import EngineOptions
from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.serve.catalogue import Catalogue, ModelSpec, specs
from mplug_owl.serve.options import ServeOptions
from mplug_owl.settings import apply_override, build

DEFAULT = "owlet"
INSTALL = 'pip install "mplug_owl[serve]"'
NEEDED = ("fastapi", "uvicorn", "prometheus_client")  # what the extra brings
USAGE = "owl serve [MODEL ...] [--model NAME=MODEL[+ADAPTER] ...] [options]"
EXAMPLE = """\
example: a base, and an adapter of it under a name of its own
  owl serve ./owl2 --model tuned=./owl2+./lora --keys keys.jsonl --host 0.0.0.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage, parser.epilog = USAGE, EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help="folder, hub name or family (owlet)")
    add("--model", action="append", default=[], metavar="SPEC", dest="more", help="another; the first is the default")
    add("--host", help="where to listen; 0.0.0.0 is everywhere (127.0.0.1)")
    add("--port", type=int, help="0 is any that is free (8000)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (untested)")
    add("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    add("--quantize", metavar="B", choices=("int8", "int4"), help="decoders in int8 or int4")
    add("--slots", type=int, metavar="N", help="conversations at once (64)")
    add("--queue", type=int, metavar="N", help="requests that may wait (1024)")
    add("--context", type=int, metavar="N", help="positions of a conversation")
    add("--keys", type=Path, metavar="FILE", help="who may ask; see owl keys")
    add("--rate", type=float, metavar="R", help="requests a minute, for each key")
    add("--concurrent", type=int, metavar="N", help="requests at a time, for each key")
    add("--remote-media", action="store_true", help="fetch http(s) media, from public hosts")
    add("--log-contents", action="store_true", help="log what is asked and answered")
    add("--ui", action="store_true", help="pages to chat and compare, at /ui")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="another option of docs/serving.md")
    far = parser.add_argument_group("on more machines than this one, by Ray")
    far.add_argument("--replicas", metavar="N", help="owls of each model; MIN:MAX with the load")
    far.add_argument("--address", metavar="A", help="local, auto or HOST:PORT (local)")
    far.add_argument("--cpus", type=float, metavar="C", help="cores of each replica (1)")
    far.add_argument("--gpus", type=float, metavar="G", help="GPUs of each replica (0)")
    far.add_argument("--ray", action="append", default=[], metavar="NAME=VALUE", help="an option of Ray Serve")


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop.

    Raises: ConfigError for options that cannot be, a place where nobody may listen, or a library that is missing.
    """
    options, engine = read_options(arguments)
    wanted = specs([*arguments.models, *arguments.more] or [DEFAULT])
    check_installed()
    from mplug_owl.serve.server import bound

    # First, for opening the models takes longer than to see that the port is taken.
    listener = bound(options.host, options.port)
    try:
        if arguments.replicas is not None or arguments.address is not None:
            serve_from_cluster(arguments, wanted, options, engine, listener)
        else:
            serve_here(arguments, wanted, options, engine, listener)
    finally:
        listener.close()
    return 0


def serve_here(
    arguments: argparse.Namespace,
    wanted: Sequence[ModelSpec],
    options: ServeOptions,
    engine: EngineOptions,
    listener: Any,
) -> None:
    from mplug_owl.serve.app import make_app
    from mplug_owl.serve.server import run as serve

    opening = {"device": arguments.device, "dtype": arguments.dtype, "quantize": arguments.quantize}
    catalogue = Catalogue.open(wanted, **opening, engine=engine)
    app = make_app(catalogue, options)
    if options.ui:
        from mplug_owl.serve.ui import mount

        mount(app, catalogue)

    def announce(url: str) -> None:
        pages = f", pages at {url}/ui" if options.ui else ""
        say(f"{', '.join(catalogue.names)} at {url}/v1{pages}")

    try:
        serve(app, options, listener=listener, announce=announce)
    finally:
        catalogue.close()


def serve_from_cluster(
    arguments: argparse.Namespace,
    wanted: Sequence[ModelSpec],
    options: ServeOptions,
    engine: EngineOptions,
    listener: Any,
) -> None:
    """The door is here, the owls are on the cluster; without --replicas, those that run there already."""
    if options.ui:
        raise ConfigError("--ui with --replicas or --address; the pages need the owls here: use owl ui beside it")
    from mplug_owl.serve import cluster
    from mplug_owl.serve.door import make_door
    from mplug_owl.serve.replica import Opening
    from mplug_owl.serve.server import run as serve

    place = cluster.Place.of(arguments.address or "local", arguments.replicas, arguments.cpus, arguments.gpus)
    opening = Opening(wanted, arguments.device, arguments.dtype, arguments.quantize, engine)
    settings = cluster.deployment(place, opening, options, arguments.ray)
    cluster.connect(place)
    try:
        replicas = cluster.running() if arguments.replicas is None else cluster.deploy(settings, opening, options)
        names = ", ".join(spec.name for spec in wanted)
        serve(
            make_door(replicas, options),
            options,
            listener=listener,
            announce=lambda url: say(f"{names} at {url}/v1, from the cluster"),
        )
    finally:
        cluster.disconnect()


def read_options(arguments: argparse.Namespace) -> tuple[ServeOptions, EngineOptions]:
    """What was said of the server and of the engines, each where it belongs.

    Raises: ConfigError for a name that neither has.
    """
    named: dict[str, Any] = {}
    for override in arguments.set:
        apply_override(named, override)
    known: dict[str, dict[str, Any]] = {}
    for kind in (ServeOptions, EngineOptions):
        names = [field.name for field in fields(kind)]
        given = {name: getattr(arguments, name, None) for name in names}
        known[kind.__name__] = {name: value for name, value in given.items() if value is not None}
        known[kind.__name__] |= {name: named.pop(name) for name in names if name in named}
    if named:
        every = [field.name for kind in (ServeOptions, EngineOptions) for field in fields(kind)]
        raise ConfigError(f"--set {min(named)}: no such option{did_you_mean(min(named), every)}")
    server, engine = known["ServeOptions"], known["EngineOptions"]
    if isinstance(server.get("keys"), str):
        server["keys"] = Path(server["keys"])
    return build(ServeOptions, server, "--set"), build(EngineOptions, engine, "--set")


def check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"a server needs {', '.join(missing)}, not installed; {INSTALL}")


def say(line: str) -> None:
    """To stdout, where a script finds the address; the log goes to stderr."""
    print(f"owl: {line}", flush=True)
