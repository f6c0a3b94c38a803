"""The page to chat with an owl: pictures and videos, many turns, stop, again, edit, thumbs, the same as an API call."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.types import Scope

from mplug_owl.data.ledger import Ledger, now
from mplug_owl.errors import OwlError
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.limits import as_request
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.ui.apicall import curl, python
from mplug_owl.serve.ui.controls import QUIET, parameter_controls, question_box
from mplug_owl.serve.ui.conversation import Turn, keep, record, shown, turn_at
from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.page import EXAMPLES, notice
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.reply import Asker, changes, explained
from mplug_owl.serve.ui.session import Session

Update = tuple[Any, Any, Any, Any]
"""For the conversation, the question, the notice and the button that stops."""


class ChatPage:
    def __init__(self, catalogue: Catalogue, server: ServeOptions, options: PageOptions) -> None:
        self.catalogue = catalogue
        self.server = server
        self.options = options
        self.asker = Asker(catalogue, server, options)
        self.thumbs = Ledger(options.thumbs)
        self.examples = examples()

    def draw(self) -> None:
        """Make the components, in the order in which the keyboard goes through them, and say what they do."""
        session = gr.State(Session())
        names = self.catalogue.names
        model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="owl-model")
        talk = gr.Chatbot(
            label="Conversation",
            height="55vh",
            editable="user",
            buttons=["copy"],
            latex_delimiters=[],
            render_markdown=False,
            allow_tags=False,
            group_consecutive_messages=False,  # together, a question with a picture could not be edited
            placeholder="Show it a picture or a video, or begin with one of these.",
            examples=[
                {"text": question, "files": [str(EXAMPLES / file)], "display_text": question}
                for file, question in self.examples
            ],
            elem_id="owl-talk",
            elem_classes="owl-talk",
        )
        note = gr.HTML("", js_on_load=None, elem_classes="owl-note")
        box = question_box()
        with gr.Row(elem_classes="owl-buttons"):
            stop = gr.Button("Stop (Esc)", interactive=False, elem_classes="owl-stop")
            again = gr.Button("New conversation", elem_classes="owl-new")
        wishes = parameter_controls(self.server.default_new_tokens, self.server.max_new_tokens)
        with gr.Accordion("Copy as API call", open=False, elem_id="owl-api") as api:
            shell = gr.Code(language="shell", label="curl", interactive=False, elem_id="owl-curl")
            program = gr.Code(language="python", label="Python", interactive=False, elem_id="owl-python")

        outputs, asked = [talk, box, note, stop], [session, model, *wishes]
        sent = box.submit(self.send, [box, *asked], outputs, **QUIET)
        retried = talk.retry(self.retry, asked, outputs, **QUIET)
        edited = talk.edit(self.edit, asked, outputs, **QUIET)
        chosen = talk.example_select(self.example, asked, outputs, **QUIET)
        stop.click(self.stop, [session], None, **QUIET)
        talk.like(self.like, [session], [talk, note], **QUIET)
        for event in (again.click, talk.clear):
            event(self.clear, [session], outputs, **QUIET)
        for trigger in (sent.then, retried.then, edited.then, chosen.then, api.expand):
            trigger(self.code, asked, [shell, program], **QUIET)

    # ---- what people do ------------------------------------------------------------------------

    async def send(
        self, request: gr.Request, said: dict[str, Any], session: Session, model: str, *wishes: Any
    ) -> AsyncIterator[Update]:
        """A new question at the end."""
        question, paths = said["text"].strip(), said["files"]

        async def turn() -> Turn:
            return Turn(question, await self.asker.uploads(paths))

        async for update in self._answered(request.request.scope, session, session.turns, turn, model, wishes):
            yield update

    async def retry(
        self, event: gr.RetryData, request: gr.Request, session: Session, model: str, *wishes: Any
    ) -> AsyncIterator[Update]:
        """The same question again; what followed it is forgotten once there is an answer."""
        async for update in self._asked_again(request, event.index, None, session, model, wishes):
            yield update

    async def edit(
        self, event: gr.EditData, request: gr.Request, session: Session, model: str, *wishes: Any
    ) -> AsyncIterator[Update]:
        """Another question in the place of an earlier one, about the same pictures."""
        async for update in self._asked_again(request, event.index, words(event.value), session, model, wishes):
            yield update

    async def example(
        self, event: gr.SelectData, request: gr.Request, session: Session, model: str, *wishes: Any
    ) -> AsyncIterator[Update]:
        """One of the examples, at once."""

        async def turn() -> Turn:
            file, question = self.examples[event.index]
            return Turn(question, await self.asker.uploads([str(EXAMPLES / file)]))

        async for update in self._answered(request.request.scope, session, session.turns, turn, model, wishes):
            yield update

    def stop(self, session: Session) -> None:
        session.stop()

    def clear(self, session: Session) -> Update:
        session.forget()
        return [], gr.MultimodalTextbox(value=None), "", gr.Button(interactive=False)

    def like(self, event: gr.LikeData, session: Session) -> tuple[Any, str]:
        """Write a thumb down, with everything that was said before it."""
        try:
            number = turn_at(session.turns, event.index)
            rating = {True: "up", False: "down"}.get(event.liked)
            session.turns[number] = replace(session.turns[number], rating=rating)
            turns = session.turns[: number + 1]
            model = turns[-1].model
            self.thumbs.append({"time": now(), "rating": rating, "model": model, "conversation": record(turns)})
            if self.options.keep_media:
                keep(turns, self.thumbs.path)
        except Exception as error:
            return gr.skip(), notice(explained(error))
        thumbs = [{"up": "Like", "down": "Dislike"}.get(turn.rating or "") for turn in session.turns]
        return gr.Chatbot(feedback_value=thumbs), notice("Noted, thank you." if rating else "Taken back.", "news")

    def code(self, request: gr.Request, session: Session, model: str, *wishes: Any) -> tuple[str, str]:
        """The conversation as a call of this server's API."""
        address = urlsplit(str(request.url))
        base = f"{address.scheme}://{address.netloc}/v1"
        try:
            call = (base, self.catalogue.name(model), session.turns, Parameters.read(wishes), bool(self.server.keys))
        except OwlError as error:
            return f"# {explained(error)}", f"# {explained(error)}"
        return curl(*call), python(*call)

    # ---- one answer ----------------------------------------------------------------------------

    async def _asked_again(
        self, request: gr.Request, index: Any, question: str | None, session: Session, model: str, wishes: Sequence[Any]
    ) -> AsyncIterator[Update]:
        try:
            number = turn_at(session.turns, index)
        except IndexError as error:
            yield gr.skip(), gr.skip(), notice(explained(error)), gr.skip()
            return
        old = session.turns[number]

        async def turn() -> Turn:
            return Turn(old.question if question is None else question.strip(), old.uploads)

        async for update in self._answered(
            request.request.scope, session, session.turns[:number], turn, model, wishes, restore=False
        ):
            yield update

    async def _answered(
        self,
        scope: Scope,
        session: Session,
        before: Sequence[Turn],
        asked: Callable[[], Awaitable[Turn]],
        model: str,
        wishes: Sequence[Any],
        restore: bool = True,
    ) -> AsyncIterator[Update]:
        """Follow an answer into the page; a question without one is taken back, with a word of why."""
        old, turn = session.turns, Turn("")
        try:
            with session.busy():
                turn = replace(await asked(), model=self.catalogue.name(model), parameters=Parameters.read(wishes))
                with as_request(scope), self.asker.ask(scope, model, [*before, turn], turn.parameters) as reply:
                    session.turns, session.replies = [*before, turn], [reply]
                    mine = session.turns
                    yield shown(mine), gr.MultimodalTextbox(value=None), "", gr.Button(interactive=True)
                    async for _ in changes(reply):
                        if session.turns is not mine:  # a new conversation has begun
                            return
                        partly = replace(turn, answer=reply.text or None)
                        yield shown([*before, partly]), gr.skip(), gr.skip(), gr.skip()
                    if reply.text or reply.ended != "abort":
                        session.turns = [*before, replace(turn, answer=reply.text, ended=reply.ended)]
                        yield shown(session.turns), gr.skip(), gr.skip(), gr.Button(interactive=False)
                        return
                    failed = "Stopped before the first word."
        except Exception as error:
            failed = explained(error)
            if session.is_busy:  # by another question, which goes on
                yield gr.skip(), gr.skip(), notice(failed), gr.skip()
                return
        session.turns = old
        question = {"text": turn.question, "files": [str(upload.path) for upload in turn.uploads]}
        back = gr.MultimodalTextbox(value=question) if restore and (turn.question or turn.uploads) else gr.skip()
        yield shown(old), back, notice(failed), gr.Button(interactive=False)


def words(value: Any) -> str:
    """The text of an edited message, which comes as it is or in parts."""
    if isinstance(value, list):
        return "".join(words(part) for part in value)
    return str(value.get("text", "")) if isinstance(value, dict) else str(value)


def examples() -> list[tuple[str, str]]:
    """The pictures that come with the package, each with its first question."""
    rows = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))
    return [(row["file"], row["questions"][0]["text"]) for row in rows]
