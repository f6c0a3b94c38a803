"""The models against vectors taken from the original systems: every tensor, every loss, every
greedy id.

Vectors of another folder in the same layout are checked with OWL_GOLDEN_DIR=FOLDER; families absent
there are skipped. The copy beside this file holds the shared set, so these tests run anywhere.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import mplug_owl.models  # noqa: F401 - registers the Auto classes

SHARED = Path(__file__).parents[3] / "shared" / "golden"
COPY = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("OWL_GOLDEN_DIR", SHARED if SHARED.is_dir() else COPY))
FAMILIES = ["owl", "owl_video", "owl_bloom", "owl2", "owl2_1"]
TOLERANCE = 1e-4


def cases() -> list[tuple[str, str]]:
    """(family, case) for all that is there, plus the published families so that an absent one is
    reported as skipped.
    """
    found = sorted(p.parent.name for p in FOLDER.glob("*/expected.safetensors"))
    rows = []
    for family in found:
        names = {key.partition(".")[0] for key in load_file(FOLDER / family / "inputs.safetensors")}
        rows += [(family, name) for name in sorted(names)]
    return rows + [(family, "absent") for family in FAMILIES if family not in found]


class Case:
    """One golden case: its inputs in our terms and what the original made of them."""

    def __init__(self, family: str, name: str) -> None:
        self.folder = FOLDER / family
        self.raw = json.loads((self.folder / "config.json").read_text())
        self.model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.given = self.tensors("inputs", name)
        self.want = self.tensors("expected", name)
        self.flat = self.raw["model_type"].startswith("mplug_owl2")

    def tensors(self, file: str, case: str) -> dict[str, torch.Tensor]:
        loaded = load_file(self.folder / f"{file}.safetensors")
        return {k.partition(".")[2]: v for k, v in loaded.items() if k.partition(".")[0] == case}

    @property
    def images(self) -> torch.Tensor | None:
        images = self.given.get("pixel_values", self.given.get("images"))
        return images if images is not None and len(images) else None

    @property
    def videos(self) -> torch.Tensor | None:
        videos = self.given.get("video_pixel_values")
        return None if videos is None else videos.transpose(1, 2)

    def expand(self, rows: torch.Tensor) -> torch.Tensor:
        """Original ids to ours; Owl2 writes -200 once an image, Owl writes -1 or -2 at every
        position.
        """
        config = self.model.config
        if not self.flat:
            return rows.where(rows != -1, config.image_token_id).where(rows != -2, config.video_token_id)
        image = [config.image_token_id] * config.media_length
        lists = [[i for t in row for i in (image if t == -200 else [t])] for row in rows.tolist()]
        length = max(map(len, lists))
        return torch.tensor([row + [0] * (length - len(row)) for row in lists])

    def media(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pixels for these rows, without the dummy that Owl2 wants for every row that has no
        image.
        """
        images = self.images
        if self.flat and images is not None:
            counts = [row.count(-200) for row in rows.tolist()]
            slots = [n for n in counts for n in ([True] * n or [False])]
            images = images[torch.tensor(slots[: len(images)])]
        kwargs = {"pixel_values": images, "pixel_values_videos": self.videos}
        return {k: v for k, v in kwargs.items() if v is not None and len(v)}

    def features(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        media = self.media(rows)
        return self.model.model.media_features(media.get("pixel_values"), media.get("pixel_values_videos"), None)


def close(got: torch.Tensor, want: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    assert got.shape == want.shape
    gap = (got - want).abs()
    gap = gap if mask is None else gap[mask.bool()]
    assert gap.max() <= TOLERANCE, f"max gap {gap.max():.2e}"


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    family, name = request.param
    if name == "absent":
        pytest.skip(f"no vectors of {family} in {FOLDER}")
    return Case(family, name)


pytestmark = pytest.mark.parametrize("case", cases(), indirect=True, ids=lambda pair: "-".join(pair), scope="module")


@torch.inference_mode()
def test_vision_and_abstractor(case: Case) -> None:
    if "abstractor_output" not in case.want:
        pytest.skip("a text case")
    vision = case.model.model.vision
    close(vision.embeddings(case.images), case.want["vision_embeddings"].flatten(0, -3))
    output = case.model.get_image_features(case.images)
    close(output.last_hidden_state, case.want["vision_last_hidden_state"].flatten(0, -3))
    close(output.pooler_output, case.want["abstractor_output"])


@torch.inference_mode()
def test_video_features(case: Case) -> None:
    if case.videos is None or "generate_abstractor_output.0" not in case.want:
        pytest.skip("no video tapped")
    vision, frames = case.model.model.vision, case.videos.shape[1]
    close(vision.embeddings(case.videos.flatten(0, 1)), case.want["generate_vision_embeddings.0"].flatten(0, 1))
    tokens = vision(case.videos.flatten(0, 1), num_frames=frames).last_hidden_state
    close(tokens, case.want["generate_vision_last_hidden_state.0"].flatten(0, 1))
    close(case.model.get_video_features(case.videos).pooler_output, case.want["generate_abstractor_output.0"])


@torch.inference_mode()
def test_training_forward(case: Case) -> None:
    if "train_input_ids" not in case.given:
        pytest.skip("a generation case")
    rows, want = case.given["train_input_ids"], case.want
    mask = want.get("expanded_attention_mask")
    labels = want["expanded_labels"] if case.flat else want["effective_labels"]
    ids = case.expand(rows)
    out = case.model(input_ids=ids, attention_mask=mask, labels=labels, **case.media(rows))
    close(out.logits, want["logits"], mask)
    close(out.loss.reshape(1), want["loss"])
    if "inputs_embeds" in want:
        close(case.model.model.embed(ids, case.features(rows)), want["inputs_embeds"], mask)
    if "modality_indicators" in want and getattr(case.model.model.language_model, "takes_visual_index", False):
        index = case.model.model.visual_index(ids, case.features(rows))
        visual = torch.zeros(ids.numel(), dtype=torch.long)
        visual[index if index is not None else []] = 1
        assert torch.equal(visual.view_as(ids), want["modality_indicators"])


@torch.inference_mode()
def test_prompt_and_greedy_answer(case: Case) -> None:
    if "prompt_input_ids" not in case.given:
        pytest.skip("a training case")
    rows, want = case.given["prompt_input_ids"], case.want
    ids = case.expand(rows)
    media = case.media(rows)
    if "prompt_inputs_embeds" in want:
        close(case.model.model.embed(ids, case.features(rows)), want["prompt_inputs_embeds"])
    if "prompt_logits" in want:
        close(case.model(input_ids=ids, **media).logits, want["prompt_logits"])
    if "video_labels" in case.given:
        out = case.model(input_ids=ids, labels=case.given["video_labels"], **media)
        close(out.loss.reshape(1), want["video_loss"].reshape(1))
    if "generated_ids" in want:
        count = want["generated_ids"].shape[1]
        answer = case.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            return_dict_in_generate=True,
            output_logits=True,
            **media,
        )
        assert torch.equal(answer.sequences[:, -count:], want["generated_ids"])
        if "generate_step_logits" in want:
            close(torch.stack(answer.logits, dim=1), want["generate_step_logits"])
