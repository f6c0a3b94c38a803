"""Whether two formulas are written alike: LaTeX as the MATH benchmark (math_equivalence.py) makes it alike.

It compares spellings, not meanings: 1/2, 0.5 and \\frac12 are alike, 2/4 is none of them.
"""

import re


def same_formula(first: str, second: str) -> bool:
    """Whether both are the same once they are made alike, or as they stand where that fails."""
    try:
        return alike(first) == alike(second)
    except (IndexError, ValueError):  # a \sqrt or \frac at the end, or units twice
        return first == second


def alike(text: str) -> str:
    """A formula without what does not count: line ends, sizes, degrees, units, percent; fractions in one form.

    Raises:
        IndexError, ValueError: where the official function fails.
    """
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    text = _without_units(text).replace("\\%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = f"0{text}" if text[0] == "." else text
    left, *right = text.split("=")
    if len(right) == 1 and len(left) <= 2:  # "x = "
        text = right[0]
    text = _fractions(_roots(text).replace(" ", ""))
    return _slash("\\frac{1}{2}" if text == "0.5" else text)


def _without_units(text: str) -> str:
    if "\\text{ " not in text:
        return text
    before, _unit = text.split("\\text{ ")
    return before


def _roots(text: str) -> str:
    """\\sqrt3 -> \\sqrt{3}"""
    first, *rest = text.split("\\sqrt")
    return first + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in rest)


def _fractions(text: str) -> str:
    """\\frac12 -> \\frac{1}{2}, \\frac1{72} -> \\frac{1}{72}"""
    made, *rest = text.split("\\frac")
    for part in rest:
        if part[0] == "{":
            made += "\\frac" + part
            continue
        if len(part) < 2:
            return text
        above, below, after = part[0], part[1], part[2:]
        made += f"\\frac{{{above}}}" + (below if below == "{" else f"{{{below}}}") + after
    return made


def _slash(text: str) -> str:
    """1/2 -> \\frac{1}{2}"""
    parts = re.fullmatch(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)", text, re.ASCII)
    return f"\\frac{{{parts[1]}}}{{{parts[2]}}}" if parts else text
