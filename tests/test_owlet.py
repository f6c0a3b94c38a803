"""The owlets: their tokenizer and prompts, the marriage of Owl2's decoder with Owl video's eyes, and the one that is
opened by name.
"""

import dataclasses
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import test_generate
import test_owl
from mplug_owl import cli, load, models
from mplug_owl.data.encode import encode
from mplug_owl.engine.public import Owl
from mplug_owl.errors import CheckpointError
from mplug_owl.messages import ImagePart, Message, TextPart, chat_dicts
from mplug_owl.models.families import FAMILIES, build, build_processor
from mplug_owl.models.info import describe
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.parts import assemble
from mplug_owl.models.templates import FORMATS
from mplug_owl.models.tokenizers import OWLET_WORDS, owlet_tokenizer, train_tokenizer
from mplug_owl.world import sets, vocabulary
from mplug_owl.world.chance import SPLITS
from mplug_owl.world.scene import SKILLS
from mplug_owl.world.words import real_words
from owls import Rows, random_owl

OWLETS = {"owlet": 12_000_000, "owlet-nano": 3_000_000, "owlet-nano-plain": 3_000_000}
TALK = [
    Message("user", (ImagePart("one.png"), ImagePart("two.png"), TextPart("How many red dice are there?"))),
    Message("assistant", "12"),
    Message("user", "Is one of them green?"),
    Message("assistant", "no"),
]


def temporal_nano() -> OwlConfig:
    """The owlet's architecture in the size of a nano."""
    config = FAMILIES["owlet-nano"].config()
    config.vision_config.temporal = config.abstractor_config.temporal = True
    return config


@pytest.fixture(scope="module", params=["owlet", "owlet-nano-plain"])
def owl(request: pytest.FixtureRequest) -> OwlForConditionalGeneration:
    return random_owl(temporal_nano() if request.param == "owlet" else request.param)


# What holds of every family holds of these: the same tests, over the owls above.
test_caches_agree = test_generate.test_dynamic_static_chunked_and_no_cache_agree
test_answers_of_a_batch = test_generate.test_left_padded_batch_answers_like_each_row_alone
test_a_video_of_one_frame_is_an_image = test_owl.test_a_video_of_one_frame_is_an_image
test_every_picture_reaches_its_own_place = test_owl.test_every_picture_reaches_its_own_place
test_padded_batch_equals_each_row_alone = test_owl.test_padded_batch_equals_each_row_alone
test_the_order_of_frames_matters = test_owl.test_the_order_of_frames_matters_only_with_a_temporal_branch
test_videos_of_different_lengths = test_owl.test_videos_of_different_lengths_equal_each_alone


# ---- families ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), OWLETS.items())
def test_size(name: str, limit: int) -> None:
    assert describe(name).parameters <= limit


def test_the_owlet_is_owl2_with_the_eyes_of_owl_video() -> None:
    config, nano, plain = (FAMILIES[name].config() for name in OWLETS)
    assert config.text_config.model_type == nano.text_config.model_type == "mplug_owl_adaptive_llama"
    assert plain.text_config.model_type == "llama"
    assert config.vision_config.temporal and config.abstractor_config.temporal
    assert config.abstractor_config.position_grid == config.vision_config.grid
    assert plain.abstractor_config.position_grid is None


@torch.inference_mode()
def test_the_abstractor_tells_frames_apart_by_their_number() -> None:
    """Alike frames of a temporal branch that does nothing yet: only the number of a frame can tell which is first."""
    abstractor = random_owl(temporal_nano()).model.abstractor
    tokens = abstractor.config.position_grid**2 + 1
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 1, tokens, abstractor.config.hidden_size, generator=generator, dtype=torch.float64)
    forth, back = (abstractor(torch.cat(pair, 1), is_video=True).last_hidden_state for pair in ((one, two), (two, one)))
    assert (forth - back).abs().max() > 1e-3


def test_saved_and_opened_again(tmp_path: Path) -> None:
    model, processor = build("owlet-nano")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, opened = models.load(tmp_path, device="cpu")
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    text, spans = processor.render(chat_dicts(TALK), "training")
    assert opened.encode_text(text, spans) == processor.encode_text(text, spans)
    assert opened.tokenizer.backend_tokenizer.to_str() == owlet_tokenizer().backend_tokenizer.to_str()


def test_a_run_starts_from_the_family() -> None:
    model, processor = assemble("owlet-nano", seed=3)
    assert len(processor.tokenizer) == model.config.text_config.vocab_size == OWLET_WORDS
    built, _ = build("owlet-nano", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), built.parameters(), strict=True))


# ---- prompts -------------------------------------------------------------------------------------


def test_training_is_the_text_of_a_chat() -> None:
    processor = build_processor("owlet")
    assert FORMATS["owlet"].templates["training"] == FORMATS["owlet"].templates["default"]
    row = encode(TALK, processor)
    answer = [-100] * len(row.ids)
    for turn in (1, 3):
        prompt, _ = processor.render(chat_dicts(TALK[:turn]), add_generation_prompt=True)
        ids, _ = processor.encode_text(prompt)
        words = processor.tokenizer(TALK[turn].text + "</s>")["input_ids"]
        assert row.ids[: len(ids) + len(words)] == [*ids, *words]
        answer[len(ids) : len(ids) + len(words)] = words
    assert row.labels == answer


def test_roles_are_one_token_each() -> None:
    processor = build_processor("owlet")
    text, _ = processor.render([{"role": "system", "content": "Be brief."}, *chat_dicts(TALK)])
    ids, _ = processor.encode_text(text)
    special = [processor.tokenizer.decode(i) for i in ids if i in processor.tokenizer.all_special_ids or i < 5]
    turn = ["<|user|>", "<|owl|>", "</s>"]
    assert special == ["<|system|>", *turn, *turn]
    assert ids.count(processor.image_token_id) == 2 * processor.media_length
    assert processor.decode(ids, skip_special_tokens=True).count("<|") == 0


# ---- tokenizer -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return owlet_tokenizer()


def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast) -> None:
    random = Random(0)
    letters = [chr(code) for code in (*range(0x250), 0x2028, 0x1F989, 0x4E2D)]
    texts = ["".join(random.choices(letters, k=random.randrange(30))) for _ in range(300)]
    for text in ["", " ", "  a", "red", "12 + 7", "\u0109u \u015dia flava \u0109evalo?", "tail \n\n", *texts]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == OWLET_WORDS
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id] == [0, 1]
    config = FAMILIES["owlet"].config().text_config
    assert [config.pad_token_id, config.eos_token_id] == [0, 1]
    for role in ("<|system|>", "<|user|>", "<|owl|>"):
        assert len(tokenizer(role)["input_ids"]) == 1


@pytest.mark.parametrize("text", ["red circle", "How many?", "yes", "no", "3", "left", "blue"])
def test_words_of_the_world_are_one_token(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert len(tokenizer(text)["input_ids"]) == len(text.replace("?", " ?").split())


def test_the_first_word_is_the_word_it_is_elsewhere(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("so red")["input_ids"][-1:] == tokenizer("red")["input_ids"]


def test_what_is_no_word_is_letters(tokenizer: PreTrainedTokenizerFast) -> None:
    space, *letters = tokenizer.convert_ids_to_tokens(tokenizer("qwyx")["input_ids"])
    assert letters == list("qwyx")
    assert tokenizer.convert_ids_to_tokens(tokenizer("d")["input_ids"]) == [space, "d"]


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    digits = [tokenizer.decode(i).strip() for i in tokenizer("12 + 305")["input_ids"]]
    assert [digit for digit in digits if digit] == ["1", "2", "+", "3", "0", "5"]


def test_training_repeats_and_keeps_to_what_is_frequent() -> None:
    texts = ["a red owl", "two red dice", "Red owl?"] * 10 + ["a rare word"]
    for size in (266, 300):
        made = train_tokenizer(texts, size, least=10)
        again = train_tokenizer(iter(texts), size, least=10)
        assert made.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
        assert len(made) == size
    assert len(made("red")["input_ids"]) == len(made("owl")["input_ids"]) == 1
    assert len(made("rare")["input_ids"]) == len(" rare")


def test_the_command_trains_on_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "ROWS", 300)
    for folder in ("one", "two"):
        assert cli.main(["world", "tokenizer", str(tmp_path / folder)]) == 0
    one, two = ((tmp_path / folder / "tokenizer.json").read_text() for folder in ("one", "two"))
    assert one == two
    assert cli.main(["world", "tokenizer"]) == 2


def test_words_to_be_read_letter_by_letter_are_not_in_the_vocabulary() -> None:
    known = vocabulary.vocabulary()
    assert {"red", "circle", "france", "paris", "kio", "seven"} <= known
    read = {word for split in SPLITS for word in real_words(7, split)}
    assert len(read & known) < len(read) / 10


# ---- the owlet by name ---------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands where the trained weights are."""
    model, processor = build("owlet-nano", seed=7)
    model.bfloat16().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setitem(FAMILIES, "owlet", dataclasses.replace(FAMILIES["owlet"], weights=tmp_path))
    return tmp_path


def test_the_trained_owlet_opens_by_name(trained: Path) -> None:
    owl = load("owlet", device="cpu")
    assert owl.model.dtype == torch.bfloat16
    assert torch.equal(owl.model.lm_head.weight, build("owlet-nano", seed=7)[0].lm_head.weight.bfloat16())
    assert isinstance(owl.chat("How many?", max_new_tokens=3), str)
    assert load("owlet", device="cpu", dtype="float32").model.dtype == torch.float32
    assert (
        build("owlet")[0].config.text_config.num_hidden_layers
        == FAMILIES["owlet"].config().text_config.num_hidden_layers
    )
    assert "bfloat16" in describe("owlet").dtypes


def test_it_is_whom_the_command_line_talks_to(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", "How many?", "--device", "cpu", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == load("owlet", device="cpu").chat("How many?", max_new_tokens=4) + "\n"


def test_without_weights_it_is_said_how_to_make_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(FAMILIES, "owlet", dataclasses.replace(FAMILIES["owlet"], weights=tmp_path))
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*owl train owlet"):
        load("owlet")
    assert describe("owlet").dtypes == {}


@pytest.mark.skipif(not FAMILIES["owlet"].is_trained, reason="no weights of the owlet here")
def test_the_shipped_weights_are_those_of_the_family() -> None:
    model, processor = models.load("owlet", device="cpu")
    config = FAMILIES["owlet"].config()
    for part in ("vision_config", "abstractor_config", "text_config"):
        said, expected = getattr(model.config, part).to_diff_dict(), getattr(config, part).to_diff_dict()
        assert {k: said[k] for k in expected if k != "dtype"} == {k: v for k, v in expected.items() if k != "dtype"}
    assert processor.tokenizer.backend_tokenizer.to_str() == owlet_tokenizer().backend_tokenizer.to_str()
    assert sum(path.stat().st_size for path in FAMILIES["owlet"].weights.iterdir()) <= 25_000_000
    assert sum(Rows(model).pixels().shape) == 3 + 2 * config.vision_config.image_size


@pytest.mark.skipif(not FAMILIES["owlet"].is_trained, reason="no weights of the owlet here")
def test_its_answers_are_those_of_generate() -> None:
    """Many at once, of all kinds and lengths, and further turns on what is in the cache already."""
    owl = load("owlet", device="cpu", dtype="float32")
    asked = [list(talk.messages) for skill in SKILLS for talk in sets.examples(skill, 2)]
    first = [conversation[:1] for conversation in asked]
    said = list(owl.answers(first, max_new_tokens=12))
    assert said == [generated(owl, conversation) for conversation in first]
    assert len(set(said)) > 5
    longer = [
        [*conversation, Message("assistant", (TextPart(answer),)), Message("user", (TextPart("And how many?"),))]
        for conversation, answer in zip(first, said, strict=True)
    ]
    assert list(owl.answers(longer, max_new_tokens=12)) == [generated(owl, talk) for talk in longer]
    assert owl.engine.counts["positions_reused"] > 0


def generated(owl: Owl, messages: list[Message]) -> str:
    inputs = owl.prepare(messages)
    with torch.inference_mode():
        ids = owl.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return owl.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
