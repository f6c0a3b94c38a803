"""The README says what is so: its first commands run, its numbers are those of the code. That all of its commands and
names are right, test_docs.py sees to, as for every page.
"""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from mplug_owl import cli
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.info import describe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0]
    for language, block in BLOCKS
    for line in block.splitlines()
    if language == "sh" and line.startswith("owl ")
]


def test_python_runs(picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture.save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    (code,) = [block for language, block in BLOCKS if language == "python"]
    exec(compile(code, "README.md", "exec"), {})


def test_offline_command_runs(picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture.save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    (command,) = [command for command in COMMANDS if command.startswith("owl chat") and "--" not in command]
    assert cli.main(shlex.split(command)[1:]) == 0


def test_demo_is_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = [block for language, block in BLOCKS if language == "console"]
    assert cli.main(["demo", "--inside"]) == 0
    assert capsys.readouterr().out.startswith(shown.removeprefix("$ owl demo --inside\n"))


def test_table_of_models_is_the_table_of_families() -> None:
    rows = {
        cells[0]: cells
        for line in README.splitlines()
        if line.startswith("| ")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }
    for name, row in FAMILIES.items():
        if row.repository is None:
            assert name in README
            continue
        card = describe(name)
        assert rows[name][1].endswith(str(card.image_size))
        assert rows[name][2] == f"{card.parameters:,}"
        assert rows[name][3] == str(card.positions_per_image)
        frames = card.positions_per_frame is not None
        assert rows[name][4] == ("its frames" if frames else f"{card.positions_per_image} positions")
        assert rows[name][5] == row.repository
