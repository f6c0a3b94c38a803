"""The prompt formats: the words around a conversation, as Jinja chat templates, and how each format is cut into
tokens.

A template marks what the model should learn to say with `{% generation %}`, so labels come from the very text that is
tokenised. Pictures that precede the text of a message stand where the original systems put them; a picture after a
text part, even an empty one, stays inline where it is. This file knows no tokenizer and no image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mplug_owl.errors import ConfigError, RequestError, did_you_mean

ROLES = ("system", "user", "assistant")

OWL_SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
OWL_DEMO_SYSTEM = (
    "The following is a conversation between a curious human and AI. "
    "The AI gives helpful, detailed, and polite answers to the human's questions."
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
V0_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
MINIGPT4_SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
END = "</s>"  # ends an answer in every format; ordinary text to a tokenizer that has no such token
VIDEO = "<|video|>"


@dataclass(frozen=True)
class PromptFormat:
    """What a family expects of its prompts."""

    image_token: str
    bos: str
    """"first": once, before everything; "piece": as Owl2 does it; "none"."""
    pad: str
    """Which of the tokenizer's special tokens fills up a batch."""
    templates: Mapping[str, str]
    turn_marker: str | None = None
    """Training text is cut at this marker and tokenised in pieces; None: only at pictures."""
    answer_marker: str | None = None
    """The marker directly in front of an answer; a piece of its own in training text."""
    video_token: str = VIDEO


def _joined(*lines: str) -> str:
    """A template from its lines: white space around a line is layout, inside it is text."""
    return "".join(line.strip() for line in lines)


def _opening(image: str, system: str) -> str:
    """Define `inline` and find the system text: a system message, else the variable `system`, else the format's own."""
    return _joined(
        "{%- macro inline(content) -%}",
        "{%- if content is string -%}{{ content }}",
        "{%- else -%}{%- for part in content -%}",
        "{%- if part.type == 'image' -%}{{ '" + image + "' }}",
        "{%- elif part.type == 'video' -%}{{ '" + VIDEO + "' }}",
        "{%- elif part.type == 'text' -%}{{ part.text }}",
        "{%- endif -%}{%- endfor -%}{%- endif -%}",
        "{%- endmacro -%}",
        "{%- if messages and messages[0].role == 'system' -%}",
        "{%- set head = inline(messages[0].content) -%}{%- set turns = messages[1:] -%}",
        "{%- else -%}",
        "{%- set head = system if system is defined and system is not none else " + repr(system) + " -%}",
        "{%- set turns = messages -%}",
        "{%- endif -%}",
    )


def _owl(system: str, *, prompt: str = "AI: ", end: str = "") -> str:
    """Lines `Human: <image>` for each leading picture, `Human: text` and `AI: text`.

    Upstream does not learn an empty answer in a row with pictures, and does in a row without.
    """
    return _joined(
        _opening("<image>", system),
        "{%- set ns = namespace(sep='\\n' if head else '', media=false) -%}",
        "{{- head -}}",
        "{%- for message in turns -%}",
        "{%- set turn = namespace(open=false) -%}",
        "{%- if message.role == 'user' -%}",
        "{%- set text = [{'type': 'text', 'text': message.content}] -%}",
        "{%- for part in (text if message.content is string else message.content) -%}",
        "{%- if part.type != 'text' -%}{%- set ns.media = true -%}{%- endif -%}",
        "{%- if not turn.open -%}{{ ns.sep + 'Human: ' }}{%- set ns.sep = '\\n' -%}{%- endif -%}",
        "{%- if part.type == 'text' -%}{%- set turn.open = true -%}{%- endif -%}",
        "{{- inline([part]) -}}",
        "{%- endfor -%}",
        "{%- elif message.role == 'assistant' -%}",
        "{{- ns.sep + 'AI: ' -}}{%- set ns.sep = '\\n' -%}",
        "{%- set answer = inline(message.content) -%}",
        "{%- generation -%}{{ answer }}",
        "{%- if answer or not ns.media -%}{{ '" + end + "' }}{%- endif -%}",
        "{%- endgeneration -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}{{ ns.sep + '" + prompt + "' }}{%- endif -%}",
    )


def _owl2(
    system: str = "",
    *,
    image: str = "<|image|>",
    roles: tuple[str, str] = ("USER", "ASSISTANT"),
    sep: str = " ",
    end: str = END,
    prompt: str = "",
    media_first: bool = False,
) -> str:
    """`USER: <|image|>text ASSISTANT: text</s>`; with `media_first`, pictures open their turn on a line of their own.

    The space before an answer belongs to the span: to the tokenizers of these families it is part of the first token.
    """
    moved = _joined(
        "{%- set parts = [] if message.content is string else message.content -%}",
        "{%- set media = parts | rejectattr('type', 'equalto', 'text') | list -%}",
        "{%- set text = inline(parts | selectattr('type', 'equalto', 'text') | list) -%}",
        "{{- inline(media) + '\\n' + text | trim if media else inline(message.content) -}}",
    )
    user = moved if media_first else "{{- inline(message.content) -}}"
    return _joined(
        _opening(image, system),
        "{%- set ns = namespace(sep='" + sep + "' if head else '') -%}",
        "{{- head -}}",
        "{%- for message in turns -%}",
        "{%- if message.role == 'user' -%}",
        "{{- ns.sep + '" + roles[0] + ": ' -}}" + user,
        "{%- set ns.sep = '" + sep + "' -%}",
        "{%- elif message.role == 'assistant' -%}",
        "{{- ns.sep + '" + roles[1] + ":' -}}",
        "{%- generation -%}{{ ' ' + inline(message.content) + '" + end + "' }}{%- endgeneration -%}",
        "{%- set ns.sep = '' -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}{{ ns.sep + '" + roles[1] + ":" + prompt + "' }}{%- endif -%}",
    )


def _owlet() -> str:
    """`<|user|>text<|owl|>text</s>`: a role is one token, and a prompt is the text that was trained on."""
    return _joined(
        _opening("<|image|>", ""),
        "{%- if head -%}{{ '<|system|>' + head }}{%- endif -%}",
        "{%- for message in turns -%}",
        "{%- if message.role == 'user' -%}{{ '<|user|>' + inline(message.content) }}",
        "{%- elif message.role == 'assistant' -%}{{ '<|owl|>' }}",
        "{%- generation -%}{{ inline(message.content) + '" + END + "' }}{%- endgeneration -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}{{ '<|owl|>' }}{%- endif -%}",
    )


_OWL2 = PromptFormat(
    image_token="<|image|>",
    bos="piece",
    pad="unk_token",
    templates={
        "default": _owl2(),
        "evaluation": _owl2(prompt=" "),
        "training": _owl2(VICUNA_SYSTEM, media_first=True),
        "v1": _owl2(VICUNA_SYSTEM),
        "v0": _owl2(V0_SYSTEM, roles=("Human", "Assistant"), sep="###", end="###"),
    },
)
FORMATS: Mapping[str, PromptFormat] = {
    "owl": PromptFormat(
        image_token="<image>",
        bos="first",
        pad="eos_token",
        turn_marker="\nHuman: ",
        answer_marker="AI: ",
        templates={
            "default": _owl(OWL_SYSTEM),
            "demo": _owl(OWL_DEMO_SYSTEM, prompt="AI:"),
            "training": _owl(OWL_SYSTEM, end=END),
        },
    ),
    "owl2": _OWL2,
    "owl2.1": replace(_OWL2, bos="none", pad="eos_token"),
    "owlet": PromptFormat(
        image_token="<|image|>", bos="none", pad="pad_token", templates={"default": _owlet(), "training": _owlet()}
    ),
}


IMAGE = "<image>"  # the placeholder of owls whose language model knows none


def llava_templates(end: str = END) -> dict[str, str]:
    """LLaVA-1.5's format, also for a language model without one of its own: `USER: <image>\\ntext ASSISTANT: text`."""
    said = _owl2(VICUNA_SYSTEM, image=IMAGE, end=end, media_first=True)
    return {"default": said, "training": said}


def minigpt4_templates() -> dict[str, str]:
    """MiniGPT-4's: `###Human: <Img><image></Img> text###Assistant: text###`."""
    said = _owl2(MINIGPT4_SYSTEM, image=f"<Img>{IMAGE}</Img> ", roles=("Human", "Assistant"), sep="###", end="###")
    return {"default": said, "training": said}


def question_templates() -> dict[str, str]:
    """BLIP-2's with OPT: `<image></s>Question: text Answer: text` and a new line; pictures precede the first token."""
    texts, media = (
        f"inline(parts | {pick}('type', 'equalto', 'text') | list)" for pick in ("selectattr", "rejectattr")
    )
    said = _joined(
        _opening(IMAGE, ""),
        "{{- head -}}",
        "{%- for message in turns -%}",
        "{%- if message.role == 'user' -%}",
        "{%- set parts = [] if message.content is string else message.content -%}",
        "{%- set asked = message.content if message.content is string else " + texts + " -%}",
        "{{- " + media + " + '</s>Question: ' + asked + ' Answer:' -}}",
        "{%- elif message.role == 'assistant' -%}",
        "{%- generation -%}{{ ' ' + inline(message.content) + '\\n' }}{%- endgeneration -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
    )
    return {"default": said, "training": said}


def prompt_format(name: str) -> PromptFormat:
    """The format called `name`, or a ConfigError that says which there are."""
    if name not in FORMATS:
        raise ConfigError(f"unknown prompt format {name!r}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]


def plain_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """A conversation without its pictures, checked, as the templates read it.

    Raises: RequestError where a role or a content part is not what a template can render.
    """
    plain = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"message {number} is a {type(message).__name__}; expected a dict")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RequestError(f"message {number} has the role {role!r}{did_you_mean(str(role), ROLES)}")
        if role == "system" and number:
            raise RequestError(f"message {number} is a system message; expected it first")
        if not isinstance(content, str):
            if not isinstance(content, list | tuple):
                found = type(content).__name__
                raise RequestError(f"message {number}: content is {found}; expected text or parts")
            content = [_plain_part(part, number) for part in content]
        plain.append({"role": role, "content": content})
    return plain


def _plain_part(part: Any, number: int) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind in ("image", "video"):
        return {"type": kind}
    raise RequestError(
        f"message {number} has a part of type {kind!r}; expected 'text' with a text, 'image' or "
        "'video' (mplug_owl.messages reads other forms, such as image_url)"
    )


def carried_media(messages: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    """The pictures ("image") or clips ("video") that content parts hold, in reading order."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    parts = [part for content in contents for part in content if part["type"] == kind]
    return [part[key] for part in parts for key in (kind, "path", "url") if part.get(key) is not None]
