"""Models of the library as contestants: their own prompts, and in a batch the answers they give alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eval_tasks import Pictures, disc, files
from library_models import blip2, instructblip, llava, t5
from mplug_owl import CheckpointError, EvalError, ImagePart, Message, TextPart, VideoPart
from mplug_owl.eval.contestants import Settings, contestant
from mplug_owl.eval.endpoints import Failure
from mplug_owl.eval.run import run
from mplug_owl.eval.transformers_endpoint import TransformersEndpoint, fit, together

MAKERS: dict[str, Callable[[Path], Path]] = {
    "llava": llava,
    "llava-bare": lambda folder: llava(folder, template=None),
    "blip-2": blip2,
    "instructblip": instructblip,
    "instructblip-t5": lambda folder: instructblip(folder, t5),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {name: make(place / name) for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def endpoint(folder: Path, batch_size: int = 4) -> TransformersEndpoint:
    made = contestant(f"hf:{folder}", Settings(device="cpu", batch_size=batch_size))
    assert isinstance(made, TransformersEndpoint)
    return made


def question(text: str, *colours: str) -> list[Message]:
    return [Message("user", (*(ImagePart(disc(colour)) for colour in colours), TextPart(text)))]


def test_a_batch_answers_as_each_alone(folder: Path, tmp_path: Path) -> None:
    for batch_size in (1, 4):
        results = run(endpoint(folder, batch_size), [Pictures(6)], tmp_path / str(batch_size))
        assert results is not None and results["tasks"]["pictures"]["n"] == 6
    assert files(tmp_path / "1") == files(tmp_path / "4")
    lines = (tmp_path / "1/pictures/samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert len({json.loads(line)["answer"] for line in lines}) > 3  # or equality would say little
    card = results["model"]
    assert card["name"] == f"hf:{folder}" and card["dtype"] == "float32" and "QUESTION" in card["prompt"]


def test_prompts_and_pictures_matter(folder: Path) -> None:
    """Otherwise equality of batches would say little."""
    asked = [question("What is this?", "red"), question("What is this?", "blue"), question("How many are here?", "red")]
    made = endpoint(folder)
    rows = [made.inputs(conversation, 6) for conversation in asked]
    batch = together(rows, 0, left=True)
    assert len({len(tensor) for tensor in batch.values()}) == 1
    with torch.inference_mode():
        logits = [made.model(**row, **_start(made)).logits[0, -1] for row in rows]
    assert (logits[0] - logits[1]).abs().max() > 1e-3 and (logits[0] - logits[2]).abs().max() > 1e-3


def _start(made: TransformersEndpoint) -> dict[str, torch.Tensor]:
    encoder = made.model.config.get_text_config().is_encoder_decoder
    return {"decoder_input_ids": torch.tensor([[0]])} if encoder else {}


def test_prompts_are_the_models_own(folders: dict[str, Path]) -> None:
    talk = [*question("What?", "red"), Message("assistant", "A disc"), Message("user", "Which colour?")]
    prompts = {name: endpoint(folder).prompt(talk) for name, folder in folders.items()}
    assert prompts["llava"] == "USER: <image>\nWhat? ASSISTANT: A disc USER: Which colour? ASSISTANT:"
    assert prompts["llava-bare"] == "USER: <image>\nWhat? ASSISTANT: A disc</s>USER: Which colour? ASSISTANT:"
    assert prompts["blip-2"] == "Question: What? Answer: A disc. Question: Which colour? Answer:"
    assert prompts["instructblip"] == "What?\nA disc\nWhich colour?"


def test_several_pictures_and_the_frames_of_videos(folders: dict[str, Path]) -> None:
    many = question("Which?", "red", "blue")
    video = [Message("user", (VideoPart([disc("red"), disc("blue")], 2), TextPart("Which?")))]
    found = list(endpoint(folders["llava"]).answers([many, question("Which?", "red"), video], 4))
    assert all(isinstance(answer, str) for answer in found) and found[0] == found[2]
    refused = list(endpoint(folders["blip-2"]).answers([many, question("Which?", "red"), question("Which?")], 4))
    assert isinstance(refused[1], str)
    assert [answer.reason for answer in (refused[0], refused[2]) if isinstance(answer, Failure)] == [
        "2 pictures; blip-2 is asked about exactly one",
        "0 pictures; blip-2 is asked about exactly one",
    ]


def test_what_cannot_be_asked_fails_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    made = endpoint(folders["llava"])
    good = [question("What?", "red"), question("What is this?", "blue")]
    gone = [Message("user", (ImagePart("gone.png"), TextPart("What?")))]
    long = question("word " * 100, "red")
    found = list(made.answers([gone, good[0], long, good[1]], 4))
    assert [found[1], found[3]] == list(made.answers(good, 4))
    assert isinstance(found[0], Failure) and "gone.png" in found[0].reason
    assert isinstance(found[2], Failure) and "the model has 256" in found[2].reason


def test_tensors_that_do_not_fit_make_batches_of_their_own() -> None:
    def row(length: int, *pixels: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(1, length + 1)[None]
        return {"input_ids": ids, "qformer_input_ids": ids, "pixel_values": torch.ones(pixels)}

    assert fit(row(3, 1, 4, 4), row(5, 2, 4, 4)) and not fit(row(3, 1, 4, 4), row(3, 1, 4, 5))
    assert not fit(row(3, 1), {"input_ids": torch.ones(1, 3)})
    batch = together([row(2, 1, 4), row(3, 2, 4)], pad=9, left=True)
    assert batch["input_ids"].tolist() == [[9, 1, 2], [1, 2, 3]]
    assert batch["qformer_input_ids"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert batch["pixel_values"].shape == (3, 4)
    assert together([row(2, 1), row(3, 1)], pad=9, left=False)["input_ids"].tolist() == [[1, 2, 9], [1, 2, 3]]


def test_weights_are_told_apart(folders: dict[str, Path]) -> None:
    cards = [endpoint(folders[name]).card() for name in ("llava", "llava", "llava-bare")]
    assert cards[0] == cards[1] and cards[0]["weights"] == cards[2]["weights"]
    assert endpoint(folders["blip-2"]).card()["weights"] != cards[0]["weights"]
    other = endpoint(folders["llava"])
    with torch.no_grad():
        next(other.model.parameters()).add_(0.5)
    assert other.card()["weights"] != cards[0]["weights"]


def test_what_is_no_such_model(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is no image-text-to-text model"):
        contestant(f"hf:{tmp_path}", Settings(device="cpu"))
    with pytest.raises(EvalError, match="only owls take adapters"):
        contestant(f"hf:{folders['llava']}", Settings(device="cpu", adapter="a"))
