"""The rating page in a real browser: two raters by keyboard, a crash in the middle, going on, agreement, report.

Debian's Chromium, driven by Playwright. With OWL_SCREENSHOTS=DIR the pictures of the documentation are taken.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.eval.grades import LETTERS, Grade, GradeLog, agreement, latest
from mplug_owl.eval.owleval.command import add_arguments, run
from mplug_owl.serve.ui.page import EXAMPLES
from owlevals import ROWS, make_answers, make_folder

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
pytest.importorskip("gradio", reason='needs the pages: pip install "mplug_owl[ui]"')
pytest.importorskip("uvicorn", reason='needs the server: pip install "mplug_owl[serve,ui]"')

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

PATIENCE = 60_000  # milliseconds, for a machine that does other things too
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
START = (
    "import argparse; from mplug_owl.eval.rate_command import add_arguments, run; "
    "from mplug_owl.serve.ui.rate import open_page; "
    "made = argparse.ArgumentParser(); add_arguments(made); raise SystemExit(run(made.parse_args(), open_page))"
)
SYSTEMS = {"nightjar": "It is what the picture shows, told in full", "bittern": "I am not sure what is meant"}
PICTURES = {"1.jpg": "chart.png", "2.jpg": "sign.png", "3.jpg": "scene.png"}  # by names that do not tell what they hold
TOTAL = len(SYSTEMS) * len(ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("rating")
    make_folder(found / "data")
    for name, picture in PICTURES.items():
        shutil.copyfile(EXAMPLES / picture, found / "data" / "cases" / name)
    for name, words in SYSTEMS.items():
        make_answers(found / "answers" / f"{name}.jsonl", name, {id: f"{words}, number {id}." for id, *_ in ROWS})
    return found


class Server:
    """The page in a process of its own, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        words = [str(self.folder / "answers"), "--data", str(self.folder / "data"), "--port", str(self.port)]
        words += ["--out", str(self.folder / "grades.jsonl")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("a") as log:
            command = [sys.executable, "-c", START, *words]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "http://" in line:
                return line[line.index("http://") :].split()[0]
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, how: signal.Signals) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.send_signal(how)
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    made = Server(folder)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api.expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield made
        made.close()


def enter(browser: Any, address: str, rater: str, done: int, width: int = 1100) -> Any:
    """A tab of a browser of its own in which a rater has given a name."""
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.fill("#owl-rater textarea, #owl-rater input", rater)
    page.keyboard.press("Enter")
    graded(page, rater, done)
    return page


def graded(page: Any, rater: str, done: int) -> None:
    """Wait until the page says how far the rater is."""
    sync_api.expect(page.locator("#owl-progress")).to_have_text(f"{rater}: {done} of {TOTAL} graded", timeout=PATIENCE)


def shown(page: Any) -> tuple[str, int]:
    """Which answer is to be graded: its system's words and the number of the question."""
    text = page.locator(".owl-graded p").inner_text()
    found = re.fullmatch(r"(.*), number (\d+)\.", text)
    assert found is not None, text
    return found[1], int(found[2])


def rate(page: Any, letter: str, ticks: str = "") -> None:
    """By keyboard; no field has the focus, as on a page that was just opened."""
    page.evaluate("document.activeElement && document.activeElement.blur()")
    for key in (letter.lower(), *ticks, "Enter"):
        page.keyboard.press(key)


def opinion(page: Any, rater: str) -> str:
    """Ada likes full answers; Bob too, but for those to the first question."""
    words, number = shown(page)
    good = words == SYSTEMS["nightjar"] and not (rater == "bob" and number == 1)
    return "A" if good else "C"


def photograph(page: Any, name: str) -> None:
    if "OWL_SCREENSHOTS" in os.environ:
        page.screenshot(path=str(Path(os.environ["OWL_SCREENSHOTS"], name)), full_page=True)


def grades(folder: Path) -> list[Grade]:
    return GradeLog(folder / "grades.jsonl").read()


def test_two_raters_a_crash_and_a_report(
    browser: Any, server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = server.start()
    ada = enter(browser, address, "ada", 0)
    sync_api.expect(ada.locator("#owl-sheet img")).to_be_visible()
    assert ada.evaluate("document.querySelector('#owl-sheet img').naturalWidth") > 0
    for words in ("How to grade", "Keys: A B C D choose", *("right and satisfying", "irrelevant or wrong")):
        assert words in ada.locator("body").inner_text()
    assert not any(name in ada.content() for name in SYSTEMS)

    # Nothing is saved without a grade, and Enter alone says so.
    ada.evaluate("document.activeElement && document.activeElement.blur()")
    ada.keyboard.press("Enter")
    sync_api.expect(ada.locator("#owl-note")).to_contain_text("Choose A, B, C or D first.")
    assert grades(folder) == []

    first = shown(ada)
    rate(ada, "b", "1")
    graded(ada, "ada", 1)
    [written] = grades(folder)
    assert (written.rater, written.grade, written.question, written.abilities) == ("ada", "B", first[1], ("a",))
    assert SYSTEMS[written.system] == first[0]

    # Back to it, with what was said, and another grade.
    ada.keyboard.press("Backspace")
    sync_api.expect(ada.locator("#owl-grade input:checked")).to_have_value("B")
    assert shown(ada) == first
    rate(ada, opinion(ada, "ada"))
    sync_api.expect(ada.locator(".owl-graded p")).not_to_have_text(f"{first[0]}, number {first[1]}.")
    for done in range(1, 7):
        graded(ada, "ada", done)
        if ada.locator(".owl-earlier").count():
            photograph(ada, "ui-rate.png")
        rate(ada, opinion(ada, "ada"), "1")
    graded(ada, "ada", 7)

    # The machine goes down; what was said to be saved is there.
    server.stop(signal.SIGKILL)
    assert len(latest(grades(folder))) == 7
    with (folder / "grades.jsonl").open("ab") as file:
        file.write(b'{"rater": "ada", "system": "nig')
    address = server.start()
    ada.context.close()

    ada = enter(browser, address, "ada", 7)
    bob = enter(browser, address, "bob", 0, width=390)
    assert bob.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    photograph(bob, "ui-rate-phone.png")
    for page, rater, start in ((bob, "bob", 0), (ada, "ada", 7)):
        for done in range(start, TOTAL):
            graded(page, rater, done)
            rate(page, opinion(page, rater), "1")
        graded(page, rater, TOTAL)
        sync_api.expect(page.locator("body")).to_contain_text("All answers are graded. Thank you.")
        page.context.close()

    # What both said is in the report, and their one disagreement.
    final = latest(grades(folder))
    assert {(g.rater, g.system, g.question) for g in final} == {
        (rater, system, id) for rater in ("ada", "bob") for system in SYSTEMS for id, *_ in ROWS
    }
    assert {letter: sum(g.grade == letter for g in final) for letter in LETTERS} == {"A": 11, "B": 0, "C": 13, "D": 0}
    found = agreement(grades(folder))
    # Ada A 6, C 6; Bob A 5, C 7: observed 11/12, by chance (6 * 5 + 6 * 7) / 144 = 1/2.
    assert found.pairs[0].kappa == pytest.approx((11 / 12 - 1 / 2) / (1 - 1 / 2))
    parser = ArgumentParser()
    add_arguments(parser)
    words = ["--data", str(folder / "data"), "--answers", str(folder / "answers"), "--out", str(folder / "report")]
    assert run(parser.parse_args([*words, "--grades", str(folder / "grades.jsonl")])) == 0
    text = (folder / "report" / "owleval.md").read_text()
    assert re.search(r"\| ada and bob +\| 12 +\| 91.7 \(12\) +\| 0.833 ", text)
    alpha = found.alpha["ordinal"]
    assert alpha is not None and f"ordinal {alpha:.3f}" in text


def test_a_key_pressed_twice_grades_once(browser: Any, server: Server, folder: Path) -> None:
    if server.process is None or server.process.poll() is not None:
        server.start()
    page = enter(browser, f"http://127.0.0.1:{server.port}/ui", "eve", 0)
    page.evaluate("document.activeElement && document.activeElement.blur()")
    page.keyboard.press("a")
    page.evaluate(
        "for (let i = 0; i < 5; i++) document.body.dispatchEvent(new KeyboardEvent('keydown', "
        "{key: 'Enter', bubbles: true, repeat: i > 0}))"
    )
    graded(page, "eve", 1)
    page.evaluate("document.querySelectorAll('#owl-save').forEach(b => { b.click(); b.click(); })")
    sync_api.expect(page.locator("#owl-note")).to_contain_text("Choose A, B, C or D first.")
    assert sum(grade.rater == "eve" for grade in grades(folder)) == 1
    page.context.close()
