"""The pages say what is so: commands parse and run, names exist, tables are those of the code, the site builds."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from mplug_owl import cli
from mplug_owl.data.formats import FORMATS
from mplug_owl.eval.tasks import TASKS
from mplug_owl.lab import study as studies
from mplug_owl.models.connectors import MODELS
from mplug_owl.train import recipe as recipes
from mplug_owl.train import sequence
from pages import NEEDS, PAGES, ROOT, Block, blocks, owl_words, shell_lines

DOCS = ROOT / "docs"
COMMANDS = [
    pytest.param(owl_words(words), id=f"{block.name}-{' '.join(words)[:40]}")
    for page in PAGES
    for block, words in shell_lines(page)
    if owl_words(words)
]
SHAPES = ("circle", "square", "triangle")


def parsed(words: list[str]) -> Any:
    name = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0]
    return cli.parser(name).parse_intermixed_args(words[len(name.split()) :])


# ---- commands and code -------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(words: list[str]) -> None:
    parsed(words)


@pytest.mark.parametrize("words", COMMANDS)
def test_recipes_take_what_commands_change(words: list[str]) -> None:
    if words[0] not in ("plan", "train"):
        return
    arguments = parsed(words)
    if sequence.is_sequence(arguments.recipe):
        assert sequence.load(arguments.recipe, arguments.overrides)
    elif arguments.recipe != "RECIPE" and not arguments.recipe.endswith(".toml"):  # a placeholder, a file of the page
        assert recipes.load(arguments.recipe, tuple(arguments.overrides)).train


@pytest.mark.parametrize("words", COMMANDS)
def test_tasks_and_studies_that_are_named_exist(words: list[str]) -> None:
    arguments = parsed(words)
    if words[0] in ("eval", "score"):
        named = [arguments.tasks] if words[0] == "score" else arguments.tasks
        assert set(named) <= set(TASKS)
    if words[0] == "lab" and arguments.study:
        assert arguments.study in studies.shipped()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_running_text_exist(page: Path) -> None:
    """Of commands that stand in a sentence; they may be cut short, but no flag may be invented."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for command in re.findall(r"`owl ([a-z][^`]*)`", text):
        words = command.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0]
        assert name in cli.COMMANDS, command
        known = {"--help", *cli.parser(name)._option_string_actions}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_say_what_they_need_and_python_is_python(page: Path) -> None:
    for block in blocks(page):
        assert set(block.needs) <= set(NEEDS), block.name
        if block.language == "python":
            compile(block.text, block.name, "exec")


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What pages take for granted: a picture, and a folder of labelled ones. Registries are put back afterwards."""
    for label in SHAPES:
        for number in range(4):
            path = tmp_path / "pictures" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            canvas = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(canvas).regular_polygon((32, 32, 20), 3 + 5 * number % 9, fill="navy")
            canvas.save(path)
    Image.new("RGB", (60, 40), "orange").save(tmp_path / "cat.png")
    row = '{"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}\n'
    (tmp_path / "held-out.jsonl").write_text(2 * row)
    monkeypatch.chdir(tmp_path)
    kept: list[tuple[Any, dict[Any, Any]]] = [(table, dict(table)) for table in (FORMATS, MODELS)]
    yield
    for table, before in kept:
        table.clear()
        table.update(before)


def _runs(page: Path) -> bool:
    return any(not block.needs and block.language in ("sh", "python") for block in blocks(page))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "tutorials" not in page.parts and _runs(page)], ids=lambda page: page.name
)
def test_blocks_that_need_nothing_run(page: Path, stock: None) -> None:
    """In the order of the page, in one folder. Tutorials are run whole by a test of their own."""
    commands: dict[Block, list[list[str]]] = {}
    for block, words in shell_lines(page):
        commands.setdefault(block, []).append(words)
    for block in blocks(page):
        if block.needs:
            continue
        if block.language == "python":
            exec(compile(block.text, block.name, "exec"), {"__name__": "__main__"})
        for words in commands.get(block, ()) if block.language == "sh" else ():
            assert owl_words(words), f"{block.name}: {words[0]} is no owl; say what the block needs"
            assert cli.main(owl_words(words)) == 0, f"{block.name}: {' '.join(words)}"


# ---- names -------------------------------------------------------------------------------------------


def resolved(name: str) -> Any:
    """The thing that a dotted name stands for."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"(?:`|^::: )(mplug_owl\.[\w.]*\w)", text, re.MULTILINE):
        resolved(name)
    for place in re.findall(r"`((?:mplug_owl|tests)/[\w./-]*)`", text):
        assert (ROOT / place).exists(), place
    for target in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / target).exists(), target


def test_the_contradictions_are_those_of_the_recipes() -> None:
    told = " ".join((DOCS / "contradictions.md").read_text().split())
    of_papers = [name for name in recipes.shipped() if not name.startswith("owlet")]
    for name in of_papers:
        assert f"### {name} " in told
        for each in recipes.load(name).contradictions:
            assert f"- {' '.join(each.split())} " in told, name
    assert len(of_papers) >= 6


def test_the_papers_page_has_every_recipe_study_and_task() -> None:
    told = (DOCS / "papers.md").read_text()
    for name in ("owl-pretrain", "owl-instruct", "owl-instruct-released", *sequence.shipped(), *studies.shipped()):
        assert f"`{name}`" in told, name
    for name in re.findall(r"`(owl2?-[\w-]+)`", told):
        assert {name} & {*recipes.shipped(), *studies.shipped()}, name
    rows = [line for line in told.splitlines() if line.startswith("| Table")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {"vqav2", "mmlu", "tgif_qa", "pope", "mmvet"} <= named
    assert {name for name in named if name.islower() and name != "text"} <= set(TASKS) | set(studies.shipped())


def test_every_command_has_its_help_on_the_page_of_commands() -> None:
    shown = [block.text for block in blocks(DOCS / "commands.md") if block.language == "help"]
    assert sorted(shown) == sorted(["", *cli.COMMANDS])


# ---- the site ----------------------------------------------------------------------------------------


class Fetched(HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        fetches = tag in ("script", "img", "iframe", "source", "video", "audio", "embed")
        if tag == "link":
            fetches = given.get("rel") not in ("canonical", "next", "prev", "alternate")
        for name in ("src", "href", "data", "srcset"):
            if fetches and given.get(name):
                self.found.append(str(given[name]))


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    for module in ("material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(module, reason='the site needs pip install "mplug_owl[docs]"')
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "WARNING" not in ran.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert {page.stem for page in PAGES[1:]} <= {page.stem for page in pages}
    for page in pages:
        text = page.read_text()
        seen = Fetched()
        seen.feed(text)
        assert not [url for url in seen.found if re.match(r"(https?:)?//", url)], page.name
        assert 'class="mermaid"' not in text  # the theme would fetch what draws it
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style.name
    lines = [
        line for block in blocks(DOCS / "papers.md") if block.language == "math" for line in block.text.splitlines()
    ]
    assert (tmp_path / "papers.html").read_text().count("<math") == len(lines) > 0
    assert "usage: owl train" in (tmp_path / "commands.html").read_text()
