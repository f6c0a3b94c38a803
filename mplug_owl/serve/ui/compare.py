"""The page to compare two owls on one conversation, by name or blindly, and the table that the votes make."""

import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gradio as gr

from mplug_owl.data.ledger import Ledger, now
from mplug_owl.errors import RequestError
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.limits import as_request
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.ui.controls import QUIET, parameter_controls, question_box
from mplug_owl.serve.ui.conversation import Turn, keep, record, shown
from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.page import notice
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.reply import Asker, Reply, changes, explained
from mplug_owl.serve.ui.session import Session
from mplug_owl.serve.ui.standings import standings_table
from mplug_owl.serve.ui.votes import pair, read, standings

BLIND, OPEN = "Blind: names after the vote", "Side by side"
SIDES = ("A", "B")
BUTTONS = {"a": "A is better", "tie": "Both are as good", "bad": "Both are bad", "b": "B is better"}


@dataclass
class Match(Session):
    """Two conversations of the same questions, side by side; `turns` are those of the first."""

    others: list[Turn] = field(default_factory=list)
    """The turns of the second."""
    names: tuple[str, str] | None = None
    """Who is who; nobody before the first question."""
    is_blind: bool = True
    is_decided: bool = False
    """Whether a vote was cast."""

    def forget(self) -> None:
        super().forget()
        self.others, self.names, self.is_decided = [], None, False


class ComparePage:
    def __init__(self, catalogue: Catalogue, server: ServeOptions, options: PageOptions) -> None:
        self.catalogue = catalogue
        self.server = server
        self.options = options
        self.asker = Asker(catalogue, server, options)
        self.votes = Ledger(options.votes)
        self.seed: int | str = secrets.token_hex(8) if options.seed is None else options.seed
        self.rounds = itertools.count()

    def draw(self) -> None:
        """Make the components, in the order in which the keyboard goes through them, and say what they do."""
        names = self.catalogue.names
        if len(names) < 2:
            gr.HTML(
                notice("Comparing takes two models. Start again with two: owl ui MODEL OTHER", "news"), js_on_load=None
            )
            self._draw_table()
            return
        match = gr.State(Match())
        mode = gr.Radio([BLIND, OPEN], value=BLIND, label="How", elem_id="owl-mode")
        with gr.Row(visible=False) as choice:
            left = gr.Dropdown(names, value=names[0], label="Model A", elem_id="owl-left")
            right = gr.Dropdown(names, value=names[1], label="Model B", elem_id="owl-right")
        with gr.Row():
            talks = [_talk(side) for side in SIDES]
        note = gr.HTML("", js_on_load=None, elem_classes="owl-note")
        with gr.Row(elem_classes="owl-buttons"):
            buttons = [gr.Button(text, interactive=False, elem_id=f"owl-{key}") for key, text in BUTTONS.items()]
        box = question_box()
        with gr.Row(elem_classes="owl-buttons"):
            stop = gr.Button("Stop (Esc)", interactive=False, elem_classes="owl-stop")
            again = gr.Button("New round", elem_classes="owl-new")
        wishes = parameter_controls(self.server.default_new_tokens, self.server.max_new_tokens)
        table, counted = self._draw_table()

        outputs = [*talks, box, note, stop, *buttons]
        box.submit(self.send, [box, match, mode, left, right, *wishes], outputs, **QUIET)
        stop.click(self.stop, [match], None, **QUIET)
        for button, verdict in zip(buttons, BUTTONS, strict=True):
            button.click(partial(self.vote, verdict), [match, counted], [*talks, note, *buttons, table], **QUIET)
        for event in (again.click, *(talk.clear for talk in talks)):
            event(self.forget, [match], outputs, **QUIET)
        mode.change(lambda mode: gr.Row(visible=mode == OPEN), [mode], [choice], **QUIET)
        for control in (mode, left, right):  # who is who cannot change in the middle of a round
            control.change(self.forget, [match], outputs, **QUIET)

    def _draw_table(self) -> tuple[gr.HTML, gr.Checkbox]:
        gr.Markdown("## Standings")
        counted = gr.Checkbox(False, label="Count votes with open names too")
        table = gr.HTML("", js_on_load=None, elem_id="owl-standings")
        # Made anew whenever somebody opens the page, so a vote is seen by all.
        gr.on(None, self.table, [counted], [table], **QUIET)
        return table, counted

    # ---- what people do ------------------------------------------------------------------------

    async def send(
        self, request: gr.Request, said: dict[str, Any], match: Match, mode: str, left: str, right: str, *wishes: Any
    ) -> AsyncIterator[list[Any]]:
        """Ask both the same; a question that one of them did not answer is taken back from both."""
        old = (match.turns, match.others)
        turn = Turn("")
        try:
            with match.busy():
                uploads = await self.asker.uploads(said["files"])
                turn = Turn(said["text"].strip(), uploads, parameters=Parameters.read(wishes))
                if match.names is None:
                    match.names, match.is_blind = (
                        self._pair(self.asker.names(request.request.scope), mode, left, right),
                        mode == BLIND,
                    )
                asked = [[*turns, replace(turn, model=name)] for turns, name in zip(old, match.names, strict=True)]
                with ExitStack() as stack:
                    stack.enter_context(as_request(request.request.scope))
                    replies = [
                        stack.enter_context(self.asker.ask(request.request.scope, name, turns, turn.parameters))
                        for name, turns in zip(match.names, asked, strict=True)
                    ]
                    match.turns, match.others = asked
                    match.replies, mine = replies, match.turns
                    yield [*map(shown, asked), gr.MultimodalTextbox(value=None), "", *_buttons(stop=True)]
                    async for _ in changes(*replies):
                        if match.turns is not mine:  # a new round has begun
                            return
                        yield [*map(shown, _with(asked, replies)), *[gr.skip()] * 7]
                    if all(reply.text or reply.ended != "abort" for reply in replies):
                        match.turns, match.others = answered = _with(asked, replies)
                        ready = _buttons(vote=not match.is_decided)
                        yield [*map(shown, answered), gr.skip(), gr.skip(), *ready]
                        return
                    failed = "Stopped before the first word of one of them."
        except Exception as error:
            failed = explained(error)
            if match.is_busy:  # with another question, which goes on
                yield [*[gr.skip()] * 3, notice(failed), *[gr.skip()] * 5]
                return
        match.turns, match.others = old
        if not match.turns:
            match.names = None
        question = {"text": turn.question, "files": [str(upload.path) for upload in turn.uploads]}
        back = gr.MultimodalTextbox(value=question) if turn.question or turn.uploads else gr.skip()
        ready = _buttons(vote=bool(match.turns) and not match.is_decided)
        yield [*map(shown, old), back, notice(failed), *ready]

    def _pair(self, names: Sequence[str], mode: str, left: str, right: str) -> tuple[str, str]:
        if mode == BLIND:
            return pair(names, self.seed, next(self.rounds))
        if left == right:
            raise RequestError(f"{left} against itself; choose two models")
        return left, right

    def stop(self, match: Match) -> None:
        match.stop()

    def vote(self, verdict: str, match: Match, counted: bool) -> list[Any]:
        """Write a verdict down, then tell the names."""
        try:
            if match.names is None or match.is_decided or match.is_busy or not match.turns:
                raise RequestError("nothing to vote on; ask something first, or begin a new round")
            a, b = match.names
            sides = {"a": record(match.turns), "b": record(match.others)}
            cast = {"time": now(), "a": a, "b": b, "verdict": verdict, "blind": match.is_blind}
            self.votes.append({**cast, "conversation": sides})
            match.is_decided = True
            if self.options.keep_media:
                keep(match.turns, self.votes.path)
        except Exception as error:
            return [gr.skip(), gr.skip(), notice(explained(error)), *[gr.skip()] * 5]
        said = notice(f"Noted: {BUTTONS[verdict]}. A is {a}, B is {b}.", "news")
        labels = [gr.Chatbot(label=f"{side}: {name}") for side, name in zip(SIDES, match.names, strict=True)]
        return [*labels, said, *_buttons()[1:], self.table(counted)]

    def forget(self, match: Match) -> list[Any]:
        match.forget()
        empty = [gr.Chatbot(value=[], label=side) for side in SIDES]
        return [*empty, gr.MultimodalTextbox(value=None), "", *_buttons()]

    def table(self, counted: bool) -> str:
        """The standings as they are now."""
        try:
            votes = [vote for vote in read(self.votes) if vote.blind or counted]
        except Exception as error:
            return notice(explained(error))
        return standings_table(standings(votes), len(votes))


def _talk(side: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=side,
        height="45vh",
        buttons=["copy"],
        latex_delimiters=[],
        render_markdown=False,
        allow_tags=False,
        group_consecutive_messages=False,
        placeholder=f"What {side} says.",
        min_width=300,
        elem_id=f"owl-talk-{side.lower()}",
        elem_classes="owl-talk",
    )


def _buttons(stop: bool = False, vote: bool = False) -> list[Any]:
    """The button that stops, and those that vote."""
    return [gr.Button(interactive=stop), *(gr.Button(interactive=vote) for _ in BUTTONS)]


def _with(asked: Sequence[list[Turn]], replies: Sequence[Reply]) -> list[list[Turn]]:
    """Both conversations with their last answers as far as they are there."""
    return [
        [*turns[:-1], replace(turns[-1], answer=reply.text if reply.text or reply.ended else None, ended=reply.ended)]
        for turns, reply in zip(asked, replies, strict=True)
    ]
