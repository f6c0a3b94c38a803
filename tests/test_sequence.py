"""Recipes in sequence: each stage starts from the one before, and the end is one whole owl."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl import cli, load
from mplug_owl.errors import ConfigError
from mplug_owl.train import sequence

SMALL = [
    *("optim.steps=2", "optim.warmup_steps=0", "batch.size=4", "batch.micro=2", "data.workers=0"),
    *("keep.asynchronous=false", "data.held_out=[]"),
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_one_command_makes_an_owlet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All three stages on the drawn world; asked again, the command finds everything done."""
    command = ["train", "owlet-nano", *SMALL, "--out", str(tmp_path)]
    assert cli.main(command) == 0
    whole = tmp_path / "final"
    assert str(whole) in capsys.readouterr().out
    language, pretrain = (weights(tmp_path / f"owlet-nano-{stage}" / "final") for stage in ("language", "pretrain"))
    final = weights(whole)
    assert pretrain.keys() == final.keys()
    assert all(".visual_" in name for name in pretrain if name not in language)

    def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        """Parts of the owl whose weights moved."""
        # A visual branch that was not there yet began as a copy of the text branch.
        earlier = {name: before[name if name in before else name.replace("visual_", "")] for name in after}
        moved = {name for name in after if not torch.equal(earlier[name], after[name])}
        return {
            "visual" if ".visual_" in name else name.split(".")[1].replace("embed_tokens", "language_model")
            for name in moved
        }

    assert changed(language, pretrain) == {"vision", "abstractor", "visual"}
    assert changed(pretrain, final) == {"abstractor", "visual", "language_model"}

    one, other = load(whole, device="cpu"), load(tmp_path / "owlet-nano-instruct" / "adapter", device="cpu")
    words = "How many dice are there?"
    assert one.chat(words, max_new_tokens=4) == other.chat(words, max_new_tokens=4)
    before = (whole / "model.safetensors").read_bytes()
    assert cli.main(command) == 0
    assert (whole / "model.safetensors").read_bytes() == before


def test_an_override_is_for_one_stage_or_for_all() -> None:
    stages = sequence.load("owlet-nano", ["optim.steps=7", "owlet-nano-pretrain:optim.steps=9", "seed=3"])
    assert [stage.optim.steps for stage in stages] == [7, 7, 9, 7]
    assert {stage.seed for stage in stages} == {3}
    with pytest.raises(ConfigError, match=r"no stage of owlet-nano.*owlet-nano-pretrain"):
        sequence.load("owlet-nano", ["owlet-nano-pretrane:optim.steps=9"])


def test_a_stopped_stage_ends_the_sequence(tmp_path: Path) -> None:
    stages, seen = sequence.load("owlet-nano"), []

    def stopped_in_the_second(stage: sequence.Recipe, folder: Path) -> Path | None:
        seen.append((stage.name, stage.init.start))
        return folder / "final" if len(seen) == 1 else None

    assert sequence.run(stages, tmp_path, stopped_in_the_second) is None
    assert seen == [
        ("owlet-nano-language", None),
        ("owlet-nano-vision", str(tmp_path / "owlet-nano-language" / "final")),
    ]
