"""One row looked at closely: what is wrong with it, how long it is, and what a model would see.

A row is refused here exactly where the loader of a run would leave it out. Which rows are looked at, and what follows
from all of them, is decided in doctor.py.
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from PIL import Image

from mplug_owl.data.conversation import Conversation, TarMember
from mplug_owl.data.encode import IGNORED, Cuts, Prompter, encode_conversation
from mplug_owl.data.report import Finding, Piece, Sample
from mplug_owl.errors import DataError, OwlError, RequestError
from mplug_owl.media import load_image, load_video
from mplug_owl.media.images import Drawable, decoding, open_image
from mplug_owl.media.limits import USUAL
from mplug_owl.media.source import named, opened
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, media

# What the words of an error say about its kind; texts it quotes are taken out before.
_WORDS = (
    (r"placeholder|images? and videos? for its caption", "placeholders"),
    (r"\brole\b|turn \d+ is from|in a row|is a system message", "roles"),
    (r"\bcaption\b|\banswer", "nothing"),
)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_SEEN = 2**16  # files remembered, for many rows may show one picture
_THUMBNAIL = 160  # pixels of its longer edge
_LONGEST_PIECE = 1200  # characters of a sample's text shown in one go

Size = tuple[int, int]


@dataclass
class Checkup:
    """What one row came to."""

    where: str
    id: str
    findings: list[Finding] = field(default_factory=list)
    refused: bool = False
    length: int = 0  # of the whole text, in tokens where there is a processor and characters where not
    kept: int = 0  # of what is left after cutting
    learnt: int = 0
    media: int = 0
    edges: list[int] = field(default_factory=list)  # shorter edge of each medium that can be read

    def add(self, kind: str, detail: str) -> None:
        self.findings.append(Finding(kind, self.where, self.id, detail))

    def refuse(self, error: OwlError, kind: str | None = None) -> None:
        """Of no given kind, it is of that which the words of the error say."""
        self.refused = True
        detail = str(error).removeprefix(f"{self.where}: ")
        words = _QUOTED.sub("", detail)
        said = (name for pattern, name in _WORDS if re.search(pattern, words))
        self.add(kind or next(said, "record"), detail)


class Checker:
    """Looks at rows one by one; several threads may use one checker."""

    def __init__(self, processor: Prompter | None, template: str, max_length: int, decode: bool) -> None:
        self.processor = processor
        self.template = template
        self.max_length = max_length
        self.decode = decode
        self._size_of_file = lru_cache(_SEEN)(self._size)

    def check(self, where: str, found: Conversation | DataError) -> Checkup:
        """The checkup of a conversation, or of the error that came in its place."""
        if isinstance(found, DataError):
            checkup = Checkup(where, where)
            checkup.refuse(found)
        else:
            checkup = Checkup(where, found.id)
            self._check_text(found, checkup)
            self._check_media(found, checkup)
        return checkup

    def _check_text(self, talk: Conversation, checkup: Checkup) -> None:
        answers = [message.text for message in talk.messages if message.role == "assistant"]
        if empty := sum(not answer.strip() for answer in answers):
            checkup.add("empty-answer", f"{empty} of {len(answers)} answers")
        for odd in _odd_turns(talk.messages):
            checkup.add("turns", odd)
        if self.processor is None:
            checkup.length = checkup.kept = sum(len(message.text) for message in talk.messages)
            checkup.learnt = sum(map(len, answers))
            return
        try:
            row = encode_conversation(talk, self.processor, template=self.template)
            checkup.length = len(row.ids)
            if checkup.length > self.max_length:
                row = encode_conversation(talk, self.processor, template=self.template, max_length=self.max_length)
                checkup.add("cut", _loss(row.cuts, checkup.length, self.max_length))
        except (DataError, RequestError) as error:
            # What has a length was sound until it was cut.
            checkup.refuse(error, "too-long" if checkup.length else None)
            return
        checkup.kept = len(row.ids)
        checkup.learnt = sum(label != IGNORED for label in row.labels)

    def _check_media(self, talk: Conversation, checkup: Checkup) -> None:
        shown = media(talk.messages)
        checkup.media = len(shown)
        for part in shown:
            on_disk = isinstance(part.source, str | Path)
            size = self._size_of_file(part) if on_disk else self._size(part)
            if isinstance(size, DataError):
                checkup.refuse(size, "media-missing" if _lies_nowhere(part.source) else "media-broken")
            else:
                checkup.edges.append(min(size))

    def _size(self, part: ImagePart | VideoPart) -> Size | DataError:
        """The size of a medium that can be read."""
        try:
            if isinstance(part, VideoPart):
                usual = self.processor.num_frames if self.processor else 1
                return load_video(part.source, (part.num_frames or usual) if self.decode else 1)[0].size
            if self.decode or isinstance(part.source, Image.Image | Drawable):
                return load_image(part.source).size
            name = named(part.source)
            with opened(part.source, USUAL) as stream, decoding(name):
                return open_image(stream, USUAL, name).size
        except DataError as error:
            return DataError(str(error))  # without the frames it was raised through: it is kept

    def sample(self, talk: Conversation) -> Sample:
        """A row that was not refused, as the model would see it."""
        if self.processor is None:
            pieces, shown = [*_plain_pieces(talk.messages)], media(talk.messages)
        else:
            row = encode_conversation(talk, self.processor, template=self.template, max_length=self.max_length)
            pieces, shown = [*_pieces(row.ids, row.labels, self.processor)], row.media
        return Sample(talk.origin, talk.id, pieces, [_thumbnail(part) for part in shown])


def _odd_turns(messages: Sequence[Message]) -> Iterator[str]:
    turns = [message for message in messages if message.role != "system"]
    if turns and turns[0].role == "assistant":
        yield "begins with an answer"
    if turns and turns[-1].role == "user":
        yield "ends with a question that nobody answers; it is not learnt from"
    for before, after in pairwise(turns):
        # Owl's own records show each picture in a turn of its own.
        if before.role == after.role and (before.role == "assistant" or before.text.strip()):
            yield f"two turns of the {after.role} in a row"
            return


def _loss(cuts: Cuts, length: int, max_length: int) -> str:
    lost = {
        "oldest turn(s)": cuts.turns,
        "characters of the prompt": cuts.prompt_characters,
        "tokens of the last answer": cuts.answer_tokens,
    }
    what = " and ".join(f"{count:,} {name}" for name, count in lost.items() if count) or "questions nobody answers"
    return f"{length:,} positions, over {max_length:,}: {what} left out"


def _lies_nowhere(source: Any) -> bool:
    """Whether a source is, or has, a file that does not exist."""
    if isinstance(source, list | tuple):
        return any(map(_lies_nowhere, source))
    path = source.path if isinstance(source, TarMember) else source
    if not isinstance(path, str | Path) or str(path).startswith(("data:", "http:", "https:")):
        return False
    try:
        return not Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return True


def _pieces(ids: Sequence[int], labels: Sequence[int], processor: Prompter) -> Iterator[Piece]:
    media_ids = {processor.image_token_id: "image", processor.video_token_id: "video"}
    kinds: Any = (
        media_ids.get(token, "read" if label == IGNORED else "learnt") for token, label in zip(ids, labels, strict=True)
    )
    for kind, run in groupby(zip(kinds, ids, strict=True), itemgetter(0)):
        tokens = [token for _, token in run]
        is_media = kind in media_ids.values()
        text = f"{len(tokens)} positions" if is_media else _shortened(processor.tokenizer.decode(tokens))
        yield Piece(kind, text)


def _plain_pieces(messages: Sequence[Message]) -> Iterator[Piece]:
    """The pieces of a conversation that is not tokenised: its answers are what is learnt."""
    for message in messages:
        yield Piece("read", f"{message.role}: ")
        for part in message.content:
            if isinstance(part, TextPart):
                yield Piece("learnt" if message.role == "assistant" else "read", _shortened(part.text))
            else:
                yield Piece("image" if isinstance(part, ImagePart) else "video", "")
        yield Piece("read", "\n")


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_PIECE:
        return text
    half = _LONGEST_PIECE // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters more]\n{text[-half:]}"


def _thumbnail(part: ImagePart | VideoPart) -> str:
    """A data URL; of a video, one of its frames. Empty where only the header could be read."""
    try:
        picture = load_video(part.source, 1)[0] if isinstance(part, VideoPart) else load_image(part.source)
    except DataError:
        return ""
    picture = picture.convert("RGB")
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
