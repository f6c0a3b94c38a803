"""Chat templates of other people's language models: where answers stand in them, and how they end."""

import pytest

from backbones import CHAT
from mplug_owl.errors import RequestError
from mplug_owl.models import foreign

WORDS = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello, you."},
    {"role": "user", "content": "<image>What?"},
    {"role": "assistant", "content": "An owl"},
]
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}"
    "{% if message.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content }}<|im_end|>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
"""As Qwen3's: thoughts of earlier turns are left out, and the last answer gets empty ones."""
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}"
)


def answers(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in spans]


def test_answers_are_found_with_their_ends() -> None:
    text, spans = foreign.render(TALK, CHAT, WORDS)
    assert text == "<s>[system]Be kind.</s>\n[user]Hi</s>\n[assistant]Hello, you.</s>\n[user]<image>What?</s>\n" + (
        "[assistant]An owl</s>\n"
    )
    assert answers(text, spans) == ["Hello, you.</s>", "An owl</s>"]
    assert foreign.answer_end(CHAT, WORDS) == "</s>"


def test_a_prompt_goes_on_as_the_answer_was_trained() -> None:
    for talk in (TALK[1:2], TALK[:4]):
        prompt, _ = foreign.render(talk, CHAT, WORDS, add_generation_prompt=True)
        trained, spans = foreign.render([*talk, {"role": "assistant", "content": "Yes"}], CHAT, WORDS)
        assert trained[: spans[-1][0]] == prompt


def test_an_owl_answers_without_thinking_first() -> None:
    prompt, _ = foreign.render(TALK[:4], THINKING, {}, add_generation_prompt=True)
    text, spans = foreign.render(TALK, THINKING, {})
    assert prompt.endswith("<think>\n\n</think>\n\n") and text.startswith(prompt)
    assert answers(text, spans) == ["Hello, you.<|im_end|>", "An owl<|im_end|>"]
    assert foreign.answer_end(THINKING, {}) == "<|im_end|>"


def test_an_answer_can_be_continued() -> None:
    text, spans = foreign.render(TALK, CHAT, WORDS, continue_final_message=True)
    assert text.endswith("[assistant]An owl") and answers(text, spans)[-1] == "An owl"


def test_a_template_without_an_end_has_none() -> None:
    text, spans = foreign.render(TALK[1:3], STRICT, {})
    assert foreign.answer_end(STRICT, {}) == "" and answers(text, spans) == ["Hello, you."]


def test_parts_become_text() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What is "}, {"type": "video"}, {"type": "text", "text": "?"}]
    made = foreign.flat(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": "so"}], {"image": "<i>", "video": "<v>"}
    )
    assert made == [{"role": "user", "content": "<i>What is <v>?"}, {"role": "assistant", "content": "so"}]


def test_what_a_template_refuses_or_hides_is_said() -> None:
    with pytest.raises(RequestError, match="System role not supported"):
        foreign.render(TALK, STRICT, {})
    last_only = "{{ messages[-1].content }}"
    with pytest.raises(RequestError, match="leaves message 2 out"):
        foreign.render(TALK, last_only, {})
