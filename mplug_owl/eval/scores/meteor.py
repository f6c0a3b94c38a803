"""METEOR, by its own program: meteor-1.5.jar, which needs Java. Where one of them is missing, `missing` says which.

The jar is that of the pycocoevalcap package, or the file that OWL_METEOR_JAR names. Texts go in tokenised.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mplug_owl.errors import EvalError

JAR = "OWL_METEOR_JAR"


def missing() -> str | None:
    """What METEOR lacks on this machine and how to get it; None where it can be computed."""
    if shutil.which("java") is None:
        return "no java on the PATH"
    if _jar() is None:
        return f"no meteor-1.5.jar: `pip install pycocoevalcap`, or name one in {JAR}"
    return None


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR of the set and of each caption.

    Raises:
        EvalError: Java or the jar is missing, or the program fails.
    """
    if lack := missing():
        raise EvalError(f"METEOR cannot be computed: {lack}")
    with _program() as program:
        statistics = [
            _ask(program, " ||| ".join(("SCORE", *texts, caption.replace("|||", "").replace("  ", " "))))
            for caption, texts in zip(captions, references, strict=True)
        ]
        first = _ask(program, " ||| ".join(("EVAL", *statistics)))
        each = [_number(text) for text in (first, *(_line(program) for _ in captions[1:]))]
        return _number(_line(program)), each


def _jar() -> Path | None:
    if named := os.environ.get(JAR):
        return Path(named) if Path(named).is_file() else None
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in package.submodule_search_locations or () if package else ():
        if (path := Path(folder, "meteor", "meteor-1.5.jar")).is_file():
            return path
    return None


@contextmanager
def _program() -> Iterator["subprocess.Popen[str]"]:
    jar = _jar()
    assert jar is not None
    command = ["java", "-Xmx2G", "-jar", str(jar.resolve()), "-", "-", "-stdio", "-l", "en", "-norm"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=jar.resolve().parent, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def _ask(program: "subprocess.Popen[str]", line: str) -> str:
    assert program.stdin is not None
    try:
        program.stdin.write(line.replace("\n", " ") + "\n")
        program.stdin.flush()
    except BrokenPipeError:
        raise EvalError("METEOR ended early; run its jar by hand to see why") from None
    return _line(program)


def _line(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise EvalError(f"METEOR answered {text!r} where a number was expected; run its jar by hand") from None
