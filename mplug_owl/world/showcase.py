"""The pictures that the package comes with: scenes of the test split, drawn large, with questions and right answers.

Who is asked is not known here.
"""

import json
from pathlib import Path
from typing import Any

from mplug_owl.world.scene import MOVES, Question, make

SIDE = 384
# File name, kind, number of a scene of the test split, wordings of what is asked about it. Taken for being clear to
# people, before any owl was asked.
SHOWN = (
    ("scene.png", "shapes", 3, ("shapes/count", "shapes/colour")),
    ("sign.png", "sign", 5, ("sign/read",)),
    ("clock.png", "clock", 3, ("clock/time",)),
    ("flag.png", "flag", 0, ("flag/name", "flag/capital")),
    ("chart.png", "chart", 5, ("chart/highest", "chart/value")),
    ("video.webp", "video", 143, ("video/happens",)),
)
SECONDS = 0.7  # that a frame stays


def write(folder: str | Path) -> None:
    """Draw the pictures into `folder` and write `questions.json` beside them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = []
    for file, kind, number, asked in SHOWN:
        scene = make(kind, number, "test")
        first, *frames = scene.draw(SIDE)
        moving: dict[str, Any] = {"save_all": True, "append_images": frames, "duration": int(1000 * SECONDS), "loop": 0}
        first.save(folder / file, lossless=True, **(moving if kind in MOVES else {}))
        found = {question.template.rpartition("/")[0]: question for question in reversed(scene.questions())}
        page.append({"file": file, "questions": [_row(found[wording]) for wording in asked]})
    (folder / "questions.json").write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _row(question: Question) -> dict[str, object]:
    return {"text": question.text, "answers": [question.answer, *question.accept]}
