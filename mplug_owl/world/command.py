"""`owl world`: look at the drawn world, list what there is, and write it to files. Light to import."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mplug_owl.errors import RequestError, did_you_mean

_SHEET = "world.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `owl world`."""
    parser.add_argument("what", nargs="*", metavar="export OUT", help="write sets into the folder OUT")
    parser.add_argument("--list", action="store_true", help="the sets, kinds of scenes and skills")
    parser.add_argument("--show", type=int, metavar="N", help="draw N scenes with questions and answers")
    parser.add_argument("--out", default=_SHEET, metavar="PNG", help=f"where to draw them (default: {_SHEET})")
    parser.add_argument("--kinds", metavar="K,K", help="kinds of scenes (default: all)")
    parser.add_argument("--level", metavar="L", help="easy or standard (default)")
    parser.add_argument("--split", metavar="S", help="train (default), dev or test")
    parser.add_argument("--sets", default="questions", metavar="SET,SET", help="sets to export (default: questions)")
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="rows of each (default: 1000)")
    parser.add_argument("--format", default="jsonl", metavar="F", help="jsonl (with pictures beside it) or tar")


def run(arguments: argparse.Namespace) -> int:
    """List, show or export, as the command line says."""
    wanted = [bool(arguments.what), arguments.list, arguments.show is not None]
    if sum(wanted) != 1:
        raise RequestError("expected one of: owl world --list, owl world --show N, owl world export OUT")
    if arguments.list:
        print(_listing())
    elif arguments.what:
        _export(arguments)
    else:
        _show(arguments)
    return 0


def _listing() -> str:
    from mplug_owl.world.chance import SPLITS
    from mplug_owl.world.scene import KINDS, LEVELS, SKILLS
    from mplug_owl.world.sets import SETS

    width = max(map(len, SETS))
    lines = ["sets: SET[/KIND+KIND][@LEVEL][#SPLIT][:ROWS], as data with world: before it"]
    lines += [f"  {name:{width}}  {about}" for name, about in SETS.items()]
    for title, names in (("kinds", KINDS), ("levels", LEVELS), ("splits", SPLITS), ("skills", SKILLS)):
        lines.append(f"{title}: {', '.join(names)}")
    return "\n".join(lines)


def _show(arguments: argparse.Namespace) -> None:
    from mplug_owl.world.scene import KINDS, make
    from mplug_owl.world.sheet import sheet

    if arguments.show < 1:
        raise RequestError(f"--show {arguments.show}; expected a positive number of scenes")
    out = Path(arguments.out)
    if not out.absolute().parent.is_dir():
        raise RequestError(f"--out {arguments.out}: its folder does not exist; make it first")
    if out.suffix.lower() != ".png":
        raise RequestError(f"--out {arguments.out}; expected the name of a .png file")
    kinds: Sequence[str] = arguments.kinds.split(",") if arguments.kinds else KINDS
    split: Any = arguments.split or "train"
    level: Any = arguments.level or "standard"
    scenes = [make(kinds[place % len(kinds)], place // len(kinds), split, level) for place in range(arguments.show)]
    sheet(scenes).save(out)
    print(f"{len(scenes)} scenes drawn to {out}", file=sys.stderr)


def _export(arguments: argparse.Namespace) -> None:
    from mplug_owl.world.export import export, writable
    from mplug_owl.world.sets import rows

    if arguments.what[0] != "export" or len(arguments.what) != 2:
        raise RequestError(f"owl world {' '.join(arguments.what)}; expected: owl world export OUT")
    if arguments.format not in ("jsonl", "tar"):
        raise RequestError(f"unknown --format {arguments.format!r}{did_you_mean(arguments.format, ('jsonl', 'tar'))}")
    if arguments.rows < 1:
        raise RequestError(f"--rows {arguments.rows}; expected a positive number")
    if arguments.kinds or arguments.level:
        raise RequestError("--kinds and --level are for --show; name them with the sets: questions/shapes+dice@easy")
    ending = f"#{arguments.split}" if arguments.split else ""
    named = [rows(f"{name}{ending}:{arguments.rows}") for name in arguments.sets.split(",")]
    for chosen in named:  # all of them before the first is written
        writable(chosen, arguments.format)
    for chosen in named:
        for path in export(chosen, Path(arguments.what[1]), arguments.format):
            print(path)
