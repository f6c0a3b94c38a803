"""Grades: the log that loses nothing, agreement against published figures and closed forms, and what raters say
together.
"""

import json
import multiprocessing
from pathlib import Path
from random import Random

import numpy as np
import pytest

from mplug_owl.errors import DataError, EvalError
from mplug_owl.eval.agreement import kappa, krippendorff, krippendorff_interval
from mplug_owl.eval.grades import LETTERS, Grade, GradeLog, Letter, agreement, consensus, digest, latest

TIME = "2026-01-01T00:00:00+00:00"


def grade(rater: str, question: int, letter: Letter, *abilities: str, system: str = "one") -> Grade:
    return Grade(
        rater, system, question, letter, abilities, digest(f"{system} {question}"), "2026-01-01T00:00:00+00:00"
    )


# ---- the log -------------------------------------------------------------------------------------


def test_a_log_gives_back_what_was_written_and_the_last_grade_counts(tmp_path: Path) -> None:
    log = GradeLog(tmp_path / "new" / "grades.jsonl")
    assert log.read() == []
    written = [grade("ada", 1, "A", "a", "b"), grade("bob", 1, "C"), grade("ada", 2, "B"), grade("ada", 1, "D", "a")]
    for each in written:
        log.append(each)
    assert log.read() == written
    assert latest(log.read()) == [written[3], written[1], written[2]]


def test_a_line_cut_short_is_no_grade_and_the_next_one_is_whole(tmp_path: Path) -> None:
    log = GradeLog(tmp_path / "grades.jsonl")
    log.append(grade("ada", 1, "A"))
    log.append(grade("ada", 2, "B"))
    whole = log.path.read_bytes()
    for kept in range(whole.index(b"\n") + 1, len(whole) - 1):
        log.path.write_bytes(whole[:kept])
        assert [each.question for each in log.read()] == [1]
        log.append(grade("ada", 3, "C"))
        assert [each.question for each in log.read()] == [1, 3]


def test_a_line_that_is_no_grade_is_named(tmp_path: Path) -> None:
    log = GradeLog(tmp_path / "grades.jsonl")
    log.append(grade("ada", 1, "A"))
    row = json.loads(log.path.read_text())
    for line in ("{", "[]", json.dumps(row | {"grade": "E"}), json.dumps({"rater": "ada"}), json.dumps(row | {"x": 1})):
        log.path.write_text(json.dumps(row) + "\n" + line + "\n")
        with pytest.raises((DataError, EvalError), match=r"grades.jsonl:2"):
            log.read()


def _append(path: Path, rater: str, count: int) -> None:
    for question in range(count):
        GradeLog(path).append(grade(rater, question, "B"))


def test_several_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    spawn = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    workers = [spawn.Process(target=_append, args=(path, rater, 40)) for rater in ("ada", "bob", "eve")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = GradeLog(path).read()
    assert len(found) == 120
    for rater in ("ada", "bob", "eve"):
        assert [each.question for each in found if each.rater == rater] == list(range(40))


# ---- agreement -----------------------------------------------------------------------------------

# The example of K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): four observers, twelve units.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: str, alpha: float) -> None:
    units = [[value for value in column if value is not None] for column in zip(*OBSERVERS, strict=True)]
    found = krippendorff(units, (1, 2, 3, 4, 5), level)  # type: ignore[arg-type]
    assert found == pytest.approx(alpha, abs=5e-4)
    interval = krippendorff_interval(units, (1, 2, 3, 4, 5), level)  # type: ignore[arg-type]
    assert interval is not None and found is not None
    assert interval.low < found < interval.high <= 1


def test_alpha_of_two_raters_by_hand() -> None:
    # The binary example of the same paper: ten units, four of them in dispute; it gives 0.095.
    first, second = "0100000000", "1110010100"
    units = list(zip(first, second, strict=True))
    # Coincidences: o00 = 10, o01 = o10 = 4, o11 = 2; n = 20. Alpha = 1 - 19 * 4 / (14 * 6).
    assert krippendorff(units, "01", "nominal") == pytest.approx(1 - 19 * 4 / (14 * 6))


def test_alpha_of_all_the_same_is_undefined_and_of_agreement_one() -> None:
    assert krippendorff([["A", "A"], ["A", "A"]], LETTERS) is None
    assert krippendorff([["A"], ["B"]], LETTERS) is None
    assert krippendorff([], LETTERS) is None
    assert krippendorff_interval([], LETTERS) is None
    assert krippendorff([["A", "A"], ["D", "D", "D"], ["C"]], LETTERS) == pytest.approx(1.0)


def test_kappa_by_hand() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, by chance 0.5.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    for weights in ("none", "linear", "quadratic"):  # two categories have one distance
        assert kappa(first, second, ("yes", "no"), weights) == pytest.approx(0.4)  # type: ignore[arg-type]
    # A/A, A/B, B/C, C/C: the first gives A twice, the second C. Distances are 2 in all, 16 / 4 by chance.
    assert kappa("AABC", "ABCC", "ABC", "linear") == pytest.approx(1 - 2 / (16 / 4))


def test_quadratic_kappa_is_the_concordance_of_ranks() -> None:
    # Closed form: 2 cov / (var + var + (difference of means) ^ 2), all over n.
    random = np.random.default_rng(0)
    first = random.integers(4, size=200)
    second = np.clip(first + random.integers(-1, 2, size=200), 0, 3)
    expected = 2 * np.cov(first, second, bias=True)[0, 1]
    expected /= first.var() + second.var() + (first.mean() - second.mean()) ** 2
    letters = [[LETTERS[value] for value in side] for side in (first, second)]
    assert kappa(*letters, LETTERS, "quadratic") == pytest.approx(expected)


def test_kappa_of_nothing_or_of_one_category_is_undefined() -> None:
    assert kappa([], [], LETTERS) is None
    assert kappa(["A", "A"], ["A", "A"], LETTERS) is None
    with pytest.raises(EvalError, match="2 values of one rater and 1"):
        kappa(["A", "A"], ["A"], LETTERS)


def second_rater(first: list[Letter], agree: float, seed: int = 0) -> list[Letter]:
    """A rater who repeats a share of the first one's grades, and draws the others as often as that one gives them.

    Both have the same marginals then, so kappa, plain or weighted, is `agree` but for chance.
    """
    random = Random(seed)
    return [letter if random.random() < agree else random.choice(first) for letter in first]


@pytest.mark.parametrize("agree", [0.0, 0.5, 0.8])
def test_agreement_with_a_rater_of_known_kappa(agree: float) -> None:
    random = Random(1)
    first = [random.choices(LETTERS, (4, 3, 2, 1))[0] for _ in range(3_000)]
    second = second_rater(first, agree)
    grades = [grade("ada", place, letter) for place, letter in enumerate(first)]
    grades += [grade("bob", place, letter) for place, letter in enumerate(second)]
    found = agreement(grades)
    [pair] = found.pairs
    assert (found.raters, found.n, pair.n) == (("ada", "bob"), 3_000, 3_000)
    assert pair.kappa == pytest.approx(agree, abs=0.04)
    assert pair.weighted == pytest.approx(agree, abs=0.04)
    assert found.alpha["nominal"] == pytest.approx(pair.kappa, abs=0.01)
    interval = found.interval["ordinal"]
    assert interval is not None and found.alpha["ordinal"] is not None
    assert interval.low < found.alpha["ordinal"] < interval.high


def test_agreement_is_over_what_two_graded() -> None:
    grades = [grade("ada", 1, "A"), grade("ada", 2, "B"), grade("bob", 2, "B"), grade("bob", 3, "D")]
    found = agreement(grades)
    assert found.n == 1
    assert [(pair.n, pair.same) for pair in found.pairs] == [(1, 1.0)]
    assert found.alpha == {"ordinal": None, "nominal": None}


# ---- together ------------------------------------------------------------------------------------


def test_the_middle_grade_counts_and_of_two_the_worse() -> None:
    grades = [grade("ada", 1, "A", "a", "b"), grade("bob", 1, "C", "a"), grade("eve", 1, "B")]
    grades += [grade("ada", 2, "A", "a"), grade("bob", 2, "B")]
    grades += [grade("ada", 3, "D"), grade("ada", 3, "A", "e")]
    found = consensus(grades)
    assert {question: each.letter for (_, question), each in found.items()} == {1: "B", 2: "B", 3: "A"}
    abilities = {question: each.abilities for (_, question), each in found.items()}
    assert abilities == {1: {"a"}, 2: frozenset(), 3: {"e"}}
