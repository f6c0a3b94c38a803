"""Any image-text-to-text model of Transformers as a contestant: LLaVA, BLIP-2, InstructBLIP, Qwen-VL ...

The prompt is that of the model's own chat template, or of its own format where it comes without one. A conversation is
made ready alone, as a batch of one would be; those whose tensors fit together are then asked together, padded so that
nothing of an answer depends on who shares its batch. A video is shown as its frames. What is asked is not known here.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig, ProcessorMixin

from mplug_owl.errors import CheckpointError, EvalError, OwlError, RequestError
from mplug_owl.eval.endpoints import Failure, Said
from mplug_owl.media import load_image, load_video
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart
from mplug_owl.models.adapters import fingerprint

FRAMES = 8  # of a video that does not say how many
_IDS = ("input_ids", "attention_mask", "token_type_ids")  # ends of names: a value for each position of a text
_NOISE = {"_name_or_path", "transformers_version", "dtype"}
_ENDINGS = ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")


class Format(NamedTuple):
    """How a model without a chat template was spoken to when it was published."""

    question: str
    answer: str
    """An earlier one."""
    picture: str = ""
    """What stands for a picture; nothing where the processor puts it there."""


FORMATS = {
    "llava": Format("USER: {} ASSISTANT:", " {}</s>", "<image>\n"),
    "blip-2": Format("Question: {} Answer:", " {}. "),
    "instructblip": Format("{}", "\n{}\n"),
}
ONE_PICTURE = ("blip", "blip-2", "instructblip")


@dataclass(frozen=True)
class TransformersEndpoint:
    """A model and its processor, opened by `name`."""

    model: Any
    processor: Any
    name: str
    batch_size: int = 8

    @classmethod
    def open(
        cls, name: str, *, device: str = "cpu", dtype: str = "auto", batch_size: int = 8
    ) -> "TransformersEndpoint":
        """Raises: CheckpointError where there is no such model, or none of this kind."""
        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype).to(device).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:  # some need further libraries
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{name!r} is no image-text-to-text model of Transformers ({reason})") from None
        if not isinstance(processor, ProcessorMixin):
            found = type(processor).__name__
            raise CheckpointError(f"{name!r} comes with a {found} alone; expected a processor of text and images")
        kind = model.config.model_type
        if not processor.chat_template and kind not in FORMATS:
            raise CheckpointError(
                f"{name!r} ({kind}) comes without a chat template, and only {', '.join(FORMATS)} are asked without; "
                "put a chat_template.jinja into its folder"
            )
        return cls(model, processor, f"hf:{name}", batch_size)

    def card(self) -> dict[str, Any]:
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in _NOISE}
        example = [Message("user", [ImagePart(""), TextPart("QUESTION")])]
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "config": hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest(),
            "weights": fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "prompt": self.prompt(example),
            "videos": f"as their frames, {FRAMES} unless the task says how many",
        }

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[Said]:
        waiting: list[dict[str, Tensor]] = []
        for conversation in conversations:
            try:
                ready = self.inputs(conversation, max_new_tokens)
            except OwlError as error:
                yield from self._generate(waiting, max_new_tokens)
                waiting = []
                yield Failure(str(error))
                continue
            if waiting and (len(waiting) == self.batch_size or not fit(waiting[0], ready)):
                yield from self._generate(waiting, max_new_tokens)
                waiting = []
            waiting.append(ready)
        yield from self._generate(waiting, max_new_tokens)

    # ---- prompts ---------------------------------------------------------------------------------

    def inputs(self, conversation: Sequence[Message], max_new_tokens: int) -> dict[str, Tensor]:
        """What the model takes for one conversation.

        Raises:
            DataError: a picture or video cannot be used.
            RequestError: the model cannot be asked this.
        """
        pictures = [picture for message in conversation for picture in _pictures(message)]
        kind = self.model.config.model_type
        if kind in ONE_PICTURE and len(pictures) != 1:
            raise RequestError(f"{len(pictures)} pictures; {kind} is asked about exactly one")
        try:
            prompt = self.prompt(conversation)
            bos = self.processor.tokenizer.bos_token
            doubled = {"add_special_tokens": False} if bos and prompt.startswith(bos) else {}
            images = ([pictures] if self.processor.chat_template else pictures) if pictures else None
            made = dict(self.processor(images=images, text=[prompt], return_tensors="pt", **doubled))
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise RequestError(f"{type(self.processor).__name__} cannot prepare it ({error})") from None
        length = made["input_ids"].shape[1]
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and length + max_new_tokens > most:
            raise RequestError(f"a prompt of {length} positions and {max_new_tokens} new ones; the model has {most}")
        return made

    def prompt(self, conversation: Sequence[Message]) -> str:
        """The text that the processor gets."""
        if self.processor.chat_template:
            said = [{"role": message.role, "content": _chat(message)} for message in conversation]
            text: str = self.processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
            return text
        form = FORMATS[self.model.config.model_type]
        prompt = ""
        for message in conversation:
            shown = sum(_count(part) for part in message.content)
            words = form.picture * shown + message.text.strip()
            turn = {"system": "{} ", "user": form.question, "assistant": form.answer}[message.role]
            prompt += turn.format(words)
        return prompt

    # ---- answers ---------------------------------------------------------------------------------

    def _generate(self, rows: Sequence[dict[str, Tensor]], max_new_tokens: int) -> list[str]:
        if not rows:
            return []
        wishes = self._wishes(max_new_tokens)
        batch = together(rows, wishes.pad_token_id, left=not self.model.config.get_text_config().is_encoder_decoder)
        on_device = {
            key: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for key, value in batch.items()
        }
        try:
            with torch.inference_mode():
                out = self.model.generate(**on_device, generation_config=wishes).cpu()
        except (ValueError, RuntimeError) as error:
            raise EvalError(f"{self.name} failed on {len(rows)} conversations at once: {error}") from error
        # A decoder repeats the prompt, and an encoder-decoder does not; nor do some that are given embeddings.
        length, ids = batch["input_ids"].shape[1], batch["input_ids"]
        repeats = out.shape[1] >= length and torch.equal(out[:, :length], ids)
        said = self.processor.tokenizer.batch_decode(out[:, length:] if repeats else out, skip_special_tokens=True)
        return [text.strip() for text in said]

    def _wishes(self, max_new_tokens: int) -> GenerationConfig:
        """Greedy, ended as the model's own configurations say; whatever else they wish does not count."""
        model = self.model
        decoder = getattr(model, "language_model", model)
        found: dict[str, Any] = {}
        for name in _ENDINGS:
            for config in (model.generation_config, decoder.generation_config, model.config.get_text_config()):
                if config is not None and getattr(config, name, None) is not None:
                    found.setdefault(name, getattr(config, name))
        ends = found.get("eos_token_id")
        found.setdefault("pad_token_id", ends[0] if isinstance(ends, list) else ends)
        if found["pad_token_id"] is None:
            found["pad_token_id"] = self.processor.tokenizer.pad_token_id or 0
        return GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, **found)


def fit(first: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two conversations can share a batch: the same tensors, whose parts have the same sizes."""
    if first.keys() != other.keys():
        return False
    for name, value in first.items():
        if not isinstance(value, Tensor) or not isinstance(other[name], Tensor):
            return False
        if not _is_text(name, value) and value.shape[1:] != other[name].shape[1:]:
            return False
    return True


def together(rows: Sequence[Mapping[str, Tensor]], pad: int, *, left: bool) -> dict[str, Tensor]:
    """One batch of several. Texts are padded on the left for a decoder, so that all answers begin at the same place,
    and on the right for an encoder, whose positions count from the left; a Q-Former is one.
    """
    batch = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if not _is_text(name, first):
            batch[name] = torch.cat(values)
            continue
        longest = max(value.shape[1] for value in values)
        filler = pad if name == "input_ids" else 0
        sides = [(longest - value.shape[1], 0) for value in values]
        if not left or name.startswith("qformer"):
            sides = [side[::-1] for side in sides]
        padded = [torch.nn.functional.pad(v, side, value=filler) for v, side in zip(values, sides, strict=True)]
        batch[name] = torch.cat(padded)
    return batch


def _is_text(name: str, value: Tensor) -> bool:
    return name.endswith(_IDS) and not name.startswith("pixel") and value.ndim == 2


def _count(part: Part) -> int:
    """How many pictures a part is shown as."""
    if isinstance(part, VideoPart):
        return part.num_frames or FRAMES
    return int(isinstance(part, ImagePart))


def _pictures(message: Message) -> list[Any]:
    """What a message shows, in reading order."""
    found = []
    for part in message.content:
        if isinstance(part, ImagePart):
            found.append(load_image(part.source).convert("RGB"))
        elif isinstance(part, VideoPart):
            found += load_video(part.source, _count(part))
    return found


def _chat(message: Message) -> list[dict[str, str]]:
    """The form that chat templates read."""
    content: list[dict[str, str]] = []
    for part in message.content:
        content += [{"type": "text", "text": part.text}] if isinstance(part, TextPart) else []
        content += [{"type": "image"}] * _count(part)
    return content
