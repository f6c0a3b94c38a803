"""Tutorials as scripts: the blocks of a page, and the terminal in which they are carried out one after the other.

Of a page count its fenced blocks: `console` is commands behind `$ ` (lines behind `> ` continue them) with what they
print, `python` is a program, and any block with a title is a file of that name. A block that says what it needs is for
the reader alone. No page is known here, and nothing of owls.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pages import Block, blocks

PATIENCE = 3600.0  # seconds after which a command is given up; none takes so long
ENDING = 40.0  # seconds that what still runs at the end of a page may take to end
SHOWN = 60  # lines of output in a report
PORT = 8000  # of servers in the pages; a free one takes its place
_TITLE = re.compile(r'\btitle="([^"]+)"')
_PIECE = re.compile(r"(\.\.\.|\d[\d,]*(?:\.\d+)?)")
_OPERATORS = ("|", "||", "&&", "&", ";", ">", "2>", ">>")


class Failure(AssertionError):
    """A block of a page does not do what the page says."""


@dataclass(frozen=True)
class Command:
    """What is typed, and what the page shows of its output."""

    text: str
    line: int
    shown: tuple[str, ...]

    def words(self, program: str) -> Iterator[list[str]]:
        """The words of each call of a program in it."""
        parts: list[list[str]] = [[]]
        for word in shlex.split(self.text, comments=True):
            parts.append([]) if word in _OPERATORS else parts[-1].append(word)
        yield from (part[1:] for part in parts if part[:1] == [program])


def commands(block: Block) -> list[Command]:
    """What a console block has one type."""
    found: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        if line.startswith("$ "):
            found.append(Command(line[2:], number, ()))
        elif not found:
            raise Failure(f"line {number}: {line!r} comes before any command; expected '$ ' first")
        elif line.startswith("> ") and not found[-1].shown:
            found[-1] = replace(found[-1], text=f"{found[-1].text}\n{line[2:]}")
        else:
            found[-1] = replace(found[-1], shown=(*found[-1].shown, line))
    return found


def title(block: Block) -> str | None:
    """The name of the file that a block is to be saved as."""
    found = _TITLE.search(block.language)
    return found[1] if found else None


def unmet(shown: tuple[str, ...], output: str) -> str | None:
    """The first of the shown lines that the output does not have behind those before it.

    `...` stands for anything, a number for any number: those of another machine differ. White space is all alike.
    """
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in shown:
        pieces = _PIECE.split(" ".join(line.split()))
        meant = "".join(
            re.escape(piece) if place % 2 == 0 else ".*" if piece == "..." else r"\d[\d,]*(?:\.\d+)?"
            for place, piece in enumerate(pieces)
        )
        if line.strip() not in ("", "...") and not any(re.fullmatch(meant, found) for found in lines):
            return line
    return None


class Terminal:
    """A shell in a folder: what one command sets or starts in the background, the next one finds."""

    def __init__(self, folder: Path, hidden: Path) -> None:
        self.folder, self.hidden = folder, hidden
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.output = hidden / "output"
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        with self.output.open("ab") as output:
            self.shell = subprocess.Popen(
                ["bash", "--norc"],
                cwd=folder,
                env={**os.environ, "PATH": path, "COLUMNS": "80", "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def placed(self, text: str) -> str:
        """With the port that is free here."""
        return re.sub(rf"(?<=--port ){PORT}\b|(?<=:){PORT}\b", str(self.port), text)

    def run(self, text: str) -> tuple[int, str]:
        """Carry out a command to its end: its status and what was printed meanwhile."""
        script, status = self.hidden / "command", self.hidden / "status"
        script.write_text(text + "\n", encoding="utf-8")
        status.unlink(missing_ok=True)
        before = self.output.stat().st_size
        assert self.shell.stdin is not None
        one, other, part = (shlex.quote(str(path)) for path in (script, status, status.with_suffix(".part")))
        self.shell.stdin.write(f". {one} </dev/null; echo $? >{part}; mv {part} {other}\n")
        self.shell.stdin.flush()
        late = time.monotonic() + PATIENCE
        while not status.exists() and self.shell.poll() is None and time.monotonic() < late:
            time.sleep(0.02)
        printed = self.output.read_bytes()[before:].decode(errors="replace")
        if not status.exists():
            return -1, f"{printed}\n(it did not end, or took the shell with it)"
        return int(status.read_text()), printed

    def close(self) -> None:
        """End the shell and all that was started in it."""
        for number, patience in ((signal.SIGTERM, ENDING), (signal.SIGKILL, ENDING)):
            with suppress(ProcessLookupError):
                os.killpg(self.shell.pid, number)
            late = time.monotonic() + patience
            while self.lives() and time.monotonic() < late:
                time.sleep(0.02)
        assert self.shell.stdin is not None
        with suppress(BrokenPipeError):
            self.shell.stdin.close()

    def lives(self) -> bool:
        """Whether anything that was started here still runs."""
        self.shell.poll()  # a child that ended stays until its parent has asked
        try:
            os.killpg(self.shell.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def terminal(folder: Path, hidden: Path) -> Iterator[Terminal]:
    """A terminal in `folder`; its own files lie in `hidden`."""
    for place in (folder, hidden):
        place.mkdir(parents=True, exist_ok=True)
    made = Terminal(folder, hidden)
    try:
        yield made
    finally:
        made.close()


def carry_out(page: Path, here: Terminal) -> list[str]:
    """Do what a page says from its first block to its last; the commands with the seconds that each took.

    Raises:
        Failure: a command fails, or prints something else; with its line and the end of what was printed.
    """
    took = []
    for block in blocks(page):
        kind, _, _ = block.language.partition(" ")
        if block.needs:
            continue
        if name := title(block):
            (here.folder / name).write_text(here.placed(block.text) + "\n", encoding="utf-8")
        elif kind == "python":
            program = here.hidden / "program.py"
            program.write_text(block.text, encoding="utf-8")
            took.append(_do(Command(f"python {shlex.quote(str(program))}", block.line, ()), here, page.name))
        elif kind == "console":
            took += [_do(command, here, page.name) for command in commands(block)]
    return took


def _do(command: Command, here: Terminal, name: str) -> str:
    started = time.monotonic()
    status, printed = here.run(here.placed(command.text))
    missing = unmet(tuple(here.placed(line) for line in command.shown), printed)
    if status == 0 and missing is None:
        return f"{time.monotonic() - started:7.1f} s  {name}:{command.line}: {command.text.splitlines()[0]}"
    what = f"ended with status {status}" if status else f"did not print {missing!r} in its place"
    last = "\n".join(printed.splitlines()[-SHOWN:])
    raise Failure(f"{name}:{command.line}: {command.text}\n{what}; it printed\n{last}")
