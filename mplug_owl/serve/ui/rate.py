"""The page on which people grade answers without knowing whose they are: by keyboard, one at a time.

What is graded, in which order, and where grades go is decided by the desk it is given. Nothing that it shows says whose
an answer is, and a grade is passed on before the next answer is fetched.
"""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol

from mplug_owl.errors import ConfigError, OwlError
from mplug_owl.serve.ui.page import PATH, Page, attach, notice

HERE = Path(__file__).resolve().parent
TITLE = "Rate"
LETTERS = ("A", "B", "C", "D")
KEYS = "Keys: A B C D choose, 1 to 6 tick abilities, Enter saves, Backspace goes back."
STALE = "That answer was graded already; this is the next one."
KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


class Sheet(Protocol):
    """All that a rater sees of one answer."""

    @property
    def token(self) -> str:
        """Comes back with the grade."""

    @property
    def picture(self) -> Path | None: ...

    @property
    def earlier(self) -> Sequence[tuple[str, str]]:
        """Questions and answers before it."""

    @property
    def question(self) -> str: ...

    @property
    def answer(self) -> str: ...

    @property
    def abilities(self) -> Mapping[str, str]:
        """What can be ticked: letters and names."""

    @property
    def grade(self) -> str | None:
        """What the rater said of it before."""

    @property
    def reflected(self) -> Sequence[str] | None:
        """What the rater ticked before."""


class Sitting(Protocol):
    """One rater's way through the answers."""

    @property
    def rater(self) -> str: ...

    @property
    def progress(self) -> tuple[int, int]:
        """Answers graded, and all."""

    def sheet(self) -> Sheet | None:
        """What is to be graded now; None when all is."""

    def grade(self, token: str, letter: str, reflected: Sequence[str]) -> bool:
        """Write a grade down and go on; False, and nothing done, where the token is of another sheet."""

    def back(self) -> None: ...


class Desk(Protocol):
    @property
    def guide(self) -> str:
        """How to grade, as Markdown."""

    def sitting(self, rater: str) -> Sitting: ...


def open_page(desk: Desk, rater: str | None, host: str, port: int) -> None:
    """Serve the page of a desk until interrupted; for one rater if one is named, else for whoever gives a name.

    Raises: ConfigError where it cannot listen there, or something it needs is not installed.
    """
    try:
        import uvicorn
        from fastapi import FastAPI
    except ImportError:
        raise ConfigError('the pages need a server; install it: pip install "mplug_owl[serve,ui]"') from None
    from mplug_owl.serve.server import bound, url

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    attach(app, [Page(TITLE, RatePage(desk, rater).draw)])
    listener = bound(host, port)
    print(f"rate at {url(listener)}{PATH} (Ctrl+C ends; every grade is kept)", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    try:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    finally:
        listener.close()


class RatePage:
    def __init__(self, desk: Desk, rater: str | None = None) -> None:
        self.desk = desk
        self.rater = rater

    def draw(self) -> None:
        """Make the components, in the order in which the keyboard goes through them, and say what they do."""
        import gradio as gr

        style, keys = ((HERE / name).read_text(encoding="utf-8") for name in ("rate.css", "rate.js"))
        gr.HTML(f"<style>{style}</style>", js_on_load=keys, padding=False)
        sitting = gr.State(None)
        with gr.Row(visible=self.rater is None) as door:
            name = gr.Textbox(label="Your name, the same each time", elem_id="owl-rater", autofocus=True, max_lines=1)
            begin = gr.Button("Begin", variant="primary", elem_id="owl-begin")
        with gr.Accordion("How to grade", open=True, elem_id="owl-guide"):
            gr.Markdown(f"{self.desk.guide}\n\n{KEYS}")
        note = gr.HTML("", js_on_load=None, padding=False, elem_id="owl-note")
        progress = gr.HTML("", js_on_load=None, padding=False, elem_id="owl-progress")
        sheet = gr.HTML("", js_on_load=None, padding=False, elem_id="owl-sheet")
        with gr.Column(visible=False) as form:
            grade = gr.Radio(LETTERS, label="Grade", elem_id="owl-grade")
            abilities = gr.CheckboxGroup([], label="Abilities that the answer shows", elem_id="owl-abilities")
            with gr.Row():
                back = gr.Button("Back", elem_id="owl-back")
                save = gr.Button("Save and go on", variant="primary", elem_id="owl-save")
        # Comes from the page with each grade, so that a grade is for what its rater saw.
        token = gr.Textbox(visible="hidden", elem_id="owl-token")
        shown = [sitting, door, note, progress, sheet, form, grade, abilities, token]
        gr.on([begin.click, name.submit], self.begin, [name], shown, show_progress="hidden")
        save.click(self.save, [sitting, token, grade, abilities], shown, show_progress="hidden")
        back.click(self.back, [sitting], shown, show_progress="hidden")
        if self.rater is not None:
            gr.on(None, self.resume, None, shown, show_progress="hidden")

    def resume(self) -> list[Any]:
        """Go on for the rater who is named before the page is opened."""
        return self.begin(self.rater or "")

    def begin(self, name: str) -> list[Any]:
        try:
            return self._show(self.desk.sitting(name or ""))
        except OwlError as error:
            return self._door(str(error))

    def save(self, sitting: Sitting | None, token: str, grade: str | None, reflected: Sequence[str]) -> list[Any]:
        if sitting is None:  # the server was started anew, or the page stood open for long
            return self._door("Give your name again; all that you saved is kept.")
        if grade is None:
            return self._unchanged("Choose A, B, C or D first.")
        try:
            return self._show(sitting, "" if sitting.grade(token, grade, reflected) else STALE)
        except OwlError as error:
            return self._unchanged(str(error))

    def back(self, sitting: Sitting | None) -> list[Any]:
        if sitting is None:
            return self._door("Give your name again; all that you saved is kept.")
        sitting.back()
        return self._show(sitting)

    def _show(self, sitting: Sitting, said: str = "") -> list[Any]:
        """What `shown` becomes: the answer that is next, or thanks."""
        import gradio as gr

        sheet, (done, total) = sitting.sheet(), sitting.progress
        told = f"<p>{escape(sitting.rater)}: {done} of {total} graded</p>"
        common = [sitting, gr.update(visible=False), notice(said), told]
        if sheet is None:
            thanks = notice("All answers are graded. Thank you.", "news")
            return [*common, thanks, gr.update(visible=False), None, gr.update(choices=[], value=[]), ""]
        choices = [(f"{number} {name}", key) for number, (key, name) in enumerate(sheet.abilities.items(), start=1)]
        ticks = gr.update(choices=choices, value=list(sheet.reflected or ()), visible=bool(choices))
        return [*common, drawn(sheet), gr.update(visible=True), sheet.grade, ticks, sheet.token]

    def _unchanged(self, said: str) -> list[Any]:
        import gradio as gr

        return [gr.skip(), gr.skip(), notice(said), *(gr.skip() for _ in range(6))]

    def _door(self, said: str) -> list[Any]:
        """Ask for a name."""
        import gradio as gr

        empty = [gr.update(visible=False), None, gr.update(choices=[], value=[]), ""]
        return [None, gr.update(visible=True), notice(said), "", "", *empty]


def drawn(sheet: Sheet) -> str:
    """A sheet as HTML. The picture travels in it, so that no file of the machine can be asked for."""
    told = [f'<div class="owl-earlier"><h2>Earlier</h2><p>{escape(_turns(sheet.earlier))}</p></div>'] * bool(
        sheet.earlier
    )
    told.append(f"<div><h2>Question</h2><p>{escape(sheet.question)}</p></div>")
    told.append(f'<div class="owl-graded"><h2>Answer to grade</h2><p>{escape(sheet.answer)}</p></div>')
    picture = "" if sheet.picture is None else f'<img alt="The picture asked about" src="{_data(sheet.picture)}">'
    return f'<div class="owl-sheet"><div>{picture}</div><div class="owl-sheet-words">{"".join(told)}</div></div>'


def _turns(earlier: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in earlier)


def _data(picture: Path) -> str:
    content = picture.read_bytes()
    kind = next((name for start, name in KINDS.items() if content.startswith(start)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
