"""From a published folder to an answer, for every family: load, chat, info, convert, reload.

The reference goes its own way: prompt strings and pixels are made here by hand, ids by the
tokenizer libraries themselves, the answer by the very weights the folder was written from.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tiktoken
import torch
from PIL import Image
from tiktoken.load import load_tiktoken_bpe
from tokenizers import Tokenizer

import mplug_owl
from mplug_owl.cli import main
from mplug_owl.messages import from_openai
from mplug_owl.models.owl import OwlForConditionalGeneration
from owls import TINY
from published_folders import write_published

QUESTION = "What color is the owl?\nLook closely: 猫头鹰."
OWL_SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PROMPTS = {  # text before the image, text after it
    "owl": (f"{OWL_SYSTEM}\nHuman: ", f"\nHuman: {QUESTION}\nAI: "),
    "owl2": ("USER: ", f"{QUESTION} ASSISTANT:"),
}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
NEW = 12


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = np.random.default_rng(3).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "owl.png"
    Image.fromarray(noise).resize((140, 90), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module", params=TINY)
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, OwlForConditionalGeneration]:
    folder = tmp_path_factory.mktemp("published") / request.param
    return request.param, folder, write_published(folder, request.param)


Codec = tuple[Callable[[str], list[int]], Callable[[list[int]], str]]


def codec(family: str, folder: Path) -> Codec:
    """Encode and decode by the library the family's tokenizer was made with."""
    if family == "tiny-owl-bloomz":
        bloom = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: bloom.encode(text, add_special_tokens=False).ids, bloom.decode
    if family == "tiny-owl2.1":
        ranks = load_tiktoken_bpe(str(folder / "qwen.tiktoken"))
        qwen = tiktoken.Encoding(
            "qwen", pat_str=QWEN_SPLIT, mergeable_ranks=ranks, special_tokens={"<|x|>": len(ranks)}
        )

        def decode(ids: list[int]) -> str:
            return qwen.decode([i for i in ids if i < len(ranks)])

        return qwen.encode_ordinary, decode
    llama = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    return llama.encode, llama.decode


def reference_pixels(family: str, picture: Path) -> torch.Tensor:
    image, side = Image.open(picture), 56
    bicubic = Image.Resampling.BICUBIC
    if family == "tiny-owl-video":  # shortest edge, then the centre
        wide = image.resize((side * image.width // image.height, side), bicubic)
        left = (wide.width - side) // 2
        image = wide.crop((left, 0, left + side, side))
    elif family == "tiny-owl2":  # its config.json says pad
        canvas = Image.new("RGB", (image.width, image.width), (122, 116, 104))
        canvas.paste(image, (0, (image.width - image.height) // 2))
        image = canvas.resize((side, side), bicubic)
    elif family == "tiny-owl2.1":
        image = image.resize((image.width, image.width), bicubic).resize((side, side), bicubic)
    else:
        image = image.resize((side, side), bicubic)
    pixels = (np.asarray(image.convert("RGB")) / 255 - MEAN) / STD
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]


def reference_answer(
    family: str, folder: Path, owl: OwlForConditionalGeneration, picture: Path
) -> tuple[list[int], str]:
    encode, decode = codec(family, folder)
    before, after = PROMPTS["owl2" if "owl2" in family else "owl"]
    bos = [] if family == "tiny-owl2.1" else [1]
    image = [owl.config.image_token_id] * owl.config.media_length
    prompt = [*bos, *encode(before), *image, *encode(after)]
    ids = owl.generate(
        input_ids=torch.tensor([prompt]),
        pixel_values=reference_pixels(family, picture),
        do_sample=False,
        max_new_tokens=NEW,
    )
    answer = ids[0, len(prompt) :].tolist()
    end = owl.config.text_config.eos_token_id
    return prompt, decode(answer[: answer.index(end)] if end in answer else answer)


def test_the_whole_path_equals_the_reference(
    published: tuple[str, Path, OwlForConditionalGeneration],
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    family, folder, owl = published
    prompt, expected = reference_answer(family, folder, owl, picture)

    opened = mplug_owl.load(folder, device="cpu")
    parts = [{"type": "image", "path": str(picture)}, {"type": "text", "text": QUESTION}]
    inputs = opened.prepare(from_openai([{"role": "user", "content": parts}]))
    assert inputs["input_ids"][0].tolist() == prompt
    pixels = reference_pixels(family, picture)
    torch.testing.assert_close(inputs["pixel_values"], pixels, rtol=0, atol=1e-5)

    def answer(owl: mplug_owl.Owl, stream: bool = False) -> str:
        return "".join(owl.chat(QUESTION, images=[picture], max_new_tokens=NEW, stream=stream))

    assert answer(opened) == expected
    assert answer(opened, stream=True) == expected

    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "published" in said and f"{sum(p.numel() for p in owl.parameters()):,}" in said
    assert main(["convert", str(folder), str(tmp_path / "native")]) == 0
    assert "derived" in capsys.readouterr().out
    reloaded = mplug_owl.load(tmp_path / "native", device="cpu")
    assert answer(reloaded) == expected
    assert main(["info", str(tmp_path / "native")]) == 0
    words = ["chat", str(picture), QUESTION, "--model", str(tmp_path / "native")]
    capsys.readouterr()
    assert main([*words, "--max-new-tokens", str(NEW)]) == 0
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")
