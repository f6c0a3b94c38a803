"""A contact sheet: scenes with their descriptions, some questions and the right answers, for people to look at."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from mplug_owl.world.canvas import font
from mplug_owl.world.scene import MOVES, PAIRS, Question, Scene

EDGE = 192  # pixels of a picture
ASKED = 3
_BESIDE, _GAP, _LINE = 300, 12, 14
_COLUMNS = 3
_CHARACTERS = 50  # of a line
_INK, _FAINT, _RIGHT = (20, 20, 20), (110, 110, 110), (0, 100, 40)
_PAPER, _RIM = (255, 255, 255), (190, 190, 190)


def sheet(scenes: Sequence[Scene]) -> Image.Image:
    columns = min(_COLUMNS, len(scenes))
    wide, high = EDGE + _BESIDE + 2 * _GAP, EDGE + _GAP
    page = Image.new("RGB", (columns * wide + _GAP, -(-len(scenes) // columns) * high + _GAP), _PAPER)
    for number, scene in enumerate(scenes):
        row, column = divmod(number, columns)
        left, top = column * wide + _GAP, row * high + _GAP
        page.paste(_picture(scene), (left, top))
        _write(page, scene, left + EDGE + _GAP, top)
    return page


def asked(scene: Scene) -> list[Question]:
    """A few of its questions, of different types where there are some."""
    by_type = {question.template.rpartition("/")[0]: question for question in scene.questions()}
    return [*by_type.values()][:ASKED]


def _picture(scene: Scene) -> Image.Image:
    """A picture in its full size; several of them smaller, row by row."""
    if scene.kind not in (*PAIRS, *MOVES):
        return scene.draw(EDGE)[0]
    pictures = scene.draw(EDGE)
    across = 2 if len(pictures) <= 4 else 3
    edge = EDGE // across
    whole = Image.new("RGB", (EDGE, EDGE), _RIM)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        whole.paste(picture.resize((edge - 2, edge - 2)), (column * edge, row * edge))
    return whole


def _write(page: Image.Image, scene: Scene, left: int, top: int) -> None:
    pen = ImageDraw.Draw(page)
    lines = [(line, _FAINT) for line in _wrapped(f"{scene.kind}: {scene.describe()}")[:4]]
    for question in asked(scene):
        lines += [(line, _INK) for line in _wrapped(question.text)]
        lines += [(line, _RIGHT) for line in _wrapped(f"-> {question.answer}")]
    for number, (line, colour) in enumerate(lines[: EDGE // _LINE]):
        pen.text((left, top + number * _LINE), line, fill=colour, font=font("DejaVuSans", 11))


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, _CHARACTERS)
