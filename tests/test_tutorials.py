"""The tutorials are true: what they have one type is understood, runs, and prints what they show."""

import json
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mplug_owl import cli, settings
from mplug_owl.train.recipe import Recipe
from pages import NEEDS, ROOT, blocks
from tutorial import Failure, Terminal, carry_out, commands, terminal, title, unmet

FOLDER = ROOT / "docs" / "tutorials"
TUTORIALS = [page for page in sorted(FOLDER.glob("*.md")) if page.name != "index.md"]
FENCE = "```"

each_tutorial = pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda page: page.stem)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Terminal]:
    with terminal(tmp_path / "folder", tmp_path / "hidden") as made:
        yield made


def page(here: Terminal, *texts: tuple[str, str]) -> Path:
    """A page with these blocks, each a language and a text."""
    path = here.hidden / "page.md"
    path.write_text("# Page\n\n" + "\n\n".join(f"{FENCE}{kind}\n{text}\n{FENCE}" for kind, text in texts) + "\n")
    return path


# ---- the terminal --------------------------------------------------------------------------------


def test_what_one_command_sets_the_next_one_finds(here: Terminal) -> None:
    here.run("mkdir inner && cd inner && export COLOUR=red")
    assert here.run("printf '%s %s' $COLOUR ${PWD##*/}") == (0, "red inner")
    assert here.run("false") == (1, "")
    assert here.run("cat") == (0, "")  # nothing is typed into programs


def test_what_still_runs_at_the_end_is_ended(tmp_path: Path) -> None:
    with terminal(tmp_path, tmp_path) as made:
        assert made.run("sleep 3000 & echo $!")[0] == 0
        assert made.lives()
    assert not made.lives()


def test_a_job_can_be_ended_by_its_number(here: Terminal) -> None:
    here.run("sleep 3000 &")
    assert here.run("kill %1; wait %1")[0] == 128 + 15
    assert here.run("jobs -r") == (0, "")


def test_a_shell_that_leaves_is_noticed(here: Terminal) -> None:
    assert here.run("exit 3")[0] == -1


# ---- the runner ----------------------------------------------------------------------------------


def test_blocks_are_carried_out_in_order(here: Terminal) -> None:
    told = carry_out(
        page(
            here,
            ('python title="double.py"', "import sys\nprint(2 * int(sys.argv[1]))"),
            ("console", "$ python double.py 21\n42\n$ cat <<END\n> one\n> two\n> END\none\ntwo"),
            ("python", "open('made', 'w').write('here')"),
            ("console", "$ cat made\nhere"),
            ("sh", "exit 1"),
        ),
        here,
    )
    assert len(told) == 4 and all(" s  page.md:" in line for line in told)


def test_a_failing_command_is_named_with_its_line(here: Terminal) -> None:
    with pytest.raises(Failure, match=r"page\.md:5: ls nowhere\nended with status 2; it printed\n.*nowhere"):
        carry_out(page(here, ("console", "$ echo fine\n$ ls nowhere")), here)


def test_a_failing_program_is_named_with_its_error(here: Terminal) -> None:
    with pytest.raises(Failure, match=r"page\.md:3: (?s:.*)ZeroDivisionError"):
        carry_out(page(here, ("python", "1 / 0")), here)


def test_a_page_that_shows_something_else_fails(here: Terminal) -> None:
    with pytest.raises(Failure, match=r"page\.md:4: echo red\ndid not print 'blue' in its place"):
        carry_out(page(here, ("console", "$ echo red\nblue")), here)


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("one\nthree", "one\ntwo\nthree", None),
        ("three\none", "one\ntwo\nthree", "one"),
        ("one\none", "one", "one"),
        ("loss 3.25  at 1,483", "loss 0.9 at 12", None),
        ("loss 3.25", "loss high", "loss 3.25"),
        ("a ... c", "a b c", None),
        ("a ... c", "a c", "a ... c"),
        ("", "", None),
        ("...", "", None),
        ("1 + 1?", "1 + 1?", None),
        ("c.t", "cat", "c.t"),
    ],
)
def test_what_is_shown_is_looked_for_in_its_order(shown: str, printed: str, missing: str | None) -> None:
    assert unmet(tuple(shown.splitlines()), printed) == missing


def test_servers_get_a_port_that_is_free(here: Terminal) -> None:
    assert here.placed("--port 8000, :8000/v1, 8000 rows") == f"--port {here.port}, :{here.port}/v1, 8000 rows"
    assert here.port != 8000


# ---- the pages, unread ---------------------------------------------------------------------------


@each_tutorial
def test_commands_are_understood(tutorial: Path) -> None:
    typed = [command for block in blocks(tutorial) if block.language == "console" for command in commands(block)]
    called = [words for command in typed for words in command.words("owl")]
    assert called
    for words in called:
        name = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0]
        cli.parser(name).parse_intermixed_args(words[len(name.split()) :])


@each_tutorial
def test_programs_and_recipes_can_be_read(tutorial: Path) -> None:
    for block in blocks(tutorial):
        kind = block.language.partition(" ")[0]
        assert kind in ("console", "python", "toml", "sh")
        assert set(block.needs) <= set(NEEDS)
        assert kind != "sh" or block.needs, f"{block.name} is not run; say above it what it needs"
        if kind == "python":
            compile(block.text, block.name, "exec")
        if kind == "toml":
            settings.build(Recipe, tomllib.loads(block.text), str(title(block)))


@each_tutorial
def test_files_are_saved_before_they_are_used(tutorial: Path) -> None:
    saved: set[str] = set()
    for block in blocks(tutorial):
        if name := title(block):
            assert name not in saved, f"{block.name}: {name} is saved twice"
            saved.add(name)
        elif block.language == "console":
            used = {word for command in commands(block) for words in command.words("python") for word in words[:1]}
            assert {name for name in used if name.endswith(".py")} <= saved


@each_tutorial
def test_each_says_how_long_it_takes_and_is_listed(tutorial: Path) -> None:
    takes = [line for line in tutorial.read_text().splitlines() if line.startswith("Takes ")]
    assert len(takes) == 1 and "TAKES" not in takes[0]
    assert f"]({tutorial.name})" in (FOLDER / "index.md").read_text()


# ---- the pages, carried out ----------------------------------------------------------------------


@pytest.mark.slow
@each_tutorial
def test_it_does_what_it_says(tutorial: Path, here: Terminal) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; pages wait for servers with it")
    started = time.monotonic()
    told = carry_out(tutorial, here)
    print(f"\n{tutorial.stem}: {time.monotonic() - started:.0f} s", *told, sep="\n")  # `pytest -rP` shows it
    if tutorial.stem == "own-pictures":
        base, adapter = (_headline(here.folder / "runs" / name / "results.json") for name in ("owlet", "adapter"))
        assert adapter["interval"][0] > base["interval"][1]  # it learnt what it was shown
        assert (here.folder / "look.png").stat().st_size and (here.folder / "leaves-owl" / "config.json").exists()


def _headline(results: Path) -> dict[str, list[float]]:
    [task] = json.loads(results.read_text())["tasks"].values()
    found: dict[str, list[float]] = task["tables"][0]["rows"][0]
    return found
