"""What pages are made of, as far as it can be said without drawing one; and the command line of `owl ui`."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mplug_owl.errors import ConfigError
from mplug_owl.serve.ui.command import add_arguments, page_options, run
from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.page import Page, _gradio, address, notice
from mplug_owl.serve.ui.standings import standings_table
from mplug_owl.serve.ui.votes import Vote, standings


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="owl ui")
    add_arguments(made)
    return made


def test_help_teaches_on_one_screen_and_opens_nothing_heavy() -> None:
    code = (
        "import argparse, sys; from mplug_owl.serve.ui.command import add_arguments; "
        "made = argparse.ArgumentParser(prog='owl ui'); add_arguments(made); print(made.format_help()); "
        "print([name for name in ('torch', 'gradio', 'fastapi', 'numpy') if name in sys.modules])"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    *lines, loaded = ran.stdout.splitlines()
    assert loaded == "[]"
    assert len(lines) <= 34 and max(map(len, lines)) <= 80
    assert "owl ui" in lines[-4] or "examples" in ran.stdout


def test_the_command_line_says_what_pages_keep() -> None:
    options = page_options(parser().parse_args([]))
    assert options == PageOptions()
    given = ["--votes", "v.jsonl", "--thumbs", "t.jsonl", "--keep-media", "--max-upload", "4", "--seed", "3"]
    assert page_options(parser().parse_args(given)) == PageOptions(
        Path("v.jsonl"), Path("t.jsonl"), keep_media=True, max_upload_mib=4, seed=3
    )
    with pytest.raises(ConfigError, match="max_upload_mib=-1"):
        page_options(parser().parse_args(["--max-upload", "-1"]))
    with pytest.raises(ConfigError, match="room for one file"):
        PageOptions(max_upload_mib=10, upload_room_mib=5)


def test_what_cannot_be_served_is_said_before_any_model_is_opened() -> None:
    with pytest.raises(ConfigError, match="port=99999"):
        run(parser().parse_args(["--port", "99999"]))
    with pytest.raises(ConfigError, match="cannot listen"):
        run(parser().parse_args(["--host", "192.0.2.1", "--port", "0"]))


def test_without_gradio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r'pip install "mplug_owl\[ui\]"'):
        _gradio()


def test_what_is_shown_is_escaped() -> None:
    assert notice() == ""
    assert "&lt;script&gt;" in notice("<script>") and 'role="alert"' in notice("Stopped.")
    table = standings_table(standings([Vote("<b>bold</b>", "plain", "a")]), 1)
    assert "<b>" not in table and "1 vote." in table and table.count("<tr>") == 3
    assert "No votes yet" in standings_table([], 0)


def test_addresses_are_titles_in_lower_case() -> None:
    assert address(Page("Look inside", lambda: None)) == "look-inside"
