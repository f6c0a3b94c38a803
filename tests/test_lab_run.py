"""A study from end to end, as small as one can be: shared stages trained once, stopped ones gone on with, all kept."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mplug_owl
from mplug_owl import cli
from mplug_owl.lab import run as lab
from mplug_owl.lab import study, tree
from mplug_owl.train import loop

MICRO = """
name = "micro"
source = "nothing that was printed"
question = "Does anything come of two steps?"
changes = [
  "optim.steps=2", "optim.warmup_steps=0", "batch.size=4", "batch.micro=2", "data.workers=0", "data.held_out=[]",
  "keep.asynchronous=false", "keep.every=1", "compute.dtype=float32",
]

[evaluation]
skills = ["counting", "text"]
count = 4
columns = ["text", "eye", "sees"]

[mixtures]
dice = [{path = "world:questions/dice", weight = 1.0}]

[stages.language]
recipe = "owlet-nano-language"

[stages.eyes]
recipe = "owlet-nano-pretrain"
mixture = ["dice"]

[stages.talk]
recipe = "owlet-nano-instruct"
mixture = ["dice"]

[[variants]]
name = "seeing"
about = "has eyes"
stages = ["language", "eyes"]

[[variants]]
name = "talking"
about = "has eyes and manners"
stages = ["language", "eyes", "talk"]

[[findings]]
claim = "manners help"
first = ["talking"]
second = ["seeing"]
columns = ["text"]
paper = "nobody says so"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "micro.toml"
    path.write_text(MICRO)
    return path


@pytest.fixture(scope="module")
def done(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of results, and what was said on the way."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("lab")
    folder = lab.run(study.load(str(file)), out, [0], said.append)
    assert folder == out / "micro"
    return folder, said


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / lab.RESULTS).read_text())


def test_a_study_runs_and_shared_stages_train_once(done: tuple[Path, list[str]]) -> None:
    folder, said = done
    assert {path.name for path in folder.iterdir()} == set(lab.KEPT)
    nodes = [path.name.rpartition("-")[0] for path in (folder.parent / lab.NODES).iterdir()]
    assert sorted(nodes) == ["owlet-nano-instruct", "owlet-nano-language", "owlet-nano-pretrain"]
    runs = [line for line in said if line.startswith("run ")]
    assert len(runs) == 3 and "for seeing, talking" in runs[0] and "for talking:" in runs[2]
    results = read(folder)
    first, second = results["variants"]
    assert first["nodes"]["0"] == second["nodes"]["0"][:2]
    for variant in results["variants"]:
        assert set(variant["scores"]) == {"text", "eye", "sees"}
        for name, found in variant["scores"].items():
            low, high = found["interval"]
            assert low <= found["score"] <= high
            assert results["columns"][name]["n"] == 4
    (finding,) = results["findings"]
    assert finding["verdict"] in ("holds", "does not hold", "not decided")
    recipes = json.loads((folder / lab.RECIPES).read_text())
    assert set(recipes) == set(second["nodes"]["0"])
    assert recipes[second["nodes"]["0"][2]]["begins with"] == second["nodes"]["0"][1]
    spent = json.loads((folder / lab.MACHINE).read_text())["seconds"]
    assert all(seconds["train"] > 0 for seconds in spent.values())


def test_the_command_finds_everything_done_and_ships_it(
    file: Path, done: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = done
    before = {name: (folder / name).read_bytes() for name in lab.KEPT}
    command = ["lab", str(file), "--out", str(folder.parent), "--write-docs", str(tmp_path)]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert said.err.count("is there") == 3
    assert "## What holds of the paper's findings" in said.out
    for name, content in before.items():
        assert (folder / name).read_bytes() == content, name
        assert (tmp_path / "micro" / name).read_bytes() == content, name


def test_an_interrupted_study_ends_as_one_that_was_not(
    file: Path, done: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal within its second run, killed before the first answers: the results are the same bytes."""
    one_step: Callable[[loop.Training], None] = loop.Training.one_step

    def stopping(training: loop.Training) -> None:
        training.must_stop = "vision" in training.recipe.train
        one_step(training)

    made = study.load(str(file))
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "one_step", stopping)
        assert lab.run(made, tmp_path, [0], lambda _: None) is None
    assert not (tmp_path / "micro").exists()
    kept = list((tmp_path / lab.NODES).glob("*/checkpoints/step-*"))
    assert len(kept) == 1 and kept[0].name == "step-00000001"

    class Killed(Exception):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(lab, "_ask", killed)
        with pytest.raises(Killed):
            lab.run(made, tmp_path, [0], lambda _: None)
    assert not list((tmp_path / lab.NODES).glob("*/checkpoints")), "a finished run needs none"
    folder = lab.run(made, tmp_path, [0], lambda _: None)
    assert folder is not None
    for name in (lab.RESULTS, lab.RECIPES, lab.PAGE, lab.PLOT):
        assert (folder / name).read_bytes() == (done[0] / name).read_bytes(), name


TINY = (
    *(
        "optim.steps=1",
        "optim.warmup_steps=0",
        "batch.size=4",
        "batch.micro=2",
        "data.workers=0",
        "compute.dtype=float32",
    ),
    *("keep.asynchronous=false", "evaluation.count=2", 'evaluation.skills=["counting", "text"]'),
    'evaluation.columns=["text", "overall", "sees"]',
)


def test_a_paradigm_trains_what_it_says_with_its_connector(tmp_path: Path) -> None:
    """LLaVA's: a linear layer in place of the abstractor, f_V as the stage `eyes` left it, f_L from stage 2 on."""
    made = study.load("paradigms", TINY)
    llava = next(variant for variant in made.variants if variant.name == "LLaVA")
    folder = lab.run(dataclasses.replace(made, variants=(llava,), findings=()), tmp_path, [0], lambda _: None)
    assert folder is not None
    (variant,) = read(folder)["variants"]
    language, eyes, align, instruct = (
        mplug_owl.load(tmp_path / lab.NODES / name / tree.OWL, device="cpu").model for name in variant["nodes"]["0"]
    )
    assert type(eyes.model.abstractor).__name__ == "OwlAbstractor" and eyes.config.media_length == 17
    assert type(align.model.abstractor).__name__ == type(instruct.model.abstractor).__name__ == "OwlProjector"
    assert instruct.config.media_length == 65

    def moved(before: Any, after: Any, module: str) -> bool:
        old, new = (getattr(owl.model, module).state_dict() for owl in (before, after))
        return any(not torch.equal(tensor, new[name]) for name, tensor in old.items())

    assert moved(language, eyes, "vision")
    assert not moved(eyes, align, "vision") and not moved(align, instruct, "vision")
    assert not moved(eyes, align, "language_model") and moved(align, instruct, "language_model")
    assert moved(align, instruct, "abstractor")
    recipes = json.loads((folder / lab.RECIPES).read_text())
    assert recipes[variant["nodes"]["0"][2]]["recipe"]["init"]["connector"] == "linear"


@pytest.mark.slow
def test_all_paradigms_run(tmp_path: Path) -> None:
    """Every variant of the study that is shipped, with one step in each stage."""
    made = study.load("paradigms", TINY)
    folder = lab.run(made, tmp_path, [0], lambda _: None)
    assert folder is not None
    results = read(folder)
    assert [variant["name"] for variant in results["variants"]] == [variant.name for variant in made.variants]
    ends = {variant["nodes"]["0"][-1] for variant in results["variants"]}
    assert len(ends) == len(made.variants), "each variant ends with an owl of its own"
    assert {finding["verdict"] for finding in results["findings"]} <= {"holds", "does not hold", "not decided"}
    page = " ".join((folder / lab.PAGE).read_text().split())
    assert all(finding.claim in page for finding in made.findings)


def test_columns_without_questions_are_refused_before_training(file: Path, tmp_path: Path) -> None:
    made = study.load(str(file), ('evaluation.columns=["ocr"]',))
    with pytest.raises(lab.EvalError, match="is for column 'ocr'"):
        lab.run(made, tmp_path, [0])
    assert not list(tmp_path.iterdir())


def test_a_lab_is_one_process(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["lab", str(file)]) == 2
    assert "as one process" in capsys.readouterr().err


def test_seconds_add_up(tmp_path: Path) -> None:
    tree.spend(tmp_path, "train", 1.5)
    tree.spend(tmp_path, "ask", 0.5)
    tree.spend(tmp_path, "train", 2.0)
    assert json.loads((tmp_path / tree.SECONDS).read_text()) == {"train": 3.5, "ask": 0.5}
