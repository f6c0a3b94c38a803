"""Text alone: right answers, checked by reading the questions again, and nothing of the test in training."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from mplug_owl.world import esperanto, facts, sums, text
from mplug_owl.world.chance import SPLITS, Split, split_of, stream
from mplug_owl.world.countries import COUNTRIES
from mplug_owl.world.scene import Question
from mplug_owl.world.talk import Talk
from mplug_owl.world.wording import reserved_templates, wordings

COUNT = 1500


def talks(split: Split, count: int = COUNT) -> Iterator[Talk]:
    return (text.conversation(stream("tested", number), split) for number in range(count))


def questions(split: Split, count: int = COUNT) -> list[Question]:
    return [question for talk in talks(split, count) for question in talk.questions]


def name(question: Question) -> str:
    return question.template.rpartition("/")[0]


def field(question: Question) -> dict[str, str]:
    """What was filled into the wording, read back."""
    *path, number = question.template.removeprefix("text/").split("/")
    tongue, wording = path if len(path) == 2 else ("en", path[0])
    template = wordings("text")[tongue][wording][int(number)]
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        key = match[0].strip("\\{}")
        again = key in seen
        seen.add(key)
        return f"(?P={key})" if again else f"(?P<{key}>.+?)"

    found = re.fullmatch(re.sub(r"\\\{\w+\\\}", group, re.escape(template)), question.text)
    assert found, (template, question.text)
    return found.groupdict()


def number(words: str) -> int:
    names = [*sums.NUMERALS, *esperanto.NUMBERS]
    return int(words) if words.isdigit() else names.index(words) % len(sums.NUMERALS)


def listed(words: str) -> list[str]:
    return words.split(", ")


def same(answer: str, value: int) -> bool:
    return number(answer) == value


CHECKS = {
    "add": lambda f, a: same(a, number(f["a"]) + number(f["b"])),
    "subtract": lambda f, a: same(a, number(f["a"]) - number(f["b"])),
    "multiply": lambda f, a: same(a, number(f["a"]) * number(f["b"])),
    "add_three": lambda f, a: int(a) == sum(int(f[key]) for key in "abc"),
    "double": lambda f, a: int(a) == 2 * int(f["a"]),
    "half": lambda f, a: 2 * int(a) == int(f["a"]),
    "larger": lambda f, a: same(a, max(number(f["a"]), number(f["b"]))),
    "smaller": lambda f, a: int(a) == min(int(f["a"]), int(f["b"])),
    "is_larger": lambda f, a: (a == "yes") == (int(f["a"]) > int(f["b"])),
    "is_smaller": lambda f, a: (a == "yes") == (int(f["a"]) < int(f["b"])),
    "is_even": lambda f, a: (a == "yes") == (f["a"][-1] in "02468"),
    "next_number": lambda f, a: same(a, number(f["a"]) + 1),
    "previous_number": lambda f, a: int(a) == int(f["a"]) - 1,
    "sort_up": lambda f, a: listed(a) == sorted(listed(f["list"]), key=int),
    "sort_down": lambda f, a: listed(a)[::-1] == sorted(listed(f["list"]), key=int),
    "largest": lambda f, a: int(a) == max(map(int, listed(f["list"]))),
    "smallest": lambda f, a: int(a) == min(map(int, listed(f["list"]))),
    "repeat": lambda f, a: a == f["words"],
    "spell": lambda f, a: a.replace("-", "") == f["word"] and len(a) == 2 * len(f["word"]) - 1,
    "join": lambda f, a: [*a] == f["spelled"].split("-"),
    "reverse": lambda f, a: a.split()[::-1] == f["words"].split(),
    "letters": lambda f, a: len(f["word"]) == int(a),
    "first_letter": lambda f, a: f["word"].startswith(a) and len(a) == 1,
    "last_letter": lambda f, a: f["word"].endswith(a) and len(a) == 1,
    "has_letter": lambda f, a: (a == "yes") == (f["letter"] in f["word"]),
    "first_word": lambda f, a: listed(f["list"])[0] == a,
    "second_word": lambda f, a: listed(f["list"])[1] == a,
    "last_word": lambda f, a: listed(f["list"])[-1] == a,
    "count_words": lambda f, a: f["list"].count(",") + 1 == int(a),
    "count": lambda f, a: f["list"].count(",") + 1 == int(a),
    "count_same": lambda f, a: listed(f["list"]).count(f["word"]) == int(a),
    "in_list": lambda f, a: (a in ("yes", "jes")) == (f["word"] in listed(f["list"])),
    "alphabet": lambda f, a: listed(a) == sorted(listed(f["list"])),
    "same_word": lambda f, a: (a == "yes") == (f["a"] == f["b"]),
    "next_letter": lambda f, a: ord(a) == ord(f["a"]) + 1,
    "previous_letter": lambda f, a: ord(a) == ord(f["a"]) - 1,
    "upper": lambda f, a: a == f["words"].upper(),
    "twice": lambda f, a: a.split() == [f["word"]] * 2,
    "thrice": lambda f, a: a.split() == [f["word"]] * 3,
    "stop": lambda f, a: a == f["words"] + ".",
    "commas": lambda f, a: listed(a) == f["words"].split(),
    "count_up": lambda f, a: listed(a) == [str(n) for n in range(int(f["a"]), int(f["b"]) + 1)],
    "count_down": lambda f, a: listed(a) == [str(n) for n in range(int(f["b"]), int(f["a"]) - 1, -1)],
    "in_words": lambda f, a: sums.NUMERALS[int(f["a"])] == a,
    "in_digits": lambda f, a: sums.NUMERALS[int(a)] == f["word"],
    "to_eo": lambda f, a: esperanto.WORDS[f["word"]] == a,
    "from_eo": lambda f, a: esperanto.WORDS[a] == f["word"],
}


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right(split: Split) -> None:
    checked = Counter[str]()
    for question in questions(split):
        wording = name(question).rpartition("/")[2]
        if wording in CHECKS:
            assert CHECKS[wording](field(question), question.answer), question
            checked[wording] += 1
    assert set(checked) == set(CHECKS)


def test_facts_are_those_of_the_table() -> None:
    by_name = {country.name: country for country in COUNTRIES}
    for question in questions("train"):
        wording = name(question).removeprefix("text/")
        if wording in ("capital", "continent", "language"):
            assert question.answer == getattr(by_name[field(question)["country"].lower()], wording)
        elif wording == "capital_of":
            assert by_name[question.answer].capital == field(question)["capital"].lower()
        elif wording in ("is_capital", "is_continent"):
            said, fact = field(question), wording.removeprefix("is_")
            truth = getattr(by_name[said["country"].lower()], fact)
            assert (question.answer == "yes") == (said[fact].lower() == truth)


def test_every_fact_can_be_learnt_from_text() -> None:
    met = set()
    for number in range(10_000):
        for question in text.conversation(stream("learnt", number), "train").questions:
            wording = name(question).removeprefix("text/")
            if wording in facts.FACTS:
                met.add((field(question)["country"].lower(), wording))
    assert met == {(country.name, fact) for country in COUNTRIES for fact in facts.FACTS}


def test_follow_ups_follow_from_what_was_said() -> None:
    seen = Counter[str]()
    for talk in talks("train"):
        for before, question in zip(talk.questions, talk.questions[1:], strict=False):
            wording = name(question).removeprefix("text/")
            if wording in ("and_plus", "and_minus"):
                change = number(field(question)["c"]) * (1 if wording == "and_plus" else -1)
                assert int(question.answer) == int(before.answer) + change
            elif wording == "and_reversed" and "sort" in before.template:
                assert listed(question.answer) == listed(before.answer)[::-1]
            elif wording == "and_upper" and before.template.startswith("text/repeat"):
                assert question.answer == before.answer.upper()
            elif wording == "and_with":
                said = field(question)
                a, c = number(said["a"]), number(said["c"])
                assert int(question.answer) in (a + c, a - c)
            else:
                continue
            seen[wording] += 1
            assert question.skill == "turns"
            assert "multi-turn" in question.abilities
    assert len(seen) == 5


def test_what_was_to_be_remembered_is_asked_for_at_the_end() -> None:
    remembered = 0
    for talk in talks("test"):
        first, last = talk.questions[0], talk.questions[-1]
        if name(last) in ("text/my_name", "text/my_number", "text/my_word"):
            assert last.answer in first.text
            remembered += 1
    assert remembered > COUNT * 0.05


def test_a_conversation_has_one_to_six_turns() -> None:
    lengths = Counter(len(talk.questions) for talk in talks("train"))
    assert set(lengths) == {1, 2, 3, 4, 5, 6}
    for talk in talks("train", 100):
        assert [message.role for message in talk.messages] == ["user", "assistant"] * len(talk.questions)
        assert [message.text for message in talk.messages[1::2]] == [question.answer for question in talk.questions]
        assert [message.text for message in talk.messages[::2]] == [question.text for question in talk.questions]


def test_training_never_uses_what_is_kept_for_testing() -> None:
    kept = reserved_templates("text")
    for split in ("train", "dev"):
        assert not {question.template for question in questions(split)} & kept
    asked = questions("test")
    assert 0.3 < sum(question.template in kept for question in asked) / len(asked) < 0.6


def test_sums_belong_to_their_splits() -> None:
    pairs = {
        split: {
            (name(question), *field(question).values())
            for question in questions(split)
            if name(question) in ("text/subtract", "text/larger", "text/sort_up")
        }
        for split in SPLITS
    }
    assert pairs["test"]
    for question in questions("test"):
        if name(question) == "text/subtract":
            said = field(question)
            assert split_of("sum", "subtract", number(said["a"]), number(said["b"])) == "test"
    assert not pairs["train"] & pairs["test"]


def test_yes_and_no_are_balanced() -> None:
    answers = Counter(question.answer for question in questions("train", 4000))
    assert 0.45 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.55
    assert 0.4 < answers["jes"] / (answers["jes"] + answers["ne"]) < 0.6


@pytest.mark.parametrize("skill", ["text", "form", "language", "turns"])
def test_a_single_question_of_a_skill(skill: str) -> None:
    for place in range(60):
        talk = text.single(stream(skill, place), "test", skill)
        assert talk.questions[-1].skill == skill
        assert (len(talk.questions) == 1) == (skill != "turns")


def test_facts_to_read_name_country_and_fact() -> None:
    for place in range(100):
        said = facts.sentence(stream("fact", place), "train").lower()
        [country] = [each for each in COUNTRIES if re.search(rf"\b{re.escape(each.name)}\b", said)]
        assert any(getattr(country, fact) in said for fact in facts.FACTS)
