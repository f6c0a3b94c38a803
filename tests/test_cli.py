"""The command line: what it says, how it fails, and the conversation at the terminal."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mplug_owl import Owl, cli, load
from mplug_owl.engine import talk
from mplug_owl.errors import DataError, RequestError
from mplug_owl.messages import ImagePart, VideoPart


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command line that must fail with status 2."""
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("owl: ")
    return line


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """Let `input` return these lines, then the end of the input."""
    waiting: Iterator[str | type[BaseException]] = iter(lines)

    def read(prompt: str) -> str:
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_fits_a_screen_and_teaches(words: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-m", "mplug_owl", *words], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert all(f"  {command}" in ran.stdout or f"`{command}`" in ran.stdout for command in cli.COMMANDS)
    assert "examples" in ran.stdout


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_of_commands_fits_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) <= 36


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("owl 0.1.0")


def test_unknown_family_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    line = failure(capsys, "info", "tiny-owl22")
    assert "'tiny-owl22'" in line
    assert "did you mean 'tiny-owl2'" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("chat What? --modle x", "unknown option --modle; did you mean --model? see `owl chat --help`"),
        ("serve --quantise=int8", "unknown option --quantise; did you mean --quantize? see `owl serve --help`"),
        ("train recipe --oot run", "unknown option --oot; did you mean --out? see `owl train --help`"),
        ("report owleval --dtaa x", "unknown option --dtaa; did you mean --data? see `owl report owleval --help`"),
        ("info --wings", "unknown option --wings; see `owl info --help`"),
        ("chat -x", "unknown option -x; see `owl chat --help`"),
        ("chat --top 3", "ambiguous option: --top could match --top-p, --top-k; see `owl chat --help`"),
        ("chat --quantize int3", "unknown --quantize 'int3'; did you mean 'int8'? known: int4, int8; see "),
        ("bench modle", "unknown 'modle'; did you mean 'model'? known: data, engine, "),
        ("keys ad", "unknown 'ad'; did you mean 'add'? known: add, list, remove; see `owl keys --help`"),
        ("keys", "the following arguments are required: add|list|remove; see `owl keys --help`"),
        ("convert one", "the following arguments are required: OUT; see `owl convert --help`"),
        ("rate system", "the following arguments are required: --data; see `owl rate --help`"),
        ("chat --seed", "--seed: expected one argument; see `owl chat --help`"),
        ("ui --port eighty", "--port: invalid int value: 'eighty'; see `owl ui --help`"),
        ("info a b", "unrecognized arguments: b; see `owl info --help`"),
        ("chta", "unknown command 'chta'; did you mean 'chat'? known: "),
    ],
)
def test_a_command_line_that_cannot_be_is_one_line(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, *words.split()).startswith(f"owl: {said}")


def test_words_that_only_look_like_options_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    made = cli.parser("chat")
    assert made.parse_intermixed_args(["-5", "-is it cold at -5?", "-", "--temper", "-1"]).words == [
        "-5",
        "-is it cold at -5?",
        "-",
    ]
    assert "temperature=-1" in failure(capsys, "chat", "-is it cold?", "--temper", "-1", "--model", "tiny-owl2")


def test_debug_shows_where_it_came_from() -> None:
    with pytest.raises(RequestError):
        cli.main(["chat", "one?", "two?", "--model", "tiny-owl2", "--debug"])


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, KeyboardInterrupt)
    assert cli.main(["chat", "--model", "tiny-owl2"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_missing_picture_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = failure(capsys, "chat", "no/such.jpg", "What?", "--model", "tiny-owl2")
    assert "'no/such.jpg'" in line


def test_file_that_is_no_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    assert "notes.png" in failure(capsys, "chat", str(path), "What?", "--model", "tiny-owl2")


def test_two_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'one?', 'two?'" in failure(capsys, "chat", "one?", "two?", "--model", "tiny-owl2")


def test_words_are_sorted_by_what_they_are(picture_file: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.MP4"
    clip.touch()
    url = "https://example.org/a.mp4?size=2"
    words = [str(picture_file), url, "What is this?", str(clip), str(tmp_path), "data:image/png;,"]
    media, question = talk.sort_words(words, frames=3)
    assert question == "What is this?"
    assert media == [
        ImagePart(str(picture_file)),
        VideoPart(url, num_frames=3),
        VideoPart(str(clip), num_frames=3),
        VideoPart(str(tmp_path), num_frames=3),
        ImagePart("data:image/png;,"),
    ]
    assert talk.sort_words(["why? " * 2000])[1] == "why? " * 2000
    with pytest.raises(DataError, match=r"gone\.webm"):
        talk.sort_words(["gone.webm"])


def test_chat_prints_the_answer(capsys: pytest.CaptureFixture[str], owl: Owl, picture_file: Path) -> None:
    words = ["chat", str(picture_file), "What?", "--model", "tiny-owl2", "--device", "cpu"]
    assert cli.main([*words, "--max-new-tokens", "12"]) == 0
    expected = owl.chat("What?", images=[picture_file], max_new_tokens=12)
    assert capsys.readouterr().out == expected + "\n"


def test_conversation_survives_its_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, picture_file: Path
) -> None:
    typed(
        monkeypatch,
        "/image no/such.png",
        "/nonsense",
        "/help",
        f"/image {picture_file}",
        "What?",
        "",
        "And now?",
        "/quit",
        "never read",
    )
    assert cli.main(["chat", "--model", "tiny-owl2", "--max-new-tokens", "6"]) == 0
    said = capsys.readouterr()
    assert "no/such.png" in said.err
    assert "'/nonsense'" in said.err
    assert "/video PATH" in said.out


def interrupt_at_first_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C arrive when the first piece of the first answer is about to be printed."""
    told = print
    waiting = [KeyboardInterrupt]

    def tell(*words: object, **options: Any) -> None:
        if options.get("flush") and waiting:
            raise waiting.pop()
        told(*words, **options)

    monkeypatch.setattr("builtins.print", tell)


def test_ctrl_c_stops_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at_first_piece(monkeypatch)
    words = ["chat", "Go on", "--model", "tiny-owl2", "--temperature", "1", "--seed", "1"]
    assert cli.main(words) == 130
    assert not [thread for thread in threading.enumerate() if thread.name == "owl-answer"]


def test_ctrl_c_in_a_conversation_stops_the_answer_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "Go on", "Again?")
    interrupt_at_first_piece(monkeypatch)
    words = ["chat", "--model", "tiny-owl2", "--temperature", "1", "--seed", "1"]
    assert cli.main([*words, "--max-new-tokens", "9"]) == 0
    said = capsys.readouterr()
    assert "stopped" in said.err
    assert said.out.strip()


def test_conversation_remembers_and_forgets(owl: Owl, picture_file: Path) -> None:
    chat = talk.Talk(owl, {"max_new_tokens": 4}, None, [ImagePart(str(picture_file))])
    chat.ask("What?")
    chat.ask("And now?")
    assert [message.role for message in chat.history] == ["user", "assistant"] * 2
    assert not chat.pending
    chat.obey(f"/image {picture_file}")
    assert len(chat.pending) == 1
    chat.obey("/reset")
    assert not chat.history
    assert not chat.pending


def test_convert_refuses_a_folder_with_something_in_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    assert "not empty" in failure(capsys, "convert", "published", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_info_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "tiny-owl2"]) == 0
    words = capsys.readouterr().out
    assert max(map(len, words.splitlines())) <= 100
    assert cli.main(["info", "tiny-owl2", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    model = load("tiny-owl2", device="cpu").model
    assert card["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert f"{card['parameters']:,}" in words
    assert card["positions_per_image"] == model.config.media_length


def test_demo_shows_real_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert cli.main(["demo", "--inside"]) == 0
    said = capsys.readouterr().out
    assert torch.equal(before, torch.get_rng_state())
    assert "random weights" in said
    for module in ("f_V vision", "f_K abstractor", "f_L language", "the logits"):
        assert module in said


def test_info_says_what_fewer_bits_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "tiny-owl2", "--quantize", "int8", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["quantized"]
    assert cost["scheme"] == "int8" and cost["bytes_after"] < cost["bytes_before"]
    assert 0 <= cost["agreement"] <= 1
    assert cli.main(["info", "tiny-owl2", "--quantize", "int8"]) == 0
    assert "the likeliest stays the same" in capsys.readouterr().out
