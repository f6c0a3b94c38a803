"""VQA accuracy: an answer against those of ten people, as the VQA challenge counts it, and as TextVQA does.

Both give the mean over leaving one person out of min(1, matches / 3); they differ in how texts are made alike. Kept
from the official scorer (GT-Vision-Lab/VQA, vqaEval.py): texts are made alike only where people disagree, "none" is 0,
and its expression for a full stop matches each that no digit follows, the first 32 of them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

_MARKS = frozenset(';/[]"{}()=+\\_-><@`,?!')
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32  # re.UNICODE, which the official scorer passes where a count belongs
_ARTICLES = {"a", "an", "the"}
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}

_FORMS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've "
)


def _misspelt(form: str) -> list[str]:
    """A contraction with each of its apostrophes left out in turn."""
    return [form[:place] + form[place + 1 :] for place, letter in enumerate(form) if letter == "'"]


# The official table but for entries without effect: keys with capitals (texts are lower case by then) and two that map
# to themselves. One entry goes the other way.
_CONTRACTIONS = {wrong: form for form in _FORMS.split() for wrong in _misspelt(form)}
_CONTRACTIONS["somebody'd"] = "somebodyd"


def plain(text: str) -> str:
    """Without punctuation: a mark next to a space is dropped, any other becomes a space."""
    marks = _MARKS.intersection(text)
    if marks:
        number = _COMMA_IN_NUMBER.search(text) is not None
        gone = {mark: number or mark + " " in text or " " + mark in text for mark in marks}
        text = text.translate({ord(mark): "" if drop else " " for mark, drop in gone.items()})
    return _FULL_STOP.sub("", text, count=_FULL_STOPS)


def worded(text: str) -> str:
    """In lower case, numbers up to ten as digits, without articles, contractions with their apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=100_000)
def alike(text: str) -> str:
    """A text as the VQA challenge compares it."""
    return worded(plain(text))


def trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def accuracy(answer: str, people: Sequence[str]) -> float:
    """VQA accuracy of an answer, from 0 to 1; `people` are the answers of the annotators."""
    answer, people = trimmed(answer), [trimmed(text) for text in people]
    if len(set(people)) > 1:
        answer, people = alike(answer), [alike(text) for text in people]
    return agreement(people.count(answer), len(people))


def agreement(matches: int, people: int) -> float:
    """The mean over leaving one of `people` out of min(1, others that match / 3), when `matches` of them do."""
    if not matches:
        return 0.0
    left_out_matches = matches * min(1.0, (matches - 1) / 3)
    return (left_out_matches + (people - matches) * min(1.0, matches / 3)) / people


@lru_cache(maxsize=100_000)
def textvqa_alike(text: str) -> str:
    """A text as TextVQA (mmf, EvalAIAnswerProcessor) compares it."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return worded(plain(trimmed(text)))


def textvqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Accuracy as TextVQA counts it: texts are always made alike, and by other rules."""
    return agreement([textvqa_alike(text) for text in people].count(textvqa_alike(answer)), len(people))


def stvqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """1 where any of the references is met, made alike as by TextVQA."""
    return float(textvqa_alike(answer) in map(textvqa_alike, people))
