"""Every scorer equals the official one, item by item, on the sets of a folder: OWL_PARITY_DIR, or shared/eval/parity
beside the repository. A set is a folder with manifest.json, which says how far a number may be off, and scores that the
official program gave; other sets of the same layout can be put in their place.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.eval.scores import anls, captions, choice, exams, hallusion, meteor, relaxed, review, tokens, vqa, yesno

FOLDER = Path(os.environ.get("OWL_PARITY_DIR", Path(__file__).resolve().parents[3] / "shared/eval/parity"))


class Set:
    """One set: its files by name, and how far from the official score is near enough."""

    def __init__(self, name: str) -> None:
        self.folder = FOLDER / name
        if not (self.folder / "manifest.json").is_file():
            pytest.skip(f"no {name}/manifest.json in {FOLDER}; OWL_PARITY_DIR names a folder of parity sets")
        self.tolerance = self("manifest")["tolerance"]

    def __call__(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def near(self, expected: float, tolerance: float | None = None) -> Any:
        return pytest.approx(expected, abs=self.tolerance if tolerance is None else tolerance, rel=0)


def people(found: Set) -> dict[int, list[str]]:
    rows = found("references")["annotations"]
    return {row["question_id"]: [each["answer"] for each in row["answers"]] for row in rows}


# ---- short answers -------------------------------------------------------------------------------


def test_vqa_texts_are_made_alike() -> None:
    for row in Set("vqa_accuracy")("normaliser_strings"):
        assert vqa.plain(row["in"]) == row["punct"], row
        assert vqa.alike(row["in"]) == row["out"], row


@pytest.mark.parametrize("name", ["vqa_accuracy", "vqa_accuracy_real"])
def test_vqa_accuracy(name: str) -> None:
    found = Set(name)
    right, official = people(found), found("scores")
    each = official["perQuestion" if "perQuestion" in official else "vqa_perQuestion"]
    scores = {
        row["question_id"]: 100 * vqa.accuracy(row["answer"], right[row["question_id"]]) for row in found("predictions")
    }
    assert len(scores) == len(each)
    for number, score in scores.items():
        assert score == found.near(each[str(number)]), number
    overall = official["overall" if "overall" in official else "vqa_overall"]
    # The overall score is rounded, to two places where it is that of the real set.
    assert sum(scores.values()) / len(scores) == found.near(overall, 1e-4 if "overall" in official else 0.005)
    kinds = {row["question_id"]: row["answer_type"] for row in found("references")["annotations"]}
    for kind, score in official["perAnswerType"].items():
        ours = [scores[number] for number in scores if kinds[number] == kind]
        assert sum(ours) / len(ours) == found.near(score, 0.005), kind
    if "textvqa_perItem" in official:
        for row, score in zip(found("predictions"), official["textvqa_perItem"], strict=True):
            assert vqa.textvqa_accuracy(row["answer"], right[row["question_id"]]) == found.near(score, 1e-9), row


def test_textvqa_accuracy() -> None:
    found = Set("textvqa_accuracy")
    for row in found("processor_strings"):
        assert vqa.textvqa_alike(row["in"]) == row["out"], row
    rows, official = found("predictions"), found("scores")
    scores = [vqa.textvqa_accuracy(row["pred_answer"], row["gt_answers"]) for row in rows]
    for row, ours, theirs in zip(rows, scores, official["perItem"], strict=True):
        assert ours == found.near(theirs), row
    assert sum(scores) / len(scores) == found.near(official["accuracy"])
    met = [vqa.stvqa_accuracy(row["pred_answer"], row["gt_answers"]) for row in rows]
    assert sum(met) / len(met) == found.near(official["stvqa_accuracy"])


def test_anls() -> None:
    found = Set("anls")
    official, rows = found("scores"), found("predictions")
    right = {row["questionId"]: row["answers"] for row in found("references")["data"]}
    scores = {row["questionId"]: anls.anls(row["answer"], right[row["questionId"]]) for row in rows}
    for number, score in scores.items():
        assert score == found.near(official["rrc_per_sample"][str(number)]), number
    assert sum(scores.values()) / len(scores) == found.near(official["rrc_anls"])
    for row, score in zip(rows, official["mmf_per_sample"], strict=True):
        if score is not None:  # mmf fails where both texts are empty
            assert anls.stvqa_anls(row["answer"], right[row["questionId"]]) == found.near(score), row


def test_relaxed_accuracy() -> None:
    found = Set("relaxed_accuracy")
    rows = found("records")
    for row in rows:
        assert relaxed.relaxed(row["prediction"], row["target"]) is row["relaxed"], row
    share = sum(relaxed.relaxed(row["prediction"], row["target"]) for row in rows) / len(rows)
    assert share == pytest.approx(found("scores")["relaxed_accuracy"])


# ---- yes or no -----------------------------------------------------------------------------------


def test_mme() -> None:
    found = Set("mme")
    for row in found("parse_strings"):
        assert yesno.mme_reading(row["in"]) == row["out"], row
    official, points = found("scores"), {}
    for task, rows in found("records").items():
        for row in rows:
            assert yesno.mme_reading(row["pred"]) == row["official_parse"], row
        pairs = [(row["gt"].lower(), yesno.mme_reading(row["pred"])) for row in rows]
        ours, theirs = yesno.Counts.of(pairs), official["per_task"][task]
        counted = {"TP": ours.tp, "FN": ours.fn, "TN": ours.tn, "FP": ours.fp, "other_num": ours.other}
        assert counted == {name: theirs[name] for name in counted}, task
        assert ours.accuracy == found.near(theirs["acc"]) and yesno.both_right(pairs) == found.near(theirs["acc_plus"])
        assert ours.precision == found.near(theirs["precision"]) and ours.recall == found.near(theirs["recall"])
        points[task] = yesno.mme_score(pairs)
    for name, parts in (("Perception", yesno.PERCEPTION), ("Cognition", yesno.COGNITION)):
        assert {task: points[task] for task in parts} == found.near(official["official"][name]["tasks"])
        assert sum(points[task] for task in parts) == found.near(official["official"][name]["total"])


def test_pope() -> None:
    found = Set("pope")
    official, f1 = found("scores"), []
    for kind, read in found("parsed").items():
        answers = [row["answer"] for row in found("predictions")[kind]]
        assert [yesno.pope_reading(answer) for answer in answers] == read
        labels = [row["label"] for row in found("references")[kind]]
        ours, theirs = yesno.Counts.of(zip(labels, read, strict=True)), official[kind]
        assert [ours.tp, ours.fp, ours.tn, ours.fn] == [theirs[name] for name in ("TP", "FP", "TN", "FN")]
        values = [ours.accuracy, ours.precision, ours.recall, ours.f1, ours.yes_ratio]
        names = ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio")
        assert values == found.near([theirs[name] for name in names]), kind
        f1.append(ours.f1)
    assert sum(f1) / len(f1) == found.near(official["mean_F1_over_three"])


def judged(found: Set) -> Iterator[hallusion.Judged]:
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
    labels = {tuple(row[key] for key in keys): row for row in found("predictions")}
    for row in found("references"):
        name = tuple(row[key] for key in keys)
        label = labels[name]
        check, same = label["gpt4v_output_gpt_check"], label["same"] == "1"
        yield hallusion.Judged(*name, row["visual_input"], row["gt_answer"], check, same)


def test_hallusionbench() -> None:
    found = Set("hallusionbench")
    rows, official = list(judged(found)), found("scores")
    for name in ("Overall", "VD", "VS"):
        ours = hallusion.figures([row for row in rows if name in ("Overall", row.category)])
        theirs = official[name]
        values = [
            ours.question.accuracy,
            ours.pair.accuracy,
            ours.figure.accuracy,
            ours.easy.accuracy,
            ours.hard.accuracy,
        ]
        expected = [theirs[key] for key in ("aAcc", "qAcc", "fAcc", "easy", "hard")]
        assert [100 * value for value in values] == found.near(expected), name
        assert ours.figure.share == found.near(theirs["figure"]["score"])
        groups = (ours.figure.total, ours.figure.correct, ours.figure.wrong)
        assert groups == tuple(theirs["figure"][key] for key in ("total", "correct", "wrong")), name
        assert ours.question_errors == {kind: theirs["question"][kind] for kind in ("LH", "VI", "Mix")}
        assert ours.pair_errors == {kind: theirs["pair"][kind] for kind in ("LH", "VI", "Mix")}
        assert ours.blame == {kind: theirs["pair"][f"{kind}_cg"] for kind in ("LH", "VI", "Mix")}
        for group, counts in ((ours.easy, theirs["easy_counts"]), (ours.hard, theirs["hard_counts"])):
            assert [group.total, group.questions, group.correct] == [counts[k] for k in ("total", "total_q", "correct")]
    whole, bias = hallusion.figures(rows), official["yes_no_stats_as_written"]
    assert [whole.yes_bias, whole.false_positives] == found.near([bias["diff"], bias["fp"]])


def test_yes_and_no_as_vlmevalkit_reads_them() -> None:
    found = Set("yesno_vlmevalkit")
    for row in found("extraction_strings"):
        assert yesno.word_reading(row["in"]) == row["out"], row
    rows = []
    for row in found("records"):
        read = yesno.word_reading(row["prediction"])
        assert (read, read == row["answer"]) == (row["extracted"], row["score"]), row
        _, subcategory, _, number, figure, question = row["index"].split("_")
        label = hallusion.RIGHT if row["score"] else hallusion.WRONG
        rows.append(hallusion.Judged(row["category"], subcategory, number, figure, question, "1", "1", label))
    splits = {row["split"]: row for row in found("scores")["Hallusion_rating"]}
    for name, theirs in splits.items():
        part = [row for row in rows if name in ("Overall", row.category, row.subcategory)]
        ours = [100 * value for value in hallusion.vlmevalkit(part)]
        assert ours == found.near([theirs["aAcc"], theirs["fAcc"], theirs["qAcc"]]), name


# ---- multiple choice -----------------------------------------------------------------------------


def test_mmbench() -> None:
    found = Set("mmbench_circular")
    passes: dict[int, list[tuple[str, str | None]]] = {}
    first: dict[int, dict[str, Any]] = {}
    single = 0
    for row in found("records"):
        choices = {letter: str(row[letter]) for letter in "ABCDE" if row.get(letter) is not None}
        read = choice.mmbench_reading(row["prediction"], choices)
        assert (read or False) == row["can_infer"], row
        passes.setdefault(row["g_index"], []).append((row["answer"], read))
        first.setdefault(row["g_index"], row)
        single += read == row["answer"]
    official = found("scores")
    hits = {group: choice.circular(found) for group, found in passes.items()}
    assert hits == {row["g_index"]: bool(row["hit"]) for row in official["per_group"]}
    assert single / len(found("records")) == found.near(official["vanilla_acc"])
    short = {"coarse_perception": "CP", "finegrained_perception (instance-level)": "FP-S", "logic_reasoning": "LR"}
    short |= {
        "attribute_reasoning": "AR",
        "relation_reasoning": "RR",
        "finegrained_perception (cross-instance)": "FP-C",
    }
    for table in official["circular"]:
        for name, share in table.items():
            if name == "split":
                continue
            ours = [
                hits[group]
                for group, row in first.items()
                if row["split"] == table["split"]
                and name in ("Overall", row["category"], short.get(row["l2-category"], row["l2-category"]))
            ]
            assert sum(ours) / len(ours) == found.near(share), name


def test_scienceqa() -> None:
    found = Set("scienceqa")
    problems, official = found("references"), found("scores")
    said = {row["question_id"]: row for row in found("predictions")}
    read = {}
    for name, number in official["parsed_index"].items():
        text = said[name]["text"] if name in said else "FAILED"
        read[name] = choice.scienceqa_reading(text, len(problems[name]["choices"]))
        assert read[name] == number, (name, text)
    right = {name: read[name] == problems[name]["answer"] for name in read}
    assert (sum(right.values()), len(right)) == (official["llava"]["correct"], official["llava"]["count"])

    def share(names: list[str]) -> str | int:
        return f"{100 * sum(right[name] for name in names) / len(names):.2f}" if names else -1

    def where(**wanted: Any) -> list[str]:
        return [name for name in right if all(problems[name][key] == value for key, value in wanted.items())]

    early = [name for name in right if int(problems[name]["grade"][5:]) <= 6]
    ours = {
        "natural": where(subject="natural science"),
        "social": where(subject="social science"),
        "language": where(subject="language science"),
        "has_text": [name for name in right if problems[name]["hint"]],
        "has_image": [name for name in right if problems[name]["image"]],
        "no_context": [name for name in right if not problems[name]["hint"] and not problems[name]["image"]],
        "grade_1_6": early,
        "grade_7_12": [name for name in right if name not in early],
        "average": list(right),
    }
    for name, value in official["official_breakdown"].items():
        key = name.removeprefix("acc_")
        assert share(ours[key] if key in ours else where(topic=key)) == value, name


def test_mmmu() -> None:
    found = Set("mmmu")
    for row in found("mc_strings"):
        read = choice.mmmu_reading(row["in"], row["index2ans"])
        assert (read, read is None) == (row["out"], row["random_fallback"]), row
    for row in found("open_strings"):
        assert sorted(choice.mmmu_open_readings(row["in"]), key=str) == row["out"], row
    right, drawn = [], 0
    for row in found("records"):
        theirs = row["official"]
        references = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        if row["question_type"] != "multiple-choice":
            readings = choice.mmmu_open_readings(row["response"])
            assert sorted(readings, key=str) == theirs["parsed_pred"], row
            correct = choice.mmmu_open_right(readings, references)
        else:
            read = choice.mmmu_reading(row["response"], row["index2ans"])
            assert (read is None) == theirs["random_fallback"], row
            if read is None:
                drawn += 1
                continue
            assert read == theirs["parsed_pred"], row
            correct = read in references
        assert correct == (theirs["judge"] == "Correct"), row
        right.append(correct)
    official = found("scores")
    assert (len(right), drawn) == (official["n_without_fallback"], found("manifest")["n_random_fallback"])
    assert sum(right) / len(right) == found.near(official["acc_without_fallback_records"])


def test_egoschema() -> None:
    found = Set("egoschema")
    parsed = correct = 0
    for row in found("records"):
        read = choice.egoschema_reading(row["response"], dict(zip("ABCDE", row["option"], strict=True)))
        assert (read is None) is row["random_fallback"], row
        if read is not None:
            parsed += 1
            assert "ABCDE".index(read) == row["official_index"], row
            correct += str("ABCDE".index(read)) == row["answer"]
    official = found("scores")
    assert parsed == official["n_parsed"]
    assert correct / parsed == found.near(official["accuracy_over_parsed"])
    assert correct / len(found("records")) == found.near(official["accuracy_counting_fallback_as_wrong"])


# ---- exams, captions, reviews --------------------------------------------------------------------


def test_agieval() -> None:
    found = Set("agieval")
    right = 0
    for row in found("records"):
        read = exams.agieval_reading(row["dataset"], row["setting"], row["output"])
        assert read == row["parsed"], row
        correct = exams.agieval_right(row["dataset"], read, row["label"])
        assert correct is row["correct"], row
        right += correct
    assert right / len(found("records")) == pytest.approx(found("scores")["accuracy"])


def test_bbh() -> None:
    found = Set("bbh_exact_match")
    groups: dict[str, list[bool]] = {}
    for row in found("records"):
        read = exams.bbh_reading(row["prediction"], steps=row["mode"] == "cot")
        assert (read, read == row["target"].strip()) == (row["parsed"], row["correct"]), row
        groups.setdefault(f"{row['task']}/{row['mode']}", []).append(read == row["target"].strip())
    shares = {name: 100 * sum(right) / len(right) for name, right in groups.items()}
    assert shares == found.near(found("scores"))


def test_captions() -> None:
    found = Set("coco_caption")
    official, texts = found("scores"), found("tokenised")
    names = list(texts["hyps"])
    tolerance = found.tolerance["Bleu/ROUGE_L/CIDEr"]
    ours = captions.scores([texts["hyps"][name][0] for name in names], [texts["refs"][name] for name in names])
    for metric, value in ours.overall.items():
        assert value == found.near(official["aggregate"][metric], tolerance), metric
        for name, each in zip(names, ours.each[metric], strict=True):
            assert each == found.near(official["perImage"][name][metric], tolerance), (name, metric)


def test_captions_from_their_raw_texts() -> None:
    found = Set("coco_caption")
    official, texts = found("scores"), found("tokenised")
    references: dict[str, list[str]] = {}
    for row in found("references")["annotations"]:
        references.setdefault(str(row["image_id"]), []).append(row["caption"])
    said = {str(row["image_id"]): row["caption"] for row in found("predictions")}
    names = list(texts["hyps"])
    for name in names:
        assert tokens.tokenised([said[name]]) == texts["hyps"][name]
        assert tokens.tokenised(references[name]) == texts["refs"][name]
    ours = captions.scores(
        tokens.tokenised(said[name] for name in names), [tokens.tokenised(references[name]) for name in names]
    )
    assert ours.overall["CIDEr"] == found.near(official["aggregate"]["CIDEr"], found.tolerance["Bleu/ROUGE_L/CIDEr"])


@pytest.mark.slow
def test_meteor() -> None:
    found = Set("coco_caption")
    if lack := meteor.missing():
        pytest.skip(f"no METEOR: {lack}")
    official, texts = found("scores"), found("tokenised")
    names = list(texts["hyps"])
    overall, each = meteor.meteor([texts["hyps"][n][0] for n in names], [texts["refs"][n] for n in names])
    assert overall == found.near(official["aggregate"]["METEOR"], found.tolerance["METEOR"])
    assert each == found.near([official["perImage"][name]["METEOR"] for name in names], found.tolerance["METEOR"])


def test_reviews() -> None:
    found = Set("gpt_review_summary")
    for row in found("parse_score_strings"):
        assert list(review.points(row["in"]) or (-1, -1)) == row["out"], row
    for name, rows in found("records").items():
        ours = review.summary(review.Review(row["category"], *row["tuple"]) for row in rows)
        theirs = found("scores")[name]
        assert ours.keys() == theirs.keys()
        for category, summed in ours.items():
            expected = [theirs[category][key] for key in ("relative_score", "assistant1_x10", "assistant2_x10")]
            assert [summed.relative, summed.first, summed.second] == found.near(expected), (name, category)
