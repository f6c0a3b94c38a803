"""A study carried out: its nodes trained, its variants asked, its results written down.

In the folder of a lab, `nodes` holds every run of every study and a folder named after each study what came out of it:
`results.json` with scores and findings, `recipes.json` with the exact recipes, the page and the plot. These hold no
times and no paths, so a study that was interrupted ends with the bytes of one that was not; what it took, and where,
is in `machine.json`.
"""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import mplug_owl
from mplug_owl.errors import EvalError
from mplug_owl.eval.endpoints import OwlEndpoint
from mplug_owl.eval.run import RESULTS, SAMPLES
from mplug_owl.eval.run import run as evaluate
from mplug_owl.eval.tasks.world import WorldTask
from mplug_owl.lab import page, plot, tree
from mplug_owl.lab.columns import COLUMNS, Answer, Values, pooled
from mplug_owl.lab.judgement import Mean, gap, mean, over_questions, verdict
from mplug_owl.lab.study import Finding, Study
from mplug_owl.lab.tree import Node
from mplug_owl.models import pick_device

NODES, RECIPES, MACHINE = "nodes", "recipes.json", "machine.json"
PAGE, PLOT = "results.md", "scores.png"
KEPT = (RESULTS, RECIPES, MACHINE, PAGE, PLOT)
_TOGETHER = 64  # questions answered at once
_DIGITS = 6
Ends = dict[tuple[str, int], Node]
"""The last node of each variant and seed."""


def run(study: Study, out: Path, seeds: Sequence[int], say: Callable[[str], None] = print) -> Path | None:
    """Train what is not trained yet, ask what is not asked yet, write; the folder of the results.

    None where a signal stopped it; the same call goes on.
    """
    task = study.evaluation.task()
    _check_columns(study, task)
    ends = {(variant.name, seed): tree.node(study, variant, seed) for seed in seeds for variant in study.variants}
    if not _train(ends, out / NODES, say):
        return None
    answers = {}
    for (variant, seed), end in ends.items():
        say(f"asking {variant}, seed {seed}")
        answers[variant, seed] = _ask(end, out / NODES, task)
    folder = out / study.name
    folder.mkdir(parents=True, exist_ok=True)
    results = _results(study, seeds, ends, answers)
    _write(folder / RESULTS, results)
    _write(folder / RECIPES, {node.name: _recipe(node) for node in _unique(ends)})
    _write(folder / MACHINE, _machine(ends, out / NODES))
    (folder / PAGE).write_text(page.markdown(results, PLOT), encoding="utf-8")
    plot.draw(results, folder / PLOT)
    return folder


def _check_columns(study: Study, task: WorldTask) -> None:
    """Before hours of training rather than after: every column has questions."""
    asked = [{"id": example.id, "correct": 0.0, "meta": example.meta} for example in task.examples()]
    for column in (*study.evaluation.columns, *(name for finding in study.findings for name in finding.columns)):
        if not COLUMNS[column].values(asked):
            raise EvalError(
                f"study {study.name}: none of {task.count} questions each of {', '.join(task.skills)} is for column "
                f"{column!r}; ask for more skills, or leave it out"
            )


# ---- training and asking -------------------------------------------------------------------------


def _unique(ends: Ends) -> list[Node]:
    """All nodes, each once and after the one it begins with."""
    return list({node.key: node for end in ends.values() for node in end.chain()}.values())


def _train(ends: Ends, folder: Path, say: Callable[[str], None]) -> bool:
    nodes = _unique(ends)
    for number, node in enumerate(nodes, start=1):
        variants = [name for (name, _), end in ends.items() if node.key in [each.key for each in end.chain()]]
        known = tree.is_trained(node, folder)
        say(
            f"run {number} of {len(nodes)}: {node.name}, seed {node.recipe.seed}, for {', '.join(variants)}: "
            + ("is there" if known else f"{node.recipe.optim.steps} steps of {', '.join(node.recipe.train)}")
        )
        if tree.train(node, folder) is None:
            return False
    return True


def _ask(node: Node, folder: Path, task: WorldTask) -> list[Answer]:
    """The answers of a trained node; those that are there are not asked again."""
    settings = json.dumps(dataclasses.asdict(task), sort_keys=True).encode()
    run = folder / node.name
    out = run / f"eval-{hashlib.sha256(settings).hexdigest()[:8]}"
    device, is_new, began = pick_device("auto"), not (out / RESULTS).exists(), time.perf_counter()
    owl = mplug_owl.load(run / tree.OWL, device=device, dtype="float32" if device == "cpu" else "auto")
    evaluate(OwlEndpoint(owl, node.name, _TOGETHER), [task], out)
    if is_new:
        tree.spend(run, "ask", time.perf_counter() - began)
    lines = (out / task.name / SAMPLES).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# ---- results -------------------------------------------------------------------------------------


def _results(
    study: Study, seeds: Sequence[int], ends: Ends, answers: dict[tuple[str, int], list[Answer]]
) -> dict[str, Any]:
    def values(variant: str, columns: Sequence[str]) -> list[Values]:
        return [pooled(columns, answers[variant, seed]) for seed in seeds]

    columns = {
        name: {"about": COLUMNS[name].about, "n": len(values(study.variants[0].name, [name])[0])}
        for name in study.evaluation.columns
    }
    variants = [
        {
            "name": variant.name,
            "about": variant.about,
            "stages": list(variant.stages),
            "nodes": {str(seed): [node.name for node in ends[variant.name, seed].chain()] for seed in seeds},
            "scores": {name: _scores(seeds, values(variant.name, [name])) for name in columns},
        }
        for variant in study.variants
    ]
    return {
        **{name: getattr(study, name) for name in ("name", "source", "question", "notes")},
        "seeds": list(seeds),
        "evaluation": {name: getattr(study.evaluation, name) for name in ("skills", "count", "split")},
        "columns": columns,
        "variants": variants,
        "findings": [_judged(finding, values) for finding in study.findings],
        "versions": {"mplug_owl": mplug_owl.__version__, "torch": torch.__version__},
    }


def _scores(seeds: Sequence[int], values: Sequence[Values]) -> dict[str, Any]:
    singles = {str(seed): _plain(over_questions(found)) for seed, found in zip(seeds, values, strict=True)}
    return {**_plain(mean(values)), "seeds": singles}


def _plain(found: Mean) -> dict[str, Any]:
    low, high = found.interval
    return {"score": round(found.score, _DIGITS), "interval": [round(low, _DIGITS), round(high, _DIGITS)]}


def _judged(finding: Finding, values: Callable[[str, Sequence[str]], list[Values]]) -> dict[str, Any]:
    """A finding with its verdict and its numbers."""
    sides = [[values(name, finding.columns) for name in side] for side in (finding.first, finding.second)]
    found = gap(*sides)
    shares = [sum(mean(seeds).score for seeds in side) / len(side) for side in sides]
    judged = verdict(found.interval, finding.margin)
    numbers = {"scores": [round(share, _DIGITS) for share in shares], "difference": _plain(found)}
    return {**dataclasses.asdict(finding), "verdict": judged, **numbers}


def _recipe(node: Node) -> dict[str, Any]:
    return {"begins with": node.before and node.before.name, "recipe": dataclasses.asdict(node.recipe)}


def _machine(ends: Ends, folder: Path) -> dict[str, Any]:
    """Where the study ran and what it took. Of a node from an earlier run, what it took then."""
    spent = {node.name: json.loads((folder / node.name / tree.SECONDS).read_text()) for node in _unique(ends)}
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "commit": _commit(),
        "seconds": spent,
        "seconds of all": round(sum(sum(node.values()) for node in spent.values()), 1),
    }


def _commit() -> str | None:
    """Of a checkout; None of an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    said = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return said.stdout.strip() or None


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
