"""Settings: what a file may say, what an override may change, and how an error reads."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from mplug_owl import settings
from mplug_owl.errors import ConfigError


@dataclass(frozen=True)
class Wheel:
    size: float
    spokes: int = 36


@dataclass(frozen=True)
class Cart:
    name: str
    wheels: tuple[Wheel, ...] = ()
    axle: Wheel = field(default_factory=lambda: Wheel(1.0))
    cover: Literal["cloth", "wood"] = "cloth"
    owner: str | None = None
    load: int | str = 0
    span: tuple[float, float] = (0.0, 1.0)
    spare: dict[str, Wheel] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    braked: bool = False

    def __post_init__(self) -> None:
        if self.braked and not self.wheels:
            raise ConfigError("braked=True and wheels=(): a brake needs a wheel")


def build(**tree: Any) -> Cart:
    return settings.build(Cart, {"name": "a"} | tree)


def test_a_file_becomes_frozen_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "cart.toml"
    path.write_text(
        """
        name = "red"
        load = "hay"
        span = [1, 2.5]
        [axle]
        size = 3
        [[wheels]]
        size = 1.5
        [spare.left]
        size = 2.0
        spokes = 12
        [notes]
        anything = [1, "b"]
        """
    )
    cart = settings.read(Cart, path)
    assert cart == Cart(
        name="red",
        load="hay",
        span=(1.0, 2.5),
        axle=Wheel(3.0),
        wheels=(Wheel(1.5),),
        spare={"left": Wheel(2.0, 12)},
        notes={"anything": [1, "b"]},
    )
    assert isinstance(cart.axle.size, float)
    with pytest.raises(AttributeError):
        cart.name = "blue"  # type: ignore[misc]


def test_overrides_are_typed_like_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cart.toml"
    path.write_text('name = "red"\nowner = "Ann"\n[axle]\nsize = 1.0\n')
    cart = settings.read(
        Cart,
        path,
        (
            "axle.spokes=9",
            "cover=wood",
            'name="blue cart"',
            "owner=none",
            "span=[0.5, 1]",
            "spare.left={size = 2}",
            "spare.right.size=1e-1",
            "wheels=[{size = 1}]",
            "braked=true",
        ),
    )
    assert (cart.axle, cart.cover, cart.name, cart.owner) == (Wheel(1.0, 9), "wood", "blue cart", None)
    assert cart.span == (0.5, 1.0)
    assert cart.spare == {"left": Wheel(2.0), "right": Wheel(0.1)}
    assert cart.braked and cart.wheels == (Wheel(1.0),)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"weels": []}, "unknown key 'weels'; did you mean 'wheels'?"),
        ({"axle": {"siz": 1}}, "axle: unknown key 'siz'; did you mean 'size'?"),
        ({"wheels": [{"size": 1}, {"size": "big"}]}, r"wheels\[1\]: size is 'big'; expected float"),
        ({"axle": 3}, "axle is 3; expected a section"),
        ({"axle": {}}, "axle: size missing; expected a value"),
        ({"wheels": 3}, "wheels is 3; expected a list"),
        ({"cover": "woud"}, "cover is 'woud'; did you mean 'wood'?"),
        ({"span": [1]}, "span has 1 values; expected 2"),
        ({"braked": 1}, "braked is 1; expected bool"),
        ({"axle": {"size": 1, "spokes": True}}, "spokes is True; expected int"),
        ({"axle": {"size": 1, "spokes": 1.5}}, "spokes is 1.5; expected int"),
        ({"axle": {"size": True}}, "size is True; expected float"),
        ({"owner": 3}, "owner is 3; expected str"),
        ({"name": "none"}, None),
        ({"load": 1.5}, "load is 1.5; expected str"),
        ({"spare": []}, r"spare is \[\]; expected a section"),
        ({"spare": {"left": {"sise": 1}}}, r"spare\.left: unknown key 'sise'"),
        ({"braked": True}, "a brake needs a wheel"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tree: dict[str, Any], said: str | None) -> None:
    if said is None:
        assert build(**tree).name == "none"  # a word like any other where a value must be
        return
    with pytest.raises(ConfigError, match=said):
        build(**tree)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ConfigError, match="settings: name missing"):
        settings.build(Cart, {})


def test_files_and_overrides_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "cart.toml"
    with pytest.raises(ConfigError, match=r"no file .*; expected a TOML file"):
        settings.read(Cart, path)
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="is no TOML"):
        settings.read(Cart, path)
    path.write_text('name = "red"\n')
    for override, said in (
        ("name", "expected name=value"),
        ("=3", "expected name=value"),
        ("name.first=3", "'name' holds a value, not a section"),
        ("axel.size=3", "unknown key 'axel'; did you mean 'axle'"),
    ):
        with pytest.raises(ConfigError, match=said):
            settings.read(Cart, path, (override,))


def test_a_dump_reads_back(tmp_path: Path) -> None:
    cart = build(wheels=[{"size": 2}], span=[0, 3], cover="wood")
    tree = json.loads(settings.dump(cart))
    assert tree["axle"] == {"size": 1.0, "spokes": 36}  # defaults are written down too
    assert settings.build(Cart, tree) == cart
