"""The written pages as data: their blocks of code, what each needs, and the `owl` commands among them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {
    "weights": "of a released model, or an adapter of one",
    "data": "of a benchmark, or a file of the reader's",
    "people": "who grade",
    "server": "one that stays, and a client beside it",
    "run": "a training run that an earlier block describes",
    "minutes": "of two cores",
    "hours": "of two cores",
    "GPUs": "",
    "machines": "with Ray on them",
    "network": "",
    "context": "an excerpt: what stands around it is not shown",
}
"""What may stand in `<!-- needs: A, B -->` above a block that no test runs."""
_MARK = re.compile(r"<!-- needs: (.+) -->")
_SET = re.compile(r'([A-Z_]+)="([^"]*)"')


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page in their order."""
    lines = iter(enumerate(page.read_text().splitlines(), start=1))
    mark: tuple[str, ...] = ()
    for number, line in lines:
        if found := _MARK.fullmatch(line):
            mark = tuple(found[1].split(", "))
            continue
        if line.startswith("```"):
            inside = []
            for _, text in lines:
                if text.startswith("```"):
                    break
                inside.append(text)
            yield Block(page, number, line.removeprefix("```").strip(), "\n".join(inside), mark)
        mark = ()


def shell_lines(page: Path) -> Iterator[tuple[Block, list[str]]]:
    """The command lines of a page as words: continued lines joined, variables that the page sets filled in."""
    known: dict[str, str] = {}
    for block in blocks(page):
        if block.language not in ("sh", "console"):
            continue
        until = None
        for line in block.text.replace("\\\n", " ").splitlines():
            if until is not None:  # what a command is fed
                until = None if line == until else until
                continue
            line = line.removeprefix("$ ") if block.language == "console" else line
            if setting := _SET.fullmatch(line):
                known[setting[1]] = setting[2]
                continue
            if found := re.search(r"<<(\w+)$", line):
                until = found[1]
                continue
            for name, value in known.items():
                line = line.replace(f"${name}", value)
            if block.language == "sh" or line.startswith("owl "):
                yield block, shlex.split(line, comments=True)


def owl_words(words: list[str]) -> list[str]:
    """What follows `owl` in a command line, also where torchrun starts it; nothing where it is another program."""
    if words[:1] == ["owl"]:
        return words[1:]
    for place, pair in enumerate(pairwise(words)):
        if pair == ("-m", "mplug_owl"):
            return words[place + 2 :]
    return []
