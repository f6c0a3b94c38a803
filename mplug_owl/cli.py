"""The command `owl`: it parses, imports what a subcommand needs, calls one function, prints.

It knows every other part and none knows it. Nothing heavy is imported before a subcommand runs, so
`owl --help` is instant. An OwlError becomes one line on stderr and exit status 2; `--debug` shows
where it came from.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import mplug_owl
from mplug_owl.errors import DataError, OwlError, RequestError

if TYPE_CHECKING:
    from mplug_owl.engine.public import Owl
    from mplug_owl.media import Limits
    from mplug_owl.messages import ImagePart, Message, VideoPart

HELP = """\
owl: talk to the mPLUG-Owl family of multimodal models

usage: owl COMMAND ...          owl COMMAND --help says more

commands
  chat      ask about images and videos; without a question, a conversation
  info      what a model is: modules, parameters, memory, prompt
  convert   a published checkpoint into the native Transformers layout
  bench     measure speed; one JSON line a run
  demo      a tiny random owl, from picture to words, module by module

examples
  owl demo
  owl info owl2-7b
  owl chat cat.jpg "What is the cat doing?" --model ./mplug-owl2
  owl chat cat.jpg dog.jpg clip.mp4 --model ./mplug-owl2
  owl convert ./mplug-owl2-llama2-7b ./mplug-owl2

MODEL is a folder (published or native layout), a hub name, or a family:
owl-7b, owl2-7b, tiny-owl2 ...; a family alone has random weights.
"""


REPL_HELP = """\
/image PATH   show a picture with the next question
/video PATH   show a video with the next question
/reset        forget the conversation
/help         this list
/quit         leave (or Ctrl-D); Ctrl-C stops an answer"""

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == [
            "bench"
        ]:  # it has a parser of its own, which ours would only get in the way of
            from mplug_owl import bench

            return bench.main(words[1:])
        if not words:
            print(HELP, end="")
            return 0
        arguments = parser().parse_args(words)
        return arguments.run(arguments)
    except OwlError as error:
        if "--debug" in words:
            raise
        print(f"owl: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class TopParser(argparse.ArgumentParser):
    """The parser of `owl` itself; argparse would list the commands without teaching anything."""

    def format_help(self) -> str:
        return HELP


def parser() -> argparse.ArgumentParser:
    top = TopParser(prog="owl", usage="owl COMMAND ... (owl --help lists the commands)")
    top.add_argument("--version", action="version", version=f"owl {mplug_owl.__version__}")
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
    add_chat(commands)
    add_info(commands)
    add_convert(commands)
    commands.add_parser("bench")
    add_demo(commands)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show where an error came from")
    return top


def add_chat(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    chat = commands.add_parser(
        "chat",
        help="ask about images and videos",
        description="Ask about images and videos. Without a QUESTION a conversation begins; "
        "/help lists its commands.",
    )
    chat.add_argument(
        "words",
        nargs="*",
        metavar="IMAGE|VIDEO|QUESTION",
        help="files, folders of frames, http(s) or data URLs; and one question, in quotes",
    )
    chat.add_argument("--model", required=True, help="folder, hub name or family")
    add_placement(chat)
    chat.add_argument("--system", help="system message; an empty one leaves the line out")
    chat.add_argument("--template", help="chat template of the family, such as training")
    chat.add_argument("--max-new-tokens", type=int, default=512, metavar="N")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    chat.add_argument("--top-p", type=float, default=1.0, metavar="P")
    chat.add_argument("--top-k", type=int, default=0, metavar="K")
    chat.add_argument("--seed", type=int, help="makes sampling repeat")
    chat.add_argument("--frames", type=int, metavar="N", help="frames taken from each video")
    chat.set_defaults(run=run_chat)


def add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    info = commands.add_parser(
        "info",
        help="what a model is",
        description="What a model is, from its configuration and file headers alone.",
    )
    info.add_argument("model", metavar="MODEL", help="folder, hub name or family")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(run=run_info)


def add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    convert = commands.add_parser(
        "convert",
        help="a published checkpoint into the native layout",
        description="Convert a published checkpoint into the native Transformers layout.",
    )
    convert.add_argument("published", metavar="PUBLISHED", help="published folder or hub name")
    convert.add_argument("out", metavar="OUT", help="new folder")
    convert.add_argument(
        "--dtype", default="auto", help="auto (as published), bfloat16, float16, float32"
    )
    convert.set_defaults(run=run_convert)


def add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="a tiny random owl, module by module",
        description="Build a tiny owl with random weights and follow one picture through it.",
    )
    demo.add_argument(
        "--model", default="tiny-owl2", help="another tiny family (default: tiny-owl2)"
    )
    demo.set_defaults(run=run_demo)


def add_placement(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (untested)")
    command.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")


def quiet_when_piped() -> None:
    """Progress bars are for people: none where stderr is a file or a pipe."""
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()


def run_info(arguments: argparse.Namespace) -> int:
    from mplug_owl.models.info import describe

    card = describe(arguments.model)
    print(json.dumps(dataclasses.asdict(card), indent=2) if arguments.json else card)
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    quiet_when_piped()
    from mplug_owl.models.published import convert

    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{str(out)!r} exists and is not empty; give a new folder, or empty it")
    print(convert(arguments.published, out, dtype=arguments.dtype))
    print(f"written to {out}")
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    quiet_when_piped()
    from mplug_owl.engine import demo

    demo.run(arguments.model)
    return 0


def run_chat(arguments: argparse.Namespace) -> int:
    media, question = sort_words(arguments.words, arguments.frames)
    # Bad media are found before a big model is loaded for them.
    talk = Talk(arguments.frames, [opened(part) for part in media])

    quiet_when_piped()
    from mplug_owl.engine.public import load

    talk.owl = load(
        arguments.model, device=arguments.device, dtype=arguments.dtype, limits=limits()
    )
    names = ("system", "template", "max_new_tokens", "temperature", "top_p", "top_k", "seed")
    talk.options = {name: getattr(arguments, name) for name in names}
    talk.loop() if question is None else talk.ask(question)
    return 0


def sort_words(
    words: Sequence[str], frames: int | None = None
) -> "tuple[list[ImagePart | VideoPart], str | None]":
    """What the words of a command line are: media in their order, and maybe a question."""
    kinds = [(word, media_kind(word)) for word in words]
    questions = [word for word, kind in kinds if kind is None]
    if len(questions) > 1:
        raise RequestError(
            f"{len(questions)} questions: {', '.join(map(repr, questions))}; expected one, in "
            "quotes, beside files that exist"
        )
    media = [media_part(kind, word, frames) for word, kind in kinds if kind is not None]
    return media, questions[0] if questions else None


def media_kind(word: str) -> str | None:
    """Return "image" or "video" for a file, folder of frames or URL; None for a question."""
    if word.startswith("data:"):
        return "video" if word.startswith("data:video/") else "image"
    if word.startswith(("http://", "https://")):
        return "video" if Path(urlsplit(word).path).suffix.lower() in VIDEO_SUFFIXES else "image"
    if os.path.isdir(word):
        return "video"
    suffix = Path(word).suffix.lower()
    if os.path.exists(word):
        return "video" if suffix in VIDEO_SUFFIXES else "image"
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise DataError(f"no file {word!r}; expected an image or a video that exists")
    return None


def media_part(kind: str, source: str, frames: int | None) -> "ImagePart | VideoPart":
    from mplug_owl.messages import ImagePart, VideoPart

    return VideoPart(source, num_frames=frames) if kind == "video" else ImagePart(source)


def opened(part: "ImagePart | VideoPart") -> "ImagePart | VideoPart":
    """The same part, known to be readable; an image is fetched and decoded only this once."""
    from mplug_owl.media import load_image, load_video
    from mplug_owl.messages import ImagePart

    if isinstance(part, ImagePart):
        return ImagePart(load_image(part.source, limits()))
    load_video(part.source, 1, limits())
    return part


def limits() -> "Limits":
    """Whoever types a URL wants it fetched; addresses inside one's own network stay refused."""
    from mplug_owl.media import Limits

    return Limits(allow_remote=True)


class Talk:
    """A conversation at the terminal: what was said, and the media that await the next question."""

    owl: "Owl"
    options: dict[str, Any]

    def __init__(self, frames: int | None, media: "Sequence[ImagePart | VideoPart]") -> None:
        self.frames = frames
        self.pending = list(media)
        self.history: list[Message] = []

    def ask(self, question: str) -> None:
        """Print the answer as it comes; only an answered question enters the history."""
        from mplug_owl.messages import Message, TextPart

        message = Message("user", (*self.pending, TextPart(question)))
        pieces: list[str] = []
        # Closed at once when Ctrl-C arrives, so that the model stops too.
        with closing(self.owl.chat([*self.history, message], stream=True, **self.options)) as heard:
            for piece in heard:
                print(piece, end="", flush=True)
                pieces.append(piece)
        print()
        self.history += [message, Message("assistant", "".join(pieces))]
        self.pending = []

    def loop(self) -> None:
        """Read questions and commands until the input ends; an error costs one line, not all."""
        shown = f"{len(self.pending)} image(s) or video(s) shown; " if self.pending else ""
        print(f"{shown}ask away; /help lists commands", file=sys.stderr)
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            try:
                if line == "/quit":
                    return
                if line.startswith("/"):
                    self.obey(line)
                elif line:
                    self.ask(line)
            except OwlError as error:
                print(f"owl: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                print("\n(stopped; this answer is forgotten)", file=sys.stderr)

    def obey(self, line: str) -> None:
        command, _, path = line.partition(" ")
        if command in ("/image", "/video"):
            source = os.path.expanduser(path.strip())
            self.pending.append(opened(media_part(command[1:], source, self.frames)))
        elif command == "/reset":
            self.history, self.pending = [], []
        elif command == "/help":
            print(REPL_HELP)
        else:
            raise RequestError(f"unknown command {command!r}; /help lists those there are")
