"""A conversation at the terminal: the words of a command line, and the questions that follow.

Media are opened before the model is, so a wrong path costs nothing. An error costs one line of a conversation, never
all of it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from mplug_owl.errors import DataError, OwlError, RequestError
from mplug_owl.media import Limits, load_image, load_video
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart

if TYPE_CHECKING:
    from mplug_owl.engine.public import Owl

REPL_HELP = """\
/image PATH   show a picture with the next question
/video PATH   show a video with the next question
/reset        forget the conversation
/help         this list
/quit         leave (or Ctrl-D); Ctrl-C stops an answer"""

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
ANIMATED_SUFFIXES = {".gif", ".webp"}
VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg"}


def sort_words(words: Sequence[str], frames: int | None = None) -> tuple[list[ImagePart | VideoPart], str | None]:
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
    """Return "image" or "video" for a file (an animation is a video), folder of frames or URL; None for a question."""
    if word.startswith("data:"):
        return "video" if word.startswith("data:video/") else "image"
    remote = word.startswith(("http://", "https://"))
    suffix = Path(urlsplit(word).path if remote else word).suffix.lower()
    if remote or os.path.exists(word):
        moves = not remote and (os.path.isdir(word) or (suffix in ANIMATED_SUFFIXES and is_animation(word)))
        return "video" if suffix in VIDEO_SUFFIXES or moves else "image"
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise DataError(f"no file {word!r}; expected an image or a video that exists")
    return None


def is_animation(path: str) -> bool:
    try:
        with Image.open(path) as picture:
            return getattr(picture, "is_animated", False)
    except (OSError, Image.DecompressionBombError):  # whoever opens it will say what is wrong with it
        return False


def media_part(kind: str, source: str, frames: int | None) -> ImagePart | VideoPart:
    return VideoPart(source, num_frames=frames) if kind == "video" else ImagePart(source)


def opened(part: ImagePart | VideoPart) -> ImagePart | VideoPart:
    """The same part, known to be readable; an image is fetched and decoded only this once."""
    if isinstance(part, ImagePart):
        return ImagePart(load_image(part.source, limits()))
    load_video(part.source, 1, limits())
    return part


def limits() -> Limits:
    """Whoever types a URL wants it fetched; addresses inside one's own network stay refused."""
    return Limits(allow_remote=True)


def chat(words: Sequence[str], open_owl: Callable[[], "Owl"], frames: int | None, options: dict[str, Any]) -> None:
    """Answer the question among `words` about the media among them, or begin a conversation.

    `open_owl` is called once the media are known to be good; `options` go to `Owl.chat`.
    """
    media, question = sort_words(words, frames)
    pending = [opened(part) for part in media]
    talk = Talk(open_owl(), options, frames, pending)
    talk.loop() if question is None else talk.ask(question)


@dataclass
class Talk:
    """A conversation at the terminal: what was said, and the media that await the next question."""

    owl: "Owl"
    options: dict[str, Any]
    frames: int | None
    pending: list[ImagePart | VideoPart]
    history: list[Message] = field(default_factory=list)

    def ask(self, question: str) -> None:
        """Print the answer as it comes; only an answered question enters the history."""
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
