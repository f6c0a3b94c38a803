"""Fast tokenizers from the files of the checkpoints, giving the ids of the original tokenizers.

`llama_tokenizer` reads sentencepiece, `bloom_tokenizer` tokenizer.json, `qwen_tokenizer` a tiktoken rank file, and
`byte_tokenizer` needs no file. `train_tokenizer` makes the owlet's from texts, `owlet_tokenizer` opens the one that
comes with the package. All return the library's `PreTrainedTokenizerFast`, so saving and reloading need no code of
ours. This file knows nothing of prompts and pictures.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mplug_owl.errors import CheckpointError

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for a space
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
# A word with the space before it; digits and signs one by one.
_OWLET_WORD = pre_tokenizers.Split(Regex(r"'s| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"), behavior="isolated")
_OWLET_NAMES = {"pad_token": "<pad>", "eos_token": "</s>"}
_OWLET_ROLES = ("<|system|>", "<|user|>", "<|owl|>")
OWLET = Path(__file__).resolve().parents[1] / "assets" / "owlet"  # its tokenizer, and its weights once they are trained
OWLET_WORDS = 2048  # ids of the owlet's tokenizer, bytes and special ones among them
_QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))


def llama_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Read `tokenizer.model` (sentencepiece BPE), or `tokenizer.json` where there is no such file.

    A text starts with sentencepiece's space mark, and so does the text after a special token.
    """
    folder = Path(folder)
    path = folder / "tokenizer.model"
    if not path.is_file():
        return _from_json(folder, _LLAMA_NAMES)
    proto = _sentencepiece(path)
    pieces = [piece.piece for piece in proto.pieces]
    kinds = {kind: [p.piece for p in proto.pieces if p.type == kind] for kind in (2, 3, 4)}
    scores = {piece.piece: -piece.score for piece in proto.pieces if piece.type == 1}
    backend = Tokenizer(
        BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=_merges(scores),
            unk_token=kinds[2][0],
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    rules = proto.normalizer_spec
    charsmap = [normalizers.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    prefix = [normalizers.Prepend(SPACE)] if rules.add_dummy_prefix else []
    strip = [decoders.Strip(content=" ", left=1)] if rules.add_dummy_prefix else []
    backend.normalizer = normalizers.Sequence([*charsmap, *prefix, normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    _add_special(backend, [*kinds[2], *kinds[3]])
    backend.add_tokens([AddedToken(text, normalized=False) for text in kinds[4]])
    ids = proto.trainer_spec
    names = {"unk_token": ids.unk_id, "bos_token": ids.bos_id, "eos_token": ids.eos_id, "pad_token": ids.pad_id}
    return _wrap(backend, {name: pieces[i] for name, i in names.items() if i >= 0})


def bloom_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Read BLOOM's `tokenizer.json`."""
    return _from_json(Path(folder), {**_LLAMA_NAMES, "pad_token": "<pad>"})


def qwen_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Read `qwen.tiktoken`, a byte-level BPE as base64 tokens with their ranks; the special tokens follow the ranks.
    Where there is no such file, `tokenizer.json`.
    """
    folder = Path(folder)
    path = folder / "qwen.tiktoken"
    if not path.is_file():
        return _from_json(folder, {"eos_token": _QWEN_SPECIAL[0]})
    letters = byte_letters()
    ranks = {"".join(letters[byte] for byte in token): rank for token, rank in _tiktoken(path).items()}
    # tiktoken takes a whole word that is a token as it is; so does `ignore_merges`.
    backend = Tokenizer(BPE(vocab=ranks, merges=_merges(ranks), ignore_merges=True))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    _add_special(backend, _QWEN_SPECIAL)
    return _wrap(backend, {"eos_token": _QWEN_SPECIAL[0], "pad_token": _QWEN_SPECIAL[0]})


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 259 ids that needs no file: `<unk>`, `<s>`, `</s>`, then the 256 bytes."""
    words = [*_LLAMA_NAMES.values(), *byte_letters()]
    backend = Tokenizer(BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    _add_special(backend, _LLAMA_NAMES.values())
    return _wrap(backend, _LLAMA_NAMES)


def train_tokenizer(
    texts: Iterable[str], size: int = OWLET_WORDS, *, known: Container[str] | None = None, least: int = 20
) -> PreTrainedTokenizerFast:
    """The owlet's tokenizer: the most frequent words of `texts` are one id each, all else is said byte by byte.

    A word found fewer than `least` times is no id, nor one that is not among the `known` words (in lower case), where
    these are given; special tokens that nothing uses make up `size`. There are no parts of words in between: a name on
    a sign, read for the first time, is then a row of letters that each were met a thousand times, and to spell or to
    count them is to look at them. The same texts give the same tokenizer.
    """

    def may_be_id(word: str) -> bool:
        bare = word.removeprefix(" ")
        if not bare.isalpha():
            return len(word.encode()) > 1
        # A lone letter is one that is spoken of, and the same wherever it stands; but these are words.
        return word in (" a", " I") or (len(bare) > 1 and (known is None or bare.casefold() in known))

    counts = Counter(word for text in texts for word, _ in _OWLET_WORD.pre_tokenize_str(" " + text))
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    special = [*_OWLET_NAMES.values(), *_OWLET_ROLES]
    room = size - len(special) - 256
    words = [word for word, count in frequent if count >= least and may_be_id(word)][:room]
    special += [f"<|spare_{i}|>" for i in range(room - len(words))]
    letters = byte_letters()
    vocabulary = [*special, *letters, *("".join(letters[byte] for byte in word.encode()) for word in words)]
    # Without merges a word is either known as a whole or falls into its bytes.
    backend = Tokenizer(BPE(vocab={word: i for i, word in enumerate(vocabulary)}, merges=[], ignore_merges=True))
    backend.normalizer = normalizers.Prepend(" ")  # so the first word of a text is the word it is elsewhere
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([_OWLET_WORD, byte_level])
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(content=" ", left=1)])
    _add_special(backend, special)
    return _wrap(backend, _OWLET_NAMES)


def owlet_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer that the owlet and all of its kind were trained with."""
    return _from_json(OWLET, _OWLET_NAMES)


def _add_special(backend: Tokenizer, special: Iterable[str]) -> None:
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])


def _wrap(backend: Tokenizer, names: dict[str, str]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",
        **names,
    )


def _from_json(folder: Path, names: dict[str, str]) -> PreTrainedTokenizerFast:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no tokenizer; expected the tokenizer files of the release")
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for whatever is wrong with the file
        raise CheckpointError(f"{path} is no tokenizer ({error}); download it again") from None
    for text in names.values():
        if backend.token_to_id(text) is None:
            raise CheckpointError(f"{path} lacks the special token {text!r}; take the tokenizer of the release")
    return _wrap(backend, names)


def _merges(ranks: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges of a BPE that joins, wherever it can, the pair whose union is first in `ranks`.

    Rank files and sentencepiece name only the unions; every way to split one into two known parts is a merge.
    """
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in splits if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level vocabulary, as in GPT-2."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _sentencepiece(path: Path) -> Any:
    """The parsed model file, if it is of the kind LLaMA uses."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise CheckpointError(f"{path} is no sentencepiece model; download it again") from None
    if not proto.pieces or not any(piece.type == 2 for piece in proto.pieces):
        raise CheckpointError(f"{path} holds no vocabulary; download it again")
    if (kind := proto.trainer_spec.model_type) != 2:
        raise CheckpointError(f"{path} is a sentencepiece model of type {kind}; expected BPE (2)")
    if proto.normalizer_spec.remove_extra_whitespaces:
        raise CheckpointError(
            f"{path} removes extra white space, which no released model does; "
            "train it with remove_extra_whitespaces=False"
        )
    return proto


def _tiktoken(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank, complete from 0 on."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise CheckpointError(
                f"{path}, line {number}: {line[:40]!r}; expected a base64 token and its rank"
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(
            f"{path}: {len(ranks)} tokens whose ranks are not 0 to {len(ranks) - 1}; download it again"
        )
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise CheckpointError(f"{path}: some single bytes are no tokens; expected a byte-level vocabulary")
    return ranks
