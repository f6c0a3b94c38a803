"""OwlProcessor: conversations with pictures and video frames become model inputs, one way for all.

Text is cut at the placeholders and every piece is tokenised alone, as the checkpoints were trained; a placeholder
becomes exactly as many media ids as the model fills positions. Media ids lie beyond the vocabulary and never meet the
tokenizer. Training and inference share `encode_text`. Files are not decoded here: frames come decoded.
"""

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from mplug_owl.errors import RequestError, did_you_mean
from mplug_owl.models import foreign
from mplug_owl.models.batching import arranged, filled
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.templates import END, carried_media, plain_messages, prompt_format

Spans = Sequence[tuple[int, int]]
_RENDERING = threading.Lock()  # the library tracks spans in the template, which threads share


class OwlProcessor(ProcessorMixin):
    """An image processor, a tokenizer and the prompt format; `for_format` makes one."""

    def __init__(
        self,
        image_processor: OwlImageProcessorPil,
        tokenizer: PreTrainedTokenizerFast,
        image_token: str = "<image>",
        video_token: str = "<|video|>",
        image_token_id: int = 0,
        video_token_id: int = 1,
        media_length: int = 65,
        video_as_frames: bool = True,
        num_frames: int = 8,
        bos: str = "first",
        turn_marker: str | None = None,
        answer_marker: str | None = None,
        answer_end: str = END,
        system: str | None = None,
        own_template: bool = True,
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        """`media_length` positions stand for a picture, and for a video or each of its frames; `num_frames` are
        sampled from a video; `system` replaces the format's system sentence. Without `own_template` the templates are
        those of the language model, which take text alone and mark no answers.
        """
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = image_token
        self.video_token = video_token
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.media_length = media_length
        self.video_as_frames = video_as_frames
        self.num_frames = num_frames
        self.bos = bos
        self.turn_marker = turn_marker
        self.answer_marker = answer_marker
        self.answer_end = answer_end
        self.system = system
        self.own_template = own_template

    @classmethod
    def for_format(
        cls,
        name: str,
        image_processor: OwlImageProcessorPil,
        tokenizer: PreTrainedTokenizerFast,
        *,
        image_token_id: int,
        media_length: int,
        temporal: bool = False,
        system: str | None = None,
    ) -> "OwlProcessor":
        """The processor of a family: `name` is a key of FORMATS, `temporal` says whether a video is seen as a
        whole.
        """
        form = prompt_format(name)
        tokenizer.pad_token = getattr(tokenizer, form.pad)
        return cls(
            image_processor,
            tokenizer,
            image_token=form.image_token,
            video_token=form.video_token,
            image_token_id=image_token_id,
            video_token_id=image_token_id + 1,
            media_length=media_length,
            video_as_frames=not temporal,
            num_frames=4 if temporal else 8,
            bos=form.bos,
            turn_marker=form.turn_marker,
            answer_marker=form.answer_marker,
            system=system,
            chat_template=dict(form.templates),
        )

    # ---- conversations to text ---------------------------------------------------------------

    @property
    def templates(self) -> dict[str, str]:
        """Chat templates by name."""
        if isinstance(self.chat_template, str):
            return {"default": self.chat_template}
        return dict(self.chat_template or {})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> tuple[str, list[tuple[int, int]]]:
        """The prompt of one conversation and the spans of its answers (with their end).

        `template` is a name, `default` unless given, or a Jinja template. The variable `system` replaces the system
        sentence, "" removes it; a system message wins over both.
        """
        template = template or "default"
        source = self.templates.get(template)
        if source is None and "{" not in template:
            hint = did_you_mean(template, self.templates)
            raise RequestError(f"unknown chat template {template!r}{hint}")
        if source is not None and (unknown := set(variables) - {"system"}):
            hint = did_you_mean(min(unknown), ["system"])
            raise RequestError(f"unknown variable {min(unknown)!r} for a chat template{hint}")
        if self.system is not None:
            variables.setdefault("system", self.system)
        plain = plain_messages(messages)
        if source is not None and not self.own_template:
            return self._render_foreign(plain, source, add_generation_prompt, continue_final_message, **variables)
        with _RENDERING:
            texts, spans = render_jinja_template(
                [plain],
                chat_template=source or template,
                return_assistant_tokens_mask=True,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **variables,
            )
        return texts[0], [(start, min(end, len(texts[0]))) for start, end in spans[0]]

    def _render_foreign(
        self, plain: list[dict[str, Any]], template: str, prompted: bool, continued: bool, system: str | None = None
    ) -> tuple[str, list[tuple[int, int]]]:
        """`render` where the template is the language model's own."""
        messages = foreign.flat(plain, {"image": self.image_token, "video": self.video_token})
        if system is not None and (not messages or messages[0]["role"] != "system"):
            messages.insert(0, {"role": "system", "content": system})
        words = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        return foreign.render(
            messages, template, words, add_generation_prompt=prompted, continue_final_message=continued
        )

    def placeholders(self, text: str) -> list[str]:
        """The media a prompt asks for in reading order, each "image" or "video"."""
        return [kind for _, _, kind in self._pieces(text, ()) if kind is not None]

    # ---- text to ids -------------------------------------------------------------------------

    def encode_text(
        self, text: str, answer_spans: Spans = (), *, video_frames: Iterable[int] | None = None
    ) -> tuple[list[int], list[bool]]:
        """The ids of a prompt, and which of them lie in `answer_spans`.

        With spans, a format that has markers is cut at them too, as its training data was. `video_frames` are the
        frames of each video in order; `num_frames` unless given.
        """
        frames = iter(video_frames) if video_frames is not None else None
        pieces = self._pieces(text, answer_spans)
        words = [text[start:end] for start, end, kind in pieces if kind is None]
        encoded = iter(self._tokenise(words))
        token = self.tokenizer.bos_token_id
        bos = [] if self.bos == "none" or token is None else [token]
        # Owl2 looks for BOS only in front of the first picture; where no text stands there, every later piece keeps
        # its own.
        everywhere = self.bos == "piece" and bool(pieces) and pieces[0][2] is not None
        ids = [] if everywhere or (self.bos == "piece" and not text) else [*bos]
        target = [False] * len(ids)
        for start, _, kind in pieces:
            if kind is None:
                tokens, offsets = next(encoded)
                row = [*bos, *tokens] if everywhere else tokens
                # A token without text of its own (a lone space mark) counts by where it stands.
                edges = [(start + a, start + max(b, a + 1)) for a, b in offsets]
                target += [False] * (len(row) - len(tokens))
                target += [any(a < end and first < b for first, end in answer_spans) for a, b in edges]
            else:
                as_frames = kind == "video" and self.video_as_frames
                stills = 1 if not as_frames else self.num_frames if frames is None else next(frames)
                media_id = self.video_token_id if kind == "video" else self.image_token_id
                row = [media_id] * (self.media_length * stills)
                target += [False] * len(row)
            ids += row
        return ids, target

    def _tokenise(self, words: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids and offsets of texts, each on its own and without special tokens."""
        if not words:
            return []
        made = self.tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
        return list(zip(made["input_ids"], made["offset_mapping"], strict=True))

    def _pieces(self, text: str, answer_spans: Spans) -> list[tuple[int, int, str | None]]:
        """The pieces of a prompt as (start, end, "image" | "video" | None for text)."""
        kinds = {self.image_token: "image", self.video_token: "video"}
        media = {}
        cuts = {0, len(text)}
        for found in re.finditer("|".join(map(re.escape, kinds)), text):
            media[found.start()] = kinds[found.group()]
            cuts |= {*found.span()}
        if self.answer_marker and self.turn_marker and answer_spans:
            for start, end in answer_spans:
                cuts |= {start, end}
                if text.endswith(self.answer_marker, 0, start):
                    cuts.add(start - len(self.answer_marker))
            for found in re.finditer(re.escape(self.turn_marker), text):
                start, end = found.span()
                if not any(start < stop and first < end for first, stop in answer_spans):
                    cuts |= {start, end}
        return [(start, end, media.get(start)) for start, end in pairwise(sorted(cuts))]

    # ---- model inputs ------------------------------------------------------------------------

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        padding: bool | str = True,
        padding_side: str = "left",
        max_length: int | None = None,
        return_tensors: str | None = "pt",
        answer_spans: Sequence[Spans] | None = None,
        **others: Any,
    ) -> BatchFeature:
        """Prompts with placeholders and their media -> ids, mask and pixel values.

        `images`: pictures in reading order over all rows, or one list a row. `videos`: likewise, each a list of frames
        or an array [T, H, W, 3]. `padding`: True, False or "max_length". With `answer_spans` (of each row) the text is
        cut as in training and the result holds `assistant_masks`.

        Raises: RequestError where text and media do not fit each other, naming both counts.
        """
        if others.pop("truncation", None):
            raise RequestError("truncation could cut through pictures; shorten the conversation")
        others.pop("add_special_tokens", None)  # pipelines pass it; here the format decides
        if others:
            known = ("padding", "padding_side", "max_length", "return_tensors", "answer_spans")
            hint = did_you_mean(min(others), known)
            raise RequestError(f"unknown argument {min(others)!r} for the processor{hint}")
        rows = [text] if isinstance(text, str) else list(text) if text is not None else None
        pictures = arranged("image", images, 0, self._asked("image", rows))
        clips = arranged("video", videos, 1, self._asked("video", rows))
        data: dict[str, Any] = {}
        if rows is not None:
            frames = iter([len(clip) for clip in clips])
            spans = [()] * len(rows) if answer_spans is None else answer_spans
            encoded = [
                self.encode_text(row, answers, video_frames=frames) for row, answers in zip(rows, spans, strict=True)
            ]
            data = filled(
                encoded,
                self.tokenizer.pad_token_id,
                padding=padding,
                side=padding_side,
                max_length=max_length,
                return_tensors=return_tensors,
            )
            if answer_spans is None:
                del data["assistant_masks"]
        if pictures:
            data["pixel_values"] = self.image_processor(pictures)["pixel_values"]
        if clips:
            pixels = [self.clip_pixels(clip) for clip in clips]
            even = len({len(clip) for clip in pixels}) == 1
            data["pixel_values_videos"] = torch.stack(pixels) if even else pixels
        return BatchFeature(data)

    def _asked(self, kind: str, rows: list[str] | None) -> list[int] | None:
        """How many pictures or videos each prompt has placeholders for."""
        return None if rows is None else [self.placeholders(row).count(kind) for row in rows]

    def clip_pixels(self, frames: Sequence[Any]) -> torch.Tensor:
        """[T, 3, X, Y]. A family that sees a video as a whole gets its frames squashed to the square, one that sees
        stills gets them like stills.
        """
        rule = {} if self.video_as_frames else {"aspect": "square"}
        return self.image_processor(list(frames), **rule)["pixel_values"]

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        images: Any = None,
        videos: Any = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render one conversation or several; with `tokenize`, make model inputs of them.

        Pictures and frames come with the content parts (`{"type": "image", "image": picture}`), or, where the parts
        carry none, as `images` and `videos`. `kwargs` are template variables and arguments of the call.
        """
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        conversations = list(conversation) if batched else [conversation]
        options = dict(processor_kwargs or {})
        for name in ("padding", "padding_side", "max_length"):
            if name in kwargs:
                options[name] = kwargs.pop(name)
        for name in ("tools", "documents"):
            if kwargs.pop(name, None):
                raise RequestError(f"{name} given, but no owl was trained to use them; leave them out")
        rendered = [
            self.render(each, chat_template, add_generation_prompt, continue_final_message, **kwargs)
            for each in conversations
        ]
        texts = [text for text, _ in rendered]
        if not tokenize:
            return texts if batched else texts[0]
        media = {"image": options.pop("images", images), "video": options.pop("videos", videos)}
        for kind, beside in media.items():
            carried = [carried_media(messages, kind) for messages in conversations]
            if any(carried):
                if beside is not None:
                    raise RequestError(f"{kind}s given both in the conversation and beside it")
                media[kind] = carried
        out = self(
            media["image"],
            texts,
            media["video"],
            return_tensors=return_tensors,
            answer_spans=[spans for _, spans in rendered] if return_assistant_tokens_mask else None,
            **options,
        )
        return out if return_dict else out["input_ids"]

    # ---- back to text ------------------------------------------------------------------------

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """Text of one row of ids, without media positions: the tokenizer has no words for them."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        media = (self.image_token_id, self.video_token_id)
        row = [token for token in ([ids] if isinstance(ids, int) else ids) if token not in media]
        return self.tokenizer.decode(row, **kwargs)

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Texts of rows of ids."""
        return [self.decode(row, **kwargs) for row in sequences]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """What the library's pipelines call to read an answer."""
        return self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "pixel_values_videos"]
