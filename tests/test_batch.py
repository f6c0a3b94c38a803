"""Files of conversations: one answer a line, in order, whatever happens in between."""

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest
from PIL import Image

from mplug_owl import DataError, Owl, RequestError
from mplug_owl.engine import batch
from mplug_owl.engine.batch import Tally, answer_file, by_owl

NEW = {"max_new_tokens": 8}


@pytest.fixture
def folder(tmp_path: Path, picture: Image.Image) -> Path:
    (tmp_path / "media").mkdir()
    picture.save(tmp_path / "media" / "moon.png")
    return tmp_path


def answer(owl: Owl, source: Path, target: Path) -> Tally:
    return answer_file(lambda: by_owl(owl, source.parent, NEW), source, target)


def lines(count: int) -> list[dict]:
    shown = [{"type": "image", "path": "media/moon.png"}, {"type": "text", "text": "What?"}]
    rows = [
        {"id": "talk", "messages": [{"role": "user", "content": shown}, {"role": "assistant", "content": "A moon."}]},
        {"question": "Where?", "images": ["media/moon.png"], "videos": ["media/moon.png"]},
        {"id": 7, "question": "Sing!", "options": {"temperature": 1.0, "seed": 3, "max_new_tokens": 4}},
    ]
    rows[0]["messages"].append({"role": "user", "content": "Sure?"})
    return (rows + [{"id": f"more {number}", "question": f"And {number}?"} for number in range(count)])[:count]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_those_of_chat_in_the_order_of_the_file(owl: Owl, folder: Path, picture: Image.Image) -> None:
    source = write(folder / "in.jsonl", lines(8))
    assert answer(owl, source, folder / "deep" / "out.jsonl") == Tally(0, 8, 0)
    found = read(folder / "deep" / "out.jsonl")
    assert [row["id"] for row in found] == ["talk", 2, 7, *(f"more {number}" for number in range(5))]
    assert found[1]["answer"] == owl.chat("Where?", images=[picture], videos=[[picture] * 8], **NEW)
    assert found[2]["answer"] == owl.chat("Sing!", temperature=1.0, seed=3, max_new_tokens=4)
    assert found[4]["answer"] == owl.chat("And 1?", **NEW)
    assert found[4]["finish_reason"] in ("stop", "length")
    assert found[4]["completion_tokens"] <= 8 < found[4]["prompt_tokens"]


@pytest.mark.parametrize("torn", [b"", b'{"id": "more 1", "ans'])
def test_a_stopped_run_goes_on_where_it_was(
    owl: Owl, folder: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    source, target = write(folder / "in.jsonl", lines(9)), folder / "out.jsonl"
    answer(owl, source, folder / "whole.jsonl")
    outcome, count = batch.outcome, 0

    def stop(*arguments: object) -> dict:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return outcome(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "outcome", stop)
        with pytest.raises(KeyboardInterrupt):
            answer(owl, source, target)
    assert owl.engine.running == owl.engine.waiting == 0
    with target.open("ab") as stream:
        stream.write(torn)
    assert answer(owl, source, target) == Tally(4, 5, 0)
    assert target.read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert answer_file(pytest.fail, source, target) == Tally(9, 0, 0)


def test_what_is_wrong_with_a_line_is_its_answer(owl: Owl, folder: Path) -> None:
    good = {"id": "good", "question": "What?"}
    rows = [
        "no json",
        {"id": "nothing"},
        {"id": "lost", "question": "What?", "images": ["nowhere.png"]},
        {"id": "far", "question": "What?", "images": ["http://127.0.0.1/a.png"]},
        {"id": "typo", "question": "What?", "options": {"temprature": 1}},
        {"id": "type", "question": "What?", "options": {"temperature": "hot"}},
        {"id": "role", "messages": [{"role": "owl", "content": "hoot"}]},
        {"id": "list", "question": "What?", "images": "moon.png"},
        [1],
        good,
    ]
    source = write(folder / "in.jsonl", rows)
    assert answer(owl, source, folder / "out.jsonl") == Tally(0, 1, 9)
    found = read(folder / "out.jsonl")
    assert [row["id"] for row in found] == [1, "nothing", "lost", "far", "typo", "type", "role", "list", 9, "good"]
    words = [
        "no JSON",
        "no conversation",
        "nowhere.png",
        "http",
        "did you mean 'temperature'",
        "",
        "role 'owl'",
        "a list",
        "",
    ]
    for row, word in zip(found, words, strict=False):
        assert word in row["error"]
    assert found[-1]["answer"] == owl.chat("What?", **NEW)


@pytest.mark.parametrize(
    ("rows", "out", "words"),
    [
        ([{"id": 1, "question": "a"}, {"id": 1, "question": "b"}], [], "line 2: the id 1 is that of line 1 too"),
        ([{"id": [1], "question": "a"}], [], r"the id is \[1\]"),
        ([], [], "has no lines"),
        (lines(2), [{"id": "other", "answer": ""}], "out.jsonl, line 1: expected the answer to 'talk'"),
        (lines(1), [{"id": "talk"}, {"id": 2}], "line 2: expected the answer to None"),
        (lines(1), ["{}"], "line 1: expected the answer"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_an_owl_is_opened(
    folder: Path, rows: list, out: list, words: str
) -> None:
    source, target = write(folder / "in.jsonl", rows), write(folder / "out.jsonl", out)
    with pytest.raises(DataError, match=words):
        answer_file(pytest.fail, source, target)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    batch.add_arguments(parser)
    source = write(folder / "in.jsonl", lines(3))
    words = [str(source), str(folder / "out.jsonl"), "--model", "tiny-owl2", "--max-new-tokens", "3", "--device", "cpu"]
    assert batch.run(parser.parse_args(words)) == 0
    assert "3 answered, 0 failed, 0 there before" in capsys.readouterr().out
    with pytest.raises(RequestError, match="top_p=7"):
        batch.run(parser.parse_args([*words, "--top-p", "7"]))
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        batch.run(parser.parse_args([str(folder / "no.jsonl"), *words[1:]]))
