"""`owl ui`: open the models, serve the API and the pages, say where. Parses and prints; the work is elsewhere."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mplug_owl.serve.catalogue import Catalogue, specs
from mplug_owl.serve.command import DEFAULT, check_installed, say
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.page import PATH, Page

EXAMPLES = """\
examples
  owl ui                                    chat with the owlet
  owl ui ./mplug-owl2 tuned=./mplug-owl2+./lora --votes votes.jsonl
                                            compare it with an adapter of it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "models", nargs="*", metavar="[NAME=]MODEL[+ADAPTER]", help="folders, hub names, families (default: owlet)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="0: any that is free (default: 7860)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    parser.add_argument("--quantize", choices=("int8", "int4"), help="weights of the decoders in fewer bits")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="who may come in; see owl keys")
    add_page_arguments(parser)


def add_page_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be said of the pages, also where they come with a server."""
    usual = PageOptions()
    parser.add_argument("--votes", type=Path, default=usual.votes, metavar="FILE", help=f"appended to ({usual.votes})")
    parser.add_argument(
        "--thumbs", type=Path, default=usual.thumbs, metavar="FILE", help=f"appended to ({usual.thumbs})"
    )
    parser.add_argument("--keep-media", action="store_true", help="copy what was shown beside votes and thumbs")
    parser.add_argument(
        "--max-upload", type=float, default=usual.max_upload_mib, metavar="MIB", help="of one file (64)"
    )
    parser.add_argument("--seed", type=int, help="makes the blind pairs repeat")


def page_options(arguments: argparse.Namespace) -> PageOptions:
    """Raises: ConfigError where a value cannot be."""
    return PageOptions(
        votes=arguments.votes,
        thumbs=arguments.thumbs,
        keep_media=arguments.keep_media,
        max_upload_mib=arguments.max_upload,
        upload_room_mib=max(PageOptions().upload_room_mib, 4 * arguments.max_upload),
        seed=arguments.seed,
    )


def run(arguments: argparse.Namespace, more: Sequence[Page] = ()) -> int:
    """Serve until told to stop; `more` are pages that were made elsewhere.

    Raises: ConfigError for options that cannot be, a place where nobody may listen, or a library that is missing.
    """
    options = page_options(arguments)
    server = ServeOptions(host=arguments.host, port=arguments.port, keys=arguments.keys, ui=True)
    wanted = specs(arguments.models or [DEFAULT])
    check_installed()
    from mplug_owl.serve.app import make_app
    from mplug_owl.serve.server import bound
    from mplug_owl.serve.server import run as serve
    from mplug_owl.serve.ui import mount

    # First, for opening the models takes longer than to see that the port is taken.
    listener = bound(server.host, server.port)
    try:
        opening = {"device": arguments.device, "dtype": arguments.dtype, "quantize": arguments.quantize}
        catalogue = Catalogue.open(wanted, **opening)
        try:
            app = make_app(catalogue, server)
            mount(app, catalogue, options, more)
            serve(app, server, listener=listener, announce=lambda url: say(f"pages at {url}{PATH}/"))
        finally:
            catalogue.close()
    finally:
        listener.close()
    return 0
