"""Text from tokens as they come: the pieces add up to the whole text, at the same cost for every token."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mplug_owl.engine.chat import Answer
from mplug_owl.engine.request import Finish, Token
from mplug_owl.engine.transcript import CONTEXT, WINDOW, Transcript
from mplug_owl.models.families import build_processor
from mplug_owl.models.processor import OwlProcessor

TEXTS = [
    "plain",
    "na\u00efve \u6f22\u5b57 \U0001f989",
    " leads with a space",
    "a\n b  c ",
    "\U0001f989" * 30,
    "",
    "long " * 60 + "\u00e9nd",
]


def sentencepiece() -> PreTrainedTokenizerFast:
    """The decoder of LLaMA's tokenizer over single letters: a mark for spaces, bytes for what has no letter."""
    letters = [
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *map(chr, range(97, 123)),
        "\u2581a",
    ]
    model = BPE(vocab={letter: id for id, letter in enumerate(letters)}, merges=[("\u2581", "a")], byte_fallback=True)
    backend = Tokenizer(model)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


class Speaking:
    """Of a processor, what a transcript needs."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.longest = 0

    def decode(self, ids: list[int], **options: bool) -> str:
        self.longest = max(self.longest, len(ids))
        return self.tokenizer.decode(ids, **options)


@pytest.fixture(scope="module")
def processor() -> OwlProcessor:
    return build_processor("tiny-owl2")


def told(transcript: Transcript, ids: list[int]) -> list[str]:
    pieces = []
    for token in ids:
        pieces.append(transcript.add(token))
        if transcript.ended:
            break
    return [*pieces, transcript.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_letters_of_several_bytes_come_whole(processor: OwlProcessor, text: str) -> None:
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = told(Transcript(processor), ids)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_any_tokens_add_up_to_the_whole_text(processor: OwlProcessor, kind: str, seed: int) -> None:
    """Random ids: broken letters, runs of bytes, special tokens, spaces at every place."""
    speaker = processor if kind == "bytes" else Speaking(sentencepiece())
    generator = torch.Generator().manual_seed(seed)
    high = len(speaker.tokenizer)
    ids = torch.randint(0, high, (300,), generator=generator).tolist()
    if kind == "sentencepiece":  # bytes of letters in their order, between others
        spelt = [speaker.tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "\u00e9\U0001f989".encode()]
        letters = torch.randint(258, high, (len(ids),), generator=generator).tolist()
        ids = [
            part
            for id, letter in zip(ids, letters, strict=True)
            for part in ([*spelt] if id % 7 == 0 else [id if id % 3 else letter])
        ]
    assert "".join(told(Transcript(speaker), ids)) == speaker.decode(ids, skip_special_tokens=True)


def test_a_token_costs_the_same_however_long_the_answer(processor: OwlProcessor) -> None:
    speaker = Speaking(processor.tokenizer)
    ids = processor.tokenizer("word " * 400, add_special_tokens=False)["input_ids"]
    assert "".join(told(Transcript(speaker), ids)) == "word " * 400
    assert CONTEXT < speaker.longest <= WINDOW + 1


@pytest.mark.parametrize(
    ("text", "stops", "shown", "ended"),
    [
        ("yes # no ## x ### and more", ["###"], "yes # no ## x ", True),
        ("ends in #", ["###"], "ends in #", False),
        ("one\n\ntwo", ["two", "\n\n"], "one", True),
        ("aab", ["ab"], "a", True),
        ("abcabd", ["abd"], "abc", True),
        ("never", ["", "x"], "never", False),
        ("at the end", ["end"], "at the ", True),
        ("\u00e9t\u00e9 stop", ["\u00e9 s"], "\u00e9t", True),
    ],
)
def test_stop_strings_end_an_answer_and_never_show(
    processor: OwlProcessor, text: str, stops: list[str], shown: str, ended: bool
) -> None:
    transcript = Transcript(processor, stops)
    pieces = told(transcript, processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "".join(pieces) == shown
    assert transcript.ended == ended


@pytest.mark.parametrize("whole", [False, True])
def test_tokens_that_say_nothing_come_with_the_text_or_with_the_end(processor: OwlProcessor, whole: bool) -> None:
    silent = int(processor.tokenizer.eos_token_id)
    spoken = processor.tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    answer = Answer(Transcript(processor, ()), whole)
    asked = [silent, spoken, silent, silent]
    for id in asked:
        answer.hear(Token(id))
    answer.hear(Finish("length", 1, 0, len(asked)))
    pieces = list(answer)
    assert [token.id for piece in pieces for token in piece.tokens] == asked
    assert [len(piece.tokens) for piece in pieces] == ([4] if whole else [2, 2])
    assert "".join(piece.text for piece in pieces).strip() == "a"


def test_text_comes_as_soon_as_it_is_certain(processor: OwlProcessor) -> None:
    ids = processor.tokenizer("abc#", add_special_tokens=False)["input_ids"]
    assert told(Transcript(processor, ["##"]), ids) == ["a", "b", "c", "", "#"]


def test_released_tokenizers_tell_the_same(tmp_path: Path) -> None:
    """A byte-level BPE whose tokens cut through letters."""
    letters = {
        **{chr(code): code for code in range(33, 127)},
        "\u0120": 200,
        "\u00c3": 201,
        "\u00a9": 202,
        "\u0120a": 203,
    }
    path = tmp_path / "tokenizer.json"
    backend = Tokenizer(BPE(vocab=letters, merges=[("\u0120", "a")]))
    backend.decoder = decoders.ByteLevel()
    path.write_text(json.dumps(json.loads(backend.to_str())))
    speaker = Speaking(PreTrainedTokenizerFast(tokenizer_file=str(path)))
    ids = [201, 202, 203, 65, 200, 201, 201, 202, 66, 202, 202, 202, 202, 202, 67, 203] * 6
    assert "".join(told(Transcript(speaker), ids)) == speaker.decode(ids)
