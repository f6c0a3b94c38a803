"""Captions of COCO and Flickr30k pictures, Karpathy's test split: CIDEr, BLEU, ROUGE-L, and METEOR where Java is.

Asked as mPLUG-Owl2 was: "Provide a one-sentence caption for the provided image." The scores are of the whole set; a
sample's own is its ROUGE-L.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mplug_owl.errors import EvalError
from mplug_owl.eval.scores.captions import rouge_l, scores
from mplug_owl.eval.scores.meteor import meteor, missing
from mplug_owl.eval.scores.tokens import tokenised
from mplug_owl.eval.scoring import interval
from mplug_owl.eval.task import Example, Record, Row, Score, Table, mean
from mplug_owl.eval.tasks.benchmark import Benchmark, asked

PROMPT = "Provide a one-sentence caption for the provided image."


@dataclass(frozen=True)
class CocoCaptions(Benchmark):
    name = "coco"
    about = "COCO captions: a sentence for each of 5,000 pictures (Karpathy's test split)"
    needs = "dataset_coco.json and pictures in val2014/"
    source = "https://cs.stanford.edu/people/karpathy/deepimagesent/ (pictures: https://cocodataset.org)"
    licence = "captions CC BY 4.0; pictures belong to their owners"
    kind = "Image Captioning"
    max_new_tokens = 60
    file, folders = "dataset_coco.json", ("val2014", "train2014", "images")

    split: str = "test"

    def documents(self) -> Sequence[Path]:
        return [self.path(self.file)]

    def examples(self) -> Iterator[Example]:
        document = self.json(self.file)
        listed = document.get("images") if isinstance(document, dict) else document
        rows = self.rows(listed, self.file, "filename", "split", "sentences")
        chosen = [row for row in rows if row["split"] == self.split]
        if not chosen:
            known = ", ".join(sorted({str(row["split"]) for row in rows}))
            raise EvalError(f"task {self.name}: {self.file} has no split {self.split!r}; it has {known}")
        for name, row in self.by_id(chosen, lambda row: row["filename"], self.file).items():
            image = self.image(*(f"{folder}/{name}" for folder in self.folders), name)
            said = self.rows(row["sentences"], f"{self.file}, picture {name}", "raw")
            yield Example(name, asked(image, PROMPT), tuple(str(sentence["raw"]) for sentence in said))

    def score(self, example: Example, answer: str) -> Score:
        (caption,) = tokenised([answer])
        return Score(rouge_l(caption, tokenised(example.answers)), caption)

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        captions = [record.score.read for record in records]
        references = [tokenised(record.example.answers) for record in records]
        found = scores(captions, references)
        rows = [Row(self.name, len(records), found.overall["CIDEr"], interval(found.each["CIDEr"]), metric="CIDEr")]
        for name in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"):
            rows.append(Row(name, len(records), found.overall[name], None, metric=name))
        rows.append(replace(mean("ROUGE_L", records), metric="ROUGE_L"))
        notes = [f"CIDEr weighs phrases by the references of these {len(records)} pictures"]
        if lack := missing():
            notes.append(f"no METEOR: {lack}")
        else:
            overall, each = meteor(captions, references)
            rows.append(Row("METEOR", len(records), overall, interval(each), metric="METEOR"))
        return [Table("captions", tuple(rows), tuple(notes))]


@dataclass(frozen=True)
class FlickrCaptions(CocoCaptions):
    name = "flickr30k"
    about = "Flickr30k captions: a sentence for each of 1,000 pictures (Karpathy's test split)"
    needs = "dataset_flickr30k.json and pictures in flickr30k-images/"
    source = "https://cs.stanford.edu/people/karpathy/deepimagesent/ (pictures: https://shannon.cs.illinois.edu)"
    licence = "captions for research; pictures belong to their owners"
    file, folders = "dataset_flickr30k.json", ("flickr30k-images", "flickr30k_images", "images")
