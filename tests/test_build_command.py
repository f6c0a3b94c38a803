"""`owl build`: what it writes, what it says, and that its help fits a screen."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from backbones import language_folder, tower_folder
from mplug_owl import models
from mplug_owl.errors import ConfigError
from mplug_owl.models import build_command
from mplug_owl.models.slots import CONNECTORS


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="owl build")
    build_command.add_arguments(made)
    return made


def run(*words: Any) -> int:
    return build_command.run(parser().parse_args([str(word) for word in words]))


def test_it_writes_an_owl_and_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eye, mouth = tower_folder("siglip", tmp_path / "eye"), language_folder("qwen2", tmp_path / "mouth")
    words = ("--vision", eye, "--connector", "resampler", "--language", mouth, "--adaptive", "--queries", 7)
    assert run(tmp_path / "owl", *words, "--features", "penultimate", "--image-size", 84) == 0
    said = capsys.readouterr().out
    assert "resampler of 6 layers, 7 queries" in said and "AdaptiveQwen2" in said and "84 x 84" in said
    assert "siglip_vision_model, penultimate of 2 layers" in said
    owl, processor = models.load(tmp_path / "owl", device="cpu")
    assert processor.media_length == 7 and owl.model.language_model.takes_visual_index
    with pytest.raises(ConfigError, match="not empty"):
        run(tmp_path / "owl", *words)


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    for words, said in (
        (("--vision", "x"), "no --connector: an owl is built from"),
        (("--from", "x", "--vision", "y"), "--from and --vision are both given"),
        (("--from", "x", "--no-cls"), "--from and --cls are both given"),
        (("--vision", "x", "--connector", "mpl", "--language", "y"), "did you mean 'mlp'"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(tmp_path / "owl", *words)


def test_the_help_fits_a_screen_and_knows_the_connectors() -> None:
    lines = parser().format_help().splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 80, (len(lines), max(lines, key=len))
    assert set(build_command.CONNECTORS) == set(CONNECTORS)
