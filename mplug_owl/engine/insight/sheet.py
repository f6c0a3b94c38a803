"""A look as one picture: the question, the answer, and every word with where it comes from.

One view fills rows with words; several views make a row for each word. How maps are coloured is the business of
`heat.py`.
"""

import textwrap

from PIL import Image, ImageDraw
from torch import Tensor

from mplug_owl.engine.insight.heat import fitted, overlaid
from mplug_owl.engine.insight.look import Look
from mplug_owl.world.canvas import font

WORDS = 48
"""More words than this make no picture that anybody reads; the page shows all."""
_WIDE, _HIGH, _GAP, _LINE = 176, 176, 12, 18
_ACROSS = 5
_INK, _PAPER, _FAINT = (25, 25, 25), (255, 255, 255), (110, 110, 110)


def sheet(look: Look) -> Image.Image:
    """Draw it."""
    cells = [("the whole answer", look.overall)]
    cells += [
        (f"{word.text}  {100 * word.probability:.0f}%", heat)
        for word, heat in zip(look.words[:WORDS], look.maps[:WORDS], strict=True)
    ]
    views = len(look.views)
    across = views if views > 1 else min(_ACROSS, len(cells))
    rows = len(cells) if views > 1 else -(-len(cells) // across)
    columns = max(across * (_WIDE + _GAP) // 7, 40)
    head = textwrap.wrap(look.question, columns)[:3] + textwrap.wrap(f"> {look.answer}", columns)[:6]
    if len(look.words) > WORDS:
        head.append(f"(the first {WORDS} of {len(look.words)} words; a page, .html, shows all)")
    top = _GAP + _LINE * len(head) + _GAP
    step = _HIGH + _LINE + _GAP
    made = Image.new("RGB", (max(across * (_WIDE + _GAP) + _GAP, 320), top + rows * step + _GAP), _PAPER)
    draw = ImageDraw.Draw(made)
    for number, line in enumerate(head):
        draw.text((_GAP, _GAP + _LINE * number), line, _INK, font("DejaVuSans", 13))
    for number, (caption, heat) in enumerate(cells):
        row, column = (number, 0) if views > 1 else divmod(number, across)
        place = (_GAP + column * (_WIDE + _GAP), top + row * step)
        draw.text(place, textwrap.shorten(caption, 26, placeholder="..."), _INK, font("DejaVuSans-Bold", 12))
        _paste(made, draw, look, heat, (place[0], place[1] + _LINE))
    return made


def _paste(made: Image.Image, draw: ImageDraw.ImageDraw, look: Look, heat: Tensor, place: tuple[int, int]) -> None:
    """The views side by side under one map, each as bright as it has a part in it."""
    most = float(heat.max())
    for number, view in enumerate(look.views):
        at = (place[0] + number * (_WIDE + _GAP), place[1])
        made.paste(overlaid(view, heat[number], most, fitted(view.picture.size, _WIDE, _HIGH)), at)
        if len(look.views) > 1:
            draw.text((at[0] + _WIDE, at[1] - _LINE), view.name, _FAINT, font("DejaVuSans", 11), anchor="ra")
