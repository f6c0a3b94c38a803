"""What one request brings along: its text measured, its pictures and videos opened within one limit for all of them.

Both take memory long before the engine, which knows its own limits, sees the first token.
"""

from collections.abc import Sequence

from mplug_owl.errors import RequestError
from mplug_owl.media import Limits, Tally, load_image, load_video
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart

LETTERS = 64
"""Of text for each position of a context: no tokenizer of ours has tokens so long on average."""
MOST_LETTERS = 1_000_000
"""Of text where a context has no end: its tokens take hundreds of times as many bytes."""


def check_length(messages: Sequence[Message], context: int | None) -> None:
    """Raises: RequestError where a text is so long that reading it would only show that it cannot fit."""
    letters = sum(len(message.text) for message in messages)
    most = MOST_LETTERS if context is None else min(MOST_LETTERS, LETTERS * context)
    if letters > most:
        raise RequestError(f"{letters} letters of text; at most {most} are read here: shorten it")


def opened(messages: Sequence[Message], limits: Limits, num_frames: int) -> list[Message]:
    """The same conversation with pictures and lists of frames in place of their sources.

    `num_frames` are taken of a video that does not say how many. It takes its time.

    Raises: DataError where one of them cannot be used, or all together are too large.
    """
    tally = Tally(limits)

    def picture(part: Part) -> Part:
        if isinstance(part, TextPart):
            return part
        if isinstance(part, ImagePart):
            return ImagePart(load_image(part.source, limits, tally))
        frames = load_video(part.source, part.num_frames or num_frames, limits, tally)
        return VideoPart(frames, len(frames))

    return [Message(message.role, map(picture, message.content)) for message in messages]
