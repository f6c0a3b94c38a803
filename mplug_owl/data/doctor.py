"""`owl doctor`: data examined before a run, row by row, as the run would read them.

`examine` looks at sources and gives a report; `add_arguments` and `run` are its command line. Light to import: what
looks at rows is imported when rows are looked at. Recipes and models are opened by the caller.
"""

import argparse
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mplug_owl.data.report import Report, Tally
from mplug_owl.errors import DataError, RequestError

if TYPE_CHECKING:
    from mplug_owl.data.checkup import Checker, Checkup
    from mplug_owl.data.conversation import Conversation
    from mplug_owl.data.encode import Prompter
    from mplug_owl.data.sources import Source

_SAMPLES = 6
_TOGETHER = 256  # rows read before they are handed to the threads
_MAX_LENGTH = 2048
_DRAWN = 1_000  # rows of the drawn world, which has as many as one likes, unless more are asked for


class SourceSettings(Protocol):
    """A source as a recipe names it."""

    @property
    def path(self) -> str: ...
    @property
    def format(self) -> str | None: ...
    @property
    def image_root(self) -> str | None: ...


class DataSettings(Protocol):
    """What a recipe says about its data."""

    @property
    def sources(self) -> Sequence[SourceSettings]: ...
    @property
    def held_out(self) -> Sequence[SourceSettings]: ...
    @property
    def max_length(self) -> int: ...
    @property
    def template(self) -> str: ...
    @property
    def bad_share(self) -> float: ...


def examine(
    sources: "Sequence[Source]",
    processor: "Prompter | None" = None,
    *,
    max_length: int = _MAX_LENGTH,
    template: str = "training",
    rows: int | None = None,
    decode: bool = True,
    bad_share: float = 0.05,
    workers: int | None = None,
    progress: bool = False,
) -> Report:
    """Look at every row, or at `rows` of each source, evenly spread; of the drawn world at 1,000 unless told.

    Without a processor nothing is known about tokens. `decode=False` reads no more than the headers of pictures. Runs
    on `workers` threads, by default one for each core.
    """
    from tqdm import tqdm

    from mplug_owl.data.checkup import Checker

    if processor is None:
        report = Report("characters", None, bad_share)
    else:
        # An unknown template is no fault of the rows.
        processor.render([{"role": "user", "content": "?"}], template)
        report = Report("tokens", max_length, bad_share)
    checker = Checker(processor, template, max_length, decode)
    chosen = [_spread(len(source), rows or (_DRAWN if source.format == "world" else None)) for source in sources]
    usable = []
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        tqdm(total=sum(map(len, chosen)), unit="row", desc="examining", disable=not progress or None) as bar,
    ):
        for source, numbers in zip(sources, chosen, strict=True):
            tally = Tally(source.name, source.format, len(source))
            ids: dict[int, int] = {}
            good = array("Q")
            for row, checkup in _checked(source, numbers, checker, pool):
                first = ids.setdefault(hash(checkup.id), row)
                if first != row:
                    checkup.add("duplicate-id", f"{source.origin(first)} has the same id")
                _count(checkup, tally)
                report.findings += checkup.findings
                if not checkup.refused:
                    good.append(row)
                bar.update()
            report.tallies.append(tally)
            usable.append((source, good))
    report.samples = [checker.sample(source[row]) for source, row in _shown(usable)]
    return report


def _spread(total: int, count: int | None) -> Sequence[int]:
    """`count` row numbers of `total`, or all of them."""
    if count is None or count >= total:
        return range(total)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def _checked(
    source: "Source", numbers: Sequence[int], checker: "Checker", pool: ThreadPoolExecutor
) -> "Iterator[tuple[int, Checkup]]":
    for start in range(0, len(numbers), _TOGETHER):
        some = numbers[start : start + _TOGETHER]
        read = [_read(source, row) for row in some]
        yield from zip(some, pool.map(checker.check, map(source.origin, some), read), strict=True)


def _read(source: "Source", row: int) -> "Conversation | DataError":
    try:
        return source[row]
    except DataError as error:
        return error


def _count(checkup: "Checkup", tally: Tally) -> None:
    tally.examined += 1
    tally.edges.extend(checkup.edges)
    if checkup.refused:
        tally.refused += 1
    else:
        tally.kept += checkup.kept
        tally.learnt += checkup.learnt
        tally.lengths.append(checkup.length)
        tally.media.append(checkup.media)


def _shown(usable: "Sequence[tuple[Source, array[int]]]") -> "list[tuple[Source, int]]":
    """Six usable rows, from all sources in turn, spread over each of them."""
    each = -(-_SAMPLES // max(1, sum(bool(rows) for _, rows in usable)))
    chosen = [[(source, rows[place]) for place in _spread(len(rows), each)] for source, rows in usable]
    in_turn = (found for turn in zip_longest(*chosen) for found in turn if found)
    distinct = {source.origin(row): (source, row) for source, row in in_turn}  # one file may be named twice
    return [*distinct.values()][:_SAMPLES]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `owl doctor`."""
    parser.add_argument(
        "data", nargs="*", metavar="DATA", help="files, folders, globs, world:SET; else those of the recipe"
    )
    parser.add_argument("--recipe", metavar="R", help="a recipe: length, template, data, model")
    parser.add_argument("--model", metavar="M", help="folder, hub name or family, for its tokens")
    parser.add_argument("--format", metavar="F", help="record format of DATA (default: recognised)")
    parser.add_argument("--image-root", metavar="DIR", help="folder of the media of DATA")
    parser.add_argument("--max-length", type=int, metavar="N", help=f"default: {_MAX_LENGTH}")
    parser.add_argument("--rows", type=int, metavar="N", help="look at N rows of each source only")
    parser.add_argument("--headers", action="store_true", help="do not decode pictures; much faster, finds less")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--json", action="store_true", help="for programs; names every row")
    parser.add_argument("--html", metavar="OUT", help="write a page with samples of the rows too")


def run(arguments: argparse.Namespace, data: DataSettings | None = None, processor: "Prompter | None" = None) -> int:
    """Examine what the command line names and print the report.

    `data` is the data section of the recipe, `processor` that of the model, or of the recipe's. Returns 0 where
    nothing was found, 1 for warnings, 2 for errors.
    """
    assert not arguments.recipe or data is not None, "the caller opens the recipe"
    assert not arguments.model or processor is not None, "the caller opens the model"
    for name in ("max_length", "rows", "workers"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} {value}; expected a positive number")
    page_path = Path(arguments.html) if arguments.html else None
    if page_path is not None and not page_path.absolute().parent.is_dir():
        raise RequestError(f"--html {arguments.html}: its folder does not exist; make it first")
    settings: dict[str, Any] = {"rows": arguments.rows, "decode": not arguments.headers, "workers": arguments.workers}
    if data is not None:
        settings |= {"max_length": data.max_length, "template": data.template, "bad_share": data.bad_share}
    if arguments.max_length is not None:
        settings["max_length"] = arguments.max_length
    report = examine(_opened(arguments, data), processor, progress=True, **settings)
    print(report.to_json() if arguments.json else report)
    if page_path is not None:
        from mplug_owl.data.page import page

        page_path.write_text(page(report), encoding="utf-8")
        print(f"page written to {page_path}", file=sys.stderr)
    return report.status


def _opened(arguments: argparse.Namespace, data: DataSettings | None) -> "list[Source]":
    from mplug_owl.data.sources import open_source

    if arguments.data:
        return [open_source(path, arguments.format, arguments.image_root) for path in arguments.data]
    if data is None or not data.sources:
        raise RequestError("no data to examine; name files or folders, or a recipe with sources")
    if arguments.format or arguments.image_root:
        raise RequestError("--format and --image-root are for DATA on the command line; the recipe has its own")
    return [open_source(each.path, each.format, each.image_root) for each in (*data.sources, *data.held_out)]
