"""The words of a caption, as the COCO caption tools see them: the Penn Treebank's tokens without most punctuation.

The official tools run Stanford's tokeniser (3.4.1) in Java; these are its rules as far as captions need them, where the
longest match wins. A bracket counts as a word, as it does there: its name is in lower case by the time that names in
capitals are dropped.
"""

import re
from collections.abc import Iterable

_LETTER, _WORDLIKE = r"[^\W\d_]", r"[^\W_]"
_APOSTROPHE, _QUOTES = "['\u2019\u0092]", "['`\u2019\u2018\u0091\u0092\u201b]"
_WORD = rf"{_LETTER}{_WORDLIKE}*(?:[.!?]{_LETTER}{_WORDLIKE}*)*"
_ENDING = rf"{_APOSTROPHE}(?:[msd]|re|ve|ll)"
_SHORT = (  # abbreviations whose full stop belongs to them
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu(?:rs)?|fri|ala|ariz|calif|colo|conn|ct|dak|fla|ga|"
    "ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo|inc|cos?|corp|ltd|plc|dept|assn|univ|intl|"
    "ph|tel|est|ext|sq|ft|jr|sr|bros|blvd|rd|esq|etc|al|seq|mr|mrs|ms|drs?|profs?|sens?|reps?|lt|col|gen|govs?|"
    "adm|rev|maj|sgt|cpl|pvt|mt|capt|ste?|ave|pres|lieut|hon|brig|co?mdr|det|vs|alex|wm|jos|cie|cf"
)

# Each rule is a token and what must follow it, which counts for the length of a match, as it does in the original.
_RULES = [
    (re.compile(token, re.IGNORECASE), re.compile(after, re.IGNORECASE))
    for token, after in (
        (r"can(?=not\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|gim(?=me\b)|wan(?=na\b)", r"\w+"),
        (rf"{_APOSTROPHE}t(?=is\b|was\b)", r"\w+"),
        (rf"{_LETTER}+?(?=n{_APOSTROPHE}t)", rf"n{_APOSTROPHE}t(?!{_LETTER})"),
        (rf"n{_APOSTROPHE}t", ""),
        (_WORD, _ENDING),
        (_ENDING, r"[^A-Za-z]|$"),
        (_WORD, ""),
        (rf"(?:[dol]{_QUOTES}{_WORDLIKE})?{_WORDLIKE}+(?:-(?:[dol]{_QUOTES}{_WORDLIKE})?{_WORDLIKE}+)*", ""),
        (r"[a-z0-9][a-z0-9.,]*(?:-(?:[a-z0-9]+|[a-z](?:\.[a-z])+\.))+", ""),
        (
            rf"{_APOSTROPHE}n{_APOSTROPHE}?|[ldj]{_APOSTROPHE}|{_APOSTROPHE}(?:em|til|cause|[2-9]0s|(?<!\d.)\d\d(?![\d'.\u00b0]))\b",
            "",
        ),
        (rf"[oO]{_APOSTROPHE}clock|ma{_APOSTROPHE}am|d{_APOSTROPHE}you|ol{_APOSTROPHE}|y{_APOSTROPHE}", ""),
        (r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)", ""),
        (r"(?:\d{1,4}[- \u00a0])?\d{1,4}\\?/\d{1,4}", ""),
        (r"[a-z0-9]+(?:-[a-z]+){0,2}(?:\\?/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}", ""),
        (rf"(?:{_SHORT})\.", ""),
        (r"(?:ca|figs?|prop|nos?|art|bldg|pp|op)\.", r"\s?\d"),
        (r"[a-z](?:\.[a-z])*\.", ""),
        (r"https?://\S+|www\.\S+|[\w.]+@[\w.]+\w", ""),
        (r"[@#][a-z_]\w*|[a-z0-9]+(?:_[a-z0-9]+)+", ""),
        (r"(?-i:[A-Z]*)\$", ""),
        (r"</?[a-z][\w:.-]*(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s>]+))*\s*/?>|<<|>>", ""),
        (r"[<>]?[:;=][-o*']?[()dpo\\{@|\[\]](?![a-z0-9])", ""),
        (r"\.+", ""),
        (r"[?!]+|--+|##+|\*\*+|__+|@@+", ""),
        (r"\S", ""),
    )
]
_CAPITALS = re.compile(r"[A-Z]+(?:[+&][A-Z]+)+")  # AT&T: as written, in capitals
_SIMPLE, _TWO = re.compile(r"[A-Za-z]+(?=\s|$)"), {"cannot", "gonna", "gotta", "lemme", "gimme", "wanna"}
_NAMES = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DASHES, _CURLY = "\u2013\u2014\u2015\u0096\u0097", "\u2019\u0092"
_PLAIN = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u0093\u0094", '"')
    | dict.fromkeys("\u2018\u0091\u201b", "`")
    | dict.fromkeys(_CURLY, "'")
    | {"\u2026": "..."}
)
_DROPPED = frozenset(["''", "'", "``", "`", '"', "?", "!", ",", ":", "-", "--", ";"])


def tokens(text: str) -> list[str]:
    return [_written(word) for word in _matches(text.translate(_PLAIN))]


def _matches(text: str) -> Iterable[str]:
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        if (simple := _SIMPLE.match(text, place)) and simple[0].lower() not in _TWO:
            yield simple[0]
            place = simple.end()
            continue
        found, reach = "", 0
        for token, after in _RULES:
            match = token.match(text, place)
            rest = after.match(text, match.end()) if match else None
            if match and rest and rest.end() - place > reach:
                found, reach = match[0], rest.end() - place
        if (capitals := _CAPITALS.match(text, place)) and capitals.end() - place > reach:
            found = capitals[0]
        yield found
        place += len(found)


def _written(word: str) -> str:
    if word in _NAMES:
        return _NAMES[word]
    if word[0] in _DASHES:
        return "--"
    if " " in word and word[0].isdigit():
        word = word.replace(" ", "\u00a0")  # 1 1/2 is one number
    if len(word) > 1 and word[-1] in _NAMES and word[0] in "<>:;=":
        word = word[:-1] + _NAMES[word[-1]]
    return word.lower()


def tokenised(captions: Iterable[str]) -> list[str]:
    """Captions as words with one blank between, without punctuation."""
    return [" ".join(word for word in tokens(caption) if not _dropped(word)) for caption in captions]


def _dropped(word: str) -> bool:
    """Punctuation that the tools drop, full stops, and what the tokeniser cannot read (beyond 16 bits)."""
    return word in _DROPPED or not word.strip(".") or (len(word) == 1 and word > "\uffff")
