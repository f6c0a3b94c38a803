"""OwlEval from pictures to the report, with tiny owls that answer and judge: their words are worth nothing, but none is
lost.
"""

from argparse import ArgumentParser
from pathlib import Path

import pytest

import mplug_owl
from mplug_owl.eval import judge_command
from mplug_owl.eval.endpoints import OwlEndpoint
from mplug_owl.eval.judging import read_judging
from mplug_owl.eval.owleval import command
from mplug_owl.eval.owleval.answers import read_systems
from mplug_owl.eval.owleval.judged import standing
from mplug_owl.eval.owleval.questions import read_questions
from mplug_owl.eval.run import run
from mplug_owl.eval.tasks.owleval import OwlEvalTask
from owlevals import ROWS, make_answers, make_folder, official

serving = pytest.importorskip("serving", reason='needs the server: pip install "mplug_owl[serve]" openai')

pytestmark = pytest.mark.slow


def judge(*words: str) -> int:
    parser = ArgumentParser()
    judge_command.add_arguments(parser)
    return judge_command.run(parser.parse_args(list(words)))


def report(*words: str) -> int:
    parser = ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(words)))


def test_an_owl_answers_is_judged_and_reported(owl: mplug_owl.Owl, tmp_path: Path) -> None:
    data, out = make_folder(tmp_path / "data"), tmp_path / "run"
    task = OwlEvalTask(data=data, max_new_tokens=8)
    results = run(OwlEndpoint(owl, "tiny"), [task], out)
    [table] = results["tasks"]["owleval"]["tables"]
    assert [(row["name"], row["n"]) for row in table["rows"]] == [("owleval", 6), ("single-turn", 3), ("multi-turn", 5)]
    questions = read_questions(data)
    [mine] = read_systems([f"mine={out}"], questions)
    [asked] = [list(task.examples())]
    first, follow = asked[1], asked[2]
    said = owl.chat(list(first.messages), max_new_tokens=8)
    assert mine.answers[2].text == said
    own = [*first.messages, mplug_owl.Message("assistant", said), *follow.messages]
    assert mine.answers[3].text == owl.chat(own, max_new_tokens=8)

    make_answers(tmp_path / "other.jsonl", "other")
    words = [f"mine={out}", str(tmp_path / "other.jsonl"), "--data", str(data), "--max-new-tokens", "4"]
    with serving.served({"judge": owl}) as place:
        assert judge(*words, "--judge", f"openai:{place.url}/v1#judge", "--out", str(tmp_path / "judge")) == 0
    judging = read_judging(tmp_path / "judge")
    assert len(judging.verdicts) == 2 * len(ROWS) and all(v.error is None for v in judging.verdicts)
    answers = ["--answers", f"mine={out}", str(tmp_path / "other.jsonl"), "--judge", str(tmp_path / "judge")]
    assert report("--data", str(data), *answers, "--out", str(tmp_path / "report")) == 0
    assert "## Judged by judge" in (tmp_path / "report" / "owleval.md").read_text()


def test_the_published_systems_are_judged_by_a_served_owl(owl: mplug_owl.Owl, tmp_path: Path) -> None:
    data = official()
    words = [str(data / "answer"), "--data", str(data), "--max-new-tokens", "1", "--no-abilities"]
    with serving.served({"judge": owl}) as place:
        assert judge(*words, "--judge", f"openai:{place.url}/v1#judge", "--out", str(tmp_path)) == 0
    judging = read_judging(tmp_path)
    assert len(judging.verdicts) == 67 + 4 * 80 + 82
    assert standing(judging.verdicts)[0].startswith("judge judge: 469 asked, ")
    assert {len({v.question for v in judging.verdicts if v.systems == ("MM-REACT",)})} == {67}
