"""OwlEval for tests: the published folder where there is one, and small made-up ones in its layout."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
OFFICIAL = Path(os.environ.get("OWL_OWLEVAL_DIR", ROOT.parent / "shared" / "eval" / "owleval"))
NAMES = ("one", "two")
# A picture with one question, and two dialogues: of two turns and of three.
ROWS: tuple[tuple[int, str, str, str, tuple[str, ...]], ...] = (
    (1, "1.jpg", "What is odd here?", "a,b,e", ("single_turn",)),
    (2, "2.jpg", "Is there text in the picture?", "a,c", ("single_turn", "multi_turn")),
    (3, "2.jpg", "Why is it funny?", "a,b,c,e,f", ("multi_turn",)),
    (4, "3.jpg", "Where is the disc?", "a,b", ("single_turn", "multi_turn")),
    (5, "3.jpg", "Where is the man?", "a,b", ("multi_turn",)),
    (6, "3.jpg", "How far apart are they?", "a,b,d,f", ("multi_turn",)),
)


def official() -> Path:
    """The published folder; tests that need it are skipped where it is not."""
    if not (OFFICIAL / "questions.jsonl").exists():
        pytest.skip(f"OwlEval is not at {OFFICIAL}; set OWL_OWLEVAL_DIR")
    return OFFICIAL


def make_folder(folder: Path, rows: Sequence[tuple[int, str, str, str, tuple[str, ...]]] = ROWS) -> Path:
    """Questions and pictures in the published layout."""
    (folder / "cases").mkdir(parents=True)
    lines = []
    for id, image, question, ability, category in rows:
        path = folder / "cases" / image
        if not path.exists():
            Image.new("RGB", (48, 32), (40 * id % 256, 90, 120)).save(path)
        row = {"image": image, "question_id": id, "question": question, "ability": ability, "category": category}
        lines.append(json.dumps(row))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_answers(path: Path, model: str, answers: Mapping[int, Any] | None = None) -> Path:
    """A file of answers to the made-up questions; those not given are the model's name and the number."""
    rows = [
        {
            "image": image.replace(".jpg", ".png"),
            "question_id": id,
            "question": question,
            "answer": (answers or {}).get(id, f"{model} says {id}"),
            "model_id": model,
        }
        for id, image, question, _, _ in ROWS
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
