"""The shipped recipes: complete, cited, and with the published values."""

import dataclasses
import json
import tomllib
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from mplug_owl import settings
from mplug_owl.errors import ConfigError
from mplug_owl.models.families import FAMILIES
from mplug_owl.train import recipe as recipes
from mplug_owl.train.recipe import Init, Lora, Module, Recipe, Source

NAMES = [
    "owl-instruct",
    "owl-instruct-released",
    "owl-pretrain",
    "owl2-instruct",
    "owl2-instruct-lora",
    "owl2-pretrain",
]
every_recipe = pytest.mark.parametrize("name", NAMES)


def test_the_papers_stages_are_shipped() -> None:
    assert set(NAMES) <= set(recipes.shipped())


def sections(kind: Any, tree: dict[str, Any], where: str) -> Iterator[tuple[str, Any, dict]]:
    """Every section of a recipe's file with the dataclass it becomes."""
    yield where, kind, tree
    for name, hint in get_type_hints(kind).items():
        inner = [h for h in (hint, *get_args(hint)) if dataclasses.is_dataclass(h)]
        if not inner or name not in tree:
            continue
        value = tree[name]
        if inner[0] is Module:
            parts = [(f"{name}.{key}", part) for key, part in value.items()]
        elif isinstance(value, list):
            parts = [(f"{name}[{i}]", part) for i, part in enumerate(value)]
        else:
            parts = [(name, value)]
        for place, part in parts:
            yield from sections(inner[0], part, place)


@every_recipe
def test_a_recipe_says_everything(name: str) -> None:
    """Each field stands in the file, so nobody has to know the defaults."""
    text = recipes.shipped()[name].read_text(encoding="utf-8")
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    tree = tomllib.loads(text)
    assert tree["name"] == name
    for where, kind, given in sections(Recipe, tree, "recipe"):
        expected = {field.name for field in dataclasses.fields(kind)}
        if kind is Recipe:
            expected -= {"lora"}  # a section only where there is LoRA
        if kind is Init and "connector" not in given:
            expected -= {"connector", "features", "cls"}  # only where an owl is built from any tower and decoder
        if kind is Source:
            expected = {"path"}
        if where == "optim":
            expected -= {"steps", "epochs"}  # one of the two
        assert expected <= set(given), f"{where} leaves out {expected - set(given)}"


@every_recipe
def test_every_field_has_its_comment(name: str) -> None:
    lines = recipes.shipped()[name].read_text(encoding="utf-8").splitlines()
    top = lines.index("# Where the weights come from.")
    source = False
    for before, line in zip(lines[top:], lines[top + 1 :], strict=False):
        if line.startswith("["):
            source = line.startswith("[[")
        elif " = " in line and not line.startswith(("#", " ")) and not source:
            assert "  # " in line or before.startswith("#"), f"{name}: {line}"


@every_recipe
def test_a_recipe_loads_and_names_its_source(name: str) -> None:
    loaded = recipes.load(name)
    assert loaded.init.family in FAMILIES
    assert "mPLUG-Owl" in loaded.source
    assert len(loaded.contradictions) >= 4
    assert loaded.data.sources and loaded.data.held_out
    for source in (*loaded.data.sources, *loaded.data.held_out):
        assert source.path.startswith("SET-ME/")  # a path that nobody has by chance
    resolved = json.loads(settings.dump(loaded))
    assert settings.build(Recipe, resolved) == loaded


def values(name: str) -> tuple[Any, ...]:
    r = recipes.load(name)
    optim = r.optim
    return (
        optim.steps or optim.epochs,
        r.batch.size,
        r.data.max_length,
        optim.betas,
        optim.eps,
        optim.schedule,
        optim.warmup_steps,
        optim.min_lr,
        {module: (m.lr, m.weight_decay, m.layer_decay) for module, m in r.train.items()},
    )


def test_owl_has_the_values_of_section_4() -> None:
    rate = (1e-4, 0.1, 1.0)
    assert values("owl-pretrain") == (
        *(50_000, 4096, 512, (0.9, 0.98), 1e-6, "cosine", 2000, 0.0),
        {"vision": rate, "abstractor": rate},
    )
    rate = (2e-5, 1e-4, 1.0)
    assert values("owl-instruct") == (
        *(2000, 256, 1024, (0.9, 0.999), 1e-6, "cosine", 50, 0.0),
        {"abstractor": rate, "lora": rate},
    )
    assert recipes.load("owl-instruct").lora == Lora(("q_proj", "v_proj"), 8, 32, 0.05)
    assert [s.weight for s in recipes.load("owl-instruct").data.sources] == [52, 90, 50, 150]


def test_the_released_script_has_its_own_recipe() -> None:
    assert values("owl-instruct-released") == (
        *(3.0, 32, 2048, (0.9, 0.999), 1e-8, "linear", 50, 0.0),
        {"lora": (2e-5, 1e-4, 1.0)},
    )


def test_owl2_has_the_values_of_table_15() -> None:
    pretrain = (1e-4, 0.05, 1.0)
    assert values("owl2-pretrain") == (
        *(42_500, 8192, 256, (0.9, 0.98), 1e-6, "cosine", 1000, 1e-6),
        {"vision": (1e-4, 0.05, 0.9), "abstractor": pretrain, "visual": pretrain},
    )
    instruct = (2e-5, 0.0, 1.0)
    assert values("owl2-instruct") == (
        *(4800, 256, 2048, (0.9, 0.98), 1e-6, "cosine", 250, 1e-7),
        {"vision": (2e-5, 0.0, 0.9), "abstractor": instruct, "visual": instruct, "language": instruct},
    )
    assert recipes.load("owl2-pretrain").init.image_size == 224
    assert recipes.load("owl2-instruct").init.image_size == 448
    mixture = [s.weight for s in recipes.load("owl2-instruct").data.sources]
    assert len(mixture) == 12
    assert sum(w for w in mixture if w) == 1230  # thousand rows, as Table 14 adds up


def test_owl2_lora_takes_both_branches_but_not_the_head() -> None:
    assert values("owl2-instruct-lora") == (
        *(1.0, 128, 2048, (0.9, 0.999), 1e-8, "cosine", 156, 0.0),
        {"abstractor": (2e-5, 0.0, 1.0), "lora": (1e-4, 0.0, 1.0)},
    )
    lora = recipes.load("owl2-instruct-lora").lora
    assert lora is not None
    assert (lora.rank, lora.alpha) == (128, 256)
    assert {"visual_k_proj", "visual_v_proj"} < set(lora.targets)
    assert "lm_head" not in lora.targets


def test_overrides_reach_every_section() -> None:
    changed = recipes.load(
        "owl2-pretrain",
        (
            "init.family=tiny-owl2",
            "init.vision=none",
            "train.vision.lr=3e-4",
            "optim.steps=2",
            'data.sources=[{path = "a.jsonl"}]',
            "batch={size = 4, micro = 2}",
        ),
    )
    assert (changed.init.family, changed.init.vision) == ("tiny-owl2", None)
    assert changed.train["vision"].lr == 3e-4
    assert (changed.optim.steps, changed.batch.micro) == (2, 2)
    assert [source.path for source in changed.data.sources] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.step=3", "unknown key 'step'; did you mean 'steps'"),
        ("train.visoin.lr=1", "train.visoin: unknown module; did you mean 'vision'"),
        ("compute.dtype=bf16", "did you mean 'bfloat16'"),
        ("batch.micro=3", "batch.size=8192 is not a multiple of batch.micro=3"),
        ("optim.epochs=1", "steps=42500 and epochs=1.0: give exactly one"),
        ("train.lora.lr=1", "train.lora is given but the section lora is absent"),
        ("init.start=somewhere", "init.start='somewhere' and init.vision="),
        ("train.vision.lr=fast", "lr is 'fast'; expected float"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipes.load("owl2-pretrain", (override,))


def test_lora_excludes_what_it_stands_in_for() -> None:
    with pytest.raises(ConfigError, match=r"train\.lora and train\.language are both given"):
        recipes.load("owl-instruct", ("train.language.lr=1e-5",))
    with pytest.raises(ConfigError, match=r"train\.visual and lora\.targets='visual_k_proj'"):
        recipes.load("owl2-instruct-lora", ("train.visual.lr=1e-5",))


def test_an_adapter_needs_a_base_that_can_be_opened_again() -> None:
    with pytest.raises(ConfigError, match=r"lora and init\.image_size=448 are both given"):
        recipes.load("owl2-instruct-lora", ("init.image_size=448",))


def test_an_unknown_recipe_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'owl-pretrian'; did you mean 'owl-pretr"):
        recipes.load("owl-pretrian")
    with pytest.raises(ConfigError, match=r"no file 'mine\.toml'"):
        recipes.load("mine.toml")
