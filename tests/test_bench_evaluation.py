"""The benchmark of evaluation: complete lines, and nothing timed that answers wrongly. How fast is not tested."""

import pytest

from mplug_owl.bench import evaluation
from mplug_owl.bench.plan import Plan
from mplug_owl.errors import EvalError, RequestError

QUICK = Plan(shape="tiny", rounds=2, steps=2)


def test_a_run_is_put_beside_one_by_one() -> None:
    (found,) = evaluation.measure(QUICK)
    assert (found.what, found.ours, found.baseline) == ("a question", "owl eval", "generate")
    assert 18 < found.setting["questions"] <= evaluation.QUICK and found.setting["steps"] == 2
    assert found.ratio is not None and found.ratio > 0 and found.runs == 2


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "generated", lambda owl, conversation, new_tokens: "never said")
    with pytest.raises(EvalError, match="answers are not those of generate"):
        evaluation.measure(QUICK)


def test_shapes_are_families() -> None:
    with pytest.raises(RequestError, match="did you mean 'owlet'"):
        evaluation.measure(Plan(shape="owlett"))
