"""What the site adds to Markdown: blocks of `math` become MathML, blocks of `help` the help text of a command.

Both are made while the site is built, so a reader's browser fetches nothing. What pages say is not known here.
"""

import os
from typing import Any

from latex2mathml.converter import convert
from markupsafe import escape
from mkdocs.config.defaults import MkDocsConfig

from mplug_owl import cli

os.environ["COLUMNS"] = "80"  # what argparse folds help texts to


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Teach the fences to superfences."""
    fences = [{"name": name, "class": name, "format": made} for name, made in (("math", formula), ("help", help_text))]
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = fences
    return config


def formula(source: str, *_: Any, **__: Any) -> str:
    """One display a line of TeX; a line that is no TeX stops the build."""
    lines = [convert(line, display="block") for line in source.splitlines() if line.strip()]
    return f'<div class="math">{"".join(lines)}</div>'


def help_text(source: str, *_: Any, **__: Any) -> str:
    """What `owl COMMAND --help` prints; without a command, what `owl --help` does."""
    command = source.strip()
    text = cli.parser(command).format_help() if command else cli.HELP
    return f"<pre><code>{escape(text)}</code></pre>"
