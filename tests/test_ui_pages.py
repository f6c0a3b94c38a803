"""The pages in a real browser: Debian's Chromium, driven by Playwright, against a server of two tiny owls.

The pictures of the documentation are taken by the last test, with owls that have something to say:
OWL_SCREENSHOTS="owlet=runs/owlet/final other=runs/owlet/owlet-pretrain/final" pytest tests/test_ui_pages.py -k pictures
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import mplug_owl
from mplug_owl.serve import keys
from mplug_owl.serve.ui.page import EXAMPLES

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
pytest.importorskip("uvicorn", reason='needs the server: pip install "mplug_owl[serve,ui]"')

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync")
PHONE = {"width": 390, "height": 844}
PATIENCE = 60_000  # milliseconds, for a machine that does other things too
STOP = "Stop (Esc)"
sync_api.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two owls that never come to an end by themselves, so that there is time to stop them."""
    found = []
    for number, family in enumerate(("tiny-owl2", "tiny-owl")):
        torch.manual_seed(number)
        owl = mplug_owl.load(family, device="cpu")
        owl.model.generation_config.eos_token_id = []
        folder = tmp_path_factory.mktemp(family)
        owl.model.save_pretrained(folder)
        owl.processor.save_pretrained(folder)
        found.append(f"{('ada', 'bert')[number]}={folder}")
    return found


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def site(models: list[str], records: Path) -> Iterator[str]:
    """The address of the pages."""
    with served(models, records, "--seed", "1", "--max-upload", "1", "--dtype", "float32") as address:
        yield address


@contextmanager
def served(models: Sequence[str], records: Path, *more: str) -> Iterator[str]:
    command = [sys.executable, "-m", "mplug_owl", "ui", *models, "--port", "0", "--device", "cpu", *more]
    command += ["--votes", str(records / "votes.jsonl"), "--thumbs", str(records / "thumbs.jsonl"), "--keep-media"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (records / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert server.stdout is not None
        line = server.stdout.readline()
        try:
            assert "http://" in line, (records / "log").read_text()
            yield line[line.index("http://") :].strip()
        finally:
            server.terminate()
            server.wait(120)
            server.stdout.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Open a page of the site; afterwards, nothing was asked of another host and no script failed."""
    contexts, faults = [], []

    def watch(request: Any) -> None:
        if not request.url.startswith((site.partition("/ui")[0], "data:", "blob:")):
            faults.append(f"asked {request.url}")

    def open_page(path: str = "", **wishes: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}, **wishes})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", watch)
        page.on("pageerror", lambda error: faults.append(f"failed {error}"))
        page.goto(site + path)
        question(page).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def question(page: Any) -> Any:
    return page.locator("#owl-question textarea")


def said(page: Any, talk: str = "#owl-talk", who: str = "bot") -> Any:
    """What one side said, message by message."""
    return page.locator(f'{talk} [data-testid="{who}"]')


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def ask(page: Any, text: str) -> None:
    question(page).fill(text)
    question(page).press("Enter")


def ended(page: Any, answers: int = 1, talk: str = "#owl-talk") -> None:
    """Wait until so many answers are there, and nothing is being written."""
    sync_api.expect(said(page, talk)).to_have_count(answers)
    sync_api.expect(button(page, STOP)).to_be_disabled()


def shorten(page: Any, tokens: int) -> None:
    """Have answers of so many tokens, by the controls that people use."""
    number = page.get_by_role("spinbutton", name=re.compile("Longest answer"))
    if not number.is_visible():
        page.get_by_role("button", name=re.compile("^Parameters")).click()
    for _ in range(PATIENCE // 1000):  # a page that is still being set up forgets what it is told
        number.fill(str(tokens))
        number.press("Tab")
        page.wait_for_timeout(1000)  # the page takes the number over a moment after it is left
        if number.input_value() == str(tokens):
            return
    raise AssertionError(f"the longest answer stayed at {number.input_value()} tokens, not {tokens}")


def upload(page: Any, *files: Path) -> None:
    page.locator("#owl-question input[type=file]").set_input_files([str(file) for file in files])
    sync_api.expect(page.locator("#owl-question .thumbnail-item")).to_have_count(len(files))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_conversation_about_a_picture(opened: Callable[..., Any], picture_file: Path, records: Path) -> None:
    page = opened()
    shorten(page, 12)
    upload(page, picture_file)
    ask(page, "What is this?")
    ended(page)
    assert said(page).first.inner_text().strip()
    image = page.locator("#owl-talk img").first
    sync_api.expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") == 90
    assert question(page).input_value() == ""
    ask(page, "And its colour?")
    ended(page, 2)
    assert [each.inner_text().strip() for each in said(page, who="user").all()][-1] == "And its colour?"

    page.get_by_role("button", name="Like", exact=True).last.click()
    sync_api.expect(page.get_by_text("Noted, thank you.")).to_be_visible()
    thumb = lines(records / "thumbs.jsonl")[-1]
    assert (thumb["rating"], thumb["model"]) == ("up", "ada")
    assert [turn["question"] for turn in thumb["conversation"]] == ["What is this?", "And its colour?"]
    assert thumb["conversation"][1]["parameters"]["max_new_tokens"] == 12
    (media,) = thumb["conversation"][0]["media"]
    assert (records / "thumbs-media" / f"{media['sha256']}.png").read_bytes() == picture_file.read_bytes()


def test_an_answer_comes_bit_by_bit_and_escape_stops_it(opened: Callable[..., Any], records: Path) -> None:
    page = opened()
    shorten(page, 1024)
    ask(page, "Tell me a long story.")
    seen = set()
    said(page).first.wait_for()
    end = time.monotonic() + 120
    while len(seen) < 3:  # it grows in front of our eyes
        seen.add(said(page).first.inner_text())
        assert time.monotonic() < end
    assert button(page, STOP).is_enabled()
    page.keyboard.press("Escape")
    sync_api.expect(button(page, STOP)).to_be_disabled()
    stopped = said(page).first.inner_text()
    page.wait_for_timeout(300)
    assert said(page).first.inner_text() == stopped
    page.get_by_role("button", name="Dislike", exact=True).last.click()
    sync_api.expect(page.get_by_text("Noted, thank you.")).to_be_visible()
    thumb = lines(records / "thumbs.jsonl")[-1]
    assert (thumb["rating"], thumb["conversation"][0]["ended"]) == ("down", "abort")


def test_again_and_edit_take_the_place_of_what_was_there(opened: Callable[..., Any], picture_file: Path) -> None:
    page = opened()
    shorten(page, 12)
    upload(page, picture_file)
    ask(page, "First?")
    ended(page)
    before = said(page).first.inner_text()
    shorten(page, 4)
    page.get_by_role("button", name="Retry", exact=True).click()
    sync_api.expect(said(page).first).not_to_have_text(before)
    ended(page)
    assert before.startswith(said(page).first.inner_text().rstrip("\ufffd"))  # greedy, so the same as far as it goes
    ask(page, "Second?")
    ended(page, 2)
    page.get_by_role("button", name="Edit", exact=True).first.click()
    page.locator("#owl-talk textarea").fill("Another?")
    page.get_by_role("button", name="Submit", exact=True).first.click()
    sync_api.expect(page.locator("#owl-talk").get_by_text("Second?")).to_have_count(0)
    ended(page)
    sync_api.expect(page.locator("#owl-talk").get_by_text("Another?")).to_have_count(1)
    sync_api.expect(page.locator("#owl-talk img")).to_have_count(1)
    button(page, "New conversation").click()
    sync_api.expect(said(page)).to_have_count(0)


def test_what_cannot_be_used_is_said_in_a_sentence(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened()
    broken, large = tmp_path / "broken.png", tmp_path / "large.png"
    broken.write_bytes(b"no picture at all")
    large.write_bytes(b"\x89PNG" + b"0" * (2 * 2**20))
    upload(page, broken)
    ask(page, "What is this?")
    alert = page.get_by_role("alert").filter(has_text="roken.png")
    alert.wait_for()
    assert "Traceback" not in alert.inner_text() and "/" not in alert.inner_text()
    assert question(page).input_value() == "What is this?"
    page.reload()
    question(page).wait_for()
    page.locator("#owl-question input[type=file]").set_input_files(str(large))
    page.get_by_text(re.compile("size", re.IGNORECASE)).first.wait_for()
    page.reload()
    question(page).wait_for()
    ask(page, "very " * 30_000)
    page.get_by_role("alert").filter(has_text="positions").wait_for()
    assert question(page).input_value().startswith("very very")


def test_examples_are_asked_at_once(opened: Callable[..., Any]) -> None:
    page = opened()
    shorten(page, 6)
    page.get_by_role("button", name=re.compile("pink things")).click()
    sync_api.expect(page.locator("#owl-talk .message img")).to_have_count(1)
    ended(page)


def test_tabs_know_nothing_of_each_other(opened: Callable[..., Any]) -> None:
    first, second = opened(), opened()
    for page, text in ((first, "One?"), (second, "Two?")):
        shorten(page, 6)
        ask(page, text)
    for page, text in ((first, "One?"), (second, "Two?")):
        ended(page)
        assert [each.inner_text().strip() for each in said(page, who="user").all()] == [text]
    first.reload()
    question(first).wait_for()
    sync_api.expect(said(first)).to_have_count(0)
    sync_api.expect(said(second)).to_have_count(1)


def test_the_api_call_works_as_it_stands(opened: Callable[..., Any], picture_file: Path) -> None:
    pytest.importorskip("openai", reason="needs the openai package")
    page = opened()
    shorten(page, 10)
    upload(page, picture_file)
    ask(page, "What is this?")
    ended(page)
    page.get_by_role("button", name=re.compile("^Copy as API call")).click()
    code = page.locator("#owl-python .cm-content")
    sync_api.expect(code).to_contain_text("What is this?")
    # Lines out of sight are not drawn, so the whole is taken as people take it.
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#owl-python button[aria-label*='opy'], #owl-python button[title*='opy']").first.click()
    program = page.evaluate("navigator.clipboard.readText()")
    ran = subprocess.run([sys.executable, "-c", program], cwd=picture_file.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == said(page).first.inner_text().strip()


def test_a_blind_round_and_its_vote(opened: Callable[..., Any], picture_file: Path, records: Path) -> None:
    page = opened("compare")
    shorten(page, 10)
    upload(page, picture_file)
    assert button(page, "A is better").is_disabled()
    ask(page, "What is this?")
    for side in ("a", "b"):
        ended(page, 1, f"#owl-talk-{side}")
    assert not page.get_by_text(re.compile(r"\b(ada|bert)\b")).filter(visible=True).count()
    ask(page, "And why?")
    for side in ("a", "b"):
        ended(page, 2, f"#owl-talk-{side}")
    button(page, "B is better").click()
    page.get_by_role("alert").filter(has_text="Noted").wait_for()
    vote = lines(records / "votes.jsonl")[-1]
    assert (vote["verdict"], vote["blind"], {vote["a"], vote["b"]}) == ("b", True, {"ada", "bert"})
    assert [turn["model"] for turn in vote["conversation"]["b"]] == [vote["b"]] * 2
    assert page.get_by_role("alert").inner_text().endswith(f"A is {vote['a']}, B is {vote['b']}.")
    assert button(page, "A is better").is_disabled()
    table = page.locator("#owl-standings table")
    sync_api.expect(table.locator("tbody tr").first).to_contain_text(vote["b"])
    sync_api.expect(table.locator("caption")).to_contain_text("1 vote.")
    page.reload()
    sync_api.expect(table.locator("caption")).to_contain_text("1 vote.")
    sync_api.expect(page.locator("#owl-talk-a [data-testid=bot]")).to_have_count(0)


def test_side_by_side_by_name(opened: Callable[..., Any], records: Path) -> None:
    page = opened("compare")
    page.get_by_label("Side by side").check()
    page.get_by_label("Model B", exact=True).wait_for()
    shorten(page, 10)
    before = len(lines(records / "votes.jsonl"))
    ask(page, "Hello?")
    for side in ("a", "b"):
        ended(page, 1, f"#owl-talk-{side}")
    button(page, "Both are as good").click()
    page.get_by_role("alert").filter(has_text="Noted").wait_for()
    vote = lines(records / "votes.jsonl")[before]
    assert (vote["a"], vote["b"], vote["verdict"], vote["blind"]) == ("ada", "bert", "tie", False)
    blind = sum(each["blind"] for each in lines(records / "votes.jsonl"))
    caption = page.locator("#owl-standings")
    page.get_by_label("Count votes with open names too").check()
    sync_api.expect(caption).to_contain_text(f"{blind + 1} vote")
    button(page, "New round").click()
    sync_api.expect(said(page, "#owl-talk-a")).to_have_count(0)


def looked(page: Any, tokens: int = 12) -> Any:
    """Ask, and wait for the look."""
    page.get_by_role("spinbutton", name=re.compile("Longest answer")).wait_for()
    shorten(page, tokens)
    ask(page, "What is <i>this</i>?")
    look = page.locator("#owl-look .owl-look")
    look.wait_for()
    return look


def lit(look: Any) -> list[int]:
    """Which of the maps over the large picture can be seen."""
    opacities = look.locator(".views .view img").evaluate_all("all => all.map(each => getComputedStyle(each).opacity)")
    return [place for place, opacity in enumerate(opacities) if opacity != "0"]


def test_a_look_shows_where_a_word_came_from(opened: Callable[..., Any], picture_file: Path, tmp_path: Path) -> None:
    page = opened("look")
    upload(page, picture_file)
    look = looked(page)
    words = look.locator(".said label")
    assert words.count() >= 2 and lit(look) == [0]
    sync_api.expect(look).to_contain_text("What is <i>this</i>?")
    assert look.locator(".views .view").bounding_box()["width"] > 200
    words.nth(1).click()
    assert lit(look) == [1]
    page.keyboard.press("ArrowLeft")
    assert lit(look) == [0]
    assert look.locator("table").first.locator("tr").count() == 3  # two layers below a heading
    with page.expect_download() as started:
        page.locator("#owl-look-file").click()
    assert started.value.suggested_filename == "look.html"
    started.value.save_as(tmp_path / "look.html")
    alone = page.context.new_page()
    alone.goto((tmp_path / "look.html").as_uri())
    assert lit(alone) == [0] and "&lt;i&gt;this" in alone.content()


def test_a_look_without_a_picture_is_refused_in_a_sentence(opened: Callable[..., Any], picture_file: Path) -> None:
    page = opened("look")
    ask(page, "What is this?")
    page.get_by_role("alert").filter(has_text="Nothing was shown").wait_for()
    assert question(page).input_value() == "What is this?"
    upload(page, picture_file)
    page.get_by_label("Go through the layers of the vision model").check()
    looked(page)
    sync_api.expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_look_fits_a_phone(opened: Callable[..., Any], scheme: str, picture_file: Path) -> None:
    page = opened("look", viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    upload(page, picture_file)
    looked(page, 30)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("path", ["", "compare"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones_and_the_dark(opened: Callable[..., Any], path: str, scheme: str, picture_file: Path) -> None:
    page = opened(path, viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    shorten(page, 40)
    upload(page, picture_file)
    ask(page, "What is this, and why is it so?")
    ended(page, 1, "#owl-talk-a" if path else "#owl-talk")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]
    lightness = page.evaluate(
        "() => { const c = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);"
        " return (c[0] + c[1] + c[2]) / 3 }"
    )
    assert (lightness < 80) == (scheme == "dark")
    assert question(page).bounding_box()["width"] > 150


def test_the_keyboard_reaches_everything(opened: Callable[..., Any]) -> None:
    page = opened()
    shorten(page, 6)
    question(page).focus()
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                "() => { const e = document.activeElement; return (e.ariaLabel || e.innerText ||"
                " (e.labels && e.labels[0] && e.labels[0].innerText) || e.tagName).trim() }"
            )
        )
    found = " | ".join(names)
    for name in ("New conversation", "Parameters", "Copy as API call"):
        assert name in found
    assert found.index("New conversation") < found.index("Parameters") < found.index("Copy as API call")


def test_a_closed_tab_frees_its_place(opened: Callable[..., Any], site: str) -> None:
    def running() -> float:
        with urllib.request.urlopen(site.replace("/ui/", "/metrics")) as answer:
            text = answer.read().decode()
        return sum(map(float, re.findall(r"^owl_running\{.*\} (\S+)$", text, re.MULTILINE)))

    page = opened()
    shorten(page, 1024)
    ask(page, "Tell me a long story.")
    said(page).first.wait_for()
    assert running() == 1
    page.context.close()
    end = time.monotonic() + 60
    while running():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_questions_count_for_the_key(chromium: Any, models: list[str], tmp_path: Path) -> None:
    key = keys.add(tmp_path / "keys.jsonl", "ann", rate=1)
    with served(models[:1], tmp_path, "--keys", str(tmp_path / "keys.jsonl")) as site:
        context = chromium.new_context(http_credentials={"username": "anybody", "password": key})
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(site)
        question(page).wait_for()
        shorten(page, 8)
        ask(page, "Hello?")
        ended(page)
        ask(page, "And now?")
        page.get_by_role("alert").filter(has_text="Over 1 requests a minute").wait_for()
        assert question(page).input_value() == "And now?"
        context.close()
    log = (tmp_path / "log").read_text()
    assert '"key": "ann"' in log and "/ui/assets/" not in log and key not in log


def test_files_of_the_machine_stay_where_they_are(opened: Callable[..., Any], site: str) -> None:
    page = opened()
    for path in ("gradio_api/file=/etc/passwd", "gradio_api/info", "gradio_api/file=http://127.0.0.1:1/"):
        assert page.request.get(site + path).status in (403, 404)
    config = page.request.get(site + "config").json()
    for dependency in config["dependencies"]:
        data = [{"text": "x", "files": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}]
        answer = page.request.post(
            site + "gradio_api/queue/join",
            data={"data": data, "fn_index": dependency["id"], "session_hash": "abc", "trigger_id": None},
        )
        assert answer.status == 403


@pytest.mark.skipif(not os.environ.get("OWL_SCREENSHOTS"), reason="set OWL_SCREENSHOTS to two models to take pictures")
def test_pictures_of_the_pages(chromium: Any, tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[1] / "docs" / "images"

    def take(page: Any, name: str) -> None:
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=str(folder / f"ui-{name}.png"))
        assert (folder / f"ui-{name}.png").stat().st_size < 200_000

    with served(os.environ["OWL_SCREENSHOTS"].split(), tmp_path, "--seed", "3") as site:
        looks = {"chat": {"viewport": {"width": 1000, "height": 1000}}}
        looks["phone"] = {"viewport": PHONE, "color_scheme": "dark"}
        for name, look in looks.items():
            page = chromium.new_context(**look).new_page()
            page.goto(site)
            page.get_by_role("button", name=re.compile("pink things")).click()
            ended(page)
            ask(page, "What colour is the large square?")
            ended(page, 2)
            take(page, name)
        page = chromium.new_context(viewport={"width": 1000, "height": 1400}).new_page()
        page.goto(f"{site}compare")
        rounds = (
            ("flag.png", "Whose flag is this?", "B is better"),
            ("clock.png", "What is the time?", "Both are as good"),
        )
        for file, text, verdict in rounds:
            question(page).wait_for()
            upload(page, EXAMPLES / file)
            ask(page, text)
            for side in ("a", "b"):
                ended(page, 1, f"#owl-talk-{side}")
            button(page, verdict).click()
            page.get_by_role("alert").filter(has_text="Noted").wait_for()
            if file == "flag.png":
                button(page, "New round").click()
                sync_api.expect(said(page, "#owl-talk-a")).to_have_count(0)
        take(page, "compare")
        page = chromium.new_context(viewport={"width": 1000, "height": 820}).new_page()
        page.goto(f"{site}look")
        question(page).wait_for()
        upload(page, EXAMPLES / "scene.png")
        ask(page, "What colour is the large square?")
        page.locator("#owl-look .owl-look").wait_for()
        take(page, "look")
