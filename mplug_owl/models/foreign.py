"""The chat template of somebody else's language model, kept as it is: it takes plain text and marks no answers.

A conversation is rendered with a mark in the place of each answer, so that what the template trims, joins or drops is
seen rather than guessed; the marks then become the answers, and with the words that end them the spans that are learnt.
Pictures are their placeholder in the text of their message. This file knows no tokenizer and no image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from mplug_owl.errors import RequestError

_MARK = "\ue000{}\ue001"  # private letters, which no conversation holds
_EXAMPLE = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]


def flat(messages: Sequence[Mapping[str, Any]], tokens: Mapping[str, str]) -> list[dict[str, str]]:
    """Messages whose content is text alone; `tokens` are the placeholders by kind of medium."""

    def text(content: Any) -> str:
        if isinstance(content, str):
            return content
        return "".join(part["text"] if part["type"] == "text" else tokens[part["type"]] for part in content)

    return [{"role": message["role"], "content": text(message["content"])} for message in messages]


def answer_end(template: str, variables: Mapping[str, Any]) -> str:
    """The words that a template ends an answer with, such as `<|im_end|>`; what is only white space is no end."""
    text, _ = _marked(_EXAMPLE, template, variables)
    return text.partition(_MARK.format(1))[2].rstrip()


def render(
    messages: Sequence[Mapping[str, str]],
    template: str,
    variables: Mapping[str, Any],
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """The prompt of a conversation and the spans of its answers, with their ends.

    Raises: RequestError where the template refuses the conversation or hides an answer of it.
    """
    text, answers = _marked(messages, template, variables, add_generation_prompt=add_generation_prompt)
    end = answer_end(template, variables) if answers else ""
    spans, made = [], ""
    for number, answer in answers:
        before, mark, text = text.partition(_MARK.format(number))
        if not mark:
            raise RequestError(
                f"the chat template of this language model leaves message {number} out or in another place; expected "
                "all answers in their order"
            )
        made += before
        start = len(made)
        made += answer
        if end and text.startswith(end):
            made, text = made + end, text.removeprefix(end)
        spans.append((start, len(made)))
    if continue_final_message and answers:
        start = spans[-1][0]
        whole = start + len(answers[-1][1])
        return made[:whole], [*spans[:-1], (start, whole)]
    return made + text, spans


def _marked(
    messages: Sequence[Mapping[str, str]], template: str, variables: Mapping[str, Any], **options: bool
) -> tuple[str, list[tuple[int, str]]]:
    """The prompt with marks in the place of answers, and the answers by the numbers of their marks."""
    shown, answers = [dict(message) for message in messages], []
    for number, message in enumerate(shown):
        if message["role"] == "assistant":
            answers.append((number, message["content"]))
            message["content"] = _MARK.format(number)
    # An owl answers at once: where a template can ask for thoughts first, it does not.
    steady = {"enable_thinking": False} if "enable_thinking" in template else {}
    try:
        texts, _ = render_jinja_template([shown], chat_template=template, **(steady | dict(variables)), **options)
    except TemplateError as error:
        raise RequestError(
            f"the chat template of this language model refuses the conversation: {error}; a system message, or turns "
            "that do not alternate, are the usual reasons"
        ) from None
    return str(texts[0]), answers
