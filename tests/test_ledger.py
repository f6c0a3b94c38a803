"""A file of lines that only grows: whole lines whoever writes, and nothing lost to one that was cut short."""

import json
import multiprocessing
import threading
from datetime import datetime
from pathlib import Path

import pytest

from mplug_owl.data.ledger import Ledger, now
from mplug_owl.errors import DataError


def write(path: Path, writer: int, count: int) -> None:
    for number in range(count):
        Ledger(path).append({"writer": writer, "number": number, "text": "x" * 3000})


def numbers(ledger: Ledger) -> list[int]:
    return [row["number"] for _, row in ledger.rows()]


def test_lines_come_back_in_order_with_their_places(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "deep" / "er" / "votes.jsonl")
    assert list(ledger) == list(ledger.rows()) == []
    said = [{"number": number, "word": "\u017eir\u00e1fa\n"} for number in range(3)]
    for row in said:
        ledger.append(row)
    assert list(ledger) == said
    assert list(ledger.rows()) == [(f"{ledger.path}:{number}", row) for number, row in enumerate(said, start=1)]


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


def test_a_line_that_was_cut_short_is_none_and_harms_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "votes.jsonl")
    for number in range(2):
        ledger.append({"number": number})
    whole = ledger.path.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole) - 1):
        ledger.path.write_bytes(whole[:end])
        assert numbers(ledger) == [row["number"] for row in ledger] == [0]
        ledger.append({"number": 2})
        assert numbers(ledger) == [0, 2]


def test_a_line_that_lacks_only_its_end_counts_and_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "votes.jsonl")
    ledger.path.write_text('{"number": 0}\n{"number": 1}')  # as some editors leave a file
    assert numbers(ledger) == [0, 1]
    ledger.append({"number": 2})
    assert numbers(ledger) == [0, 1, 2]


@pytest.mark.parametrize("line", [b"[1]", b"\xff\xfe", b'"text"', b'{"number": 1, "conver', b"[" * 100_000])
def test_what_is_no_line_of_ours_is_named_or_passed_over(line: bytes, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "votes.jsonl")
    ledger.append({"number": 0})
    with ledger.path.open("ab") as stream:
        stream.write(line + b"\n\n")
    ledger.append({"number": 3})
    assert [row["number"] for row in ledger] == [0, 3]
    with pytest.raises(DataError, match=r"votes\.jsonl:2 is .*mend the line"):
        numbers(ledger)


def test_what_cannot_be_written_or_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="nothing was recorded"):
        Ledger(tmp_path / "file" / "votes.jsonl").append({})
    for read in (list, Ledger.rows):
        with pytest.raises(DataError, match="cannot be read"):
            list(read(Ledger(tmp_path)))


def test_the_time_has_its_zone() -> None:
    assert str(datetime.fromisoformat(now()).tzinfo) == "UTC"
