"""Where in a picture the square that a model sees lies, by the rule that made the square.

A box is left, top, right, bottom in shares of the picture's width and height; where a rule puts a margin around the
picture, the box reaches beyond it. What is in the picture is not known here.
"""

from mplug_owl.models.image_processor import OwlImageProcessorPil

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def ground(size: tuple[int, int], rule: OwlImageProcessorPil, aspect: str | None = None) -> Box:
    """The part of a picture of that size that `rule` makes a square of; `aspect` instead of its own, if given."""
    aspect = aspect or rule.aspect
    width, height = size
    if aspect == "crop":
        side = rule.size["height"]
        return _around(min(size) * side / (rule.edge or side), width, height)
    if aspect == "pad":
        return _around(max(size), width, height)
    return WHOLE  # squashed to a square


def _around(side: float, width: int, height: int) -> Box:
    """A square of that side around the middle."""
    wide, high = side / width, side / height
    return (0.5 - wide / 2, 0.5 - high / 2, 0.5 + wide / 2, 0.5 + high / 2)
