"""The pages: chat with an owl, compare two, vote, look inside. They know owls by name, and nothing of API requests.

Gradio draws them, without anything from outside: no analytics, no fonts or scripts of other hosts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mplug_owl.serve.ui.options import PageOptions
from mplug_owl.serve.ui.page import Page, attach

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mplug_owl.serve.catalogue import Catalogue

__all__ = ["Page", "PageOptions", "attach", "mount"]


def mount(
    app: "FastAPI", catalogue: "Catalogue", options: PageOptions | None = None, more: Sequence[Page] = ()
) -> None:
    """Put the pages at /ui of an application that `make_app` made; `more` follow those that are always there.

    Raises: ConfigError where Gradio is missing.
    """
    options = options or PageOptions()

    def chat() -> None:
        from mplug_owl.serve.ui.chat import ChatPage

        ChatPage(catalogue, app.state.options, options).draw()

    def compare() -> None:
        from mplug_owl.serve.ui.compare import ComparePage

        ComparePage(catalogue, app.state.options, options).draw()

    def look() -> None:
        from mplug_owl.serve.ui.look import LookPage

        LookPage(catalogue, app.state.options, options).draw()

    attach(app, [Page("Chat", chat), Page("Compare", compare), Page("Look", look), *more], options)
