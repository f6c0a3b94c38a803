"""ANLS: how few letters an answer is away from the nearest reference, 0 if more than half of them.

`anls` is that of the reading challenge's own script (DocVQA, InfographicVQA), `stvqa_anls` that of mmf. They differ in
the length that the distance is divided by: the script takes that of the raw texts, so stray blanks change its score.
"""

from collections.abc import Iterable

THRESHOLD = 0.5


def distance(first: str, second: str) -> int:
    """Insertions, deletions and substitutions from one text to the other."""
    if len(first) > len(second):
        first, second = second, first
    row = list(range(len(first) + 1))
    for down, letter in enumerate(second, start=1):
        above, row = row, [down]
        for place, other in enumerate(first):
            row.append(above[place] if letter == other else 1 + min(above[place], above[place + 1], row[-1]))
    return row[-1]


def anls(answer: str, references: Iterable[str]) -> float:
    nearest = min(_share(_tidy(reference), _tidy(answer), _long(reference, answer)) for reference in references)
    return _cut(1 - nearest)


def stvqa_anls(answer: str, references: Iterable[str]) -> float:
    """Two empty texts are alike here; the original divides by zero."""
    pairs = [(answer.lower().strip(), reference.lower().strip()) for reference in references]
    return max(_cut(1 - _share(first, second, max(len(first), len(second)))) for first, second in pairs)


def _share(first: str, second: str, length: int) -> float:
    """The distance by the length. At least as far apart as their lengths are, some texts need no closer look."""
    least = abs(len(first) - len(second))
    if first == second or least > (1 - THRESHOLD) * length:
        return least / length if length else 0.0
    return distance(first, second) / length


def _cut(score: float) -> float:
    return score if score >= THRESHOLD else 0.0


def _tidy(text: str) -> str:
    return " ".join(text.strip().lower().split())


def _long(first: str, second: str) -> int:
    return max(len(first.upper()), len(second.upper()))  # upper case can be longer, and is what the script measures
