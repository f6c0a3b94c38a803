"""Answers to exams: AGIEval's options and formulas, and the exact matches of BIG-Bench Hard.

AGIEval reads by data set and setting (src/post_process.py): zero-shot, the first capital from A to F anywhere is the
answer, so that "An answer: B" says A. BIG-Bench Hard ships no scorer; its published averages follow from these rules.
"""

import re

from mplug_owl.eval.scores.formula import same_formula

SETTINGS = ("zero-shot", "zero-shot-CoT", "few-shot", "few-shot-CoT")
ENGLISH = (
    *("lsat-ar", "lsat-lr", "lsat-rc", "logiqa-en", "sat-math", "sat-en", "aqua-rat", "sat-en-without-passage"),
    "gaokao-english",
)
CHINESE = (
    *("logiqa-zh", "jec-qa-kd", "jec-qa-ca", "gaokao-chinese", "gaokao-geography", "gaokao-history"),
    *("gaokao-biology", "gaokao-chemistry", "gaokao-physics", "gaokao-mathqa"),
)
SEVERAL = ("jec-qa-kd", "jec-qa-ca", "gaokao-physics")
"""Data sets whose questions may have several right options."""
FORMULAS = ("math", "gaokao-mathcloze")

_IS_ZH = "\u7b54\u6848\u662f"  # "the answer is"
_LEADS = ("The answer is therefore", _IS_ZH)
_SAYS = {"en": re.compile("answer is .*?([A-G])"), "zh": re.compile(_IS_ZH + ".*?([A-G])")}
_NUMBER = re.compile(r"(?:\$)?\d+(?:\.\d+)?(?![\w\d])")
Reading = str | list[str] | None


def agieval_reading(dataset: str, setting: str, answer: str) -> Reading:
    """An option, several options, a formula, "" or None for nothing, by data set and setting."""
    if dataset in FORMULAS:
        return _formula(setting, answer)
    last = _last_line(answer) if setting == "few-shot-CoT" else answer
    if dataset in SEVERAL:
        return re.findall("[A-F]", last)
    said = None if setting.startswith("zero-shot") else _SAYS["zh" if dataset in CHINESE else "en"].search(last)
    return said[1] if said else _first_capital(answer)


def agieval_right(dataset: str, reading: Reading, label: str | list[str]) -> bool:
    if dataset in SEVERAL:
        return reading is not None and _set(reading) == _set(label)
    if dataset in FORMULAS:
        return isinstance(reading, str) and isinstance(label, str) and same_formula(reading, label)
    return reading == label


def bbh_reading(answer: str, *, steps: bool = False) -> str:
    """A direct answer as it stands; after reasoning in steps, what follows the last "answer is ", without full stop."""
    if steps:
        answer = answer.rsplit("answer is ", 1)[-1].strip().removesuffix(".")
    return answer.strip()


def _set(options: str | list[str]) -> set[str]:
    return {options} if isinstance(options, str) else set(options)


def _first_capital(answer: str) -> str:
    return next((letter for letter in answer if letter in "ABCDEF"), "")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.split("\n")) if line.strip()), text)


def _formula(setting: str, answer: str) -> str | None:
    if setting == "few-shot-CoT":
        answer = _last_line(answer)
    for lead in _LEADS:
        if answer.startswith(lead):
            answer = answer.removeprefix(lead).strip()
        elif lead in answer:
            answer = answer.rsplit(lead, 1)[1].strip()
    if setting.startswith("few-shot"):
        return answer
    if "\\boxed" in answer:
        return _boxed(answer)
    dollars = re.findall(r"\$(.*)\$", answer)
    return (_behind_equals(dollars[-1]) if dollars else "") or _bare(answer)


def _boxed(answer: str) -> str | None:
    """What stands in the last box, its braces matched."""
    start, depth = answer.rindex("\\boxed"), 0
    for place in range(start, len(answer)):
        depth += (answer[place] == "{") - (answer[place] == "}")
        if answer[place] == "}" and depth == 0:
            box = answer[start : place + 1]
            return _behind_equals(box[len("\\boxed{") : -1]) if box.startswith("\\boxed{") else None
    return None


def _bare(answer: str) -> str | None:
    """What follows the last equals sign, else the last number."""
    if "=" in answer:
        return _behind_equals(answer).rstrip(".").split("\\n")[0]
    numbers: list[str] = _NUMBER.findall(answer)
    return numbers[-1] if numbers else None


def _behind_equals(text: str) -> str:
    return text.rsplit("=", 1)[1].lstrip(" ") if "=" in text else text
