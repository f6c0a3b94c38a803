"""The page to look inside an answer: which pixels each word comes from, and what is seen on the way there.

One look is made at a time, in a thread of its own; how it is made and what it looks like is the engine's business.
"""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr

from mplug_owl.engine.chat import Chat
from mplug_owl.engine.insight.look import Look, look_inside
from mplug_owl.engine.insight.observer import Observer
from mplug_owl.engine.insight.page import fragment, page
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.limits import as_request
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.ui.controls import QUIET, question_box
from mplug_owl.serve.ui.conversation import Turn, messages
from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.page import notice, uploads_folder
from mplug_owl.serve.ui.reply import Asker, explained

USUAL_TOKENS, MOST_TOKENS = 64, 256
LENS = 3
"""Words told of each visual position."""
WAYS = {"Go through the layers of the vision model": "vision", "Go through the layers of the language model": "decoder"}
WAIT = "Looking. A long answer or a video takes a while."

Update = tuple[Any, Any, Any, Any]
"""For the look, the file of it, the notice and the question."""


class LookPage:
    def __init__(self, catalogue: Catalogue, server: ServeOptions, options: PageOptions) -> None:
        self.catalogue = catalogue
        self.server = server
        self.asker = Asker(catalogue, server, options)
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="owl-look")

    def draw(self) -> None:
        """Make the components, in the order in which the keyboard goes through them, and say what they do."""
        names = self.catalogue.names
        model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="owl-model")
        box = question_box()
        with gr.Row():
            ways = gr.CheckboxGroup(list(WAYS), label="Carry attention further", elem_id="owl-ways")
            most = min(MOST_TOKENS, self.server.max_new_tokens)
            tokens = gr.Slider(1, most, min(USUAL_TOKENS, most), step=1, label="Longest answer, in tokens")
        note = gr.HTML("", js_on_load=None, elem_classes="owl-note")
        seen = gr.HTML("", js_on_load=None, elem_id="owl-look")
        file = gr.DownloadButton("Download as a page", visible=False, elem_id="owl-look-file")
        box.submit(self.look, [box, model, ways, tokens], [seen, file, note, box], **QUIET)

    async def look(self, request: gr.Request, said: dict[str, Any], model: str, ways: list[str], tokens: float) -> Any:
        """Have the question answered and show where the answer comes from."""
        yield gr.skip(), gr.skip(), notice(WAIT, "news"), gr.skip()
        try:
            scope = request.request.scope
            turn = Turn(said["text"].strip(), await self.asker.uploads(said["files"]))
            chat = self.asker.chat(scope, model, [turn])
            rollout = [WAYS[way] for way in ways if way in WAYS]
            most = max(1, min(int(tokens), MOST_TOKENS))
            with as_request(scope):
                loop = asyncio.get_running_loop()
                found, path = await loop.run_in_executor(self._eyes, self._look, chat, turn, rollout, most)
        except Exception as error:
            yield gr.skip(), gr.skip(), notice(explained(error)), gr.skip()
            return
        yield fragment(found), gr.DownloadButton(value=str(path), visible=True), "", gr.MultimodalTextbox(value=None)

    def _look(self, chat: Chat, turn: Turn, rollout: list[str], tokens: int) -> tuple[Look, Path]:
        observer = Observer(chat.engine.model, rollout=rollout, lens=LENS)
        found = look_inside(chat, messages([turn]), observer, max_new_tokens=tokens)
        path = Path(tempfile.mkdtemp(dir=uploads_folder()), "look.html")  # goes when uploads go
        path.write_text(page(found), encoding="utf-8")
        return found, path
