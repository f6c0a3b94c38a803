"""The commands of evaluation: which contestant, which tasks, which files, and clear words for what cannot be."""

import argparse
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eval_tasks import Adder, Sums, files
from mplug_owl import EvalError
from mplug_owl.eval import answer_file, command, report_command, score_command
from mplug_owl.eval.contestants import Settings, contestant, short_name
from mplug_owl.eval.openai_endpoint import OpenAIEndpoint
from mplug_owl.eval.run import run
from mplug_owl.eval.tasks import TASKS
from scripted import Answer, scripted


def parsed(module: ModuleType, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> type[Sums]:
    """A further task."""
    monkeypatch.setitem(TASKS, "sums", Sums)
    return Sums


# ---- contestants ---------------------------------------------------------------------------------


def test_a_server_is_named_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    settings = Settings(key_from="MY_KEY", request='{"seed": 1}', concurrency=3)
    made = contestant("openai:http://a:8/v1#org/name", settings)
    assert isinstance(made, OpenAIEndpoint)
    assert (made.url, made.model, made.key, made.concurrency) == ("http://a:8/v1", "org/name", "k", 3)
    assert made.request == {"seed": 1} and "'k'" not in repr(made)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (Settings(adapter="a"), "--adapter for openai:"),
        (Settings(batch_size=3), "--batch-size for openai:"),
        (Settings(dtype="float32"), "--dtype for openai:"),
        (Settings(request="{"), "is no JSON"),
        (Settings(request="[1]"), "expected an object"),
    ],
)
def test_what_does_not_concern_a_server_is_refused(settings: Settings, word: str) -> None:
    with pytest.raises(EvalError, match=word):
        contestant("openai:http://a/v1#m", settings)


def test_names_of_folders() -> None:
    assert short_name("owlet") == "owlet" and short_name("./run/final") == "final"
    assert short_name("hf:llava-hf/llava-1.5-7b-hf") == "llava-1.5-7b-hf"
    assert short_name("openai:http://a:8/v1#org/some name") == "some-name"
    assert short_name("openai:http://a:8/v1") == "v1"


# ---- owl eval ------------------------------------------------------------------------------------


def test_a_run_through_a_server(sums: type[Sums], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda body, before: Answer("4")) as script:
        words = ["--model", f"openai:{script.url}#m", "--tasks", "sums", "--out", str(tmp_path), "--limit", "10"]
        assert command.run(parsed(command, *words, "--shard", "0/2")) == 0
        assert "shard 0/2 is done" in capsys.readouterr().out
        assert command.run(parsed(command, *words, "--shard", "1/2")) == 0
        assert "10 questions of split test" in capsys.readouterr().out
        assert len(script.asked) == 10
        with pytest.raises(EvalError, match="holds a run already"):
            command.run(parsed(command, *words, "--new"))


def test_the_environment_says_which_part(
    sums: type[Sums], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with scripted(lambda body, before: Answer("4")) as script:
        words = ["--model", f"openai:{script.url}#m", "--tasks", "sums", "--out", str(tmp_path)]
        assert command.run(parsed(command, *words)) == 0
        assert sorted(script.asked) == sorted(f"{number} + 1?" for number in range(1, 20, 4))
    assert "shard 1/4 is done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--tasks", "sumz"], "unknown task 'sumz'; did you mean 'sums'"),
        (["--tasks", ""], "no tasks; expected some of"),
        (["--tasks", "sums", "--skills", "ocr"], "--skills given, but no task of sums has it"),
        (["--tasks", "sums", "--set", "cuont=3"], "--cuont given, but no task of sums has it"),
        (["--tasks", "sums", "--set", "count"], "expected name=value"),
        (["--tasks", "sums", "--data", "."], "no task of sums reads files"),
        (["--tasks", "sums", "--shard", "3/2"], "expected"),
        (["--tasks", "sums", "--batch-size", "0"], "--batch-size 0; expected 1 or more"),
    ],
)
def test_words_that_cannot_be_right(sums: type[Sums], words: list[str], word: str) -> None:
    with pytest.raises(EvalError, match=word):
        command.run(parsed(command, "--model", "openai:http://127.0.0.1:9/v1#m", *words))


def test_settings_are_typed(sums: type[Sums]) -> None:
    [task] = command.opened(["sums"], parsed(command, "--set", "count=3", "--set", "twice=true"))
    assert task == Sums(3, True)
    [world] = command.opened(["world"], parsed(command, "--set", 'skills=["ocr"]', "--count", "2", "--controls", ""))
    assert (world.skills, world.count, world.controls) == (("ocr",), 2, ())  # type: ignore[attr-defined]


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command.DATA, raising=False)
    assert command._folder("mme", None) == {}
    monkeypatch.setenv(command.DATA, str(tmp_path))
    assert command._folder("mme", None) == {"data": tmp_path / "mme"}
    assert command._folder("mme", tmp_path) == {"data": tmp_path}
    (tmp_path / "mme").mkdir()
    assert command._folder("mme", tmp_path) == {"data": tmp_path / "mme"}
    with pytest.raises(EvalError, match="is no folder"):
        command._folder("mme", tmp_path / "nowhere")


def test_every_task_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parsed(command, "--list")) == 0
    said = capsys.readouterr().out
    for name in TASKS:
        about = command.described(name)
        assert about in said and all(word in about for word in ("needs ", "from ", "licence: ", "chance", "scorer "))
        assert all(len(line) <= 112 for line in about.splitlines())


# ---- owl score -----------------------------------------------------------------------------------

ANSWERS = {f"sum/{number}": f"{number + 1}" for number in range(20)}
LAYOUTS: dict[str, Any] = {
    "lines.jsonl": "\n".join(json.dumps({"question_id": name, "text": said}) for name, said in ANSWERS.items()),
    "list.json": json.dumps([{"id": name, "answer": said} for name, said in ANSWERS.items()]),
    "object.json": json.dumps(ANSWERS),
    "numbers.json": json.dumps([{"qid": name, "prediction": int(said)} for name, said in ANSWERS.items()]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_of_answers(name: str, sums: type[Sums], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_text(LAYOUTS[name])
    assert score_command.run(parsed(score_command, str(path), "--tasks", "sums", "--out", str(tmp_path / "out"))) == 0
    assert "100.0" in capsys.readouterr().out
    model = json.loads((tmp_path / "out/results.json").read_text())["model"]
    assert model["name"] == path.stem and model["answers"] == name and len(model["sha256"]) == 64


def test_the_samples_of_a_run_are_a_file_of_answers(sums: type[Sums], tmp_path: Path) -> None:
    run(Adder(wrong=(2,), silent=(5,)), [Sums()], tmp_path / "run", allow_failures=True)
    given = tmp_path / "run/sums/samples.jsonl"
    words = [str(given), "--tasks", "sums", "--name", "again", "--out", str(tmp_path / "again"), "--allow-failures"]
    assert score_command.run(parsed(score_command, *words)) == 0
    tables = [json.loads((tmp_path / n / "results.json").read_text())["tasks"]["sums"] for n in ("run", "again")]
    assert tables[0] == tables[1]
    assert files(tmp_path / "again")["sums/rows.json"] == files(tmp_path / "run")["sums/rows.json"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "holds no answers"),
        ("[1]", "row 1 is a int; expected an object"),
        ('[{"id": "a"}]', "row 1 has id; expected one of answer"),
        ('[{"answer": "a"}]', "row 1 has answer; expected one of id"),
        ('[{"id": 1, "answer": {}}]', "an answer of type dict"),
        ('{"id": 1, "answer": "a"}\n{"id": 1, "answer": "b"}', ":2: 1 is answered twice"),
        ('{"id": 1, "answer": "a"}\nnonsense', ":2 is no JSON"),
    ],
)
def test_files_that_are_no_answers(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(EvalError, match=word):
        answer_file.read(path)


def test_one_file_answers_one_task(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="score each file alone"):
        score_command.run(parsed(score_command, "a.json", "--tasks", "world,sums"))
    with pytest.raises(EvalError, match="cannot be read"):
        answer_file.read(tmp_path / "nothing.json")


# ---- docs ----------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs/evaluation.md").read_text()
MODULES = {"eval": command, "score": score_command, "report": report_command}


def test_the_task_of_the_docs_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = "from collections.abc import Iterator\nfrom dataclasses import dataclass\nfrom mplug_owl import Message\n"
    made: dict[str, Any] = {}
    exec(f"{names}from mplug_owl.eval.task import Example, Task\n{code}", made)
    results = run(Adder(wrong=(1,)), [made["Sums"]()], tmp_path)
    assert results is not None and results["tasks"]["sums"]["tables"][0]["rows"][0]["score"] == 0.95


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_help_fits_a_screen(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = argparse.ArgumentParser(prog="owl")
    module.add_arguments(parser)
    lines = parser.format_help().splitlines()
    assert len(lines) <= 35 and max(map(len, lines)) <= 80  # owl adds --debug
