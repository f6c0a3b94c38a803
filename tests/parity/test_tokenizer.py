"""Prompts, ids and labels against vectors taken from the original code.

The folder is OWL_GOLDEN_DIR/tokenizer, by default beside the repository. There a picture is -1 (65
times), a video -2 and an Owl2 picture -200 (once); here they are ids beyond the vocabulary. Where
upstream was wrong, the tests say what is right instead.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl.data.encode import IGNORED, Encoded, encode
from mplug_owl.data.formats import from_llava_record, from_owl_record, parse_owl_text
from mplug_owl.data.packing import lay_out
from mplug_owl.errors import DataError
from mplug_owl.messages import ImagePart, Message, TextPart, chat_dicts
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.tokenizers import llama_tokenizer

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("OWL_GOLDEN_DIR", ROOT.parent / "shared" / "golden")) / "tokenizer"

if not (GOLDEN / "goldens.json").is_file():
    pytest.skip(f"{GOLDEN} holds no tokenizer vectors", allow_module_level=True)
GOLDENS: dict[str, Any] = json.loads((GOLDEN / "goldens.json").read_text())

OWL_FAULTS = ("truncated_prompt_text", "second_image_does_not_fit", "ai_marker_inside_word", "image_at_start")
OWL2_FAULT = "two_image_tokens_in_one_turn"


def make(form: str, media_length: int, bos: str | None = None) -> OwlProcessor:
    tokenizer = llama_tokenizer(GOLDEN)
    processor = OwlProcessor.for_format(
        form,
        OwlImageProcessorPil(size=28),
        tokenizer,
        image_token_id=len(tokenizer),
        media_length=media_length,
        temporal=form == "owl",
    )
    processor.bos = bos or processor.bos
    return processor


@pytest.fixture(scope="module")
def owl() -> OwlProcessor:
    return make("owl", 65)


@pytest.fixture(scope="module")
def owl2() -> OwlProcessor:
    return make("owl2", 1)


def ours(ids: list[int], processor: OwlProcessor) -> list[int]:
    """Golden ids with our media ids."""
    image, video = processor.image_token_id, processor.video_token_id
    return [{-1: image, -200: image, -2: video}.get(token, token) for token in ids]


def entries(*keys: str) -> list[tuple[str, str]]:
    return [(key, name) for key in keys for name in GOLDENS.get(key, {})]


# ---- inference -------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "name"), entries("owl_processor", "owl_video_processor"))
def test_owl_prompts(key: str, name: str, owl: OwlProcessor) -> None:
    entry = GOLDENS[key][name]
    ids, target = owl.encode_text(entry["prompt"])
    assert ids == ours(entry["ids"], owl)
    assert not any(target)


@pytest.mark.parametrize(("key", "name"), entries("owl2_tokenizer_image_token", "owl2_1_no_bos_tokenizer_image_token"))
def test_owl2_prompts(key: str, name: str) -> None:
    processor = make("owl2", 1, bos="none" if "no_bos" in key else None)
    entry = GOLDENS[key][name]
    assert processor.encode_text(entry["prompt"])[0] == ours(entry["ids"], processor)


def test_owl_batch(owl: OwlProcessor) -> None:
    """Upstream filled up on the right; so do we when asked."""
    entry = GOLDENS["owl_processor_batch"]
    pictures = sum(prompt.count(owl.image_token) for prompt in entry["prompts"])
    blank = [Image.new("RGB", (4, 4))] * pictures
    batch = owl(text=entry["prompts"], images=blank, padding_side="right")
    assert batch["input_ids"].tolist() == [ours(ids, owl) for ids in entry["input_ids"]]
    assert batch["attention_mask"].tolist() == entry["attention_mask"]
    assert batch["pixel_values"].shape[0] == pictures


def question(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}


@pytest.mark.parametrize("name", GOLDENS.get("owl2_prompts", {}))
def test_owl2_templates(name: str, owl2: OwlProcessor) -> None:
    entry = GOLDENS["owl2_prompts"][name]
    template = {"mplug_owl2": "default"}.get(name, name)
    first = [question("What is this?")]
    second = [*first, {"role": "assistant", "content": "A dog."}, {"role": "user", "content": "Why?"}]
    for messages, key in ((first, "first"), (second, "second")):
        text, _ = owl2.render(messages, template, add_generation_prompt=True)
        assert text == entry[key]


def test_owl_templates(owl: OwlProcessor) -> None:
    text, _ = owl.render([question("What?")], "demo", add_generation_prompt=True)
    assert text == GOLDENS["owl_serve_prompt"]
    wanted = GOLDENS["owl_processor"]["one_image"]["prompt"]
    said = wanted.rpartition("Human: ")[2].removesuffix("\nAI: ")
    assert owl.render([question(said)], add_generation_prompt=True)[0] == wanted


def test_the_stop_keyword(owl2: OwlProcessor) -> None:
    entry = GOLDENS["owl2_stop"]
    assert owl2.answer_end == entry["keyword"]
    assert [owl2.encode_text(entry["keyword"])[0][1:]] == entry["keyword_ids"]


# ---- training: Owl ---------------------------------------------------------------------------


def owl_row(name: str, owl: OwlProcessor) -> Encoded:
    """Upstream's rows are one longer than its max_length: they hold the last target too."""
    entry = GOLDENS["owl_records"][name]
    images = [f"{index}.jpg" for index in range(entry["n_images"])]
    messages = from_owl_record({"text": entry["text"], "image": images})
    return encode(messages, owl, max_length=entry["max_length"] + 1)


@pytest.mark.parametrize("name", [n for n in GOLDENS["owl_records"] if n not in OWL_FAULTS])
def test_owl_records(name: str, owl: OwlProcessor) -> None:
    entry = GOLDENS["owl_records"][name]
    row = owl_row(name, owl)
    length = entry["max_length"] + 1
    assert len(row.ids) == entry["seq_length"]
    assert len(row.media) == entry["n_images"]
    # Rows are laid out in lengths of their own; what upstream pads with must be padding here too.
    laid = {key: value[0].tolist() for key, value in lay_out([[row]], pad_id=0).items()}
    gap = length - len(laid["labels"])
    padded = [*laid["input_ids"], *[0] * gap][:length]
    labels = [*laid["labels"], *[IGNORED] * gap][:length]
    assert padded == ours(entry["input_ids"], owl)
    assert labels[0] == IGNORED
    assert labels[1:] == entry["effective_labels_from_position_1"]
    assert sum(label != IGNORED for label in laid["labels"]) == entry["n_loss_tokens"]


@pytest.mark.parametrize("name", GOLDENS["owl_records"])
def test_owl_text_survives_parsing(name: str, owl: OwlProcessor) -> None:
    entry = GOLDENS["owl_records"][name]
    messages = parse_owl_text(entry["text"], [str(i) for i in range(entry["n_images"])])
    assert owl.render(chat_dicts(messages))[0] == entry["text"]


def fault(name: str) -> dict[str, Any]:
    """A record that upstream gets wrong."""
    if name not in GOLDENS["owl_records"]:
        pytest.skip(f"these vectors hold no {name}")
    return GOLDENS["owl_records"][name]


def learnt(row: Encoded) -> list[int]:
    return [label for label in row.labels if label != IGNORED]


def test_a_prompt_too_long_keeps_the_last_answer(owl: OwlProcessor) -> None:
    entry = fault("truncated_prompt_text")
    row = owl_row("truncated_prompt_text", owl)
    whole = encode(from_owl_record({"text": entry["text"]}), owl)
    assert len(row.ids) <= entry["max_length"] + 1 < len(whole.ids)
    assert row.cuts.turns == entry["text"].count("AI: ") - 1
    answer = owl.encode_text(entry["text"].rpartition("AI: ")[2])[0][1:]
    assert learnt(row) == [*answer, owl.tokenizer.eos_token_id]
    system = from_owl_record({"text": entry["text"]})[0].text
    head = owl.encode_text(system)[0]
    assert row.ids[: len(head)] == head


def test_a_row_whose_images_do_not_fit_is_an_error(owl: OwlProcessor) -> None:
    count = fault("second_image_does_not_fit")["n_images"]
    with pytest.raises(DataError, match=f"{65 * count} of them for {count} image"):
        owl_row("second_image_does_not_fit", owl)


def test_a_marker_inside_a_word_opens_no_answer(owl: OwlProcessor) -> None:
    entry = fault("ai_marker_inside_word")
    row = owl_row("ai_marker_inside_word", owl)
    answer = entry["text"].rpartition("\nAI: ")[2]
    assert learnt(row) == [*owl.encode_text(answer)[0][1:], owl.tokenizer.eos_token_id]


def test_a_leading_image_is_an_image(owl: OwlProcessor) -> None:
    entry = fault("image_at_start")
    row = owl_row("image_at_start", owl)
    assert row.ids[:66] == [owl.tokenizer.bos_token_id, *[owl.image_token_id] * 65]
    assert row.ids.count(owl.image_token_id) == 65 * entry["n_images"]
    golden = [t for t in entry["effective_labels_from_position_1"] if t != IGNORED]
    assert learnt(row) == golden


# ---- training: Owl2 --------------------------------------------------------------------------


def owl2_row(key: str, name: str, owl2: OwlProcessor) -> Encoded:
    """The template of upstream's `mplug_owl2` is that of `v1` without a system sentence."""
    record = GOLDENS[key][name].get("record") or GOLDENS["owl2_records_v1"][name]["record"]
    messages = from_llava_record(record)
    return encode([Message("system", ""), *messages] if "mplug_owl2" in key else messages, owl2)


RECORDS = entries("owl2_records_v1", "owl2_records_mplug_owl2")


@pytest.mark.parametrize(("key", "name"), [e for e in RECORDS if e[1] != OWL2_FAULT])
def test_owl2_records(key: str, name: str, owl2: OwlProcessor) -> None:
    entry = GOLDENS[key][name]
    row = owl2_row(key, name, owl2)
    assert row.ids == ours(entry["input_ids"], owl2)
    assert row.labels == entry["labels"]


@pytest.mark.parametrize(("key", "name"), [e for e in RECORDS if e[1] == OWL2_FAULT])
def test_placeholders_and_images_must_agree(key: str, name: str, owl2: OwlProcessor) -> None:
    with pytest.raises(DataError, match=r"\d image placeholder\(s\) and 1 image"):
        owl2_row(key, name, owl2)


def test_two_images_in_a_turn_are_two(owl2: OwlProcessor) -> None:
    parts = [ImagePart("a.jpg"), TextPart(" and "), ImagePart("b.jpg"), TextPart(" differ?")]
    row = encode([Message("user", parts), Message("assistant", "yes.")], owl2)
    assert row.ids.count(owl2.image_token_id) == 2
    assert [part.source for part in row.media] == ["a.jpg", "b.jpg"]


def test_owl2_collation(owl2: OwlProcessor) -> None:
    entry = GOLDENS["owl2_collate"]
    rows = [owl2_row("owl2_records_v1", name, owl2) for name in entry["records"]]
    laid = lay_out([[row] for row in rows], pad_id=owl2.tokenizer.pad_token_id)
    width = len(entry["labels"][0])
    assert laid["segments"][:, width:].eq(0).all()
    cut = {key: value[:, :width] for key, value in laid.items()}
    assert cut["input_ids"].tolist() == [ours(ids, owl2) for ids in entry["input_ids"]]
    assert cut["labels"].tolist() == entry["labels"]
    assert cut["segments"].tolist() == entry["attention_mask"]
