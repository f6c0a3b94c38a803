"""The public face: its names, and `Owl.chat` on a tiny owl2."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

import mplug_owl
from mplug_owl import DataError, ImagePart, Message, Owl, RequestError, TextPart, VideoPart
from mplug_owl.models.families import FAMILIES

PUBLIC = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EvalError",
    "ImagePart",
    "Limits",
    "Message",
    "Owl",
    "OwlError",
    "RequestError",
    "TextPart",
    "VideoPart",
    "__version__",
    "load",
]


def test_public_names_are_a_known_list() -> None:
    assert mplug_owl.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(mplug_owl))
    assert all(getattr(mplug_owl, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'hoot'"):
        mplug_owl.hoot  # noqa: B018 - the access is the test


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 3, "top_k": 50, "top_p": 0.9}])
def test_pieces_add_up_to_the_whole(owl: Owl, picture: Image.Image, options: dict[str, float]) -> None:
    whole = owl.chat("What?", images=[picture], max_new_tokens=40, **options)
    pieces = list(owl.chat("What?", images=[picture], max_new_tokens=40, stream=True, **options))
    assert "".join(pieces) == whole
    assert len(pieces) > 1


def test_chat_is_generate_decoded(owl: Owl, picture: Image.Image) -> None:
    prompt = owl.prepare([Message("user", (ImagePart(picture), TextPart("What?")))])
    ids = owl.model.generate(**prompt, max_new_tokens=30, do_sample=False)
    answer = owl.processor.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert owl.chat("What?", images=[picture], max_new_tokens=30) == answer


def test_a_seed_repeats_and_leaves_the_global_state_alone(owl: Owl) -> None:
    def answer(seed: int | None) -> str:
        return owl.chat("Sing!", temperature=1.0, seed=seed, max_new_tokens=30)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = answer(seed=7)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert answer(seed=7) == first
    assert answer(seed=8) != first
    torch.manual_seed(2)
    unseeded = answer(seed=None)
    torch.manual_seed(2)
    assert answer(seed=None) == unseeded


def test_seeded_streams_do_not_disturb_each_other(owl: Owl) -> None:
    options = {"temperature": 1.0, "max_new_tokens": 20}
    alone = [owl.chat("Sing!", seed=seed, **options) for seed in (1, 2)]
    streams = [owl.chat("Sing!", seed=seed, stream=True, **options) for seed in (1, 2)]
    together = ["", ""]
    for pair in zip(*streams, strict=False):
        together = [text + piece for text, piece in zip(together, pair, strict=True)]
    for index, stream in enumerate(streams):
        assert alone[index].startswith(together[index])
        stream.close()


def test_pictures_change_the_answer_and_their_order_counts(owl: Owl, picture: Image.Image) -> None:
    other = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(90)
    prompts = {
        name: owl.prepare([Message("user", (*map(ImagePart, images), TextPart("What?")))])
        for name, images in {"one": [picture], "two": [picture, other], "turned": [other, picture]}.items()
    }
    assert prompts["two"]["pixel_values"].shape[0] == 2
    with torch.inference_mode():
        logits = {name: owl.model(**prompt).logits[0, -1] for name, prompt in prompts.items()}
    assert not torch.allclose(logits["two"], logits["turned"])
    assert owl.chat("What?", images=[picture, other], max_new_tokens=3)


def test_conversation_in_every_form(owl: Owl, picture: Image.Image, picture_file: Path) -> None:
    messages = [
        Message("user", (ImagePart(picture_file), TextPart("What?"))),
        Message("assistant", "A moon."),
        Message("user", "Sure?"),
    ]
    dicts = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A moon."},
        {"role": "user", "content": "Sure?"},
    ]
    answer = owl.chat(messages, max_new_tokens=10)
    assert owl.chat(dicts, max_new_tokens=10) == answer
    bare = [{**dicts[0], "content": [{"type": "image"}, *dicts[0]["content"][1:]]}, *dicts[1:]]
    assert owl.chat(bare, images=[picture], max_new_tokens=10) == answer
    with pytest.raises(RequestError, match=r"1 image part\(s\) without a source, but 2 image"):
        owl.chat(bare, images=[picture, picture])
    # Given apart, pictures are shown with the last message of the user.
    moved = [Message("user", "What?"), messages[1], Message("user", (ImagePart(picture), TextPart("Sure?")))]
    apart = owl.chat([Message("user", "What?"), *messages[1:]], images=[picture], max_new_tokens=10)
    assert apart == owl.chat(moved, max_new_tokens=10)


def test_an_answer_goes_back_as_it_came(owl: Owl) -> None:
    """Byte-level tokenizers join the space of the template to the first word of an answer."""

    def prompt(answer: str) -> list[int]:
        messages = [Message("user", "a"), Message("assistant", answer), Message("user", "b")]
        return owl.prepare(messages)["input_ids"].tolist()

    assert prompt(" It is.") == prompt("It is.") != prompt("  It is.")


def test_every_family_answers_to_images_and_videos(picture: Image.Image) -> None:
    frames = [picture.rotate(10 * turn) for turn in range(5)]
    parts = (ImagePart(picture), VideoPart(frames, 3), VideoPart(frames, 1), TextPart("What?"))
    tiny = [name for name in FAMILIES if name.startswith("tiny-")]
    assert len(tiny) == 5
    for name in tiny:
        owl = mplug_owl.load(name, device="cpu")
        message = Message("user", parts)
        whole = owl.chat([message], max_new_tokens=8)
        assert "".join(owl.chat([message], max_new_tokens=8, stream=True)) == whole


def test_system_and_template_reach_the_prompt(owl: Owl) -> None:
    def length(**options: str) -> int:
        return owl.prepare([Message("user", "Hi")], **options)["input_ids"].shape[1]

    assert length(system="Be brief.") > length() == length(system="")
    assert length(template="training") > length()
    with pytest.raises(RequestError, match="did you mean 'training'"):
        owl.chat("Hi", template="trainig")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_k": -2}, "top_k=-2"),
    ],
)
def test_values_out_of_range_are_named(owl: Owl, options: dict[str, float], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        owl.chat("Hi", **options)


def test_pictures_and_videos_of_one_conversation_have_one_budget(owl: Owl) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    limits = mplug_owl.Limits(max_total_pixels=3 * 400)
    bounded = Owl(owl.model, owl.processor, limits=limits)
    try:
        picture, clip = ImagePart(frames[0]), VideoPart(frames, 2)
        for shown in ((picture,) * 3, (picture, clip)):
            bounded.chat([Message("user", (*shown, TextPart("What?")))], max_new_tokens=2)
        for shown in ((picture,) * 4, (clip, picture, picture), (clip, clip)):
            turns = [Message("user", shown[:1]), Message("assistant", "Red."), Message("user", shown[1:])]
            for asked in ([Message("user", shown)], turns):
                with pytest.raises(DataError, match=r"1600 pixels in all.*Limits\.max_total_pixels"):
                    bounded.chat(asked, max_new_tokens=2)
    finally:
        bounded.engine.close()


def test_what_is_no_conversation(owl: Owl, picture: Image.Image) -> None:
    with pytest.raises(RequestError, match="no messages"):
        owl.chat([])
    with pytest.raises(RequestError, match="a conversation of Message, dict"):
        owl.chat([Message("user", "a"), {"role": "user", "content": "b"}])
    with pytest.raises(RequestError, match="no message of the user"):
        owl.chat([Message("assistant", "a")], images=[picture])


def test_closing_a_stream_stops_the_model(owl: Owl) -> None:
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    handle = owl.model.lm_head.register_forward_hook(count)
    try:
        stream = owl.chat("Go on", stream=True, temperature=1.0, seed=1, max_new_tokens=400)
        next(stream)
        stream.close()
    finally:
        handle.remove()
    assert 0 < steps < 390
    assert owl.engine.running == owl.engine.waiting == 0


def test_stop_texts_end_an_answer(owl: Owl) -> None:
    whole = owl.chat("Go on", max_new_tokens=40)
    stop = whole[len(whole) // 2 :][:2]
    assert owl.chat("Go on", max_new_tokens=40, stop=stop) == whole.partition(stop)[0]
    assert "".join(owl.chat("Go on", max_new_tokens=40, stop=["never", stop], stream=True)) == whole.partition(stop)[0]


def test_threads_ask_together_and_get_what_they_get_alone(owl: Owl, picture: Image.Image) -> None:
    questions = [f"What about {number}?" for number in range(6)]
    shown = [[picture] if number % 2 else [] for number in range(6)]
    alone = [owl.chat(q, images=i, max_new_tokens=20) for q, i in zip(questions, shown, strict=True)]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda q, i: owl.chat(q, images=i, max_new_tokens=20), questions, shown))
    assert together == alone


def test_a_picture_is_prepared_and_encoded_once(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    owl = mplug_owl.load("tiny-owl2", device="cpu")
    asked: list[Message] = []
    for question in ("What?", "Sure?", "Why?"):
        asked.append(Message("user", question if asked else (ImagePart(picture.copy()), TextPart(question))))
        asked.append(Message("assistant", owl.chat(asked, max_new_tokens=12)))
        monkeypatch.setattr(owl.processor, "image_processor", None)  # the second time it would be missed
    assert owl.engine.counts["media_encoded"] == 1
    assert owl.engine.counts["positions_reused"] > 0


def test_the_prompt_is_that_of_prepare(owl: Owl, picture: Image.Image) -> None:
    frames = [picture.rotate(10 * turn) for turn in range(5)]
    for family in (name for name in FAMILIES if name.startswith("tiny-")):
        owl = mplug_owl.load(family, device="cpu")
        messages = [
            Message(
                "user", (ImagePart(picture), VideoPart(frames, 3), TextPart("What?"), ImagePart(picture.rotate(5)))
            ),
            Message("assistant", " It is."),
            Message("user", (VideoPart(frames[:1], 1), TextPart("And now?"))),
        ]
        prepared, asked = owl.prepare(messages, system="Be brief."), owl.desk.request(messages, system="Be brief.")
        assert prepared["input_ids"][0].tolist() == asked.ids
        images = [medium.pixels for medium in asked.media if medium.kind == "image"]
        assert torch.equal(torch.stack(images), prepared["pixel_values"])
        videos = [medium.pixels for medium in asked.media if medium.kind == "video"]
        assert all(torch.equal(a, b) for a, b in zip(videos, prepared["pixel_values_videos"], strict=True))


def test_an_error_while_streaming_reaches_the_caller(owl: Owl) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("full")

    handle = owl.model.lm_head.register_forward_hook(fail)
    try:
        with pytest.raises(MemoryError, match="full"):
            list(owl.chat("Hi", stream=True, max_new_tokens=4))
    finally:
        handle.remove()


def test_formats_whose_end_is_no_token_stop_at_its_text(owl: Owl) -> None:
    assert owl._stops(None) == []
    assert owl._stops("v0") == ["###"]
