"""What people hand to an owl - a question, messages, dicts, media apart - as one list of `Message`.

It looks at the form only: no media are opened and no prompt is made here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mplug_owl.errors import RequestError
from mplug_owl.messages import ImagePart, Message, Part, VideoPart, from_openai

Conversation = str | Sequence[Message] | Sequence[Mapping[str, Any]]


def conversation(messages: Conversation, images: Sequence[Any] = (), videos: Sequence[Any] = ()) -> list[Message]:
    """The conversation with its media in place.

    `images` and `videos` fill the parts of dicts that name no source. Where there are no such parts, they are shown in
    front of the last message of the user.

    Raises:
        RequestError: nothing was said, or the media do not fit.
    """
    if isinstance(messages, str):
        messages = [Message("user", messages)]
    said = [message for message in messages if isinstance(message, Message)]
    dicts = [message for message in messages if isinstance(message, Mapping)]
    if len(said) + len(dicts) < len(messages) or bool(said) == bool(dicts):
        kinds = ", ".join(sorted({type(message).__name__ for message in messages}))
        raise RequestError(
            f"a conversation of {kinds or 'no messages'}; expected a question, a list of Message, or a list of dicts"
        )
    if any(_is_bare(part) for message in dicts for part in _parts(message)):
        return from_openai(_filled(dicts, images, videos))
    return _shown(said or from_openai(dicts), images, videos)


def _parts(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else ()


def _is_bare(part: Any) -> bool:
    """Whether a part says where a picture goes, but not which."""
    return isinstance(part, Mapping) and dict(part) in ({"type": "image"}, {"type": "video"})


def _filled(
    dicts: Sequence[Mapping[str, Any]], images: Sequence[Any], videos: Sequence[Any]
) -> list[Mapping[str, Any]]:
    given = {"image": list(images), "video": list(videos)}
    bare = [part["type"] for message in dicts for part in _parts(message) if _is_bare(part)]
    for kind, media in given.items():
        if bare.count(kind) != len(media):
            raise RequestError(
                f"{bare.count(kind)} {kind} part(s) without a source, but {len(media)} {kind}(s) "
                "were given apart; expected one for each"
            )

    def fill(part: Any) -> Any:
        return {**part, part["type"]: given[part["type"]].pop(0)} if _is_bare(part) else part

    return [{**message, "content": [*map(fill, _parts(message))]} if _parts(message) else message for message in dicts]


def _shown(messages: list[Message], images: Sequence[Any], videos: Sequence[Any]) -> list[Message]:
    parts: list[Part] = [*map(ImagePart, images), *map(VideoPart, videos)]
    turns = [index for index, message in enumerate(messages) if message.role == "user"]
    if not parts:
        return messages
    if not turns:
        raise RequestError(f"{len(parts)} image(s) or video(s), but no message of the user to show them with")
    last = messages[turns[-1]]
    messages[turns[-1]] = Message("user", (*parts, *last.content))
    return messages
