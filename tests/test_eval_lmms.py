"""The plug-in for lmms-eval, against the interface that its documentation gives to plug-ins.

Where lmms-eval is not installed, a small package with that interface stands in its place: the manifest's fields, and
what a model gets in its requests.
"""

import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval_tasks import disc
from mplug_owl import ConfigError, Message, Owl, RequestError
from mplug_owl.eval import lmms as plugin

STAND_IN = {
    "__init__.py": "",
    "api/__init__.py": "",
    "models/__init__.py": "",
    "models/registry_v2.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()
""",
    "api/model.py": """
import abc

class Hook:
    def __init__(self):
        self.kept = []

    def add_partial(self, kind, request, answer):
        self.kept.append((kind, request, answer))

class lmms(abc.ABC):
    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.cache_hook, self.task_dict = 0, 1, Hook(), {}

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...
""",
}


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if importlib.util.find_spec("lmms_eval") is None:
        for name, text in STAND_IN.items():
            path = tmp_path / "lmms_eval" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "lmms_eval" or name == plugin.CLASS[:-9]]:
        del sys.modules[name]


def model_class() -> Any:
    module, _, name = plugin.manifest().chat_class_path.rpartition(".")
    return getattr(import_module(module), name)


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    place = project["entry-points"]["lmms_eval.models"]["mplug_owl"]
    module, _, name = place.partition(":")
    assert getattr(import_module(module), name) is plugin.manifest


def test_the_manifest_names_a_model_that_reads_messages(harness: None) -> None:
    from lmms_eval.api.model import lmms

    manifest = plugin.manifest()
    assert (manifest.model_id, manifest.simple_class_path, manifest.aliases) == ("mplug_owl", None, ("owl",))
    made = model_class()
    assert issubclass(made, lmms) and made.is_simple is False


def requests(**wishes: Any) -> tuple[list[Any], dict[str, Any]]:
    """Requests as a task of the harness makes them, and its rows."""
    rows = [{"question": f"What is shown{'?' * n}", "picture": disc("red", 30 + n)} for n in range(5)]

    def to_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
        content = [{"type": "image", "url": row["picture"]}, {"type": "text", "text": row["question"]}]
        return [{"role": "user", "content": content}]

    made = [
        SimpleNamespace(args=(f"context {number}", to_messages, wishes, number, "shapes", "test"))
        for number in range(len(rows))
    ]
    return made, {"shapes": {"test": rows}}


@pytest.mark.parametrize("batch_size", [1, 2, "auto"])
def test_owls_answer_as_they_do_elsewhere(harness: None, owl: Owl, batch_size: int | str) -> None:
    model = model_class()(pretrained="tiny-owl2", device="cpu", dtype="float32", batch_size=batch_size)
    asked, model.task_dict = requests(max_new_tokens=6, temperature=0, do_sample=False, until=["\n\n"], num_beams=1)
    found = model.generate_until(asked)
    rows = model.task_dict["shapes"]["test"]
    assert found == [
        owl.chat([Message("user", row["question"])], images=[row["picture"]], max_new_tokens=6, stop="\n\n")
        for row in rows
    ]
    assert [kept[2] for kept in model.cache_hook.kept] == found


def test_what_the_harness_wishes(harness: None, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = import_module(plugin.CLASS.rpartition(".")[0]).wishes
    assert wishes({}) == {"max_new_tokens": 512, "stop": []}
    assert wishes({"until": "x", "temperature": 0.7, "top_p": 0.9, "do_sample": True, "image_aspect_ratio": "pad"}) == {
        "max_new_tokens": 512,
        "stop": ["x"],
        "temperature": 0.7,
        "top_p": 0.9,
    }
    assert "temperature" not in wishes({"temperature": 0.7, "do_sample": False})
    for wrong, word in (({"num_beams": 4}, "without beams"), ({"penalty_alpha": 1}, "penalty_alpha=1")):
        with pytest.raises(RequestError, match=word):
            wishes(wrong)


def test_what_the_plug_in_does_not_offer(harness: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    model = model_class()(pretrained="tiny-owl2", device="cpu")
    assert (model.rank, model.world_size) == (2, 4)
    with pytest.raises(RequestError, match="log-likelihoods"):
        model.loglikelihood([])
    with pytest.raises(RequestError, match="several rounds"):
        model.generate_until_multi_round([])
    with pytest.raises(ConfigError, match="did you mean 'pretrained'"):
        model_class()(pretraind="x")
