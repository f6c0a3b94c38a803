"""The processor: templates, pieces, batches and the way to disk and back, without golden files."""

import base64
import random
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tiktoken
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

import mplug_owl.models  # noqa: F401 - registers the Auto classes
from mplug_owl.errors import CheckpointError, ConfigError, RequestError
from mplug_owl.models import tokenizers as owl_tokenizers
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.templates import FORMATS, OWL_SYSTEM, VICUNA_SYSTEM
from mplug_owl.models.tokenizers import (
    bloom_tokenizer,
    byte_tokenizer,
    llama_tokenizer,
    owlet_tokenizer,
    qwen_tokenizer,
)

RED = Image.new("RGB", (30, 20), "red")
BLUE = Image.new("RGB", (8, 9), "blue")
CORPUS = (
    "The owl sees a red bus on the street. Human: what colour is it? AI: the bus is red.\n"
    "USER: \u4f60\u597d\u4e16\u754c ASSISTANT: bonjour le monde, caf\u00e9 cr\u00e8me\n"
    "\t\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440! \uc548\ub155 12345  x   y\n"
)
NASTY = [
    *CORPUS,
    *"aababab '\u0301\u200d\ufeff\u2028\x85\x0b\r\n\t   ",
    *"\u00a0\u3000\U0001f989\U0001f469\u200d\U0001f680\ufb01\u00bd\u0627\u0628\u05ea\u05dd\u0928\u092e",
    *("the", "  ", "    ", "'LL", "'s", "<s>", "</s>", "<|im_start|>", "\n\n", " \n", "ababa"),
]


def make(form: str = "owl", temporal: bool = False, **changes: Any) -> OwlProcessor:
    tokenizer = owlet_tokenizer() if form == "owlet" else byte_tokenizer()  # the only one with a pad token
    processor = OwlProcessor.for_format(
        form, OwlImageProcessorPil(size=28), tokenizer, image_token_id=len(tokenizer), media_length=3, temporal=temporal
    )
    for name, value in changes.items():
        assert hasattr(processor, name)
        setattr(processor, name, value)
    return processor


@pytest.fixture(scope="module")
def owl() -> OwlProcessor:
    return make("owl")


@pytest.fixture(scope="module")
def owl2() -> OwlProcessor:
    return make("owl2")


def user(*parts: Any) -> dict[str, Any]:
    """Strings are text; "<image>" and "<video>" are media without a source."""
    named = {"<image>": {"type": "image"}, "<video>": {"type": "video"}}
    content = [named.get(p, {"type": "text", "text": p}) if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def ai(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


# ---- templates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "template", "messages", "expected"),
    [
        ("owl", "default", [user("<image>", "hi")], "\nHuman: <image>\nHuman: hi\nAI: "),
        ("owl", "default", [user("hi", "<image>")], "\nHuman: hi<image>\nAI: "),
        ("owl", "default", [user("", "<image>", "x")], "\nHuman: <image>x\nAI: "),
        ("owl", "default", [user("a"), user("b")], "\nHuman: a\nHuman: b\nAI: "),
        ("owl", "default", [user("a"), ai("b"), user("c")], "\nHuman: a\nAI: b\nHuman: c\nAI: "),
        ("owl", "default", [user("<image>", "<video>")], "\nHuman: <image>\nHuman: <|video|>\nAI: "),
        ("owl", "demo", [user("a")], "\nHuman: a\nAI:"),
        ("owl", "training", [user("a"), ai("b")], "\nHuman: a\nAI: b</s>\nAI: "),
        ("owl2", "default", [user("<image>", "hi")], "USER: <|image|>hi ASSISTANT:"),
        ("owl2", "default", [user("hi", "<image>")], "USER: hi<|image|> ASSISTANT:"),
        ("owl2", "default", [user("a"), user("b")], "USER: a USER: b ASSISTANT:"),
        ("owl2", "default", [user("a"), ai("b")], "USER: a ASSISTANT: b</s>ASSISTANT:"),
        ("owl2", "evaluation", [user("a")], "USER: a ASSISTANT: "),
        ("owl2", "v1", [user("<image>", "a")], " USER: <|image|>a ASSISTANT:"),
        ("owl2", "training", [user(" a ", "<image>", "b ")], " USER: <|image|>\na b ASSISTANT:"),
        ("owl2", "training", [user(" a ")], " USER:  a  ASSISTANT:"),
        ("owl2.1", "default", [user("<video>", "a")], "USER: <|video|>a ASSISTANT:"),
    ],
)
def test_templates(form: str, template: str, messages: list[Any], expected: str) -> None:
    text, _ = make(form).render(messages, template, add_generation_prompt=True)
    if expected.startswith(("\n", " ")):
        head, _, rest = text.partition(expected[0] + expected[1:7])
        assert head.startswith(("The following", "A chat"))
        text = expected[:7] + rest
    assert text == expected


@pytest.mark.parametrize("form", FORMATS)
def test_the_system_sentence_can_be_chosen(form: str) -> None:
    processor = make(form)
    for template in processor.templates:
        own, _ = processor.render([user("q")], template)
        named, _ = processor.render([user("q")], template, system="Be brief.")
        assert named.removeprefix("<|system|>").startswith("Be brief.")
        assert processor.render([system("Be brief."), user("q")], template)[0] == named
        explicit, _ = processor.render([system("Mine."), user("q")], template, system="Yours.")
        assert explicit == named.replace("Be brief.", "Mine.")
        none, _ = processor.render([user("q")], template, system="")
        assert processor.render([system(""), user("q")], template, system="Yours.")[0] == none
        assert own.endswith(none)
        processor.system = "Be brief."
        assert processor.render([user("q")], template)[0] == named
        processor.system = None


def test_known_sentences(owl: OwlProcessor, owl2: OwlProcessor) -> None:
    assert owl.render([user("q")])[0] == f"{OWL_SYSTEM}\nHuman: q"
    assert owl2.render([user("q")], "training")[0] == f"{VICUNA_SYSTEM} USER: q"


@pytest.mark.parametrize("form", FORMATS)
def test_spans_are_the_answers(form: str) -> None:
    processor = make(form)
    messages = [user("<image>", "q"), ai("one\n"), user("x"), ai(""), user("y"), ai(" two")]
    for template in processor.templates:
        text, spans = processor.render(messages, template)
        said = [text[a:b].removeprefix("" if form in ("owl", "owlet") else " ") for a, b in spans]
        end = {"training": "</s>", "v0": "###"}.get(template, "" if form == "owl" else "</s>")
        # Upstream learns no empty answer in a row with pictures.
        empty = "" if form == "owl" else end
        assert said == [f"one\n{end}", empty, f" two{end}"]


def test_threads_render_at_once(owl: OwlProcessor) -> None:
    talks = [[user("q" * size), ai("a" * size)] * 5 for size in range(1, 200)]
    with ThreadPoolExecutor(8) as pool:
        rendered = list(pool.map(owl.render, talks))
    assert rendered == [owl.render(talk) for talk in talks]


def test_a_template_of_ones_own(owl: OwlProcessor) -> None:
    source = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}{{ mood }}"
    assert owl.render([{"role": "user", "content": "a"}], source, mood="!")[0] == "user=a;!"


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([user("a")], {"template": "trianing"}, "did you mean 'training'"),
        ([user("a")], {"sistem": "x"}, "did you mean 'system'"),
        ([{"role": "human", "content": "a"}], {}, "role 'human'"),
        ([user("a"), system("b")], {}, "message 1 is a system message"),
        ([{"role": "user", "content": None}], {}, "content is NoneType"),
        ([{"role": "user", "content": ["a"]}], {}, "part of type None"),
        ([user({"type": "image_url", "image_url": {"url": "x"}})], {}, "mplug_owl.messages reads"),
        (["hello"], {}, "message 0 is a str"),
    ],
)
def test_conversations_that_cannot_be_rendered(
    owl: OwlProcessor, messages: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        owl.render(messages, **options)


def test_an_unknown_format() -> None:
    with pytest.raises(ConfigError, match="did you mean 'owl2"):
        make("owl-2")


# ---- text to ids -----------------------------------------------------------------------------


def bytes_of(text: str) -> list[int]:
    return [3 + byte for byte in text.encode()]


def test_pieces_and_media(owl: OwlProcessor) -> None:
    image, video = owl.image_token_id, owl.video_token_id
    ids, target = owl.encode_text("a<image><image>b<|video|>", video_frames=[2])
    media = [*[image] * 6, *bytes_of("b"), *[video] * 6]
    assert ids == [1, *bytes_of("a"), *media]
    assert not any(target)
    assert make(temporal=True).encode_text("<|video|>")[0] == [1, *[video] * 3]
    assert owl.encode_text("<|video|>")[0] == [1, *[video] * 3 * owl.num_frames]
    assert owl.encode_text("")[0] == [1]


def test_bos_of_owl2_stands_where_upstream_puts_it(owl2: OwlProcessor) -> None:
    image = owl2.image_token_id
    assert owl2.encode_text("a<|image|>b")[0] == [1, *bytes_of("a"), *[image] * 3, *bytes_of("b")]
    first = [*[image] * 3, 1, *bytes_of("a"), *[image] * 3, 1, *bytes_of("b")]
    assert owl2.encode_text("<|image|>a<|image|>b")[0] == first
    assert make("owl2.1").encode_text("a")[0] == bytes_of("a")


def test_training_cuts_at_markers_inference_does_not(tmp_path: Path) -> None:
    processor = make("owl")
    text, spans = processor.render([user("an OpenAI: x"), ai("AI: y"), user("z"), ai("w")], "training")
    pieces = [text[a:b] for a, b, _ in processor._pieces(text, spans)]
    head = f"{OWL_SYSTEM}|\nHuman: |an OpenAI: x\n|AI: |AI: y</s>|\nHuman: |z\n|AI: |w</s>"
    assert pieces == head.split("|")
    assert [text[a:b] for a, b, _ in processor._pieces(text, ())] == [text]


@pytest.mark.parametrize("form", FORMATS)
def test_targets_are_exactly_the_answers(form: str) -> None:
    processor = make(form)
    messages = [user("<image>", "q\u00e9"), ai("\u4f60 one"), user("x"), ai("two")]
    text, spans = processor.render(messages, "training")
    ids, target = processor.encode_text(text, spans)
    learnt = processor.decode([token for token, flag in zip(ids, target, strict=True) if flag])
    # To the owlet's tokenizer the first word of a text is a word like any other, space included.
    learnt = learnt.replace("</s> ", "</s>") if form == "owlet" else learnt
    assert learnt == "".join(text[a:b] for a, b in spans)


def test_media_inside_an_answer_are_no_targets(owl2: OwlProcessor) -> None:
    messages = [user("q"), {"role": "assistant", "content": user("a", "<image>", "b")["content"]}]
    text, spans = owl2.render(messages)
    ids, target = owl2.encode_text(text, spans)
    flags = {flag for token, flag in zip(ids, target, strict=True) if token == owl2.image_token_id}
    assert flags == {False}


# ---- batches ---------------------------------------------------------------------------------


def test_two_conversations_with_different_media(owl: OwlProcessor) -> None:
    conversations = [
        [user({"type": "image", "image": RED}, {"type": "image", "image": BLUE}, "which?")],
        [user("why?"), ai("so"), user({"type": "image", "image": BLUE}, "and this?")],
        [user("nothing")],
    ]
    batch = owl.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert batch["pixel_values"].shape == (3, 3, 28, 28)
    assert (batch["input_ids"] == owl.image_token_id).sum(1).tolist() == [6, 3, 0]
    for row, conversation in enumerate(conversations):
        alone = owl.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True)
        kept = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][kept].tolist() == alone[0].tolist()
        assert (batch["input_ids"][row][~kept] == owl.tokenizer.eos_token_id).all()
        assert kept.tolist() == sorted(kept.tolist())  # filled up on the left
    beside = owl.apply_chat_template(
        [[user("<image>", "<image>", "which?")], [user("<image>", "x")]],
        tokenize=True,
        return_dict=True,
        images=[[RED, BLUE], [BLUE]],
    )
    assert torch.equal(beside["pixel_values"], batch["pixel_values"])


def test_padding_sides_and_lengths(owl2: OwlProcessor) -> None:
    texts = ["abc", "a"]
    left = owl2(text=texts)["input_ids"]
    right = owl2(text=texts, padding_side="right")["input_ids"]
    assert left[1].tolist() == [0, 0, 1, *bytes_of("a")]
    assert right[1].tolist() == [1, *bytes_of("a"), 0, 0]
    long = owl2(text=texts, padding="max_length", max_length=9)
    assert long["input_ids"].shape == (2, 9)
    assert long["attention_mask"].sum(1).tolist() == [4, 2]
    lists = owl2(text=texts, padding=False, return_tensors=None)["input_ids"]
    assert [len(row) for row in lists] == [4, 2]


def test_assistant_mask(owl: OwlProcessor) -> None:
    conversations = [[user("q"), ai("yes")], [user("longer q"), ai("no")]]
    batch = owl.apply_chat_template(
        conversations, "training", tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [
        owl.decode(row[mask.bool()]) for row, mask in zip(batch["input_ids"], batch["assistant_masks"], strict=True)
    ]
    assert said == ["yes</s>", "no</s>"]


@pytest.mark.parametrize("temporal", [False, True])
def test_an_image_and_a_video(temporal: bool) -> None:
    processor = make("owl", temporal)
    clip = [RED, BLUE, RED]
    image, video = {"type": "image", "image": RED}, {"type": "video", "video": clip}
    batch = processor.apply_chat_template([user(video, image, "what?")], tokenize=True, return_dict=True)
    assert batch["pixel_values"].shape == (1, 3, 28, 28)
    assert batch["pixel_values_videos"].shape == (1, 3, 3, 28, 28)
    ids = batch["input_ids"][0].tolist()
    assert ids.count(processor.image_token_id) == 3
    assert ids.count(processor.video_token_id) == (3 if temporal else 9)
    assert ids.index(processor.video_token_id) < ids.index(processor.image_token_id)


def test_frames_follow_the_family() -> None:
    wide = np.random.default_rng(0).integers(0, 255, (20, 60, 3), np.uint8)
    squashed = OwlImageProcessorPil(size=28)(wide)["pixel_values"][0]
    for temporal in (False, True):
        processor = make("owl", temporal)
        processor.image_processor.aspect = "crop"
        cropped = processor.image_processor(wide)["pixel_values"][0]
        frames = processor.clip_pixels(wide[None])
        assert torch.equal(frames[0], squashed if temporal else cropped)


def test_videos_in_every_listing(owl: OwlProcessor) -> None:
    frames = np.zeros((4, 9, 9, 3), np.uint8)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for videos in (frames, [frames], [[frames]], [RED] * 4, [[RED] * 4], [[[RED] * 4]], tensor):
        pixels = owl(text="<|video|>", videos=videos)["pixel_values_videos"]
        assert pixels.shape == (1, 4, 3, 28, 28)
    ragged = owl(text="<|video|><|video|>", videos=[[RED], [RED, RED]])
    assert [len(clip) for clip in ragged["pixel_values_videos"]] == [1, 2]
    assert (ragged["input_ids"] == owl.video_token_id).sum() == 9


def test_images_in_every_form(owl: OwlProcessor, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    RED.save(path)
    array = np.asarray(RED)
    forms = [RED, str(path), array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    pixels = [owl(text="<image>", images=form)["pixel_values"] for form in forms]
    assert all(torch.equal(each, pixels[0]) for each in pixels)
    for bad in (array.astype(np.float32), np.zeros((2, 2, 7), np.uint8), 3.5):
        with pytest.raises(RequestError, match="an image"):
            owl(text="<image>", images=[bad])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"text": "<image>"}, r"1 image placeholder\(s\), but 0"),
        ({"text": "a", "images": RED}, r"0 image placeholder\(s\), but 1"),
        ({"text": ["<image>", "a"], "images": [[], [RED]]}, r"1 \+ 0 image .* 0 \+ 1 image"),
        ({"text": "<|video|>", "videos": [[RED], [RED]]}, r"1 video placeholder\(s\), but 2"),
        ({"text": "<image>", "images": [[[RED]]]}, "3 lists deep"),
        ({"text": "a", "truncation": True}, "shorten the conversation"),
        ({"text": "abcdef", "max_length": 3}, "7 positions; max_length allows 3"),
        ({"text": "a", "paddingside": "left"}, "did you mean 'padding_side'"),
        ({"text": "a", "padding_side": "top"}, "padding_side='top'"),
        ({"text": "a", "padding": "most"}, "padding='most'"),
        ({"text": "a", "return_tensors": "np"}, "return_tensors='np'"),
        ({"text": ["a", "ab"], "padding": False}, r"2 \+ 3 positions"),
        ({"text": "<image>", "images": "no/such.png"}, "cannot be opened"),
    ],
)
def test_calls_whose_parts_do_not_fit(owl: OwlProcessor, call: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        owl(**call)


def test_a_conversation_takes_its_media_from_one_place(owl: OwlProcessor) -> None:
    with pytest.raises(RequestError, match="images given both"):
        owl.apply_chat_template([user({"type": "image", "image": RED})], tokenize=True, images=[RED])
    with pytest.raises(RequestError, match="tools given"):
        owl.apply_chat_template([user("a")], tools=[{}])


def test_decoding_drops_media(owl: OwlProcessor) -> None:
    ids, _ = owl.encode_text("a<image>b</s><|video|>c")
    assert owl.decode(ids) == "<s>ab</s>c"
    assert owl.decode(torch.tensor(ids), skip_special_tokens=True) == "abc"
    assert owl.batch_decode(torch.tensor([ids, ids])) == ["<s>ab</s>c"] * 2
    assert owl.post_process_image_text_to_text([ids]) == ["abc"]
    assert len(owl.tokenizer) == owl.image_token_id  # nothing was added


@pytest.mark.parametrize("form", FORMATS)
def test_saved_and_reloaded(form: str, tmp_path: Path) -> None:
    saved = make(form, temporal=form == "owl", system="Be brief.", num_frames=5)
    saved.image_processor.aspect = "pad"
    saved.save_pretrained(tmp_path)
    for loaded in (OwlProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, OwlProcessor)
        assert loaded.to_dict() == saved.to_dict()
        assert loaded.templates == saved.templates
        conversation = [[user({"type": "image", "image": BLUE}, "q\u00e9 </s>"), ai("a")], [user("b")]]
        for template in saved.templates:
            both = [
                each.apply_chat_template(
                    conversation, template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
                )
                for each in (saved, loaded)
            ]
            assert set(both[0]) == set(both[1])
            assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


# ---- the image processor ---------------------------------------------------------------------


@pytest.mark.parametrize("aspect", ["square", "crop", "pad", "resize"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3), (20_000, 1), (1, 20_000), (9_000, 100)])
def test_any_picture_becomes_a_square(aspect: str, size: tuple[int, int]) -> None:
    picture = Image.new("L", size, 255)
    pixels = OwlImageProcessorPil(size=28, aspect=aspect)(picture)["pixel_values"]
    assert pixels.shape == (1, 3, 28, 28)
    white = (1 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
    if aspect != "pad":  # there a line gets lost in the margin
        assert torch.allclose(pixels, white[:, None, None].expand_as(pixels), atol=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_tall_pictures_shrink_vertically_first(mode: str) -> None:
    """The order of Pillow's passes shows in the pixels, and changed between its versions."""
    noise = np.random.default_rng(0).integers(0, 255, (97, 31, 4), np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    turned = picture.transpose(Image.Transpose.TRANSPOSE).resize((56, 56), Image.Resampling.BICUBIC)
    expected = turned.transpose(Image.Transpose.TRANSPOSE).convert("RGB")
    processor = OwlImageProcessorPil(size=56)
    assert torch.equal(processor(picture)["pixel_values"], processor(expected)["pixel_values"])


def test_sixteen_bits_and_floats_are_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 28 * 28).reshape(28, 28)
    grey = Image.fromarray((ramp / 257).astype(np.uint8))
    wide = Image.fromarray(ramp.astype(np.uint16))
    processor = OwlImageProcessorPil(size=28)
    for picture in (wide, Image.fromarray(ramp.astype(np.int32)), Image.fromarray(np.float32(ramp / 257))):
        difference = processor(picture)["pixel_values"] - processor(grey)["pixel_values"]
        assert difference.abs().max() < 0.02


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"shortest_edge": 28}, "crop_size": 27}, "resizes to 28 and crops to 27"),
        ({"size": {"height": 28, "width": 30}}, "expected one number"),
        ({"size": "large"}, "expected one number"),
        ({"do_normalize": False}, "do_normalize=false"),
    ],
)
def test_settings_that_no_release_has(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        OwlImageProcessorPil.from_clip_config(config, "square")


def test_an_unknown_aspect() -> None:
    with pytest.raises(ConfigError, match="did you mean 'square'"):
        OwlImageProcessorPil(aspect="sqare")(RED)


# ---- tokenizers ------------------------------------------------------------------------------


def nasty_texts(count: int) -> list[str]:
    chance = random.Random(0)
    return ["".join(chance.choices(NASTY, k=chance.randint(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model trained the way LLaMA's was."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "corpus.txt").write_text(CORPUS * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    return folder


def test_llama_ids_are_those_of_sentencepiece(llama_folder: Path) -> None:
    tokenizer = llama_tokenizer(llama_folder)
    model = sentencepiece.SentencePieceProcessor(model_file=str(llama_folder / "tokenizer.model"))
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for text in nasty_texts(1500):
        if not any(special in text for special in ("<s>", "</s>")):
            assert tokenizer(text)["input_ids"] == model.encode(text)
            assert tokenizer.decode(model.encode(text)) == model.decode(model.encode(text))
    assert tokenizer("a</s> b")["input_ids"] == [*model.encode("a"), 2, *model.encode(" b")]


def test_llama_from_tokenizer_json(llama_folder: Path, tmp_path: Path) -> None:
    tokenizer = llama_tokenizer(llama_folder)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = llama_tokenizer(tmp_path)
    assert [again(t)["input_ids"] for t in nasty_texts(50)] == [tokenizer(t)["input_ids"] for t in nasty_texts(50)]


def test_owl2_labels_with_spaces_and_empty_answers(llama_folder: Path) -> None:
    """The space after ASSISTANT: is what the first token of an answer starts with."""
    tokenizer = llama_tokenizer(llama_folder)
    processor = OwlProcessor.for_format(
        "owl2", OwlImageProcessorPil(size=28), tokenizer, image_token_id=400, media_length=2
    )
    for answer in ("red", "the bus", " two spaces", "", "\u4f60\u597d", "\U0001f989", "\nline"):
        text, spans = processor.render([user("<image>", "q"), ai(answer)], "default")
        ids, target = processor.encode_text(text, spans)
        assert ids == processor.encode_text(text)[0]  # training and inference see the same ids
        learnt = [token for token, flag in zip(ids, target, strict=True) if flag]
        assert learnt[-1] == tokenizer.eos_token_id
        assert target == [False] * (len(ids) - len(learnt)) + [True] * len(learnt)
        assert tokenizer.decode([*tokenizer("x")["input_ids"], *learnt]) == f"x {answer}</s>"


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rank file in Qwen's layout, trained on a small corpus."""
    folder = tmp_path_factory.mktemp("qwen")
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(owl_tokenizers._QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator([CORPUS * 30 + "ababab aababa " * 50], trainer)
    byte = {letter: number for number, letter in enumerate(owl_tokenizers.byte_letters())}
    lines = [
        base64.b64encode(bytes(byte[letter] for letter in token)) + b" %d\n" % rank
        for token, rank in trained.get_vocab().items()
    ]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    return folder


def test_qwen_ids_are_those_of_tiktoken(qwen_folder: Path, tmp_path: Path) -> None:
    tokenizer = qwen_tokenizer(qwen_folder)
    ranks = owl_tokenizers._tiktoken(qwen_folder / "qwen.tiktoken")
    special = {text: len(ranks) + i for i, text in enumerate(owl_tokenizers._QWEN_SPECIAL)}
    reference = tiktoken.Encoding(
        "qwen", pat_str=owl_tokenizers._QWEN_SPLIT, mergeable_ranks=ranks, special_tokens=special
    )
    assert len(tokenizer) == len(ranks) + 208
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(ranks)
    assert tokenizer.bos_token_id is None
    tokenizer.save_pretrained(tmp_path)
    reloaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in nasty_texts(1500):
        ids = reference.encode(unicodedata.normalize("NFC", text), allowed_special="all")
        assert tokenizer(text)["input_ids"] == ids
        assert reloaded(text)["input_ids"] == ids


def test_qwen_labels_include_the_space(qwen_folder: Path) -> None:
    tokenizer = qwen_tokenizer(qwen_folder)
    processor = OwlProcessor.for_format(
        "owl2.1", OwlImageProcessorPil(size=28), tokenizer, image_token_id=908, media_length=2
    )
    text, spans = processor.render([user("<image>", "q"), ai("the bus.")], "training")
    ids, target = processor.encode_text(text, spans)
    learnt = [token for token, flag in zip(ids, target, strict=True) if flag]
    assert tokenizer.decode(learnt) == " the bus.</s>"
    assert ids == processor.encode_text(text)[0]


def test_a_full_size_rank_file_converts_in_seconds(tmp_path: Path) -> None:
    single = [bytes([byte]) for byte in range(256)]
    pairs = [a + b for a in single for b in single]
    triples = [pair + b"x" for pair in pairs] + [pair + b"y" for pair in pairs]
    tokens = [*single, *pairs, *triples][:151_643]
    lines = [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens)]
    (tmp_path / "qwen.tiktoken").write_bytes(b"\n".join(lines))
    started = time.monotonic()
    tokenizer = qwen_tokenizer(tmp_path)
    assert time.monotonic() - started < 30
    assert len(tokenizer) == 151_851
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_204|>")
    assert tokenizer.convert_tokens_to_ids(names) == [151_643, 151_644, 151_645, 151_850]


def test_bloom(tmp_path: Path) -> None:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS], trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = bloom_tokenizer(tmp_path)
    processor = OwlProcessor.for_format(
        "owl", OwlImageProcessorPil(size=28), tokenizer, image_token_id=300, media_length=2
    )
    assert processor.encode_text("<image>a")[0] == [1, 300, 300, *tokenizer("a")["input_ids"]]


@pytest.mark.parametrize(
    ("build", "name", "content", "message"),
    [
        (llama_tokenizer, "tokenizer.model", b"\xff\xfe no proto", "no sentencepiece model"),
        (llama_tokenizer, "tokenizer.model", b"", "no vocabulary"),
        (llama_tokenizer, "tokenizer.json", b"{}", "is no tokenizer"),
        (llama_tokenizer, "other", b"", "holds no tokenizer"),
        (bloom_tokenizer, "tokenizer.json", b"[", "is no tokenizer"),
        (qwen_tokenizer, "qwen.tiktoken", b"!!! 0\n", "line 1"),
        (qwen_tokenizer, "qwen.tiktoken", b"YQ== zero\n", "line 1"),
        (qwen_tokenizer, "qwen.tiktoken", b"YQ== 0\nYg== 2\n", "ranks are not 0 to 1"),
        (qwen_tokenizer, "qwen.tiktoken", b"YQ== 0\n", "single bytes"),
    ],
)
def test_broken_tokenizer_files(build: Any, name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path)


def test_a_tokenizer_without_its_special_tokens(tmp_path: Path) -> None:
    byte_tokenizer().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(llama_tokenizer(tmp_path)) == 259
    with pytest.raises(CheckpointError, match="lacks the special token '<pad>'"):
        bloom_tokenizer(tmp_path)
