"""Published folders are opened completely, reported in words, or refused with one clear error."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from mplug_owl.errors import CheckpointError
from mplug_owl.models.checkpoint import Checkpoint, read_config, resolve_folder
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.published import convert, load_published
from owls import TINY, Rows, batch
from published_folders import write_json, write_published


@pytest.fixture(scope="module", params=TINY)
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, OwlForConditionalGeneration]:
    folder = tmp_path_factory.mktemp("published") / request.param
    return folder, write_published(folder, request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh published Owl2 folder to break."""
    write_published(tmp_path / "owl2", "tiny-owl2", shards=1)
    return tmp_path / "owl2"


def assert_same(got: OwlForConditionalGeneration, want: OwlForConditionalGeneration) -> None:
    got_state, want_state = got.state_dict(), want.state_dict()
    assert got_state.keys() == want_state.keys()
    for name, tensor in want_state.items():
        assert torch.equal(got_state[name], tensor), name
    inputs = batch([Rows(want).row(3, "image", 2, ("video", 2))])
    with torch.inference_mode():
        assert torch.equal(got(**inputs).logits, want(**inputs).logits)


def test_auto_classes_open_the_folder_as_it_is(published: tuple[Path, OwlForConditionalGeneration]) -> None:
    folder, owl = published
    opened = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(opened) is OwlForConditionalGeneration
    assert not opened.training
    assert_same(opened, owl)


def test_attention_is_chosen_through_the_auto_class(published: tuple[Path, OwlForConditionalGeneration]) -> None:
    folder, _ = published
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    assert model.config.vision_config._attn_implementation == "eager"
    assert model.config.text_config._attn_implementation == "eager"


def test_auto_config_reads_our_fields_and_writes_the_native_layout(
    published: tuple[Path, OwlForConditionalGeneration], tmp_path: Path
) -> None:
    folder, owl = published
    config = AutoConfig.from_pretrained(folder)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is OwlConfig
    assert again.vision_config.to_dict() == config.vision_config.to_dict()
    assert isinstance(config, OwlConfig)
    assert config.vision_config.hidden_size == owl.config.vision_config.hidden_size
    assert config.media_length == owl.config.media_length


def test_auto_processor_opens_published_and_native_folders(
    published: tuple[Path, OwlForConditionalGeneration], tmp_path: Path
) -> None:
    folder, owl = published
    convert(folder, tmp_path / "native")
    image = Image.new("RGB", (30, 20), "teal")
    rows = []
    for place in (folder, tmp_path / "native"):
        processor = AutoProcessor.from_pretrained(place)
        assert type(processor) is OwlProcessor
        text = f"Human: {processor.image_token}\nHuman: what?\nAI: "
        rows.append(processor(text=text, images=[image]))
    assert rows[0].keys() == rows[1].keys()
    assert all(torch.equal(rows[0][key], rows[1][key]) for key in rows[0])
    count = int((rows[0]["input_ids"] == owl.config.image_token_id).sum())
    assert count == owl.config.media_length
    with torch.inference_mode():
        assert owl(**rows[0]).logits.isfinite().all()


def test_device_maps_reach_the_library(published: tuple[Path, OwlForConditionalGeneration]) -> None:
    folder, owl = published
    assert_same(AutoModelForImageTextToText.from_pretrained(folder, device_map="cpu"), owl)


def test_saving_writes_the_native_layout(published: tuple[Path, OwlForConditionalGeneration], tmp_path: Path) -> None:
    folder, owl = published
    AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(tmp_path)
    assert read_config(tmp_path)["model_type"] == "mplug_owl"
    assert all(n.startswith(("model.", "lm_head.")) for n in Checkpoint(tmp_path))
    assert_same(AutoModelForImageTextToText.from_pretrained(tmp_path), owl)


def test_the_report_says_what_was_derived_and_ignored(published: tuple[Path, OwlForConditionalGeneration]) -> None:
    folder, owl = published
    report = load_published(folder)[1]
    text = str(report)
    if report.layout == "owl":
        assert "intermediate_size = 128" in text and "4096" in text
    if owl.config.vision_config.temporal:
        assert "temporal = True from 'temporal_query_tokens'" in text
    if report.layout == "owl2":
        assert "4 position tables" in text and "rotary_emb.inv_freq" in text
    if report.layout == "owl2.1":
        rows = owl.config.text_config.vocab_size
        assert f"vocab_size = {rows}" in text and str(rows + 85) in text


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl2"])
def test_bin_shards_open_too(tmp_path: Path, family: str) -> None:
    owl = write_published(tmp_path / "folder", family, file_format="bin")
    assert_same(AutoModelForImageTextToText.from_pretrained(tmp_path / "folder"), owl)


def test_old_pickles_and_single_files_open_too(tmp_path: Path) -> None:
    owl = write_published(tmp_path / "folder", "tiny-owl", file_format="bin", shards=1)
    file = tmp_path / "folder" / "pytorch_model-00001-of-00001.bin"
    (tmp_path / "folder" / "pytorch_model.bin.index.json").unlink()
    tensors = torch.load(file, weights_only=True)
    file.unlink()
    torch.save(tensors, tmp_path / "folder" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(AutoModelForImageTextToText.from_pretrained(tmp_path / "folder"), owl)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_dtype_follows_the_files_unless_told(tmp_path: Path, stored: torch.dtype) -> None:
    write_published(tmp_path / "folder", "tiny-owl2", dtype=stored)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "folder").dtype == stored
    told = AutoModelForImageTextToText.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    assert told.dtype == torch.float32
    assert {p.dtype for p in told.parameters()} == {torch.float32}


def test_position_tables_in_the_file_are_used(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = "model.visual_abstractor.encoder.layers.1.crossattention.attention.q_pos_embed"
    tensors[name] = torch.full((8, 64), 0.25)
    save_file(tensors, file)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"][name] = file.name
    write_json(folder / "model.safetensors.index.json", index)
    model, report = load_published(folder)
    layers = model.model.abstractor.layers
    assert torch.equal(layers[1].attention.q_pos_embed, tensors[name])
    assert not torch.equal(layers[0].attention.q_pos_embed, tensors[name])
    assert "3 position tables" in str(report)


def edit_config(folder: Path, **changes: object) -> None:
    raw = read_config(folder)
    for path, value in changes.items():
        *parents, key = path.split("__")
        target = raw
        for parent in parents:
            target = target[parent]
        target[key] = value
    write_json(folder / "config.json", raw)


def edit_tensors(folder: Path, drop: str | None = None, add: str | None = None) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    if drop:
        del tensors[drop]
    if add:
        tensors[add] = torch.zeros(3)
    save_file(tensors, file)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)


class TestRefusals:
    """One clear error each: what was found, what was expected, what to do."""

    def refused(self, folder: Path, match: str) -> None:
        with pytest.raises(CheckpointError, match=match) as caught:
            AutoModelForImageTextToText.from_pretrained(folder)
        assert "\n" not in str(caught.value)

    def test_missing_tensor(self, folder: Path) -> None:
        edit_tensors(folder, drop="model.layers.1.self_attn.q_proj.weight")
        self.refused(folder, r"1 tensor\(s\) missing.*layers\.1\.self_attn\.q_proj.*download")

    def test_tensor_without_a_place(self, folder: Path) -> None:
        edit_tensors(folder, add="model.layers.2.self_attn.q_proj.weight")
        self.refused(folder, r"no place for.*layers\.2\.self_attn\.q_proj")

    def test_fewer_layers_than_tensors(self, folder: Path) -> None:
        edit_config(folder, num_hidden_layers=1)
        self.refused(folder, r"no place for.*layers\.1")

    def test_widths_that_contradict(self, folder: Path) -> None:
        edit_config(folder, intermediate_size=96)
        self.refused(folder, r"has shape \[128, 64\].*asks for \[96, 64\]|has shape \[64, 128\]")

    def test_number_of_queries_that_contradicts(self, folder: Path) -> None:
        edit_config(folder, visual_config__visual_abstractor__num_learnable_queries=9)
        self.refused(folder, r"query_embeds.*has shape \[1, 8, 64\].*asks for \[1, 9, 64\]")

    def test_image_size_that_contradicts_the_position_table(self, folder: Path) -> None:
        edit_config(folder, visual_config__visual_model__image_size=84)
        self.refused(folder, r"position_grid=4 does not fit image_size / patch_size=6")

    def test_field_of_the_wrong_type(self, folder: Path) -> None:
        edit_config(folder, hidden_size="wide")
        self.refused(folder, r"config\.json.*hidden_size")

    def test_v2t_positions_are_refused(self, folder: Path) -> None:
        edit_config(folder, visual_config__visual_abstractor__add_v2t_pos_emb=True)
        self.refused(folder, "add_v2t_pos_emb")

    def test_truncated_safetensors(self, folder: Path) -> None:
        file = next(folder.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-1000])
        self.refused(folder, r"cannot be read.*download it again")

    def test_garbage_safetensors(self, folder: Path) -> None:
        next(folder.glob("*.safetensors")).write_bytes(b"not weights at all, but long enough")
        self.refused(folder, r"cannot be read.*download it again")

    def test_missing_shard(self, tmp_path: Path) -> None:
        write_published(tmp_path / "folder", "tiny-owl", shards=3)
        (tmp_path / "folder" / "model-00002-of-00003.safetensors").unlink()
        self.refused(tmp_path / "folder", r"lacks 1 of 3 shards, first 'model-00002-of-00003")

    def test_no_weights(self, folder: Path) -> None:
        next(folder.glob("*.safetensors")).unlink()
        (folder / "model.safetensors.index.json").unlink()
        self.refused(folder, "holds no weights")

    def test_pickle_with_code_is_not_run(self, tmp_path: Path) -> None:
        write_published(tmp_path / "folder", "tiny-owl", file_format="bin", shards=1)
        file = tmp_path / "folder" / "pytorch_model-00001-of-00001.bin"

        class Trap:
            def __reduce__(self) -> tuple:
                return Path.touch, (tmp_path / "trapped",)

        torch.save({"weight": torch.zeros(2), "trap": Trap()}, file)
        self.refused(tmp_path / "folder", "more than tensors")
        assert not (tmp_path / "trapped").exists()

    def test_truncated_bin(self, tmp_path: Path) -> None:
        write_published(tmp_path / "folder", "tiny-owl", file_format="bin", shards=1)
        file = tmp_path / "folder" / "pytorch_model-00001-of-00001.bin"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        self.refused(tmp_path / "folder", "cannot be read")


def test_config_json_that_is_none(folder: Path) -> None:
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(CheckpointError, match="is no JSON"):
        read_config(folder)
    write_json(folder / "config.json", {"hidden_size": 3})
    with pytest.raises(CheckpointError, match="no model_type"):
        read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(folder)


def test_names_that_are_no_folder() -> None:
    with pytest.raises(CheckpointError, match="no folder; expected"):
        resolve_folder("./nowhere")
    with pytest.raises(CheckpointError, match="no folder; expected"):
        resolve_folder("nowhere")
