"""An owl as a model of lmms-eval, so that the tasks over there can be asked of it.

    python -m lmms_eval --model mplug_owl --model_args pretrained=./mplug-owl2 --tasks mme

Questions are answered through the same engine and chat path as everywhere else. Only generation is offered: no
log-likelihoods and no tasks of several rounds. Imported by lmms-eval alone, which must be installed.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from lmms_eval.api.model import lmms

import mplug_owl
from mplug_owl.errors import ConfigError, RequestError, did_you_mean
from mplug_owl.messages import Message, from_openai

MAX_NEW_TOKENS = 512  # where a task does not say
KNOWN = ("pretrained", "adapter", "device", "dtype", "batch_size")
HEEDED = ("max_new_tokens", "until", "do_sample", "temperature", "top_p", "num_beams")
OTHERS = ("image_aspect_ratio", "modality", "modalities")  # how one other model opens media: no wish about the answer


class MplugOwl(lmms):
    is_simple = False  # it reads messages rather than a text with pictures beside it

    def __init__(
        self,
        pretrained: str = "owlet",
        adapter: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 64,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            raise ConfigError(f"model argument {name!r}{did_you_mean(name, KNOWN)}")
        self.owl = mplug_owl.load(pretrained, adapter=adapter, device=device or "auto", dtype=dtype)
        self.batch_size = 64 if batch_size == "auto" else int(batch_size)
        self._rank = int(os.environ.get("RANK", 0))
        self._world_size = int(os.environ.get("WORLD_SIZE", 1))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers in the order of the requests."""
        return list(self._answers(requests))

    def _answers(self, requests: Sequence[Any]) -> Iterator[str]:
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            underway = [self.owl.ask(self.messages(request), **wishes(request.args[2])) for request in batch]
            for request, answer in zip(batch, underway, strict=True):
                text = answer.text()
                self.cache_hook.add_partial("generate_until", (request.args[0], request.args[2]), text)
                yield text

    def messages(self, request: Any) -> list[Message]:
        """The conversation of a request: (context, how to make messages of a row, wishes, row, task, split)."""
        _, to_messages, _, row, task, split = request.args
        return from_openai(to_messages(self.task_dict[task][split][row]))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise RequestError(
            "this task asks for log-likelihoods, which owls do not give; take its version that generates"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise RequestError("this task asks in several rounds, which the plug-in does not offer")


def wishes(given: dict[str, Any]) -> dict[str, Any]:
    """What a task wishes, as an owl is told it; what is not known is refused rather than ignored."""
    for name, value in given.items():
        if name not in (*HEEDED, *OTHERS) and value is not None:
            raise RequestError(f"the task wishes {name}={value!r}{did_you_mean(name, HEEDED)}")
    if (given.get("num_beams") or 1) > 1:
        raise RequestError(f"the task wishes num_beams={given['num_beams']}; owls answer without beams")
    sampled = given.get("do_sample", True) and (given.get("temperature") or 0) > 0
    until = given.get("until") or ()
    found: dict[str, Any] = {
        "max_new_tokens": int(given.get("max_new_tokens") or MAX_NEW_TOKENS),
        "stop": [until] if isinstance(until, str) else list(until),
    }
    if sampled:
        found |= {"temperature": given["temperature"], "top_p": given.get("top_p") or 1.0}
    return found
