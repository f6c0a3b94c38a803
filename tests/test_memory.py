"""Opening a large checkpoint: memory stays near its size, and no tensor is read twice."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mplug_owl.models import checkpoint
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.layouts import published_name
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.published import load_published
from published_folders import published_config, write_json, write_published

MEASURE = """
import sys, threading, time
import torch, mplug_owl.models
from transformers import AutoModelForImageTextToText

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())

before = anonymous()
watcher = threading.Thread(target=watch); watcher.start()
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
done.set(); watcher.join()
print(max(peak[0], anonymous()) - before)
"""


@pytest.fixture(scope="module")
def gigabyte(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A published Owl2 folder of 1 GB in two shards."""
    folder = tmp_path_factory.mktemp("gigabyte")
    config = FAMILIES["tiny-owl2"].config()
    text = config.text_config.to_dict() | {
        "vocab_size": 32000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 15,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 64,
    }
    abstractor = config.abstractor_config.to_dict() | {"output_size": 1024}
    config = OwlConfig(
        vision_config=config.vision_config,
        abstractor_config=type(config.abstractor_config)(**abstractor),
        text_config=type(config.text_config)(**text),
    )
    with torch.device("meta"):
        state = OwlForConditionalGeneration(config).state_dict()
    names = {published_name(n, config, "owl2"): t for n, t in state.items() if "_pos_embed" not in n}
    order = sorted(names)
    for index, part in enumerate((order[::2], order[1::2])):
        tensors = {n: torch.ones(names[n].shape) for n in part}
        save_file(tensors, folder / f"model-{index + 1:05d}-of-00002.safetensors")
    write_json(folder / "config.json", published_config(config, "owl2", "float32"))
    return folder, sum(t.numel() * 4 for t in names.values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see anonymous memory")
def test_a_gigabyte_loads_within_a_quarter_more_than_its_size(gigabyte: tuple[Path, int]) -> None:
    folder, size = gigabyte
    assert 0.95e9 < size < 1.3e9
    run = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True)
    grown = int(run.stdout.split()[-1])
    assert grown < 1.25 * size, f"anonymous memory grew by {grown / size:.2f} of the checkpoint"


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl2", "tiny-owl2.1"])
def test_each_tensor_is_read_once(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    write_published(folder, family)
    reads: Counter[str] = Counter()
    opener = checkpoint._open_safetensors

    class Counted:
        def __init__(self, name: str, tensor: object) -> None:
            self.name, self.tensor = name, tensor

        def __getitem__(self, index: object) -> torch.Tensor:
            reads[self.name] += 1
            return self.tensor[index]

        def __getattr__(self, name: str) -> object:
            return getattr(self.tensor, name)

    monkeypatch.setattr(
        checkpoint, "_open_safetensors", lambda file: {n: Counted(n, t) for n, t in opener(file).items()}
    )
    load_published(folder)
    stored = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"])
    skipped = {name for name in stored if "inv_freq" in name}
    assert set(reads) == stored - skipped
    assert set(reads.values()) == {1}
