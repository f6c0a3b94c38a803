"""Conversations to rows: ids, labels from the template's own answer spans, and the media they show.

A conversation that is too long loses its oldest turns first; then the last answer is cut from its end but still ends;
its prompt is cut only if it must be. Pictures are never cut: those of a lost turn move to the first turn that is kept,
and a row they do not fit into is a DataError. No file is opened here.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mplug_owl.data.conversation import Conversation
from mplug_owl.errors import DataError
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart, chat_dicts, media

IGNORED = -100  # label of a position that is not learnt from


class Prompter(Protocol):
    """What encoding asks of a processor."""

    tokenizer: Any
    num_frames: int
    answer_end: str
    image_token: str
    video_token: str
    image_token_id: int
    video_token_id: int

    def render(
        self, messages: Sequence[dict[str, Any]], template: str | None = None
    ) -> tuple[str, list[tuple[int, int]]]: ...

    def placeholders(self, text: str) -> list[str]: ...

    def encode_text(
        self, text: str, answer_spans: Sequence[tuple[int, int]] = (), *, video_frames: Iterable[int] | None = None
    ) -> tuple[list[int], list[bool]]: ...


@dataclass(frozen=True)
class Cuts:
    """What a row lost to its length."""

    turns: int = 0
    prompt_characters: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True)
class Encoded:
    """One row. `media` are shown in the order of their placeholders."""

    ids: list[int]
    labels: list[int]
    media: list[ImagePart | VideoPart]
    cuts: Cuts = Cuts()


def encode_conversation(
    conversation: Conversation, processor: Prompter, *, template: str = "training", max_length: int | None = None
) -> Encoded:
    """The row of a conversation of either kind. Raises: DataError, as `encode` does."""
    if conversation.kind == "caption":
        return encode_caption(conversation.messages, processor, max_length=max_length)
    return encode(conversation.messages, processor, template=template, max_length=max_length)


def encode_caption(messages: Sequence[Message], processor: Prompter, *, max_length: int | None = None) -> Encoded:
    """A picture, its caption and the end: no roles, and only caption and end are learnt.

    Raises: DataError where the caption is empty or the picture does not fit.
    """
    shown = media(messages)
    caption = messages[-1].text.strip()
    if not caption:
        raise DataError("an empty caption; expected words to learn")
    head = "".join(processor.image_token if isinstance(part, ImagePart) else processor.video_token for part in shown)
    text = head + caption + processor.answer_end
    row = _encoded(text, [(len(head), len(text))], shown, processor)
    return row if max_length is None else _with_short_answer(row, processor, max_length)


def learning_text(row: Encoded, processor: Prompter) -> Encoded:
    """The row with all its text learnt; not its first position, which in a packed row follows another sample."""
    media = (processor.image_token_id, processor.video_token_id)
    labels = [IGNORED if place == 0 or token in media else token for place, token in enumerate(row.ids)]
    return replace(row, labels=labels)


def encode(
    messages: Sequence[Message], processor: Prompter, *, template: str = "training", max_length: int | None = None
) -> Encoded:
    """The row of a conversation; its answers and their ends are learnt, nothing else.

    Raises: DataError where there is no answer, where media and placeholders do not fit each other, or where the row
    does not fit into `max_length` without cutting a picture.
    """
    row = _row(messages, processor, template)
    if all(label == IGNORED for label in row.labels):
        raise DataError("a conversation without an answer to learn; expected an assistant message")
    if max_length is None or len(row.ids) <= max_length:
        return row
    return _Shortener(messages, processor, template, max_length).row()


def _row(messages: Sequence[Message], processor: Prompter, template: str, cuts: Cuts = Cuts()) -> Encoded:
    text, spans = processor.render(chat_dicts(messages), template)
    return _encoded(text, spans, media(messages), processor, cuts)


def _encoded(
    text: str,
    spans: Sequence[tuple[int, int]],
    shown: list[ImagePart | VideoPart],
    processor: Prompter,
    cuts: Cuts = Cuts(),
) -> Encoded:
    have = ["image" if isinstance(part, ImagePart) else "video" for part in shown]
    found = processor.placeholders(text)
    if found != have:
        raise DataError(
            f"the text holds {len(found)} placeholder(s) but the conversation {len(have)} image(s) "
            "and video(s), or in another order; take the placeholders out of the text"
        )
    frames = [p.num_frames or processor.num_frames for p in shown if isinstance(p, VideoPart)]
    ids, target = processor.encode_text(text, spans, video_frames=frames)
    labels = [token if learnt else IGNORED for token, learnt in zip(ids, target, strict=True)]
    return Encoded(ids, labels, shown, cuts)


class _Shortener:
    """Fits one conversation into `max_length` positions."""

    def __init__(self, messages: Sequence[Message], processor: Prompter, template: str, max_length: int) -> None:
        self.processor = processor
        self.template = template
        self.max_length = max_length
        has_system = messages[0].role == "system"
        self.system = list(messages[:1]) if has_system else []
        self.turns: list[list[Message]] = [[]]
        for message in messages[len(self.system) :]:
            self.turns[-1].append(message)
            if message.role == "assistant":
                self.turns.append([])
        self.turns.pop()  # questions after the last answer teach nothing

    def row(self) -> Encoded:
        drop = bisect_left(range(len(self.turns)), True, key=self._fits_without)
        if drop < len(self.turns):
            return self._without(drop)
        drop = len(self.turns) - 1
        row = self._without(drop)
        if self._leaves_no_answer(row):
            _, answer = _lengths(row)
            goal = self.max_length - min(answer, self.max_length // 2)
            text = sum(len(message.text) for message in self.turns[drop][:-1])
            row = self._without(
                drop, bisect_left(range(text), True, key=lambda count: _lengths(self._without(drop, count))[0] <= goal)
            )
            if self._leaves_no_answer(row):
                raise DataError(_complaint(row, self.processor, self.max_length))
        return _with_short_answer(row, self.processor, self.max_length)

    def _leaves_no_answer(self, row: Encoded) -> bool:
        """Whether nothing of the answer but its end would fit behind the prompt."""
        prompt, answer = _lengths(row)
        return prompt + min(answer, len(_end(self.processor)) + 1) > self.max_length

    def _fits_without(self, turns: int) -> bool:
        return len(self._without(turns).ids) <= self.max_length

    def _without(self, turns: int, characters: int = 0) -> Encoded:
        """The row without its oldest turns, and without the first characters of what is asked."""
        lost = media(message for turn in self.turns[:turns] for message in turn)
        kept = [message for turn in self.turns[turns:] for message in turn]
        if lost:
            asks = kept[0].role == "user"
            content = kept[0].content if asks else ()
            kept = [Message("user", (*lost, *content)), *kept[1 if asks else 0 :]]
        left = characters
        for index, message in enumerate(kept[:-1] if characters else ()):
            parts = []
            for part in message.content:
                if isinstance(part, TextPart):
                    part, left = TextPart(part.text[left:]), max(left - len(part.text), 0)
                parts.append(part)
            kept[index] = Message(message.role, parts)
        cuts = Cuts(turns=turns, prompt_characters=characters)
        return _row([*self.system, *kept], self.processor, self.template, cuts)


def _with_short_answer(row: Encoded, processor: Prompter, max_length: int) -> Encoded:
    """The row with its last answer cut to fit; it still ends as an answer does."""
    lost = len(row.ids) - max_length
    if lost <= 0:
        return row
    end = _end(processor)
    kept = max_length - len(end)
    ids = [*row.ids[:kept], *end]
    no_answer = kept <= _lengths(row)[0]
    if no_answer or _media_positions(ids, processor) != _media_positions(row.ids, processor):
        raise DataError(_complaint(row, processor, max_length))
    cuts = Cuts(row.cuts.turns, row.cuts.prompt_characters, answer_tokens=lost)
    return Encoded(ids, [*row.labels[:kept], *end], row.media, cuts)


def _end(processor: Prompter) -> list[int]:
    made = processor.tokenizer(processor.answer_end, add_special_tokens=False)
    return list(made["input_ids"])


def _media_positions(ids: Sequence[int], processor: Prompter) -> int:
    return ids.count(processor.image_token_id) + ids.count(processor.video_token_id)


def _lengths(row: Encoded) -> tuple[int, int]:
    """Positions before the answer, and of the answer."""
    start = next(i for i, label in enumerate(row.labels) if label != IGNORED)
    return start, len(row.ids) - start


def _complaint(row: Encoded, processor: Prompter, max_length: int) -> str:
    return (
        f"a prompt of {_lengths(row)[0]} positions, {_media_positions(row.ids, processor)} of "
        f"them for {len(row.media)} image(s) and video(s), does not fit into {max_length}; raise "
        "the length or leave the record out"
    )
