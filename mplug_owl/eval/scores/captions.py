"""Scores of captions over a whole set: BLEU-1 to 4, ROUGE-L and CIDEr-D, as the COCO caption tools compute them.

They take tokenised texts (`tokens.py`). CIDEr weighs phrases by how rare they are among the references it is given, so
it depends on the set. Constants that keep the official code from dividing by zero are kept: a caption without any match
has a BLEU of about 1e-13, not 0.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ORDERS = 4
SIGMA = 6.0  # of CIDEr's penalty for another length
BETA = 1.2  # of ROUGE-L: how much more recall counts than precision
_SMALL, _TINY = 1e-9, 1e-15
Phrase = tuple[str, ...]
Vector = dict[Phrase, float]


@dataclass(frozen=True)
class Scores:
    """Of a whole set, and of each caption in its order."""

    overall: dict[str, float]
    each: dict[str, list[float]]


def scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """BLEU, ROUGE-L and CIDEr of tokenised captions, each beside its tokenised references."""
    overall, each = bleu(captions, references)
    rouge = [rouge_l(caption, found) for caption, found in zip(captions, references, strict=True)]
    weighed = cider(captions, references)
    for name, values in (("ROUGE_L", rouge), ("CIDEr", weighed)):
        overall[name], each[name] = sum(values) / len(values), values
    return Scores(overall, each)


def phrases(text: str) -> Counter[Phrase]:
    """How often each run of one to four words occurs."""
    words = text.split()
    return Counter(
        tuple(words[start : start + order]) for order in range(1, ORDERS + 1) for start in range(len(words) - order + 1)
    )


# ---- BLEU ----------------------------------------------------------------------------------------


def bleu(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """BLEU-1 to 4 of the set, matches and lengths summed up before dividing, and those of each caption."""
    names = [f"Bleu_{order}" for order in range(1, ORDERS + 1)]
    each: dict[str, list[float]] = {name: [] for name in names}
    length = reference_length = 0
    matched, guessed = [0] * ORDERS, [0] * ORDERS
    for caption, found in zip(captions, references, strict=True):
        said = len(caption.split())
        nearest = min((abs(len(text.split()) - said), len(text.split())) for text in found)[1]
        hits, tries = _matches(caption, found)
        for name, value in zip(names, _bleu(hits, tries, said, nearest), strict=True):
            each[name].append(value)
        length, reference_length = length + said, reference_length + nearest
        matched = [a + b for a, b in zip(matched, hits, strict=True)]
        guessed = [a + b for a, b in zip(guessed, tries, strict=True)]
    return dict(zip(names, _bleu(matched, guessed, length, reference_length), strict=True)), each


def _matches(caption: str, references: Sequence[str]) -> tuple[list[int], list[int]]:
    """By order: phrases that a reference has as often, and all phrases."""
    most: Counter[Phrase] = Counter()
    for reference in references:
        most |= phrases(reference)
    hits = [0] * ORDERS
    for phrase, count in phrases(caption).items():
        hits[len(phrase) - 1] += min(count, most[phrase])
    said = len(caption.split())
    return hits, [max(0, said - order) for order in range(ORDERS)]


def _bleu(matched: Sequence[int], guessed: Sequence[int], length: int, reference_length: int) -> list[float]:
    found, product = [], 1.0
    for order in range(ORDERS):
        product *= (matched[order] + _TINY) / (guessed[order] + _SMALL)
        found.append(product ** (1 / (order + 1)))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [value * penalty for value in found]


# ---- ROUGE-L -------------------------------------------------------------------------------------


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """By the longest common subsequence; precision and recall are each the best over the references."""
    said = caption.split(" ")
    common = [(_common(said, text.split(" ")), len(text.split(" "))) for text in references]
    precision = max(length for length, _ in common) / len(said)
    recall = max(length / words for length, words in common)
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        above, row = row, [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[-1]))
    return row[-1]


# ---- CIDEr ---------------------------------------------------------------------------------------


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption; that of the set is their mean."""
    counted = [[phrases(text) for text in found] for found in references]
    documents = Counter(phrase for found in counted for phrase in set().union(*found))
    log_documents = math.log(len(references))
    idf = {phrase: log_documents - math.log(count) for phrase, count in documents.items()}

    def weighed(counts: Mapping[Phrase, int]) -> tuple[list[Vector], list[float], int]:
        """By order: the weights and their norm; and the number of pairs, which is taken for the length."""
        vectors: list[Vector] = [{} for _ in range(ORDERS)]
        for phrase, count in counts.items():
            vectors[len(phrase) - 1][phrase] = count * idf.get(phrase, log_documents)
        norms = [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for phrase, count in counts.items() if len(phrase) == 2)

    found = []
    for caption, texts in zip(captions, counted, strict=True):
        said = weighed(phrases(caption))
        likeness = sum(_likeness(said, weighed(counts)) for counts in texts)
        found.append(10 * likeness / ORDERS / len(texts))
    return found


def _likeness(said: tuple[list[Vector], list[float], int], other: tuple[list[Vector], list[float], int]) -> float:
    """The sum over orders of clipped cosines, less the more lengths differ."""
    vectors, norms, length = said
    others, other_norms, other_length = other
    total = 0.0
    for vector, reference, norm, other_norm in zip(vectors, others, norms, other_norms, strict=True):
        dot = sum(
            min(weight, reference.get(phrase, 0.0)) * reference.get(phrase, 0.0) for phrase, weight in vector.items()
        )
        total += dot / (norm * other_norm) if norm and other_norm else dot
    return total * math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))
