"""Tiny benchmarks in the layouts of the real ones: a few made-up questions each, and files that stand for pictures.

`write(name, folder)` lays out the files of a task; nothing in them is taken from a data set.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mplug_owl.eval.scores.yesno import COGNITION, PERCEPTION
from mplug_owl.eval.tasks.mmmu import DOMAIN_OF

PICTURE = b"not looked at"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICTURE)


def document(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def lines(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def people(*answers: str) -> list[dict[str, Any]]:
    """Ten answers, the given ones in turn."""
    return [{"answer": answers[number % len(answers)], "answer_id": number + 1} for number in range(10)]


def coco_questions(folder: Path, prefix: str) -> None:
    asked = [{"question_id": 9, "image_id": 42, "question": "What colour is the owl?"}]
    asked.append({"question_id": 10, "image_id": 43, "question": "How many owls?"})
    told = [{"question_id": 10, "image_id": 43, "answer_type": "number", "answers": people("2")}]
    told.append(
        {"question_id": 9, "image_id": 42, "answer_type": "other", "answers": people("brown", "the brown one", "brown")}
    )
    document(folder / f"{prefix}OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    document(folder / f"{prefix}mscoco_val2014_annotations.json", {"annotations": told})
    for number in (42, 43):
        picture(folder / f"val2014/COCO_val2014_{number:012}.jpg")


def vizwiz(folder: Path) -> None:
    rows = [{"image": "VizWiz_val_00000001.jpg", "question": "What is this?", "answer_type": "other"}]
    document(folder / "val.json", [{**rows[0], "answers": people("a can of soup", "soup can", "a can of soup")}])
    picture(folder / "val/VizWiz_val_00000001.jpg")


def textvqa(folder: Path) -> None:
    row = {"question_id": 5, "image_id": "0a1b", "question": "What does it say?", "answers": ["stop"] * 9 + ["go"]}
    document(folder / "TextVQA_0.5.1_val.json", {"data": [row]})
    picture(folder / "train_images/0a1b.jpg")


def docvqa(folder: Path) -> None:
    row = {"questionId": 3, "question": "What is the date?", "image": "documents/x.png", "answers": ["1 May", "May 1"]}
    document(folder / "val_v1.0.json", {"dataset_name": "SP-DocVQA", "data": [row]})
    picture(folder / "documents/x.png")


def infovqa(folder: Path) -> None:
    row = {"questionId": 4, "question": "How much?", "image_local_name": "7.jpeg", "answers": ["12%"]}
    document(folder / "infographicsVQA_val_v1.0.json", {"dataset_name": "infographicVQA", "data": [row]})
    picture(folder / "infographicsvqa_images/7.jpeg")


def chartqa(folder: Path) -> None:
    for kind, label in (("human", "14"), ("augmented", "Norway")):
        document(folder / f"test/test_{kind}.json", [{"imgname": "1.png", "query": "Which?", "label": label}])
    picture(folder / "test/png/1.png")


def mme(folder: Path) -> None:
    for place, task in enumerate(PERCEPTION + COGNITION):
        texts, pictures = (
            folder / task / part for part in (("questions_answers_YN", "images") if place % 2 else (".", "."))
        )
        for name in ("1", "2"):
            picture(pictures / f"{name}.jpg")
            texts.mkdir(parents=True, exist_ok=True)
            head = "Is it an owl? Please answer yes or no."
            (texts / f"{name}.txt").write_text(f"{head}\tYes\nIs it a cat? Please answer yes or no.\tNo\n")


def pope(folder: Path) -> None:
    for kind in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": "COCO_val2014_000000000042.jpg", "label": ("yes", "no")[n % 2]} for n in (1, 2)
        ]
        lines(folder / f"coco_pope_{kind}.json", [{**row, "text": "Is there an owl in the image?"} for row in rows])
    picture(folder / "val2014/COCO_val2014_000000000042.jpg")


def hallusionbench(folder: Path) -> None:
    rows = []
    for category, figures in (("VS", ("0", "1", "2")), ("VD", ("0", "1"))):
        for figure in figures:
            visual = figure if category == "VS" else ("1", "2")[int(figure)]
            for question in ("0", "1"):
                row = {
                    "category": category,
                    "subcategory": "chart",
                    "set_id": "0",
                    "figure_id": figure,
                    "filename": None,
                }
                row |= {
                    "question_id": question,
                    "visual_input": visual,
                    "question": "Is it more?",
                    "gt_answer": question,
                }
                rows.append({**row, "gt_answer_details": "It is."})
            if visual != "0":
                picture(folder / f"hallusion_bench/{category}/chart/0_{figure}.png")
    document(folder / "HallusionBench.json", rows)


def mmbench(folder: Path) -> None:
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"]
    encoded = base64.b64encode(PICTURE * 9).decode()
    rows, things = [], ["an owl", "a cat", "a dog"]
    for number in (7, 8):
        for turn in range(3):
            turned = things[turn:] + things[:turn]
            row = [str(number + turn * 1_000_000), "What is it?", "", *turned, "", "ABC"[turned.index("an owl")]]
            rows.append([*row, "perception", encoded if turn == 0 else str(number), "coarse_perception", "dev"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mmbench_dev_20230712.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([columns, *rows])


def scienceqa(folder: Path) -> None:
    problem = {"question": "Which one flies?", "choices": ["owl", "cat"], "answer": 0, "hint": "", "image": "image.png"}
    problem |= {"grade": "grade3", "subject": "natural science", "topic": "biology", "split": "test"}
    other = {**problem, "image": None, "answer": 1, "hint": "Look.", "grade": "grade9"}
    document(folder / "problems.json", {"1": problem, "2": other, "3": {**problem, "split": "train"}})
    document(folder / "pid_splits.json", {"test": ["1", "2"], "train": ["3"]})
    picture(folder / "test/1/image.png")


def mmmu(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for place, subject in enumerate(sorted(DOMAIN_OF)):
        row = {"id": f"validation_{subject}_1", "question": "<image 1> What is it?", "options": "['an owl', 'a cat']"}
        row |= {"answer": "A", "question_type": "multiple-choice", "image_1": {"bytes": PICTURE, "path": "1.png"}}
        if place == 0:
            row |= {"options": "[]", "answer": "['12.5', '12.50']", "question_type": "open"}
        (folder / subject).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row]), folder / subject / "validation-00000-of-00001.parquet")


def captions(folder: Path, name: str, pictures: str) -> None:
    said = (("A brown owl sits.", "An owl on a branch of a tree."), ("Two red cars on the road.", "Cars drive by."))
    rows = [
        {"filename": f"{n}.jpg", "filepath": pictures, "split": "test", "sentences": [{"raw": text} for text in texts]}
        for n, texts in enumerate(said)
    ]
    document(folder / f"dataset_{name}.json", {"images": [*rows, {**rows[0], "filename": "9.jpg", "split": "train"}]})
    for row in rows:
        picture(folder / pictures / row["filename"])


def egoschema(folder: Path) -> None:
    row = {"question": "What does C do?", **{f"option {n}": f"C does thing {n}" for n in range(5)}}
    document(folder / "questions.json", [{"q_uid": name, **row} for name in ("u-1", "u-2")])
    document(folder / "subset_answers.json", {"u-1": 3})
    for name in ("u-1", "u-2"):
        picture(folder / f"videos/{name}.mp4")


def bbh(folder: Path) -> None:
    for task in ("boolean_expressions", "logical_deduction_three_objects", "logical_deduction_five_objects"):
        document(
            folder / f"bbh/{task}.json", {"canary": "-", "examples": [{"input": "not True is", "target": "False"}]}
        )
        head = "canary\n-----\nThink.\n\nQ: a\nA: Let's think step by step.\nSo the answer is b.\n"
        (folder / "cot-prompts").mkdir(exist_ok=True)
        (folder / f"cot-prompts/{task}.txt").write_text(head)


def agieval(folder: Path) -> None:
    row = {"passage": None, "question": "Which?", "options": ["(A)one", "(B)two"], "label": "B", "answer": None}
    lines(folder / "v1_1/lsat-ar.jsonl", [row])
    lines(folder / "v1_1/gaokao-physics.jsonl", [{**row, "label": ["A", "B"]}])
    lines(folder / "v1_1/math.jsonl", [{**row, "options": None, "label": None, "answer": "\\frac{1}{2}"}])


def vicuna_bench(folder: Path) -> None:
    lines(folder / "question.jsonl", [{"question_id": 1, "category": "generic", "turns": ["How are owls?"]}])


def gqa(folder: Path) -> None:
    row = {"imageId": "n1", "question": "Is it dark?", "answer": "yes"}
    document(folder / "testdev_balanced_questions.json", {"20": row})
    picture(folder / "images/n1.jpg")


def seedbench(folder: Path) -> None:
    row = {"question_id": "1", "question": "What?", "answer": "C", "data_id": "1_2", "data_type": "image"}
    row |= {f"choice_{letter}": f"thing {letter}" for letter in "abcd"} | {"question_type_id": 2}
    video = {**row, "question_id": "2", "data_type": "video"}
    document(folder / "SEED-Bench.json", {"questions": [row, video], "question_type": {"Instance Identity": 2}})
    picture(folder / "SEED-Bench-image/1_2")


def qbench(folder: Path) -> None:
    row = {"img_path": "5.jpg", "question": "How sharp?", "candidates": ["Low", "High"], "correct_ans": "High"}
    document(folder / "llvisionqa_dev.json", [row])
    picture(folder / "images/5.jpg")


def mmvet(folder: Path) -> None:
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]}
    document(folder / "mm-vet.json", {"v1_0": row})
    picture(folder / "images/v1_0.png")


def video_questions(folder: Path, video: str) -> None:
    document(folder / "test_qa.json", [{"id": 7, "video_id": 1, "question": "what flies?", "answer": "owl"}])
    picture(folder / "video" / video)


def msvd_qa(folder: Path) -> None:
    video_questions(folder, "abc_1_2.avi")
    (folder / "youtube_mapping.txt").write_text("abc_1_2 vid1\n")


def tgif_qa(folder: Path) -> None:
    picture(folder / "gifs/tumblr_1.gif")
    (folder / "Test_frameqa_question.csv").write_text("gif_name\tquestion\tanswer\ntumblr_1\twhat flies?\towl\n")


def mmlu(folder: Path) -> None:
    rows = {"test": [["1 + 1", "1", "2", "3", "4", "B"]], "dev": [["1 + 0", "1", "2", "3", "4", "A"]] * 6}
    for part, questions in rows.items():
        (folder / part).mkdir(parents=True)
        with (folder / part / f"abstract_algebra_{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(questions)


def arc(folder: Path, name: str) -> None:
    choices = [{"text": text, "label": label} for text, label in (("owl", "1"), ("cat", "2"))]
    row = {"id": "Q1", "question": {"stem": "Which flies?", "choices": choices}, "answerKey": "1"}
    lines(folder / f"ARC-{name}-Test.jsonl", [row])


def picture_bytes() -> bytes:
    """A picture that can be looked at."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "navy").save(buffer, format="PNG")
    return buffer.getvalue()


def hub_rows() -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Rows as the hub has them, and the files they go into, by task."""
    shown = {"image": {"bytes": picture_bytes(), "path": "1.png"}}
    asked = {"question_id": "9", "question": "What?", **shown}
    texts = {**asked, "answers": ["owl"] * 10}
    objects = {**asked, "question_id": 9, "answers": people("owl"), "answer_type": "other"}
    read = {"questionId": "3", "question": "When?", "answers": ["1 May"], **shown}
    chart = [{"type": f"{kind}_test", "question": "Which?", "answer": "14", **shown} for kind in ("human", "augmented")]
    pairs = [
        {"question_id": f"{task}/1.png", "category": task, "question": "Is it?", "answer": answer, **shown}
        for task in PERCEPTION + COGNITION
        for answer in ("Yes", "No")
    ]
    there = [
        {"question_id": str(n), "category": kind, "question": "Is it there?", "answer": ("yes", "no")[n], **shown}
        for kind in ("random", "popular", "adversarial")
        for n in (0, 1)
    ]
    turn = {"question": "What is it?", "hint": None, "A": "an owl", "B": "a cat", "C": "nan", "D": "nan", **shown}
    turns = [
        {**turn, "index": 7, "answer": "A"},
        {**turn, "index": 1_000_007, "A": "a cat", "B": "an owl", "answer": "B"},
    ]
    return {
        "vqav2": ("data/validation-00000-of-00001.parquet", [objects]),
        "okvqa": ("data/val2014-00000-of-00001.parquet", [texts]),
        "vizwiz": ("data/val-00000-of-00001.parquet", [texts]),
        "textvqa": ("data/validation-00000-of-00002.parquet", [texts]),
        "docvqa": ("DocVQA/validation-00000-of-00001.parquet", [read]),
        "infovqa": ("InfographicVQA/validation-00000-of-00001.parquet", [read]),
        "chartqa": ("data/test-00000-of-00001.parquet", chart),
        "mme": ("data/test-00000-of-00001.parquet", pairs),
        "pope": ("data/test-00000-of-00001.parquet", there),
        "mmbench": ("data/dev-00000-of-00001.parquet", turns),
    }


def write_hub(name: str, folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, rows = hub_rows()[name]
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / file)
    return folder


WRITERS: dict[str, Callable[[Path], None]] = {
    "vqav2": lambda folder: coco_questions(folder, "v2_"),
    "okvqa": lambda folder: coco_questions(folder, ""),
    "coco": lambda folder: captions(folder, "coco", "val2014"),
    "flickr30k": lambda folder: captions(folder, "flickr30k", "flickr30k-images"),
    "msrvtt_qa": lambda folder: video_questions(folder, "video1.mp4"),
    "arc_challenge": lambda folder: arc(folder, "Challenge"),
    "arc_easy": lambda folder: arc(folder, "Easy"),
    "vizwiz": vizwiz,
    "textvqa": textvqa,
    "docvqa": docvqa,
    "infovqa": infovqa,
    "chartqa": chartqa,
    "mme": mme,
    "pope": pope,
    "hallusionbench": hallusionbench,
    "mmbench": mmbench,
    "scienceqa": scienceqa,
    "mmmu": mmmu,
    "egoschema": egoschema,
    "bbh": bbh,
    "agieval": agieval,
    "vicuna_bench": vicuna_bench,
    "gqa": gqa,
    "seedbench": seedbench,
    "qbench": qbench,
    "mmvet": mmvet,
    "msvd_qa": msvd_qa,
    "tgif_qa": tgif_qa,
    "mmlu": mmlu,
}
NAMES: Sequence[str] = tuple(WRITERS)


def write(name: str, folder: Path) -> Path:
    WRITERS[name](folder)
    return folder
