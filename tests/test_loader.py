"""The loader: the same stream wherever it starts and on however many ranks, and what becomes of bad
samples.
"""

import io
import json
import logging
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mplug_owl.data.conversation import Conversation
from mplug_owl.data.encode import IGNORED
from mplug_owl.data.loader import Loader, LoaderSettings, MicroBatch
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import open_source
from mplug_owl.errors import ConfigError, DataError
from mplug_owl.messages import ImagePart, Message, TextPart, VideoPart
from mplug_owl.models.families import build
from mplug_owl.models.processor import OwlProcessor
from tests.owls import random_owl


class Talks:
    """Conversations in their order, for ever."""

    def __init__(self, talks: list[Conversation]) -> None:
        self.talks, self.epoch = talks, len(talks)

    def __getitem__(self, position: int) -> Conversation:
        return self.talks[position % self.epoch]


def user(*parts: Any) -> Message:
    return Message("user", [TextPart(part) if isinstance(part, str) else part for part in parts])


def picture(number: int) -> Image.Image:
    return Image.effect_mandelbrot((40 + number, 50), (-3, -2.5, 2, 2.5), 20 + number)


def talk(number: int) -> Conversation:
    """Captions, chats with one or two pictures, chats of text; of uneven length."""
    answer = Message("assistant", f"answer {number} " * (number % 5 + 1))
    shown = [ImagePart(picture(number + extra)) for extra in range(number % 3)]
    asked = user(*shown, f"question {number}?")
    if len(shown) == 1 and number % 2:
        return Conversation(str(number), (user(*shown), answer), "caption")
    return Conversation(str(number), (asked, answer))


TALKS = [talk(number) for number in range(24)]
SETTINGS = LoaderSettings(batch=8, micro=2, max_length=256, workers=0, images_per_row=4)


def changed(**values: Any) -> LoaderSettings:
    return LoaderSettings(**{**vars(SETTINGS), **values})


@pytest.fixture(scope="module")
def processor() -> OwlProcessor:
    return build("tiny-owl2")[1]


def same(ours: list[MicroBatch], theirs: list[MicroBatch]) -> bool:
    assert [batch.ids for batch in ours] == [batch.ids for batch in theirs]
    pairs = zip(ours, theirs, strict=True)
    for one, two in pairs:
        assert one.inputs.keys() == two.inputs.keys()
        for name, value in one.inputs.items():
            assert torch.equal(value, two.inputs[name]), name
        assert torch.equal(one.labels, two.labels)
    return True


def ids(batches: list[MicroBatch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


# ---- the stream ----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_a_step_is_the_next_samples(packed: bool, processor: OwlProcessor) -> None:
    loader = Loader(Talks(TALKS), processor, changed(pack=packed))
    assert loader.steps_per_epoch == 3
    for step in range(4):
        batches = loader.step(step)
        want = [str((step * 8 + k) % 24) for k in range(8)]
        assert sorted(ids(batches)) == sorted(want)
        if not packed:
            assert ids(batches) == want
        for batch in batches:
            assert len(batch.input_ids) <= 2
            assert batch.targets == (batch.labels[:, 1:] != IGNORED).sum()
            assert batch.tokens == (batch.segments > 0).sum()
            assert batch.images == len(batch.inputs.get("pixel_values", ()))
            assert batch.input_ids.shape[1] % 64 == 0
    assert loader.samples == 32 and loader.bad == [] and loader.wait_seconds > 0


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_goes_on_from_any_step(packed: bool, processor: OwlProcessor) -> None:
    settings = changed(pack=packed, random_resized_crop=(0.3, 1.0))
    whole = Loader(Talks(TALKS), processor, settings, seed=3)
    steps = [whole.step(step) for step in range(5)]
    for start in (4, 2, 0, 3):
        assert same(Loader(Talks(TALKS), processor, settings, seed=3).step(start), steps[start])
        assert same(whole.step(start), steps[start])
    other = Loader(Talks(TALKS), processor, settings, seed=4).step(0)
    assert not torch.equal(other[0].pixel_values, steps[0][0].pixel_values)


def test_crops_differ_between_epochs(processor: OwlProcessor) -> None:
    loader = Loader(Talks(TALKS), processor, changed(random_resized_crop=(0.3, 1.0)))
    first, again = loader.step(0)[0], loader.step(3)[0]
    assert first.ids == again.ids
    assert not torch.equal(first.pixel_values, again.pixel_values)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_rows_of_a_step(world: int, packed: bool, processor: OwlProcessor) -> None:
    def loader(rank: int, world: int) -> Loader:
        return Loader(Talks(TALKS), processor, changed(pack=packed), rank=rank, world=world)

    alone = loader(0, 1)
    ranks = [loader(rank, world) for rank in range(world)]
    for step in range(3):
        parts = [each.step(step) for each in ranks]
        assert len({len(part) for part in parts}) == 1  # as many passes on every rank
        assert sorted(ids([b for part in parts for b in part])) == sorted(ids(alone.step(step)))
    assert sum(each.samples for each in ranks) == alone.samples == 24


def test_two_ranks_one_rank_two_ranks(processor: OwlProcessor) -> None:
    seen: list[str] = []
    for step, world in enumerate([2, 1, 2]):
        for rank in range(world):
            run = Loader(Talks(TALKS), processor, SETTINGS, rank=rank, world=world)
            seen += ids(run.step(step))
        assert sorted(map(int, seen)) == list(range(8 * (step + 1)))


def test_workers_give_what_no_workers_give(processor: OwlProcessor) -> None:
    plain = Loader(Talks(TALKS), processor, SETTINGS)
    worked = Loader(Talks(TALKS), processor, changed(workers=2))
    for step in (0, 1, 2, 7, 8, 1):
        assert same(worked.step(step), plain.step(step))
    worked.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_random_state_alone(workers: int, processor: OwlProcessor) -> None:
    settings = changed(workers=workers, random_resized_crop=(0.3, 1.0))
    before = torch.random.get_rng_state()
    loader = Loader(Talks(TALKS), processor, settings)
    loader.step(0)
    loader.close()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_last_step_ends_with_the_data(processor: OwlProcessor) -> None:
    loader = Loader(Talks(TALKS), processor, changed(batch=10), total=24)
    assert loader.steps == 3
    assert sorted(ids(loader.step(2))) == sorted(map(str, range(20, 24)))
    with pytest.raises(ConfigError, match="step 3 of 3"):
        loader.step(3)
    with pytest.raises(ConfigError, match="rank=2 of world=2"):
        Loader(Talks(TALKS), processor, SETTINGS, rank=2, world=2)


def test_a_rank_without_rows_makes_the_pass_too(processor: OwlProcessor) -> None:
    for pack in (True, False):
        settings = changed(batch=1, micro=1, pack=pack)
        idle = Loader(Talks(TALKS), processor, settings, rank=1, world=2)
        (batch,) = idle.step(0)
        assert (batch.ids, batch.targets, batch.tokens) == ([], 0, 0)
        model = random_owl("tiny-owl2").train()
        loss = model(**batch.inputs, labels=batch.labels, num_items_in_batch=5).loss
        loss.backward()
        assert loss == 0
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(grad.eq(0).all() for grad in grads)


# ---- what is learnt ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl2", "tiny-owl2.1"])
def test_a_step_weighs_the_same_however_it_is_cut(family: str) -> None:
    processor = build(family)[1]
    model = random_owl(family).train()

    def loss(pack: bool, micro: int, world: int = 1) -> float:
        parts = []
        for rank in range(world):
            settings = changed(pack=pack, micro=micro)
            parts += Loader(Talks(TALKS), processor, settings, rank=rank, world=world).step(1)
        count = sum(batch.targets for batch in parts)
        total = torch.zeros((), dtype=torch.float64)
        for batch in (part.to("cpu", torch.float64) for part in parts):
            out = model(**batch.inputs, labels=batch.labels, num_items_in_batch=count)
            total += out.loss.detach()
        return float(total)

    whole = loss(pack=False, micro=8)
    for cut in [(True, 1), (True, 8), (False, 1), (False, 3), (True, 1, 2), (False, 2, 3)]:
        assert loss(*cut) == pytest.approx(whole, rel=1e-9)


def test_captions_have_no_roles(processor: OwlProcessor) -> None:
    caption = Conversation("c", (user(ImagePart(picture(1))), Message("assistant", " an owl\n")))
    captioned = Conversation("c", caption.messages, "caption")
    (batch,) = Loader(Talks([captioned]), processor, changed(batch=1)).step(0)
    text = processor.decode(batch.input_ids[0, : batch.tokens], skip_special_tokens=True)
    assert text == "an owl"
    learnt = [label for label in batch.labels[0].tolist() if label != IGNORED]
    assert processor.decode(learnt) == "an owl</s>"


def test_videos_and_images_stay_apart(processor: OwlProcessor) -> None:
    clip = VideoPart([picture(n) for n in range(5)], 3)
    both = Conversation("v", (user(ImagePart(picture(0)), clip, "q"), Message("assistant", "a")))
    (batch,) = Loader(Talks([both]), processor, changed(batch=1)).step(0)
    assert batch.images == 4
    assert batch.inputs["pixel_values"].shape[0] == 1
    assert [len(video) for video in batch.inputs["pixel_values_videos"]] == [3]
    model = random_owl("tiny-owl2")
    batch = batch.to("cpu", torch.float64)
    assert model(**batch.inputs, labels=batch.labels).loss.isfinite()


# ---- bad samples ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten rows: four of them bad, one of them very long."""
    picture(3).convert("RGB").save(tmp_path / "good.jpg")
    data = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "broken.jpg").write_bytes(data[: len(data) // 2])
    chats = [("good.jpg", "fine")] * 5 + [
        ("broken.jpg", "x"),
        ("gone.jpg", "x"),
        ("good.jpg", ""),
        ("good.jpg", "w" * 100_000),
    ]
    lines = [
        json.dumps(
            {
                "id": f"r{row}",
                "image": image,
                "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": answer}],
            }
        )
        for row, (image, answer) in enumerate(chats)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join([*lines, "{not json"]) + "\n")
    return tmp_path


@pytest.mark.parametrize("world", [1, 2])
def test_bad_samples_leave_their_slots_empty(
    folder: Path, world: int, processor: OwlProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    mixture = Mixture([open_source(folder / "data.jsonl")], seed=1)
    settings = changed(batch=10, max_length=512, bad_share=0.1)
    seen, bad = [], []
    for rank in range(world):
        loader = Loader(mixture, processor, settings, seed=1, rank=rank, world=world)
        with caplog.at_level(logging.WARNING):
            batches = loader.step(0)
        seen += ids(batches)
        bad += loader.bad
        for batch in batches:
            if batch.ids:
                count = (batch.input_ids == processor.image_token_id).sum()
                assert count == processor.media_length * len(batch.pixel_values)
    assert sorted(name.split(" ")[0] for name in seen) == ["r0", "r1", "r2", "r3", "r4", "r8"]
    assert sorted(found.reason for found in bad) == ["media", "media", "record", "record"]
    whys = " | ".join(found.why for found in bad)
    for words in ("damaged or cut short", "gone.jpg' is no file", "empty answer", "data.jsonl:10"):
        assert words in whys
    assert sum("is left out" in record.message for record in caplog.records) == 4


def test_a_file_that_vanishes(folder: Path, processor: OwlProcessor) -> None:
    source = open_source(folder / "data.jsonl")
    loader = Loader(Mixture([source]), processor, changed(batch=5, bad_share=0.5))
    assert ids(loader.step(0))
    (folder / "data.jsonl").unlink()
    batches = loader.step(1)
    assert ids(batches) == []
    assert loader.bad_counts["record"] >= 5
    assert "data.jsonl" in loader.bad[-1].why


def test_too_many_bad_samples_stop_the_run(folder: Path, processor: OwlProcessor) -> None:
    source = open_source(folder / "data.jsonl")
    strict = Loader(Mixture([source]), processor, changed(batch=10, bad_share=0.0))
    with pytest.raises(DataError, match=r"4 of 10 samples cannot be used .*bad_share=0\.0; .*doctor"):
        strict.step(0)
    patient = Loader(Mixture([source]), processor, changed(batch=10, bad_share=0.05))
    with pytest.raises(DataError, match="over bad_share"):
        for step in range(10):
            patient.step(step)
    assert 10 < len(patient.bad) <= 14


def test_the_share_of_pictures_is_kept_in_every_step(folder: Path, processor: OwlProcessor) -> None:
    rows = [{"instruction": f"say {n}", "input": "", "output": str(n)} for n in range(40)]
    (folder / "alpaca.json").write_text(json.dumps(rows))
    (folder / "owl.jsonl").write_text(
        "".join(
            json.dumps({"image": ["good.jpg"], "text": f"Human: <image>\nHuman: q\nAI: a{n}"}) + "\n" for n in range(10)
        )
    )
    sources = [open_source(folder / "alpaca.json"), open_source(folder / "owl.jsonl")]
    mixture = Mixture(sources, seed=5, multimodal_share=0.5, window=8)
    loader = Loader(mixture, processor, SETTINGS, seed=5)
    for step in range(6):
        assert sum(batch.images for batch in loader.step(step)) == 4


def test_a_shard_cut_short(tmp_path: Path, processor: OwlProcessor) -> None:
    """Pictures are read from their place in the tar; a tar that lost its end loses only that."""
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(6):
            shot = io.BytesIO()
            picture(number).convert("RGB").save(shot, "JPEG")
            for suffix, body in [("jpg", shot.getvalue()), ("txt", f"shape {number}".encode())]:
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    mixture = Mixture([open_source(tmp_path)], seed=2)
    settings = changed(batch=6, workers=1, decode="fast", random_resized_crop=(0.5, 1.0))
    loader = Loader(mixture, processor, settings, seed=2)
    batches = loader.step(0)
    assert sum(batch.images for batch in batches) == len(ids(batches)) == 6
    loader.close()
    path.write_bytes(path.read_bytes()[:2000])
    cut = Loader(mixture, processor, changed(batch=6), seed=2)
    assert len(ids(cut.step(0))) + len(cut.bad) == 6
    assert cut.bad and all("cut short" in bad.why or "tar" in bad.why for bad in cut.bad)


def test_what_workers_need_can_be_sent_to_them(folder: Path, processor: OwlProcessor) -> None:
    mixture = Mixture([open_source(folder / "data.jsonl")])
    loader = Loader(mixture, processor, changed(batch=5))
    sent = pickle.loads(pickle.dumps(loader._dataset))
    assert same(sent[0].batches, loader.step(0))
