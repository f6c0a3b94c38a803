"""A conversation as the request that anybody can send to the same server: for curl, and in Python.

Files are named, not spelt out: whoever runs it has them. It writes text and sends nothing.
"""

import json
import pprint
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from mplug_owl.serve.ui.conversation import Turn
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.upload import Upload

EXAMPLE = "What is an owl?"
KEY = "YOUR-KEY"

PYTHON = """\
import base64
import mimetypes
from pathlib import Path

from openai import OpenAI


def data_url(path):
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return f"data:{{kind}};base64," + base64.b64encode(Path(path).read_bytes()).decode()


client = OpenAI(base_url={base!r}, api_key={key!r})
answer = client.chat.completions.create(
    model={model!r},
    messages={messages},
    {parameters},
    stream=True,
)
for piece in answer:
    print(piece.choices[0].delta.content or "", end="", flush=True)
print()
"""


class Expression(str):
    """Python that is written as it stands."""

    def __repr__(self) -> str:
        return str(self)


def python(base: str, model: str, turns: Sequence[Turn], parameters: Parameters, has_keys: bool = False) -> str:
    """A program for the `openai` package that asks the last question of the turns again."""
    asked = messages(turns, parameters, lambda upload: Expression(f"data_url({upload.name!r})"))
    given = settings(parameters)
    if "top_k" in given:  # not among OpenAI's own
        given["extra_body"] = {"top_k": given.pop("top_k")}
    return PYTHON.format(
        base=base,
        key=KEY if has_keys else "none",
        model=model,
        messages=pprint.pformat(asked, width=100, sort_dicts=False).replace("\n", "\n    "),
        parameters=",\n    ".join(f"{name}={value!r}" for name, value in given.items()),
    )


def curl(base: str, model: str, turns: Sequence[Turn], parameters: Parameters, has_keys: bool = False) -> str:
    """A command line that asks the last question of the turns again."""
    # What the shell shall fill in is marked first, and written after everything else is safe from it.
    marks: dict[str, str] = {}

    def marked(upload: Upload) -> str:
        mark = f"@file-{len(marks)}@"
        marks[mark] = f"data:{upload.mime};base64,$(base64 < {shlex.quote(upload.name)} | tr -d '\\n')"
        return mark

    asked = messages(turns, parameters, marked)
    body = json.dumps({"model": model, "messages": asked, **settings(parameters)}, indent=1, ensure_ascii=False)
    for special in "\\$`":
        body = body.replace(special, "\\" + special)
    for mark, filled in marks.items():
        body = body.replace(f'"url": "{mark}"', f'"url": "{filled}"')
    address = shlex.quote(f"{base}/chat/completions")
    key = f" -H 'Authorization: Bearer {KEY}'" if has_keys else ""
    return f"curl {address}{key} -H 'Content-Type: application/json' -d @- <<JSON\n{body}\nJSON\n"


def messages(turns: Sequence[Turn], parameters: Parameters, url: Callable[[Upload], Any]) -> list[dict[str, Any]]:
    """The request's messages up to the last question; `url` says where a file is to be had."""
    found: list[dict[str, Any]] = []
    if parameters.system is not None:
        found.append({"role": "system", "content": parameters.system})
    turns = list(turns) or [Turn(EXAMPLE)]
    for turn in turns:
        parts: list[dict[str, Any]] = []
        for upload in turn.uploads:
            kind = f"{upload.kind}_url"
            parts.append({"type": kind, kind: {"url": url(upload)}})
        words = [{"type": "text", "text": turn.question}] if turn.question else []
        found.append({"role": "user", "content": [*parts, *words] if parts else turn.question})
        if turn.answer is not None and turn is not turns[-1]:
            found.append({"role": "assistant", "content": turn.answer})
    return found


def settings(parameters: Parameters) -> dict[str, Any]:
    """The request's other fields; those left out mean what the page shows."""
    given: dict[str, Any] = {"temperature": parameters.temperature, "max_tokens": parameters.max_new_tokens}
    if parameters.top_p < 1:
        given["top_p"] = parameters.top_p
    if parameters.top_k:
        given["top_k"] = parameters.top_k
    if parameters.seed is not None:
        given["seed"] = parameters.seed
    return given
