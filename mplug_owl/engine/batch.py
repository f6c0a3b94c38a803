"""`owl batch`: a file of conversations becomes a file of answers, in the same order.

A line of the one is `{"id": ..., "messages": [...]}` or `{"id": ..., "question": "...", "images": [...]}`, of the other
`{"id": ..., "answer": ...}` or `{"id": ..., "error": ...}`. Stopped at any moment, the same command goes on where it
was: what the second file holds is never asked again. Who answers is handed in: an owl in this process (`by_owl`), or
whoever else makes records of lines; servers and clusters are not known here.
"""

import argparse
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mplug_owl.errors import DataError, OwlError, RequestError, did_you_mean
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart, from_openai

if TYPE_CHECKING:
    from mplug_owl.engine.chat import Answer
    from mplug_owl.engine.public import Owl

WISHES = (
    *("system", "template", "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("seed", "stop"),
)
OPENING = ("model", "adapter", "device", "dtype", "quantize", "remote")
AHEAD = 128  # conversations that are on their way at a time: more than run, so that none waits to be prepared
REMOTE = ("data:", "http://", "https://")

Record = dict[str, Any]
"""What became of a line, without its id: `answer` with its counts, or `error`."""
Answering = Callable[[Iterator[str]], Generator[Record, None, None]]
"""From lines to their records, one for each and in the same order; closing it ends what is on its way."""


@dataclass
class Tally:
    """How a file was answered."""

    kept: int = 0
    """Lines that were there before."""
    answered: int = 0
    failed: int = 0


def answer_file(open_answering: Callable[[], Answering], source: Path, target: Path) -> Tally:
    """Answer the conversations of `source` into `target`.

    Whoever answers is opened once the files are known to be good. What is wrong with one line is the answer to that
    line.

    Raises: DataError where ids repeat, or `target` holds answers to something else.
    """
    ids = check_ids(source)
    tally = Tally(kept=settle(target, ids))
    if tally.kept == len(ids):
        return tally
    answering = open_answering()
    left = ids[tally.kept :]
    lines = islice(read(source), tally.kept, None)
    with (
        closing(answering(lines)) as records,
        target.open("a", encoding="utf-8") as out,
        tqdm(total=len(ids), initial=tally.kept, unit="answer", disable=None) as progress,
    ):
        for id, record in zip(left, records, strict=True):
            out.write(json.dumps({"id": id, **record}, ensure_ascii=False) + "\n")
            out.flush()
            tally.failed += "error" in record
            tally.answered += "error" not in record
            progress.update()
    return tally


def by_owl(owl: "Owl", folder: Path, options: dict[str, Any]) -> Answering:
    """An owl in this process answers; `options` go to `Owl.ask`, and a line may have its own."""

    def records(lines: Iterator[str]) -> Generator[Record, None, None]:
        underway: deque[Answer | Exception] = deque()
        try:
            for line in lines:
                underway.append(ask(owl, line, folder, options))
                if len(underway) >= AHEAD:
                    yield outcome(underway.popleft())
            while underway:
                yield outcome(underway.popleft())
        finally:
            for answer in underway:
                if not isinstance(answer, Exception):
                    answer.close()

    return records


def ask(owl: "Owl", line: str, folder: Path, options: dict[str, Any]) -> "Answer | Exception":
    """The answer to a line, on its way, or what is wrong with the line."""
    try:
        messages, own = conversation(line, folder)
        return owl.ask(messages, **{**options, **own})
    except (OwlError, TypeError) as error:  # a wish of a wrong type shows where it is used
        return error


def outcome(answer: "Answer | Exception") -> Record:
    try:
        if isinstance(answer, Exception):
            raise answer
        text = answer.text()
    except Exception as error:  # whatever it is, it is the answer to this line alone
        return {"error": str(error) or type(error).__name__}
    assert answer.finish is not None
    counts = {"prompt_tokens": answer.finish.prompt, "completion_tokens": answer.finish.generated}
    return {"answer": text, "finish_reason": answer.finish.reason, **counts}


# ---- the files -----------------------------------------------------------------------------------


def read(path: Path) -> Iterator[str]:
    """The lines that are not empty."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            yield from (line for line in stream if line.strip())
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror}); give a jsonl file") from None


def check_ids(path: Path) -> list[Any]:
    """The id of each line: its own, or its number. Raises: DataError where two lines have one id."""
    found: dict[Any, int] = {}
    for number, line in enumerate(read(path), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        id = row.get("id", number) if isinstance(row, dict) else number
        if not isinstance(id, str | int):
            raise DataError(f"{path}, line {number}: the id is {id!r}; expected a text or a number")
        if id in found:
            raise DataError(f"{path}, line {number}: the id {id!r} is that of line {found[id]} too; give each its own")
        found[id] = number
    if not found:
        raise DataError(f"{path} has no lines; expected one conversation a line")
    return list(found)


def settle(target: Path, ids: list[Any]) -> int:
    """How many lines are answered already; a last line that was cut short is dropped."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        return 0
    whole = target.read_bytes()
    end = whole.rfind(b"\n") + 1
    kept = 0
    for line in whole[:end].splitlines():
        expected = ids[kept] if kept < len(ids) else None
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "id" not in row or row["id"] != expected:
            raise DataError(
                f"{target}, line {kept + 1}: expected the answer to {expected!r}; the file belongs to something else: "
                "give another OUT, or remove it"
            )
        kept += 1
    if end < len(whole):
        with target.open("r+b") as stream:
            stream.truncate(end)
    return kept


def conversation(line: str, folder: Path) -> tuple[list[Message], dict[str, Any]]:
    """The messages of a line and its own options; paths are relative to the folder."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"the line is no JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict) or ("messages" in row) == ("question" in row):
        raise DataError("the line has no conversation; expected an object with either messages or a question")
    options = row.get("options", {})
    if not isinstance(options, dict):
        raise DataError(f"options of type {type(options).__name__}; expected an object")
    for name in options:
        if name not in WISHES:
            raise RequestError(f"unknown option {name!r}{did_you_mean(name, WISHES)}")
    if "messages" in row:
        messages = from_openai(row["messages"])
    else:
        for name in ("images", "videos"):
            if not isinstance(row.get(name, []), list):
                raise DataError(f"{name} is {row[name]!r}; expected a list")
        shown: list[Part] = [*map(ImagePart, row.get("images", [])), *map(VideoPart, row.get("videos", []))]
        messages = [Message("user", (*shown, TextPart(str(row["question"]))))]
    return [Message(message.role, [placed(part, folder) for part in message.content]) for message in messages], options


def placed(part: Part, folder: Path) -> Part:
    if isinstance(part, TextPart) or not isinstance(part.source, str) or part.source.startswith(REMOTE):
        return part
    source = str(folder / part.source)
    return VideoPart(source, part.num_frames) if isinstance(part, VideoPart) else ImagePart(source)


# ---- the command ---------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="IN", help="jsonl: a conversation a line")
    add("target", type=Path, metavar="OUT", help="jsonl: the answers, in order; may be resumed")
    add("--model", metavar="MODEL", help="folder, hub name or family (owlet)")
    add("--adapter", metavar="DIR", help="adapter; opens its base unless --model names one")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps (untested)")
    add("--dtype", default="auto", metavar="T", help="auto, bfloat16, float16, float32")
    add("--quantize", choices=("int8", "int4"), metavar="B", help="decoder in int8 or int4")
    add("--remote", action="store_true", help="fetch media from http(s) addresses")
    add("--system", metavar="TEXT", help="system message; an empty one leaves the line out")
    add("--template", metavar="NAME", help="chat template of the family, such as training")
    add("--max-new-tokens", type=int, default=512, metavar="N", help="of one answer (512)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (0)")
    add("--top-p", type=float, default=1.0, metavar="P", help="also --top-k, --min-p, --repetition-penalty")
    add("--top-k", type=int, default=0, help=argparse.SUPPRESS)
    add("--min-p", type=float, default=0.0, help=argparse.SUPPRESS)
    add("--repetition-penalty", type=float, default=1.0, help=argparse.SUPPRESS)
    add("--seed", type=int, metavar="N", help="makes sampling repeat")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated")


def check_wishes(options: dict[str, Any]) -> None:
    """Raises: RequestError for what would be wrong with every line."""
    from mplug_owl.engine.request import Request
    from mplug_owl.engine.sampling import Sampling

    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    Request([0], (), options["max_new_tokens"], Sampling(**{name: options[name] for name in names}))


def run(arguments: argparse.Namespace) -> int:
    """Answer a file with an owl in this process."""
    opening = {name: getattr(arguments, name) for name in OPENING}
    return carry_out(arguments, lambda options: by_owl(open_owl(**opening), arguments.source.parent, options))


def carry_out(arguments: argparse.Namespace, answering: Callable[[dict[str, Any]], Answering]) -> int:
    """Answer a file; failures are records, so they are no failure of the command."""
    options = {name: getattr(arguments, name) for name in WISHES}
    check_wishes(options)
    tally = answer_file(lambda: answering(options), arguments.source, arguments.target)
    print(f"{tally.answered} answered, {tally.failed} failed, {tally.kept} there before: {arguments.target}")
    return 0


def open_owl(
    model: str | None, adapter: str | None, device: str, dtype: str, quantize: str | None, remote: bool
) -> "Owl":
    from mplug_owl.engine.public import load
    from mplug_owl.media import Limits

    name, put_on = (model, adapter) if model else (adapter or "owlet", None)
    limits = Limits(allow_remote=remote)
    return load(name, adapter=put_on, device=device, dtype=dtype, quantize=quantize, limits=limits)
