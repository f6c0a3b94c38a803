"""The bytes of tokens add up to the text, in every kind of vocabulary."""

import pytest
from transformers import PreTrainedTokenizerFast

from mplug_owl.models.tokenizers import byte_tokenizer, llama_tokenizer, owlet_tokenizer
from mplug_owl.serve.spelling import Spelling
from published_folders import sentencepiece_model

TEXT = "An owl: 3 Eulen, eine \N{LATIN SMALL LETTER E WITH ACUTE}t\u00fcde,\n\u6c34 \N{OWL}."


@pytest.fixture(scope="module", params=["bytes", "words", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    if request.param == "sentencepiece":
        folder = tmp_path_factory.mktemp("tokenizer")
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(folder))
        return llama_tokenizer(folder)
    return byte_tokenizer() if request.param == "bytes" else owlet_tokenizer()


def test_bytes_add_up(tokenizer: PreTrainedTokenizerFast) -> None:
    spelling = Spelling(tokenizer)
    parts = [spelling.spell(token) for token in tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    assert b"".join(bytes(spelt) for _, spelt in parts).decode().strip() == TEXT
    assert any(text.startswith("bytes:\\x") for text, _ in parts)  # a part of a letter is no text
    assert all(text.encode() == bytes(spelt) for text, spelt in parts if not text.startswith("bytes:"))


def test_marks_add_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Spelling(tokenizer).spell(tokenizer.eos_token_id) == (tokenizer.eos_token, [])
    assert Spelling(tokenizer).spell(10**6) == ("", [])  # a model may have more ids than its tokenizer
