"""Studies, their columns and their verdicts: what is shipped resolves, what is wrong is named, numbers mean a thing."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from mplug_owl import cli
from mplug_owl.errors import ConfigError
from mplug_owl.eval.tasks.world import WorldTask
from mplug_owl.lab import judgement, page, plot, study, tree
from mplug_owl.lab.columns import COLUMNS, pooled
from mplug_owl.models.build_command import CONNECTORS
from mplug_owl.train.plan import plan
from mplug_owl.world.scene import ABILITIES

every_study = pytest.mark.parametrize("name", sorted(study.shipped()))


def test_the_papers_studies_are_shipped() -> None:
    assert {"owl-ablation", "owl2-modules", "queries", "paradigms"} <= set(study.shipped())


@every_study
def test_a_study_resolves(name: str) -> None:
    made = study.load(name)
    assert made.name == name and "mPLUG-Owl" in made.source
    used = {stage for variant in made.variants for stage in variant.stages}
    assert used == set(made.stages), "a stage is there for nobody"
    for variant in made.variants:
        first, *later = made.recipes(variant, seed=0)
        assert first.init.start is None and first.data.sources
        for before, recipe in zip(variant.stages, later, strict=False):
            assert recipe.init.start == f"SET-ME/{before}" and recipe.data.sources
    for finding in made.findings:
        assert set(finding.columns) <= set(made.evaluation.columns), "a finding that the table does not show"


def test_every_stage_plans() -> None:
    """Those that would make the same plan once."""
    studies = [study.load(name) for name in study.shipped()]
    recipes = [recipe for made in studies for variant in made.variants for recipe in made.recipes(variant, seed=0)]
    unlike = {(frozenset(recipe.train), recipe.init.connector): recipe for recipe in recipes}
    assert len(unlike) > 10
    for recipe in unlike.values():
        made = plan(recipe, gpus=1, gpu="CPU")
        assert all((made.modules[module].trained > 0) == (module in recipe.train) for module in made.modules)


def test_the_paradigms_have_all_connectors_and_change_one_thing_at_a_time() -> None:
    made = study.load("paradigms")
    ways = {}
    for variant in made.variants:
        recipes = made.recipes(variant, seed=0)
        connectors = [recipe.init.connector for recipe in recipes if recipe.init.connector]
        ways[variant.name] = (connectors or ["abstractor"], [sorted(recipe.train) for recipe in recipes])
    assert {kind for connectors, _ in ways.values() for kind in connectors} == set(CONNECTORS)
    for one, other, same in (
        ("Owl", "Owl/frozen", 0),
        ("LLaVA", "Owl/linear", 0),
        ("Owl", "Owl/linear", 1),
        ("LLaVA", "LLaVA-1.5", 1),
    ):
        assert ways[one][same] == ways[other][same] and ways[one][1 - same] != ways[other][1 - same], (one, other)


def test_studies_of_one_family_share_their_language_model() -> None:
    first = [
        next(tree.node(made, made.variants[0], 0).chain()) for made in map(study.load, ("owl-ablation", "paradigms"))
    ]
    assert first[0].key == first[1].key


@every_study
def test_a_study_is_text_for_people(name: str) -> None:
    text = study.shipped()[name].read_text(encoding="utf-8")
    assert text.isascii() and text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120


def test_only_the_variants_with_the_module_have_a_visual_branch() -> None:
    """A recipe may bring one; an owl of the first paper, and Owl2 without its module, must not get it."""
    for name in ("owl-ablation", "owl2-modules", "paradigms"):
        made = study.load(name)
        for variant in made.variants:
            wishes = [recipe.init.adaptive for recipe in made.recipes(variant, seed=0)]
            assert wishes[0] is False
            given = [wish for wish in wishes if wish is not None]
            assert given[-1] is variant.name.startswith("module/"), variant.name


def test_variants_share_what_they_have_in_common() -> None:
    """The ablation: 1 language model, 1 pair of eyes, 1 pretraining, then r2, r2+, r3, r4 and r5 apart."""
    made = study.load("owl-ablation")
    nodes = {node.key: node for variant in made.variants for node in tree.node(made, variant, 0).chain()}
    assert len(nodes) == 8
    assert sum(node.recipe.name == "owlet-nano-pretrain" for node in nodes.values()) == 1
    others = {node.key for variant in made.variants for node in tree.node(made, variant, 1).chain()}
    assert not others & nodes.keys(), "another seed is another training"


def test_a_node_is_known_by_what_it_learns() -> None:
    made = study.load("queries")
    variant = made.variants[0]
    key = tree.node(made, variant, 0).key

    def other(*overrides: str) -> str:
        return tree.node(study.load("queries", overrides), variant, 0).key

    assert other() == key
    assert other("keep.every=7", "log.every=3") == key
    assert other("language:optim.steps=9") != key
    assert other("joint:optim.clip=0.5") != key


def test_overrides_are_for_all_stages_for_one_or_for_the_questions() -> None:
    made = study.load("owl-ablation", ("optim.steps=7", "joint:optim.steps=9", "evaluation.count=3"))
    assert made.evaluation.count == 3
    steps = {name: made.recipe(name, seed=4).optim.steps for name in made.stages}
    assert steps.pop("joint") == 9 and set(steps.values()) == {7}
    assert made.recipe("joint", seed=4).seed == 4


def test_what_is_frozen_does_not_train() -> None:
    recipe = study.load("owl2-modules").recipe("joint", seed=0)
    assert set(recipe.train) == {"vision", "abstractor", "language"} and recipe.lora is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"variants": ()}, "at least one"),
        ({"variants": (study.Variant("a", "", ("langage",)),)}, "did you mean 'language'"),
        ({"stages": {"language": study.Stage("owlet-nano-language", ("words",))}}, "unknown stage"),
        ({"findings": (study.Finding("c", ("r1",), ("r9",), ("eye",), ""),)}, "unknown variant 'r9'"),
        ({"findings": (study.Finding("c", ("r1",), ("r2",), ("eyes",), ""),)}, "did you mean 'eye'"),
        ({"evaluation": study.Evaluation(("text",), ())}, "names no column"),
        ({"findings": (study.Finding("c", ("r1",), ("r2",), ("eye",), "", margin=0.1),)}, "margin is for 'not worse'"),
    ],
)
def test_a_study_that_cannot_be_right_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(study.load("owl-ablation"), **change)


def test_what_a_stage_is_called_does_not_make_another_training() -> None:
    """Two studies may give the same stages names of their own."""
    made = study.load("owl-ablation")
    renamed = dataclasses.replace(
        made,
        stages={f"my-{name}": stage for name, stage in made.stages.items()},
        variants=tuple(
            dataclasses.replace(each, stages=tuple(f"my-{name}" for name in each.stages)) for each in made.variants
        ),
    )
    for one, other in zip(made.variants, renamed.variants, strict=True):
        assert tree.node(made, one, 0).key == tree.node(renamed, other, 0).key


def test_freezing_what_does_not_train_is_refused() -> None:
    made = study.load("owl-ablation")
    wrong = dataclasses.replace(
        made, stages={**made.stages, "captions": study.Stage("owlet-nano-pretrain", (), ("l",))}
    )
    with pytest.raises(ConfigError, match="freezes 'l', which its recipe does not train"):
        wrong.recipe("captions", seed=0)


def test_unknown_names_are_met_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "owl-ablations", "--show"]) == 2
    assert "did you mean 'owl-ablation'" in capsys.readouterr().err
    assert cli.main(["lab", "owl-ablation", "joined:optim.steps=1", "--show"]) == 2
    assert "no stage of owl-ablation; did you mean 'joint'" in capsys.readouterr().err
    assert cli.main(["lab", "--seeds", "2"]) == 2
    assert "no study" in capsys.readouterr().err


def test_the_command_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in study.shipped())
    assert cli.main(["lab", "owl-ablation", "captions:optim.steps=77", "--show"]) == 0
    said = capsys.readouterr().out
    assert "captions: 77 steps" in said and "r5: language > eyes > captions > joint" in said
    assert cli.main(["lab", "paradigms", "--show"]) == 0
    assert "trains abstractor; f_K becomes linear" in capsys.readouterr().out


# ---- columns -------------------------------------------------------------------------------------


def answers(skills: tuple[str, ...], right: bool = True, grey: bool = False) -> list[dict[str, Any]]:
    """As an evaluation writes them: all own questions right or wrong, all grey ones too."""
    asked = WorldTask(skills, 6, ("grey",)).examples()
    return [{"id": e.id, "correct": float(grey if e.meta["control"] else right), "meta": e.meta} for e in asked]


def test_columns_count_what_they_say() -> None:
    found = answers(("counting", "dice", "text", "form"))
    sizes = {name: len(column.values(found)) for name, column in COLUMNS.items()}
    assert sizes["overall"] == 24
    assert sizes["eye"] == sizes["grey"] == sizes["sees"]
    assert 6 <= sizes["text"] < 12  # those of the skill, and the forms without a picture
    assert sizes["eye"] + sizes["text"] <= sizes["overall"]
    about_pictures = set().union(*(COLUMNS[name].values(found) for name in ABILITIES))
    assert not about_pictures & set(COLUMNS["text"].values(found))


def test_seeing_is_what_a_grey_picture_takes_away() -> None:
    for right, grey, worth in ((True, False, 1.0), (True, True, 0.0), (False, True, -1.0)):
        assert set(COLUMNS["sees"].values(answers(("counting",), right, grey)).values()) == {worth}


def test_a_question_in_two_columns_counts_once() -> None:
    found = answers(("flags", "knowledge"))
    both = pooled(("vision", "knowledge"), found)
    assert set(both) == set(COLUMNS["vision"].values(found)) | set(COLUMNS["knowledge"].values(found))


# ---- judgement -----------------------------------------------------------------------------------


def values(share: float, count: int = 200, seed: int = 0) -> dict[str, float]:
    drawn = random.Random(seed)
    return {str(number): float(drawn.random() < share) for number in range(count)}


def test_a_large_difference_is_decided_and_a_small_one_is_not() -> None:
    good, same, bad = values(0.9), values(0.9, seed=1), values(0.3, seed=2)
    assert judgement.verdict(judgement.gap([[good]], [[bad]]).interval) == "holds"
    assert judgement.verdict(judgement.gap([[bad]], [[good]]).interval) == "does not hold"
    assert judgement.verdict(judgement.gap([[good]], [[same]]).interval) == "not decided"
    assert judgement.verdict(judgement.gap([[good]], [[good]]).interval) == "not decided"


def test_not_worse_needs_a_margin_that_is_kept() -> None:
    good, bad = values(0.9), values(0.3, seed=2)
    for first, second, margin, expected in (
        (good, good, 0.03, "holds"),
        (good, bad, 0.03, "holds"),
        (bad, good, 0.03, "does not hold"),
        (good, good, 0.0, "not decided"),
        (values(0.0, 20), values(0.0, 20), 0.03, "not decided"),  # nothing was learnt, so nothing is shown
        (good, values(0.9, seed=1), 0.001, "not decided"),
    ):
        assert judgement.verdict(judgement.gap([[first]], [[second]]).interval, margin) == expected


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.01, 0.02, 0.0, "holds"),
        (-0.01, 0.02, 0.0, "not decided"),
        (-0.02, -0.01, 0.0, "does not hold"),
        (0.0, 0.02, 0.0, "not decided"),
        (-0.02, 0.0, 0.0, "not decided"),
        (0.0, 0.0, 0.0, "not decided"),
        # Worse for certain, but by less than is allowed; by perhaps more; by more.
        (-0.02, -0.01, 0.03, "holds"),
        (-0.05, -0.01, 0.03, "not decided"),
        (-0.05, -0.04, 0.03, "does not hold"),
    ],
)
def test_the_whole_interval_must_be_on_one_side(low: float, high: float, margin: float, expected: str) -> None:
    assert judgement.verdict(judgement.Interval(low, high), margin) == expected


@pytest.mark.parametrize(
    ("wins", "expected"), [(0, "not decided"), (1, "not decided"), (4, "not decided"), (9, "holds")]
)
def test_a_few_pairs_that_differ_decide_nothing(wins: int, expected: str) -> None:
    """All of them won: the exact test calls four of four chance (p = 0.125), where a bootstrap sees no way to lose."""
    less = values(0.5, 60)
    more = less | dict.fromkeys([name for name, right in less.items() if not right][:wins], 1.0)
    found = judgement.gap([[more]], [[less]])
    assert found.score == pytest.approx(wins / 60) and found.interval.low < found.score < found.interval.high
    assert judgement.verdict(found.interval) == expected


def test_intervals_of_differences_reach_the_truth_about_as_often_as_they_say() -> None:
    """Of 400 studies in which both sides are equally good in truth, some 20 may say otherwise."""
    decided = 0
    for seed in range(400):
        drawn = random.Random(seed)
        differences = [drawn.choice((-1, 0, 0, 0, 0, 0, 0, 0, 0, 1)) for _ in range(60)]
        decided += judgement.verdict(judgement.paired(differences)) != "not decided"
    assert decided <= 28


def test_pairs_decide_what_unpaired_shares_leave_open() -> None:
    """The same few questions more are right: the shares' intervals overlap, that of the difference leaves out 0."""
    less = values(0.5)
    more = less | {name: 1.0 for name in list(less)[:30]}
    low, high = judgement.over_questions(less).interval, judgement.over_questions(more).interval
    assert high.low < low.high
    assert judgement.verdict(judgement.gap([[more]], [[less]]).interval) == "holds"


def test_several_variants_count_as_their_mean() -> None:
    good, bad = values(1.0), values(0.0)
    found = judgement.gap([[good], [bad]], [[bad], [bad]])
    assert found.score == 0.5


def test_with_several_seeds_the_interval_reaches_as_far_as_seeds_and_questions_do() -> None:
    steady = [values(0.8, seed=seed) for seed in range(3)]
    scores = [judgement.over_questions(seed).score for seed in steady]
    found = judgement.mean(steady)
    assert found.score == pytest.approx(sum(scores) / 3)
    over = judgement.over_seeds(scores).interval
    assert found.interval.low <= over.low and found.interval.high >= over.high
    # Two seeds that differ say next to nothing.
    assert judgement.over_seeds([0.4, 0.6]).interval.low < 0
    assert judgement.over_seeds([0.0, 1.0, 2.0]).interval.high == pytest.approx(1 + 4.303 / 3**0.5)
    apart = judgement.gap([[values(0.9, seed=1), values(0.2, seed=2)]], [[values(0.5, seed=3), values(0.5, seed=4)]])
    assert judgement.verdict(apart.interval) == "not decided"


def test_seeds_that_agree_do_not_make_certainty() -> None:
    """Three seeds with the same score: over seeds alone the interval would have no width at all."""
    same = values(0.5, 40)
    more = same | {next(name for name, right in same.items() if not right): 1.0}
    found = judgement.gap([[more] * 3], [[same] * 3])
    assert found.score == pytest.approx(1 / 40) and judgement.verdict(found.interval) == "not decided"
    nothing = judgement.gap([[values(0.0, 20)] * 3], [[values(0.0, 20)] * 3])
    assert judgement.verdict(nothing.interval, 0.03) == "not decided"
    low, high = judgement.mean([same] * 3).interval
    assert low < judgement.over_questions(same).score < high


# ---- the page ------------------------------------------------------------------------------------


def results(seeds: int) -> dict[str, Any]:
    score = {"score": 0.5, "interval": [0.4, 0.6]}
    variants = [
        {"name": name, "about": f"the {name}", "stages": ["a", "b"], "scores": {"eye": score, "sees": score}}
        for name in ("one", "other")
    ]
    finding = {
        **dataclasses.asdict(study.Finding("one is better", ("one",), ("other",), ("eye",), "so it says")),
        "verdict": "not decided",
        "scores": [0.5, 0.5],
        "difference": {"score": 0.0, "interval": [-0.1, 0.1]},
    }
    return {
        "name": "small",
        "source": "a paper",
        "question": "Which is better?",
        "notes": ["one stands for the other"],
        "seeds": list(range(seeds)),
        "evaluation": {"skills": ["text"], "count": 5, "split": "test"},
        "columns": {"eye": {"about": "what needs eyes", "n": 5}, "sees": {"about": "the gap", "n": 5}},
        "variants": variants,
        "findings": [finding],
    }


def test_the_page_says_what_intervals_are_over_and_what_is_not_decided(tmp_path: Path) -> None:
    one, three = page.markdown(results(1), "scores.png"), page.markdown(results(3), "scores.png")
    assert "**One seed** (0): intervals are over questions" in one
    assert "3 seeds (0, 1, 2): intervals reach as far as those over seeds and those over" in " ".join(three.split())
    assert "One seed speaks of these owls" in " ".join(one.split()) and "One seed speaks" not in three
    assert "Of 1: holds 0, does not hold 0, not decided 1. Each is judged by itself" in " ".join(one.split())
    assert "| one   | 50.0 (40 to 60) |" in one
    assert "**not decided**: one is better. one 50.0, other 50.0 on eye: +0.0 (-10.0 to +10.0)" in " ".join(one.split())
    assert max(map(len, one.splitlines())) <= 120
    plot.draw(results(1), tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
