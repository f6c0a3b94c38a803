"""A file of records that only grows: whole lines whoever writes, and nothing lost to one that was cut short."""

import json
import multiprocessing
import threading
from pathlib import Path

import pytest

from mplug_owl.errors import DataError
from mplug_owl.serve.ui.ledger import Ledger


def write(path: Path, writer: int, count: int) -> None:
    for number in range(count):
        Ledger(path).append({"writer": writer, "number": number, "text": "x" * 3000})


def test_records_come_back_in_order_with_their_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "deep" / "er" / "votes.jsonl")
    assert list(ledger) == []
    for number in range(3):
        ledger.append({"number": number, "word": "\u017eir\u00e1fa\n"})
    assert [record["number"] for record in ledger] == [0, 1, 2]
    assert all(record["word"] == "\u017eir\u00e1fa\n" and record["time"].endswith("+00:00") for record in ledger)


def test_threads_and_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write, args=(path, writer, 20)) for writer in range(2)]
    threads = [threading.Thread(target=write, args=(path, writer, 20)) for writer in range(2, 5)]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((line["writer"], line["number"]) for line in lines) == [(w, n) for w in range(5) for n in range(20)]


def test_a_line_that_was_cut_short_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    ledger = Ledger(path)
    ledger.append({"number": 0})
    with path.open("ab") as stream:
        stream.write(b'{"number": 1, "conver')
    ledger.append({"number": 2})
    with path.open("ab") as stream:
        stream.write(b'[1]\n\xff\xfe\n"text"\n')
    ledger.append({"number": 3})
    assert [record["number"] for record in ledger] == [0, 2, 3]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="nothing was recorded"):
        Ledger(tmp_path / "file" / "votes.jsonl").append({})
    with pytest.raises(DataError, match="cannot be read"):
        list(Ledger(tmp_path))


def test_files_are_kept_once_beside_the_records(tmp_path: Path) -> None:
    source = tmp_path / "picture.png"
    source.write_bytes(b"pixels")
    ledger = Ledger(tmp_path / "votes.jsonl")
    ledger.keep([(source, "abc.png")])
    kept = tmp_path / "votes-media" / "abc.png"
    before = kept.stat().st_mtime_ns
    ledger.keep([(source, "abc.png")])
    assert [path.name for path in kept.parent.iterdir()] == ["abc.png"]
    assert kept.read_bytes() == b"pixels" and kept.stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"gone\.png cannot be kept"):
        ledger.keep([(tmp_path / "gone.png", "x.png")])
