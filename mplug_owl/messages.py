"""The conversation: messages of text, images and videos, their JSON form and their OpenAI form.

A data set row, a request to the server and a question of an evaluation are all lists of `Message`. Media are named by
their source (a path, a URL, bytes, a picture) and stay unopened here.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import DataError, did_you_mean

ROLES = ("system", "user", "assistant")
_KINDS = ("text", "image", "video", "image_url", "video_url", "input_text", "input_image")


@dataclass(frozen=True)
class TextPart:
    text: str


@dataclass(frozen=True)
class ImagePart:
    source: Any
    """A path, a URL, a data URL, bytes or a Pillow image."""


@dataclass(frozen=True)
class VideoPart:
    source: Any
    """As for an image, or a list of frames."""
    num_frames: int | None = None
    """Frames to sample; the model's own number unless given."""


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True)
class Message:
    """What one side said. `content` may be given as a string, or as parts; it is always parts."""

    role: str
    content: tuple[Part, ...]

    def __init__(self, role: str, content: str | Iterable[Part]) -> None:
        if role not in ROLES:
            raise DataError(f"role {role!r} of a message{did_you_mean(str(role), ROLES)}")
        parts = (TextPart(content),) if isinstance(content, str) else tuple(content)
        for part in parts:
            if not isinstance(part, TextPart | ImagePart | VideoPart):
                raise DataError(
                    f"a content part of type {type(part).__name__}; expected TextPart, ImagePart "
                    "or VideoPart (messages.from_openai reads dicts)"
                )
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "content", parts)

    @property
    def text(self) -> str:
        """The text of the message, without its media."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


def from_openai(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Read messages in the OpenAI form, or in that of Transformers; `to_openai` gives them back.

    Raises: DataError where a role or a part is not one of ours.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise DataError(f"messages of type {type(messages).__name__}; expected a list of messages")
    return [_message(number, message) for number, message in enumerate(messages)]


def _message(number: int, message: Any) -> Message:
    where = f"message {number}"
    if not isinstance(message, Mapping):
        raise DataError(f"{where} is a {type(message).__name__}; expected a dict with role and content")
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ROLES:
        raise DataError(f"{where} has the role {role!r}{did_you_mean(str(role), ROLES)}")
    content = message.get("content")
    if content is None and role == "assistant":
        content = ""  # what the OpenAI form says for an answer without words
    if isinstance(content, str):
        return Message(role, content)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        found = type(content).__name__
        raise DataError(f"{where} has content of type {found}; expected a text or a list of parts")
    return Message(role, [_part(f"{where}, part {i}", part) for i, part in enumerate(content)])


def _part(where: str, part: Any) -> Part:
    if isinstance(part, str):
        return TextPart(part)
    if not isinstance(part, Mapping):
        raise DataError(f"{where} is a {type(part).__name__}; expected a dict with a type")
    kind = part.get("type")
    if kind not in _KINDS:
        raise DataError(f"{where} has the type {kind!r}{did_you_mean(str(kind), _KINDS)}")
    if kind in ("text", "input_text"):
        if not isinstance(part.get("text"), str):
            raise DataError(f"{where} is a text part whose text is {part.get('text')!r}; expected text")
        return TextPart(part["text"])
    modality = "video" if "video" in kind else "image"
    source = _source(part, modality)
    if source is None:
        raise DataError(f"{where} ({kind}) has no source; expected {modality}_url, url, path or {modality}")
    if modality == "image":
        return ImagePart(source)
    frames = part.get("num_frames")
    if frames is not None and (not isinstance(frames, int) or frames < 1):
        raise DataError(f"{where} has num_frames={frames!r}; expected a positive number")
    return VideoPart(source, frames)


def _source(part: Mapping[str, Any], modality: str) -> Any:
    for key in (f"{modality}_url", "url", "path", modality):
        found = part.get(key)
        if isinstance(found, Mapping):
            found = found.get("url")
        if found is not None:
            return found
    return None


def to_openai(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as plain JSON data in the OpenAI form; a message of text alone has a plain string.

    Paths stay paths (`{"type": "image", "path": ...}`); bytes and pictures become data URLs.
    """
    plain = []
    for message in messages:
        only_text = len(message.content) == 1 and isinstance(message.content[0], TextPart)
        content = message.text if only_text else [_plain(part) for part in message.content]
        plain.append({"role": message.role, "content": content})
    return plain


def _plain(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    kind = "image" if isinstance(part, ImagePart) else "video"
    source = _json_source(part.source)
    if isinstance(source, str) and source.startswith(("data:", "http://", "https://")):
        plain: dict[str, Any] = {"type": f"{kind}_url", f"{kind}_url": {"url": source}}
    else:
        plain = {"type": kind, "path": source}
    if isinstance(part, VideoPart) and part.num_frames is not None:
        plain["num_frames"] = part.num_frames
    return plain


def _json_source(source: Any) -> Any:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, list | tuple):
        return [_json_source(frame) for frame in source]
    if callable(getattr(source, "read", None)):  # a member of a tar
        source = source.read()
    if callable(getattr(source, "picture", None)):  # drawn when it is looked at
        source = source.picture()
    if isinstance(source, bytes):
        return "data:application/octet-stream;base64," + base64.b64encode(source).decode()
    if callable(getattr(source, "save", None)):
        buffer = io.BytesIO()
        source.save(buffer, format="PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    raise DataError(f"a {type(source).__name__} cannot be written as JSON; give a path, URL or bytes")


def media(messages: Iterable[Message]) -> list[ImagePart | VideoPart]:
    """The images and videos of a conversation in reading order."""
    parts = [part for message in messages for part in message.content]
    return [part for part in parts if not isinstance(part, TextPart)]


def chat_dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The form chat templates read: media are bare `{"type": "image"}` placeholders."""

    def bare(part: Part) -> dict[str, str]:
        if isinstance(part, TextPart):
            return {"type": "text", "text": part.text}
        return {"type": "image" if isinstance(part, ImagePart) else "video"}

    return [{"role": m.role, "content": [bare(part) for part in m.content]} for m in messages]
