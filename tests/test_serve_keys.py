"""Keys: shown once, kept as hashes, refused as soon as they are removed."""

import argparse
import json
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mplug_owl.errors import ConfigError, RequestError
from mplug_owl.serve import keys
from mplug_owl.serve.keys import Key, Keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    keys.add_arguments(parser)
    return keys.run(parser.parse_args(words))


def test_a_key_opens_and_its_file_does_not_hold_it(path: Path) -> None:
    text = keys.add(path, "alice", rate=30, concurrent=2, models=["owlet"], days=2)
    assert len(text) > 50
    secret = text.split("-", 2)[2]
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = Keys(path).find(text)
    assert found is not None
    assert (found.name, found.rate, found.concurrent, found.models) == ("alice", 30.0, 2, ("owlet",))
    assert not found.is_expired
    assert found.allows("owlet")
    assert not found.allows("owl-7b")


def test_no_other_text_opens(path: Path) -> None:
    one, other = keys.add(path, "one"), keys.add(path, "other")
    there = Keys(path)
    crossed = "-".join((*one.split("-", 2)[:2], other.split("-", 2)[2]))
    for text in (one[:-1], one + "x", one.upper(), crossed, "", "owl", "--", "owl--", "\0", "\ud800-\ud800-x"):
        assert there.find(text) is None
    entry = json.loads(path.read_text().splitlines()[0])
    assert there.find(f"owl-{entry['id']}-{entry['hash']}") is None


def test_the_same_key_never_hashes_alike(path: Path) -> None:
    for number in range(5):
        keys.add(path, f"holder{number}")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for field in ("id", "salt", "hash"):
        assert len({entry[field] for entry in entries}) == 5


def test_a_running_server_sees_what_changes(path: Path) -> None:
    first = keys.add(path, "first")
    there = Keys(path)
    second = keys.add(path, "second")
    assert there.find(second) is not None
    keys.remove(path, "first")
    assert there.find(first) is None
    assert there.find(second) is not None


def test_a_file_that_breaks_lets_nobody_in_until_it_is_mended(path: Path) -> None:
    text = keys.add(path, "alice")
    there, sound = Keys(path), path.read_text()
    for broken in ("no json\n", "[1]\n", '{"name": "alice"}\n', "[" * 100_000, sound.replace('"name"', '"nome"')):
        path.write_text(broken)
        with pytest.raises(ConfigError, match=r"keys\.jsonl"):
            there.find(text)
    path.unlink()
    with pytest.raises(ConfigError, match="owl keys add"):
        there.find(text)
    path.write_text(sound)
    assert there.find(text) is not None


def test_a_key_ends(path: Path) -> None:
    keys.add(path, "short", days=1)
    key = keys.read(path)[0]
    assert datetime.fromisoformat(str(key.expires)) - datetime.fromisoformat(key.created) == timedelta(days=1)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert Key("x", "id", "salt", "hash", past, expires=past).is_expired
    assert not Key("x", "id", "salt", "hash", past).is_expired


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "two words"}, "two words"),
        ({"name": ""}, "letters"),
        ({"name": "x" * 65}, "1 to 64"),
        ({"name": "a\nb"}, "letters"),
        ({"name": "a", "rate": 0}, "rate=0"),
        ({"name": "a", "concurrent": -1}, "concurrent=-1"),
        ({"name": "a", "days": 0}, "days=0"),
        ({"name": "a", "days": 1e9}, "days"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        keys.add(path, **wrong)
    assert not path.exists()


@pytest.mark.parametrize("moment", ["tomorrow", "2030-01-01T00:00:00", ""])
def test_an_end_needs_a_time_zone(moment: str) -> None:
    with pytest.raises(ConfigError, match="time with its zone"):
        Key("x", "id", "salt", "hash", "now", expires=moment)


def test_names_are_taken_once_and_removed_by_name(path: Path) -> None:
    keys.add(path, "alice")
    with pytest.raises(ConfigError, match="has a key named 'alice'"):
        keys.add(path, "alice")
    with pytest.raises(ConfigError, match="did you mean 'alice'"):
        keys.remove(path, "alise")
    assert [key.name for key in keys.read(path)] == ["alice"]


def test_many_at_once_lose_nothing(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda number: keys.add(path, f"n{number}"), range(24)))
    there = Keys(path)
    assert all(there.find(text) is not None for text in texts)
    assert len(keys.read(path)) == 24


def test_a_write_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.add(path, "alice")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        keys.add(path, "bob")
    assert path.read_bytes() == before
    assert sorted(found.name for found in path.parent.iterdir()) == ["keys.jsonl", "keys.jsonl.lock"]


def test_the_command_shows_a_key_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("add", "alice", "--file", str(path), "--rate", "30", "--days", "2", "--models", "owlet, owl2") == 0
    said = capsys.readouterr()
    text = said.out.strip()
    assert Keys(path).find(text) is not None
    assert text not in said.err
    assert command("list", "--file", str(path)) == 0
    table = capsys.readouterr().out
    entry = json.loads(path.read_text())
    assert "alice" in table
    assert "owlet,owl2" in table
    assert not any(part in table for part in (text, entry["hash"], entry["salt"]))
    assert command("remove", "alice", "--file", str(path)) == 0
    assert keys.read(path) == []


@pytest.mark.parametrize("words", [["add"], ["remove"], ["list", "alice"]])
def test_the_command_says_what_it_expects(words: list[str]) -> None:
    with pytest.raises(RequestError, match="owl keys add NAME"):
        command(*words)


def test_keys_are_made_without_opening_any_model() -> None:
    code = "import sys, mplug_owl.serve.keys; print([name for name in ('torch', 'fastapi') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_help_fits_a_screen_and_shows_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = argparse.ArgumentParser(prog="owl keys", description="Make, list and remove the keys of a server.")
    keys.add_arguments(parser)
    lines = parser.format_help().splitlines()
    assert len(lines) <= 34  # with --debug, which the command line adds
    assert max(map(len, lines)) <= 80
    assert "owl keys add alice" in parser.format_help()
