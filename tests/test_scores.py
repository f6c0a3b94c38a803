"""The scorers by hand: what can be worked out on paper, what must hold of any answers, and their known quirks.

That they equal the official programs is shown in parity/test_scorers.py.
"""

import math
from pathlib import Path
from random import Random

import pytest

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores import (
    anls,
    captions,
    choice,
    exams,
    formula,
    hallusion,
    meteor,
    relaxed,
    review,
    tokens,
    vqa,
    yesno,
)

LETTERED = {"A": "owl", "B": "cat", "C": "dog"}


# ---- short answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("matches", range(11))
def test_agreement_leaves_one_out(matches: int) -> None:
    people = ["x"] * matches + ["y"] * (10 - matches)
    means = [min(1, (people[:left] + people[left + 1 :]).count("x") / 3) for left in range(10)]
    assert vqa.agreement(matches, 10) == pytest.approx(sum(means) / 10)
    assert vqa.accuracy("x", people) == pytest.approx(sum(means) / 10)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("The Cat", "cat"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("left/right", "left right"),
        ("left / right", "left right"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("stop.", "stop"),
        ("eleven", "eleven"),
    ],
)
def test_texts_made_alike(text: str, made: str) -> None:
    assert vqa.alike(text) == made and vqa.alike(made) == made


def test_vqa_compares_texts_as_they_stand_where_all_agree() -> None:
    assert vqa.accuracy("yes", ["yes"] * 10) == 1.0 and vqa.accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqa.accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1.0
    assert vqa.textvqa_accuracy("Yes.", ["yes"] * 10) == 1.0


@pytest.mark.parametrize(
    ("first", "second", "far"),
    [("", "", 0), ("owl", "", 3), ("owl", "owls", 1), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_distance(first: str, second: str, far: int) -> None:
    assert anls.distance(first, second) == anls.distance(second, first) == far


def test_anls_is_zero_below_a_half() -> None:
    assert anls.anls("owl", ["owl"]) == 1.0 and anls.anls("OWL ", ["owl"]) == pytest.approx(1.0)
    assert anls.anls("owls", ["cat", "owl"]) == 0.75
    assert anls.anls("abcd", ["abxy"]) == 0.5 and anls.anls("abcd", ["axyz"]) == 0.0
    assert anls.stvqa_anls("", [""]) == 1.0


def test_stray_blanks_change_the_official_anls() -> None:
    # The distance is of tidied texts, but the length is of raw ones.
    assert anls.anls("a    b", ["ax   b"]) != anls.anls("a b", ["ax b"])
    assert anls.stvqa_anls(" owl ", ["owl"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "met"),
    [
        ("10.5", "10", True),
        ("10.51", "10", False),
        ("5%", "0.05", True),
        ("Norway", "norway", True),
        ("0.0", "0", False),
    ],
)
def test_relaxed(answer: str, reference: str, met: bool) -> None:
    assert relaxed.relaxed(answer, reference) is met


# ---- yes or no -----------------------------------------------------------------------------------


def test_three_benchmarks_read_one_answer_in_three_ways() -> None:
    answer = "Definitely, yes it is. Not a cat."
    readings = (yesno.mme_reading(answer), yesno.pope_reading(answer), yesno.word_reading(answer))
    assert readings == ("other", "yes", "Yes")
    assert (yesno.mme_reading("Not at all"), yesno.pope_reading("NO"), yesno.word_reading("NO")) == ("no", "yes", "No")


def test_counts() -> None:
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes"), ("no", "other"), ("yes", "yes")]
    counts = yesno.Counts.of(pairs)
    assert (counts.tp, counts.fn, counts.tn, counts.fp, counts.other) == (2, 1, 1, 1, 1)
    assert counts.accuracy == 0.5 and counts.precision == counts.recall == counts.f1 == pytest.approx(2 / 3)
    assert yesno.both_right(pairs) == 0.0 and yesno.both_right(pairs[:1] * 2 + pairs[2:4]) == 0.5
    assert yesno.mme_score([("yes", "yes"), ("no", "no")]) == 200.0
    assert yesno.Counts.of([]).f1 == 0.0


def one(figure: str, judgement: str, category: str = "VS", question: str = "0", same: bool = True) -> hallusion.Judged:
    visual = figure if category == "VS" else str(int(figure) + 1)
    return hallusion.Judged(category, "chart", "0", figure, question, visual, "1", judgement, same)


def test_hallusionbench_groups() -> None:
    judged = [one("0", "2"), one("1", "1"), one("2", "0"), one("0", "1", "VD"), one("1", "1", "VD")]
    found = hallusion.figures(judged)
    assert (found.question.correct, found.question.total) == (4, 5)  # not to know is right without a figure
    assert (found.pair.correct, found.pair.total) == (1, 2)
    assert (found.figure.correct, found.figure.total) == (3, 4)
    assert (found.easy.correct, found.hard.correct, found.hard.total) == (2, 1, 2)
    assert found.blame == {"LH": 0, "VI": 1, "Mix": 0}


def test_hallusionbench_blames() -> None:
    made_up = hallusion.figures([one("0", "1"), one("2", "0", same=True)])
    unseen = hallusion.figures([one("0", "1"), one("2", "0", same=False)])
    assert (made_up.pair_errors["LH"], unseen.pair_errors["VI"]) == (1, 1)
    both = hallusion.figures([one("0", "1", "VD"), one("1", "0", "VD", same=True)])
    assert both.pair_errors["Mix"] == 1
    assert hallusion.verdict("Yes, it is", "1") == "1" and hallusion.verdict("No", "1") == "0"
    assert hallusion.verdict("Hard to say", "1") == "2"


# ---- multiple choice -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("B", "B"),
        ("(B) cat.", "B"),
        ("a cat", "B"),
        ("The answer is **C**. A and B are not.", "C"),
        ("A or B", None),
        ("Z", "Z"),
        ("I'm sorry, but without the image provided I cannot", "Z"),
        ("A cat is what I can see sitting here in this picture", None),
        ("", None),
    ],
)
def test_mmbench_reading(answer: str, read: str | None) -> None:
    assert choice.mmbench_reading(answer, LETTERED) == read


def test_readings_differ_by_benchmark() -> None:
    said = "I would say (C), because (A) is wrong"
    assert choice.mmmu_reading(said, LETTERED) == "A"  # the last one
    assert choice.egoschema_reading(said, LETTERED) == "C"  # the first one
    assert choice.mmmu_reading("b", LETTERED) is None and choice.egoschema_reading("none", LETTERED) is None
    assert choice.mmmu_reading("it must have been the cat that did it", LETTERED) == "B"


@pytest.mark.parametrize(
    ("answer", "read"),
    [("B", 1), ("C", -1), ("B. cat", 1), ("The answer is A. BECAUSE", 0), ("The answer is A", -1), ("b", -1), ("", -1)],
)
def test_scienceqa_reading(answer: str, read: int) -> None:
    assert choice.scienceqa_reading(answer, 2) == read


def test_open_answers_of_mmmu() -> None:
    assert 3400.0 in choice.mmmu_open_readings("So the result is 3,400")
    right = choice.mmmu_open_right
    assert right(choice.mmmu_open_readings("The answer is 12.504 meters."), ["12.5"])
    assert right(choice.mmmu_open_readings("It is a barn owl"), ["Owl", "hawk"])
    assert not right(choice.mmmu_open_readings("It is x"), ["y"])


def test_circular() -> None:
    assert choice.circular([("A", "A"), ("B", "B")]) and not choice.circular([("A", "A"), ("B", None)])


# ---- exams ---------------------------------------------------------------------------------------


def test_agieval_takes_the_first_capital() -> None:
    assert exams.agieval_reading("sat-en", "zero-shot", "An answer: B") == "A"
    assert exams.agieval_reading("sat-en", "few-shot", "An answer: the answer is therefore B") == "B"
    assert exams.agieval_reading("sat-en", "few-shot-CoT", "A: the answer is B\nor not") == "A"
    assert exams.agieval_right("gaokao-physics", ["C", "A"], ["A", "C"])
    assert not exams.agieval_right("math", None, "1")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("\\frac12", "\\frac{1}{2}", True),
        ("1/2", "0.5", True),
        (".5", "\\dfrac{1}{2}", True),
        ("x = 3\\sqrt2", "3\\sqrt{2}", True),
        ("12\\text{ cm}", "12", True),
        ("90^\\circ", "90", True),
        ("2/4", "1/2", False),
        ("\\frac", "\\frac", True),
        ("-0/5", "0/5", False),
    ],
)
def test_formulas(first: str, second: str, same: bool) -> None:
    assert formula.same_formula(first, second) is same and formula.same_formula(second, first) is same


def test_bbh_reading() -> None:
    assert exams.bbh_reading(" (A)\n") == "(A)"
    assert exams.bbh_reading("the answer is no. So the answer is yes.", steps=True) == "yes"


# ---- captions ------------------------------------------------------------------------------------

SAID = ["an owl sits on a branch", "two red cars on the road"]
TOLD = [["an owl sits on a branch", "a bird in a tree"], ["two red cars on the road", "cars on a street"]]


def test_the_references_themselves_are_the_best_captions() -> None:
    best, other = captions.scores(SAID, TOLD).overall, captions.scores(SAID[::-1], TOLD).overall
    assert all(best[f"Bleu_{order}"] == pytest.approx(1, abs=1e-6) for order in (1, 2, 3, 4))
    assert best["ROUGE_L"] == 1.0 and best["CIDEr"] > 2 > 0.5 > other["CIDEr"]
    assert all(other[name] < best[name] for name in best)


def test_bleu_by_hand() -> None:
    # 3 of 4 words and 1 of 3 pairs match; the caption is one word shorter than the nearest reference.
    overall, _ = captions.bleu(["a big owl sits"], [["a small owl sits here"]])
    penalty = math.exp(1 - 5 / 4)
    assert overall["Bleu_1"] == pytest.approx(0.75 * penalty)
    assert overall["Bleu_2"] == pytest.approx(math.sqrt(0.75 / 3) * penalty)


def test_rouge_by_hand() -> None:
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert captions.rouge_l("a big owl sits", ["a small owl sits here"]) == pytest.approx(expected)
    assert captions.rouge_l("", ["an owl"]) == 0.0


def test_order_of_captions_does_not_matter() -> None:
    random = Random(0)
    order = list(range(2))
    random.shuffle(order)
    turned = captions.scores([SAID[n] for n in order], [TOLD[n][::-1] for n in order])
    for name, value in captions.scores(SAID, TOLD).overall.items():
        assert turned.overall[name] == pytest.approx(value), name


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog doesn't sit.", "a man 's dog does n't sit"),
        ("It's a well-known sign (old); isn't it?", "it 's a well-known sign -lrb- old -rrb- is n't it"),
        ('Two "red" cars, 5,000 people -- and 3.5% of them...', "two red cars 5,000 people and 3.5 % of them"),
        ("Mr. Smith on 8th Ave. cannot see", "mr. smith on 8th ave. can not see"),
        ("A 23 3/4 in. T-shirt/dress at 8:30", "a 23\u00a03/4 in t-shirt/dress at 8:30"),
        ("They\u2019re here\u2014now \u201cyes\u201d", "they 're here now yes"),
        ("", ""),
    ],
)
def test_words_of_captions(caption: str, words: str) -> None:
    assert tokens.tokenised([caption]) == [words]


def test_meteor_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(meteor.JAR, str(tmp_path / "none.jar"))
    monkeypatch.setattr(meteor.shutil, "which", lambda name: "/usr/bin/java")
    assert "OWL_METEOR_JAR" in str(meteor.missing())
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    with pytest.raises(EvalError, match="no java"):
        meteor.meteor(SAID, TOLD)


# ---- reviews -------------------------------------------------------------------------------------


def test_reviews() -> None:
    assert review.points("8.5 9\nBoth are good.") == (8.5, 9.0) and review.points("10,10") == (10.0, 10.0)
    assert review.points("Score: 8 7") is review.points("8") is review.points("") is None
    found = review.summary([review.Review("math", 1, 8), review.Review("generic", 9, 9)])
    assert list(found) == ["all", "generic", "math"]
    assert (found["math"].relative, found["all"].first, found["all"].second, found["all"].n) == (800.0, 50.0, 85.0, 2)
