"""`owl batch`: a file of conversations becomes a file of answers, in the same order.

A line of the one is `{"id": ..., "messages": [...]}` or `{"id": ..., "question": "...", "images": [...]}`, of the other
`{"id": ..., "answer": ...}` or `{"id": ..., "error": ...}`. Stopped at any moment, the same command goes on where it
was: what the second file holds is never asked again. How answers come about is not known here.
"""

import argparse
import json
from collections import deque
from collections.abc import Callable, Iterator
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
AHEAD = 128  # conversations that are on their way at a time: more than run, so that none waits to be prepared
REMOTE = ("data:", "http://", "https://")


@dataclass
class Tally:
    """How a file was answered."""

    kept: int = 0
    """Lines that were there before."""
    answered: int = 0
    failed: int = 0


def answer_file(open_owl: Callable[[], "Owl"], source: Path, target: Path, options: dict[str, Any]) -> Tally:
    """Answer the conversations of `source` into `target`; `options` go to `Owl.ask`, and a line may have its own.

    The owl is opened once the files are known to be good. What is wrong with one line is the answer to that line.

    Raises: DataError where ids repeat, or `target` holds answers to something else.
    """
    ids = check_ids(source)
    tally = Tally(kept=settle(target, ids))
    if tally.kept == len(ids):
        return tally
    owl = open_owl()
    underway: deque[tuple[Any, Answer | Exception]] = deque()
    lines = islice(enumerate(read(source)), tally.kept, None)
    try:
        with target.open("a", encoding="utf-8") as out, bar(len(ids), tally.kept) as progress:
            while True:
                for number, line in lines:
                    underway.append((ids[number], ask(owl, line, source.parent, options)))
                    if len(underway) >= AHEAD:
                        break
                if not underway:
                    return tally
                record = outcome(*underway.popleft(), tally)
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
                out.flush()
                progress.update()
    finally:
        for _, answer in underway:
            if not isinstance(answer, Exception):
                answer.close()


def ask(owl: "Owl", line: str, folder: Path, options: dict[str, Any]) -> "Answer | Exception":
    """The answer to a line, on its way, or what is wrong with the line."""
    try:
        messages, own = conversation(json.loads(line), folder)
        return owl.ask(messages, **{**options, **own})
    except json.JSONDecodeError as error:
        return DataError(f"the line is no JSON ({error.msg} at column {error.colno})")
    except (OwlError, TypeError) as error:  # a wish of a wrong type shows where it is used
        return error


def outcome(id: Any, answer: "Answer | Exception", tally: Tally) -> dict[str, Any]:
    try:
        if isinstance(answer, Exception):
            raise answer
        text = answer.text()
    except Exception as error:  # whatever it is, it is the answer to this line alone
        tally.failed += 1
        return {"id": id, "error": str(error) or type(error).__name__}
    tally.answered += 1
    assert answer.finish is not None
    counts = {"prompt_tokens": answer.finish.prompt, "completion_tokens": answer.finish.generated}
    return {"id": id, "answer": text, "finish_reason": answer.finish.reason, **counts}


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


def conversation(row: Any, folder: Path) -> tuple[list[Message], dict[str, Any]]:
    """The messages of a line and its own options; paths are relative to the file."""
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


def bar(total: int, done: int) -> Any:
    return tqdm(total=total, initial=done, unit="answer", disable=None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN", help="jsonl: a conversation a line")
    parser.add_argument("target", type=Path, metavar="OUT", help="jsonl: the answers, in order; may be resumed")
    parser.add_argument("--model", help="folder, hub name or family (default: owlet)")
    parser.add_argument("--adapter", help="adapter folder; opens its base unless --model names one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (untested)")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    parser.add_argument("--quantize", choices=("int8", "int4"), help="weights of the decoder in fewer bits")
    parser.add_argument("--remote", action="store_true", help="fetch media from http(s) addresses")
    parser.add_argument("--system", help="system message; an empty one leaves the line out")
    parser.add_argument("--template", help="chat template of the family, such as training")
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--top-k", type=int, default=0, metavar="K")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R")
    parser.add_argument("--seed", type=int, help="makes sampling repeat")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated")


def check_wishes(options: dict[str, Any]) -> None:
    """Raises: RequestError for what would be wrong with every line."""
    from mplug_owl.engine.request import Request
    from mplug_owl.engine.sampling import Sampling

    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    Request([0], (), options["max_new_tokens"], Sampling(**{name: options[name] for name in names}))


def run(arguments: argparse.Namespace) -> int:
    """Answer a file; failures are records, so they are no failure of the command."""

    def open_owl() -> "Owl":
        from mplug_owl.engine.public import load
        from mplug_owl.media import Limits

        return load(
            arguments.model or arguments.adapter or "owlet",
            adapter=arguments.adapter if arguments.model else None,
            device=arguments.device,
            dtype=arguments.dtype,
            quantize=arguments.quantize,
            limits=Limits(allow_remote=arguments.remote),
        )

    options = {name: getattr(arguments, name) for name in WISHES}
    check_wishes(options)
    tally = answer_file(open_owl, arguments.source, arguments.target, options)
    print(f"{tally.answered} answered, {tally.failed} failed, {tally.kept} there before: {arguments.target}")
    return 0
