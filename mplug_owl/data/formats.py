"""Records as the papers and their followers published them, read as conversations.

A record is a dict from a file of any kind. Media stay names (paths, URLs, bytes). Whatever cannot be read with
certainty, above all a count of placeholders that is not the count of media, is a DataError. `FORMATS` are the names,
`recognise` finds the one of a record.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mplug_owl.data.conversation import Kind
from mplug_owl.errors import DataError, did_you_mean
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart, from_openai

Record = Mapping[str, Any]

_PLACEHOLDER = re.compile(r"<\|?(image|video)\|?>")
_OWL_MARKER = re.compile(r"^(Human|AI): ", re.MULTILINE)
_BAIZE_MARKER = re.compile(r"\[\|(Human|AI)\|\] ?")
_ASSISTANTS = ("gpt", "assistant", "chatgpt", "bing", "bard")
_LLAVA_ROLES = {"human": "user", "user": "user", **dict.fromkeys(_ASSISTANTS, "assistant")}
_CAPTIONS = ("caption", "text", "title")
_IMAGES = ("image", "images", "image_path", "filepath", "file_name")
_VIDEOS = ("video", "videos")


def parse_owl_text(text: str, images: Sequence[Any] = (), videos: Sequence[Any] = ()) -> list[Message]:
    """A conversation written as `Human: ` and `AI: ` lines; rendering it gives the same text.

    Markers count at the start of a line only. Text before the first one is the system message; without any, the system
    message is empty. Placeholders stay where they are in the line.
    """
    markers = list(_OWL_MARKER.finditer(text))
    if not markers:
        raise DataError(f"text {text[:60]!r} has no line that starts with 'Human: ' or 'AI: '")
    media = _Media(images, videos)
    head = text[: markers[0].start()].removesuffix("\n")
    messages = [Message("system", media.inline(head))]
    ends = [marker.start() - 1 for marker in markers[1:]]  # without the newline before a marker
    for marker, end in zip(markers, [*ends, len(text)], strict=True):
        role = "user" if marker[1] == "Human" else "assistant"
        messages.append(Message(role, media.inline(text[marker.end() : end])))
    media.check_all_used()
    return messages


def from_owl_record(record: Record) -> list[Message]:
    """mPLUG-Owl's jsonl: `text` of `Human: ` and `AI: ` lines, optional lists `image`, `video`."""
    text = record.get("text")
    if not isinstance(text, str):
        raise DataError(f"record has text={text!r}; expected a conversation in 'Human: ' lines")
    return parse_owl_text(text, _listed(record, *_IMAGES[:2]), _listed(record, *_VIDEOS))


def from_llava_record(record: Record) -> list[Message]:
    """LLaVA's, mPLUG-Owl2's and ShareGPT's json: `conversations` of {from, value}, optional `image`, `video`.

    A conversation that starts with an answer loses it, as upstream does.
    """
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"record has conversations={turns!r}; expected a list of from and value")
    media = _Media(_listed(record, *_IMAGES[:2]), _listed(record, *_VIDEOS))
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise DataError(f"turn {number} is a {type(turn).__name__}; expected from and value")
        speaker, value = turn.get("from"), turn.get("value")
        if not isinstance(value, str):
            raise DataError(f"turn {number} has value={value!r}; expected text")
        if speaker == "system" and not number:
            messages.append(Message("system", value))
            continue
        role = _LLAVA_ROLES.get(str(speaker))
        if role is None:
            hint = did_you_mean(str(speaker), _LLAVA_ROLES)
            raise DataError(f"turn {number} is from {speaker!r}{hint}")
        parts = media.split(value)
        if role == "assistant" and not any(message.role == "user" for message in messages):
            continue
        messages.append(Message(role, _edges_trimmed(parts)))
    media.check_all_used()
    return messages


def from_alternating_record(record: Record) -> list[Message]:
    """As `from_llava_record`, where two turns of one side in a row are an error, as upstream."""
    messages = from_llava_record(record)
    for before, after in pairwise(messages):
        if before.role == after.role:
            raise DataError(
                f"record has two turns of the {after.role} in a row; expected questions and answers in turn"
            )
    return messages


def from_alpaca_record(record: Record) -> list[Message]:
    """Alpaca's json: `instruction`, `input` (on a line of its own unless empty) and `output`."""
    asked = [_text(record, "instruction"), record.get("input") or ""]
    question = "\n".join(str(line) for line in asked if line)
    return _without_media([("user", question), ("assistant", _text(record, "output"))])


def from_baize_record(record: Record) -> list[Message]:
    """Baize's json: `input` of `[|Human|] ` and `[|AI|] ` turns; the fixed first line and the empty last turn are no
    part of the conversation.
    """
    _, *pieces = _BAIZE_MARKER.split(_text(record, "input"))
    turns = [
        ("user" if marker == "Human" else "assistant", text.strip())
        for marker, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if turns and turns[-1] == ("user", ""):
        turns.pop()
    return _without_media(turns)


def from_messages_record(record: Record) -> list[Message]:
    """`messages` in the OpenAI form. Media may also stand beside them, in lists `images` and `videos`, for
    placeholders in the text or parts without a source.
    """
    messages = record.get("messages")
    media = _Media(_listed(record, *_IMAGES[:2]), _listed(record, *_VIDEOS))
    if not any(media.given.values()) or not isinstance(messages, list):
        return from_openai(messages)  # type: ignore[arg-type]  # it says what it found instead
    filled = [
        {**message, "content": media.fill(message.get("content"))} if isinstance(message, Mapping) else message
        for message in messages
    ]
    media.check_all_used()
    return from_openai(filled)


def from_caption_record(record: Record) -> list[Message]:
    """A picture or video and its caption: LAION, COYO, Conceptual Captions, COCO."""
    caption = next((record[key] for key in _CAPTIONS if record.get(key) is not None), None)
    if not isinstance(caption, str) or not caption.strip():
        raise DataError(f"record has the caption {caption!r}; expected a text")
    if _PLACEHOLDER.search(caption):
        raise DataError(f"caption {caption[:60]!r} holds a placeholder; expected plain text")
    shown: list[Part] = [ImagePart(image) for image in _listed(record, *_IMAGES)]
    shown += [VideoPart(video) for video in _listed(record, *_VIDEOS)]
    if len(shown) != 1:
        raise DataError(f"record has {len(shown)} images and videos for its caption; expected one")
    return [Message("user", shown), Message("assistant", caption.strip())]


@dataclass(frozen=True)
class Format:
    """How the records of one kind are told apart and read."""

    fits: Callable[[Record], bool]
    read: Callable[[Record], list[Message]]
    kind: Kind = "chat"


def _has_owl_text(record: Record) -> bool:
    text = record.get("text")
    return isinstance(text, str) and _OWL_MARKER.search(text) is not None


def _has_caption(record: Record) -> bool:
    return any(key in record for key in _CAPTIONS) and bool(_listed(record, *_IMAGES, *_VIDEOS))


_CAPTION = Format(_has_caption, from_caption_record, "caption")
_TURNS = Format(lambda record: "conversations" in record, from_alternating_record)

# A record is of the first format that fits it; several names may share one way of reading.
FORMATS: Mapping[str, Format] = {
    "messages": Format(lambda record: "messages" in record, from_messages_record),
    "llava": _TURNS,
    "sharegpt": _TURNS,
    "baize": Format(lambda record: "[|Human|]" in str(record.get("input")), from_baize_record),
    "alpaca": Format(lambda record: {"instruction", "output"} <= {*record}, from_alpaca_record),
    "owl": Format(_has_owl_text, from_owl_record),
    **dict.fromkeys(("caption", "laion", "coyo", "cc", "coco"), _CAPTION),
    **dict.fromkeys(("karpathy", "karpathy-val", "karpathy-test"), _CAPTION),
}


def recognise(record: Record) -> str:
    """The name of the format of a record. Raises: DataError where none fits."""
    for name, form in FORMATS.items():
        if form.fits(record):
            return name
    raise DataError(
        f"a record with the keys {', '.join(map(str, record)) or '(none)'} is of no known format; "
        f"expected one of {', '.join(FORMATS)}"
    )


def document_records(document: Record, name: str | None = None) -> list[Record]:
    """The captions of a COCO file, official or Karpathy's, as records.

    Of Karpathy's splits `karpathy` is train and restval, as papers train on them; `karpathy-val` and `karpathy-test`
    are the others.
    """
    images = document.get("images")
    if isinstance(images, list) and "annotations" in document:
        files = {image["id"]: image["file_name"] for image in images}
        return [
            {"id": row["id"], "image": files.get(row["image_id"]), "caption": row["caption"]}
            for row in document["annotations"]
        ]
    if isinstance(images, list) and images and "sentences" in images[0]:
        splits = {"karpathy-val": ("val",), "karpathy-test": ("test",)}
        wanted = splits.get(name or "", ("train", "restval"))
        return [
            {
                "id": sentence["sentid"],
                "image": "/".join(filter(None, [image.get("filepath"), image["filename"]])),
                "caption": sentence["raw"],
            }
            for image in images
            if image["split"] in wanted
            for sentence in image["sentences"]
        ]
    found = ", ".join(list(document)[:8])
    raise DataError(f"one object with the keys {found}; expected a list of records, or COCO's form")


class _Media:
    """The media of a record, handed out as their placeholders appear."""

    def __init__(self, images: Sequence[Any], videos: Sequence[Any]) -> None:
        self.given = {"image": len(images), "video": len(videos)}
        self.used = {"image": 0, "video": 0}
        self._left: dict[str, Iterator[Part]] = {"image": map(ImagePart, images), "video": map(VideoPart, videos)}

    def split(self, text: str) -> list[Part]:
        """Text and media in order; no empty texts."""
        parts: list[Part] = []
        end = 0
        for found in _PLACEHOLDER.finditer(text):
            parts.append(TextPart(text[end : found.start()]))
            self.used[found[1]] += 1
            parts += [part for part in [next(self._left[found[1]], None)] if part is not None]
            end = found.end()
        parts.append(TextPart(text[end:]))
        return [part for part in parts if part != TextPart("")]

    def inline(self, text: str) -> list[Part]:
        """As `split`, with a text first: it tells the templates to leave media where they are."""
        parts = self.split(text)
        return parts if parts and isinstance(parts[0], TextPart) else [TextPart(""), *parts]

    def fill(self, content: Any) -> Any:
        """Content in the OpenAI form, its placeholders and parts without a source filled."""
        if isinstance(content, str):
            return [_open_part(part) for part in self.split(content)] or content
        if not isinstance(content, list):
            return content
        return [self._fill_part(part) for part in content]

    def _fill_part(self, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in self.used:
            return part
        if any(part.get(key) is not None for key in (kind, f"{kind}_url", "url", "path")):
            self.given[kind] += 1  # brings its own
            self.used[kind] += 1
            return part
        self.used[kind] += 1
        medium = next(self._left[kind], None)
        return part if medium is None else _open_part(medium)

    def check_all_used(self) -> None:
        for kind, given in self.given.items():
            if self.used[kind] != given:
                raise DataError(
                    f"record has {self.used[kind]} {kind} placeholder(s) and {given} {kind}(s); expected one for each"
                )


def _open_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    kind = "image" if isinstance(part, ImagePart) else "video"
    return {"type": kind, kind: part.source}


def _without_media(turns: Sequence[tuple[str, str]]) -> list[Message]:
    media = _Media([], [])
    messages = [Message(role, media.split(text) or "") for role, text in turns]
    media.check_all_used()
    return messages


def _text(record: Record, key: str) -> str:
    if not isinstance(record.get(key), str):
        raise DataError(f"record has {key}={record.get(key)!r}; expected text")
    return str(record[key])


def _listed(record: Record, *keys: str) -> list[Any]:
    """What stands under the first of the keys that holds anything."""
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    if value is None:
        return []
    return [_plain(one) for one in (value if isinstance(value, list | tuple) else [value])]


def _plain(medium: Any) -> Any:
    """Tables of Hugging Face hold a picture as {bytes, path}."""
    if not isinstance(medium, Mapping):
        return medium
    return medium.get("bytes") or medium.get("path") or medium.get("url")


def _edges_trimmed(parts: list[Part]) -> list[Part]:
    """Without the newlines that set a medium at the edge of a turn apart from its text."""
    trimmed = list(parts)
    for index, part in enumerate(parts):
        if not isinstance(part, TextPart):
            continue
        text = part.text
        if index and not any(isinstance(before, TextPart) for before in parts[:index]):
            text = text.lstrip("\n")
        if index < len(parts) - 1 and not any(isinstance(p, TextPart) for p in parts[index + 1 :]):
            text = text.rstrip("\n")
        trimmed[index] = TextPart(text)
    return trimmed
