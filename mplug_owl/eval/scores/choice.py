"""Multiple choice: which option an answer names, as each benchmark's own scorer reads it.

MMBench (VLMEvalKit, without a judge), ScienceQA (LLaVA), MMMU and EgoSchema (lmms-eval). The last two draw an option at
random where they find none; here that is None, for the task to count as wrong and to say how many there were.
"""

import re
from collections.abc import Mapping, Sequence

_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
NEITHER = "Z"
_SAYS = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")  # official: no letter after D
_SCIENCE_SAYS = re.compile(r"The answer is ([A-Z]).")
_ENDS = (",", ".", "!", "?", ";", ":", "'")

Options = Mapping[str, str]
"""Letter -> text."""


# ---- MMBench -------------------------------------------------------------------------------------


def mmbench_reading(answer: str, options: Options) -> str | None:
    """The letter that an answer names or whose text it holds; Z for none of them, None where that is unclear."""
    return _by_letter(answer, options) or _by_text(answer, options)


def _by_letter(answer: str, options: Options) -> str | None:
    if "Failed to obtain answer via API" in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return NEITHER
    words = answer.translate(_MARKS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:  # among the last words, else it may be an article
        return named[0]
    if not named and NEITHER in words:
        return NEITHER
    said = _SAYS.search(answer)
    return said[1].upper() if said and said[1].upper() in options else None


def _by_text(answer: str, options: Options) -> str | None:
    answer = answer.lower()
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    held = [letter for letter, text in options.items() if text.lower() in answer]
    return held[0] if len(held) == 1 else None


def circular(passes: Sequence[tuple[str, str | None]]) -> bool:
    """Whether a question counts: (right, read) of each order that its options were shown in, and all must agree."""
    return all(right == read for right, read in passes)


# ---- ScienceQA -----------------------------------------------------------------------------------


def scienceqa_reading(answer: str, choices: int, letters: str = "ABCDE") -> int:
    """The number of the choice, or -1."""
    if answer in list(letters):
        letter = answer
    elif len(answer) >= 3 and answer[0] in letters and answer[1:3] == ". ":
        letter = answer[0]
    else:
        said = _SCIENCE_SAYS.findall(answer)
        letter = said[0] if len(said) == 1 else ""
    return letters.index(letter) if letter and letter in letters[:choices] else -1


# ---- MMMU and EgoSchema --------------------------------------------------------------------------


def mmmu_reading(answer: str, options: Options) -> str | None:
    """The last letter that stands in brackets, else the last by itself, else the last option held by a long answer."""
    answer = _padded(answer)
    for form in ("({})", " {} "):
        named = {letter: answer.rfind(form.format(letter)) for letter in options if form.format(letter) in answer}
        if named:
            return max(named, key=named.__getitem__)
    held = _held(answer, options)
    return max(held, key=held.__getitem__) if held else None


def egoschema_reading(answer: str, options: Options) -> str | None:
    """The first of the letters in brackets, before a space or before a full stop, each at its last place; else the
    first option held by a long answer.
    """
    answer = _padded(answer)
    forms = [(form.format(letter), letter) for form in ("({})", "{} ", "{}.") for letter in options]
    named = [(answer.rfind(text), letter) for text, letter in forms if text in answer]
    if named:
        return min(named, key=lambda found: found[0])[1]
    held = _held(answer, options)
    return min(held, key=held.__getitem__) if held else None


def _padded(answer: str) -> str:
    for mark in _ENDS:
        answer = answer.strip(mark)
    return f" {answer} "


def _held(answer: str, options: Options) -> dict[str, int]:
    """Where an answer of more than five words last holds the texts of options."""
    if len(answer.split()) <= 5:
        return {}
    answer = answer.lower()
    return {letter: answer.rfind(text.lower()) for letter, text in options.items() if text.lower() in answer}


_NUMBER_FORMS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)
_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
Reading = str | float


def mmmu_open_readings(answer: str) -> set[Reading]:
    """All that an open answer may say: what follows its last key words, and the numbers in there."""
    found = _key_parts(answer.strip().strip(".").lower())
    numbers = [number for part in found for form in _NUMBER_FORMS for number in re.findall(form, part)]
    return {reading for text in (*found, *numbers) for reading in _comparable(text)}


def mmmu_open_right(readings: set[Reading], references: Sequence[str]) -> bool:
    """Whether a number is one of the references, or a text holds one."""
    right = [reading for reference in references for reading in _comparable(reference)]
    texts = [text for text in right if isinstance(text, str)]
    return any(
        any(text in reading for text in texts) if isinstance(reading, str) else reading in right for reading in readings
    )


def _key_parts(answer: str) -> list[str]:
    parts = []
    sentences = re.split(r"\.\s(?=[A-Z])|\n", answer)
    for place, sentence in enumerate(sentences, start=1):
        leads = (*_LEADS, "=") if place == len(sentences) else _LEADS
        tails = [sentence.rsplit(lead, 1)[1].strip() for lead in leads if lead in sentence]
        # An empty tail gives way to the next one, whatever its length, as in the official loop.
        shortest = ""
        for tail in tails:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _ENDS:
            parts.append(shortest)
    return parts or [answer]


def _comparable(text: str) -> list[Reading]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
