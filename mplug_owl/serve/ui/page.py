"""Pages as Gradio shows them: one look, one bar between them, nothing from outside, and no file but what was uploaded.

What is on a page is the business of whoever makes it: `Page` takes a name and a function that draws.
"""

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mplug_owl.errors import ConfigError
from mplug_owl.serve.ui.options import PageOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "assets" / "demo"
PATH = "/ui"
DAY = 24 * 60 * 60
PER_SESSION_STATES = 2_000
"""Open tabs whose conversations are held; the one unused for longest is let go first."""


@dataclass(frozen=True)
class Page:
    """One page of several."""

    title: str
    """Its name in the bar; in lower case, its address."""
    draw: Callable[[], None]
    """Makes its Gradio components and events; called once, inside of `gr.Blocks`. All events go through the queue."""


def attach(app: "FastAPI", pages: Sequence[Page], options: PageOptions | None = None, path: str = PATH) -> None:
    """Put pages at `path` of an application, the first of them at `path` itself.

    Raises: ConfigError where Gradio is missing.
    """
    options = options or PageOptions()
    gr = _gradio()
    folder = uploads_folder()
    site = _site(gr, pages)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SSR mode is not supported")  # which nobody asked for
        gr.mount_gradio_app(
            app,
            site,
            path=path,
            theme=_theme(gr),
            css_paths=[HERE / "page.css"],
            js=(HERE / "page.js").read_text(encoding="utf-8"),
            allowed_paths=[str(EXAMPLES)],
            max_file_size=options.max_upload,
            show_error=False,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
        )
    # Gradio looks at the paths that come with a question only where it believes that it started the server itself.
    site.has_launched = True
    from mplug_owl.serve.ui.guard import Guard

    addresses = ["", *(address(page) for page in pages[1:])]
    app.add_middleware(Guard, prefix=path, pages=addresses, folder=folder, options=options)


def address(page: Page) -> str:
    return page.title.lower().replace(" ", "-")


def _gradio() -> Any:
    """Gradio, which must hear that it shall ask nobody anything before it is imported."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError:
        raise ConfigError('the pages need Gradio; install it: pip install "mplug_owl[ui]"') from None
    return gradio


def uploads_folder() -> Path:
    """Where uploads of this process lie; it goes when the process ends."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        # Gradio's own would be shared with everybody on the machine.
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="owl-pages-")
        atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    return Path(os.environ["GRADIO_TEMP_DIR"]).resolve()


def _site(gr: Any, pages: Sequence[Page]) -> Any:
    if not pages:
        raise ConfigError("no pages to show; expected one at least")
    first, *others = pages
    # The state of a tab is kept for an hour after it was closed, files for a day.
    site = gr.Blocks(title="owl", analytics_enabled=False, fill_width=True, delete_cache=(DAY // 24, DAY), mode="pages")
    site.state_session_capacity = PER_SESSION_STATES
    with site:
        gr.Navbar(main_page_name=first.title, visible=bool(others))
        first.draw()
    for page in others:
        with site.route(page.title, address(page)):
            gr.Navbar(main_page_name=first.title)
            page.draw()
    # An engine has a queue of its own, which tells who waits for how long; Gradio's lets everybody pass.
    site.queue(default_concurrency_limit=None, api_open=False)
    return site


def _theme(gr: Any) -> Any:
    """Fonts of the reader's own machine, and colours with enough contrast in light and dark."""
    return gr.themes.Base(
        primary_hue="amber",
        secondary_hue="amber",
        neutral_hue="stone",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )


def notice(text: str = "", kind: str = "problem") -> str:
    """A sentence above the question, which a screen reader says at once; nothing where there is none."""
    return f'<p class="owl-notice owl-{kind}" role="alert">{escape(text)}</p>' if text else ""
