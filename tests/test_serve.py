"""What OpenAI's own client gets from the server is what the owl says by itself."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from openai import OpenAI
from PIL import Image

from asking import wait
from mplug_owl import Owl
from mplug_owl.engine.options import EngineOptions
from mplug_owl.messages import from_openai
from mplug_owl.models.families import build_processor
from mplug_owl.serve.app import make_app
from mplug_owl.serve.catalogue import Catalogue, ModelSpec
from owls import random_owl
from serving import Place, data_url, endless_owl, said, served, serving, shown
from test_adapters import tuned

DOCS = Path(__file__).parent.parent / "docs" / "serving.md"
FAMILIES = ["tiny-owl", "tiny-owl-video", "tiny-owl-bloomz", "tiny-owl2", "tiny-owl2.1", "owlet-nano"]


@pytest.fixture(scope="module")
def owls() -> dict[str, Owl]:
    return {family: Owl(random_owl(family, torch.float32), build_processor(family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def place(owls: dict[str, Owl]) -> Iterator[Place]:
    with served(owls) as place:
        yield place


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[OpenAI]:
    with place.client() as client:
        yield client


@pytest.fixture(scope="module")
def owl(owls: dict[str, Owl]) -> Owl:
    return owls["tiny-owl2"]


def clip(colours: tuple[str, ...] = ("navy", "teal", "olive", "red", "white")) -> bytes:
    frames = [Image.new("RGB", (60, 40), colour) for colour in colours]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


# ---- the same answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_chat(family: str, owls: dict[str, Owl], client: OpenAI, picture: Image.Image) -> None:
    """Pictures, earlier turns and a system message; whole and in pieces."""
    system = {"role": "system", "content": "Be short."}
    first = shown(picture)
    longer = [system, *first, {"role": "assistant", "content": "A sun."}, {"role": "user", "content": "And now?"}]
    for messages in (said(), first, longer):
        expected = owls[family].chat(messages, max_new_tokens=12)
        whole = client.chat.completions.create(model=family, messages=messages, max_tokens=12)
        assert whole.choices[0].message.content == expected
        stream = client.chat.completions.create(model=family, messages=messages, max_tokens=12, stream=True)
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_several_pictures_and_a_video(owl: Owl, client: OpenAI, picture: Image.Image) -> None:
    other = Image.new("RGB", (30, 80), "green")
    content = [
        {"type": "image_url", "image_url": {"url": data_url(picture), "detail": "high"}},
        {"type": "text", "text": "and"},
        {"type": "image_url", "image_url": {"url": data_url(other)}},
        {"type": "video_url", "video_url": {"url": data_url(clip(), "image/gif")}, "num_frames": 3},
        {"type": "text", "text": "?"},
    ]
    messages = [{"role": "user", "content": content}]
    answer = client.chat.completions.create(model="tiny-owl2", messages=messages, max_tokens=10)
    assert answer.choices[0].message.content == owl.chat(messages, max_new_tokens=10)
    fewer = [part for part in content if part["type"] != "video_url"]
    without = owl.chat([{"role": "user", "content": fewer}], max_new_tokens=10)
    assert answer.choices[0].message.content != without  # it was looked at


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 0.9},
        {"temperature": 1.2, "top_p": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.5, "min_p": 0.2},
        {"repetition_penalty": 1.8},
    ],
    ids=lambda wishes: "-".join(wishes),
)
def test_wishes_reach_the_engine(wishes: dict[str, float], owl: Owl, client: OpenAI) -> None:
    usual = {name: value for name, value in wishes.items() if name in ("temperature", "top_p")}
    extra = {name: value for name, value in wishes.items() if name not in usual}
    answer = client.chat.completions.create(
        model="tiny-owl2", messages=said(), max_completion_tokens=15, seed=7, extra_body=extra, **usual
    )
    text = answer.choices[0].message.content
    assert text == owl.chat(said(), max_new_tokens=15, seed=7, **wishes)
    assert text != owl.chat(said(), max_new_tokens=15)


def test_the_first_model_answers_where_none_is_named(owls: dict[str, Owl], place: Place) -> None:
    reply = place.ask("POST", "/v1/chat/completions", {"messages": said(), "max_tokens": 5})
    assert reply.json["model"] == FAMILIES[0]
    assert reply.json["choices"][0]["message"]["content"] == owls[FAMILIES[0]].chat(said(), max_new_tokens=5)


def test_what_a_client_gives_back_of_an_answer_is_taken(owl: Owl, client: OpenAI) -> None:
    first = client.chat.completions.create(model="tiny-owl2", messages=said(), max_tokens=8).choices[0].message
    messages = [*said(), first, {"role": "user", "content": "Why?"}]
    plain = [*said(), {"role": "assistant", "content": first.content}, {"role": "user", "content": "Why?"}]
    answer = client.chat.completions.create(model="tiny-owl2", messages=messages, max_tokens=8)
    assert answer.choices[0].message.content == owl.chat(plain, max_new_tokens=8)


# ---- how answers end -----------------------------------------------------------------------------


def test_stop_texts_end_an_answer_and_are_no_part_of_it() -> None:
    owl = endless_owl()
    with served({"owl": owl}) as place, place.client() as client:
        whole = owl.chat(said(), max_new_tokens=40)
        stop = whole[10:12]
        for given in (stop, ["never said", stop]):
            answer = client.chat.completions.create(model="owl", messages=said(), max_tokens=40, stop=given)
            assert answer.choices[0].message.content == whole.partition(stop)[0]
            assert answer.choices[0].finish_reason == "stop"
        pieces = client.chat.completions.create(model="owl", messages=said(), max_tokens=40, stop=stop, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.partition(stop)[0]


def test_length_ends_an_answer_and_is_counted() -> None:
    owl = endless_owl()
    with served({"owl": owl}, default_new_tokens=7, max_new_tokens=20) as place, place.client() as client:
        for asked, most in (({}, 7), ({"max_tokens": 3}, 3), ({"max_completion_tokens": 20}, 20)):
            answer = client.chat.completions.create(model="owl", messages=said(), **asked)
            assert answer.choices[0].finish_reason == "length"
            assert answer.usage is not None
            assert answer.usage.completion_tokens == most
            assert answer.usage.total_tokens == answer.usage.prompt_tokens + most


# ---- several choices -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_choices_draw_with_seeds_of_their_own_and_share_the_prompt(stream: bool) -> None:
    owl = endless_owl()
    with served({"owl": owl}) as place, place.client() as client:
        expected = [owl.chat(said(), max_new_tokens=10, temperature=1.0, seed=5 + number) for number in range(3)]
        assert len(set(expected)) == 3
        wait(owl.engine)
        owl.engine.scheduler.reset()  # nothing is there to be read again
        before = owl.engine.counts["prefill_positions"]
        wishes = {"messages": said(), "max_tokens": 10, "temperature": 1.0, "seed": 5, "n": 3}
        texts = ["", "", ""]
        if stream:
            for chunk in client.chat.completions.create(model="owl", stream=True, **wishes):
                texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
            length = len(owl.prepare(from_openai(said()))["input_ids"][0])
        else:
            answer = client.chat.completions.create(model="owl", **wishes)
            texts = [choice.message.content or "" for choice in answer.choices]
            assert [choice.index for choice in answer.choices] == [0, 1, 2]
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 30
            length = answer.usage.prompt_tokens
        assert texts == expected
        # The last position of the prompt is read by each, for it gives the first token.
        assert owl.engine.counts["prefill_positions"] - before == length + 2


# ---- probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tiny-owl2", "owlet-nano", "tiny-owl-bloomz"])
def test_log_probabilities(family: str, owls: dict[str, Owl], client: OpenAI) -> None:
    wishes = {"model": family, "messages": said(), "max_tokens": 8, "logprobs": True}
    choice = client.chat.completions.create(top_logprobs=3, **wishes).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    spelt = b"".join(bytes(token.bytes or []) for token in tokens)
    assert spelt.decode(errors="replace").strip() == (choice.message.content or "").strip()
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)  # greedily, the likeliest is taken
        assert token.top_logprobs[0].bytes == token.bytes
        assert sorted((each.logprob for each in token.top_logprobs), reverse=True) == [
            each.logprob for each in token.top_logprobs
        ]
    bare = client.chat.completions.create(**wishes).choices[0].logprobs
    assert [token.top_logprobs for token in bare.content] == [[] for _ in tokens]
    streamed = [
        token
        for chunk in client.chat.completions.create(stream=True, top_logprobs=3, **wishes)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    # What was read before is not read again, so the last digits may differ.
    assert [token.bytes for token in streamed] == [token.bytes for token in tokens]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in tokens], abs=1e-4)


# ---- counts --------------------------------------------------------------------------------------


def test_a_turn_that_follows_is_read_from_where_it_differs(picture: Image.Image) -> None:
    owl = endless_owl()
    with served({"owl": owl}) as place, place.client() as client:
        first = client.chat.completions.create(model="owl", messages=shown(picture), max_tokens=6)
        follow = [*shown(picture), first.choices[0].message, {"role": "user", "content": "Why?"}]
        second = client.chat.completions.create(model="owl", messages=follow, max_tokens=6)
        assert first.usage is not None and second.usage is not None
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
        assert owl.engine.counts["media_encoded"] == 1
        page = place.ask("GET", "/metrics").body.decode()
        cached = second.usage.prompt_tokens_details.cached_tokens
        prompt = first.usage.prompt_tokens + second.usage.prompt_tokens
        for line in (
            'owl_requests_total{model="owl",outcome="answered"} 2.0',
            f'owl_prompt_tokens_total{{model="owl"}} {prompt}.0',
            f'owl_cached_tokens_total{{model="owl"}} {cached}.0',
            'owl_generated_tokens_total{model="owl"} 12.0',
            'owl_time_to_first_token_seconds_count{model="owl"} 2.0',
            'owl_inter_token_seconds_count{model="owl"} 10.0',
            'owl_media_encoded_total{model="owl"} 1.0',
            'owl_running{model="owl"} 0.0',
            'owl_waiting{model="owl"} 0.0',
        ):
            assert line in page.splitlines()


def test_a_stream_tells_its_usage_where_it_is_asked_to(client: OpenAI) -> None:
    wishes = {"model": "tiny-owl2", "messages": said(), "max_tokens": 5}
    whole = client.chat.completions.create(**wishes).usage
    *chunks, last = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **wishes)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)
    assert all(chunk.usage is None for chunk in chunks)
    without = list(client.chat.completions.create(stream=True, **wishes))
    assert all(chunk.choices for chunk in without)


# ---- models --------------------------------------------------------------------------------------


def test_models_are_listed_in_order(client: OpenAI, place: Place) -> None:
    assert [model.id for model in client.models.list()] == FAMILIES
    assert client.models.retrieve("tiny-owl").id == "tiny-owl"
    assert place.ask("GET", "/ready").json == {"status": "ready", "models": FAMILIES}
    assert place.ask("GET", "/health").json == {"status": "ok"}


def test_an_adapter_answers_by_its_own_name(tmp_path: Path) -> None:
    base, adapter, _ = tuned("tiny-owl2", tmp_path)
    specs = [ModelSpec.parse(text) for text in (f"plain={base}", f"tuned={base}+{adapter}", f"again={base}")]
    catalogue = Catalogue.open(specs, device="cpu", dtype="float32", engine=EngineOptions(memory=2**24))
    assert len(catalogue.owls) == 2
    assert catalogue.owl("again") is catalogue.owl("plain") is catalogue.owl()
    assert not any("lora" in name for name, _ in catalogue.owl("tuned").model.named_modules())
    with serving(make_app(catalogue)) as place, place.client() as client:
        texts = {
            name: client.chat.completions.create(model=name, messages=said(), max_tokens=30).choices[0].message.content
            for name in ("plain", "tuned", "again")
        }
    assert texts["plain"] == texts["again"] == catalogue.owl("plain").chat(said(), max_new_tokens=30)
    assert texts["tuned"] == catalogue.owl("tuned").chat(said(), max_new_tokens=30)
    assert len({id(owl.engine) for owl in catalogue.owls}) == 2


def test_engines_of_one_server_share_the_memory() -> None:
    owls = {name: endless_owl(seed=number) for number, name in enumerate(("one", "two"))}
    Catalogue(owls).start()
    one, two = (owl.engine.scheduler.positions for owl in owls.values())
    alone = endless_owl().engine.scheduler.positions
    assert one == two
    assert one < 0.7 * alone


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tiny-owl", ModelSpec("tiny-owl", "tiny-owl")),
        ("./a/owl2", ModelSpec("owl2", "./a/owl2")),
        ("mine=./a/owl2", ModelSpec("mine", "./a/owl2")),
        ("mine=./owl2+./lora", ModelSpec("mine", "./owl2", "./lora")),
        ("./owl2+runs/lora", ModelSpec("owl2+lora", "./owl2", "runs/lora")),
        ("./a=b/owl", ModelSpec("owl", "./a=b/owl")),
    ],
)
def test_models_are_named_on_a_command_line(text: str, spec: ModelSpec) -> None:
    assert ModelSpec.parse(text) == spec


# ---- the description -----------------------------------------------------------------------------


def test_the_description_covers_every_address_and_needs_nothing_from_elsewhere(place: Place) -> None:
    described = place.ask("GET", "/openapi.json").json
    assert {"/v1/chat/completions", "/v1/models", "/v1/models/{name}", "/health", "/ready", "/metrics"} <= set(
        described["paths"]
    )
    schemas = described["components"]["schemas"]
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', place.ask("GET", "/openapi.json").body.decode()))
    assert referred <= set(schemas)
    assert {"ChatRequest", "ChatCompletion", "ChatCompletionChunk", "Error"} <= referred
    page = place.ask("GET", "/docs").body.decode()
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert all(f"<code>{field}</code>" in page for field in schemas["ChatRequest"]["properties"])


# ---- the documentation ---------------------------------------------------------------------------


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)


def test_the_first_answer_of_the_documentation(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands and its program, as they stand there, about a picture of one's own."""
    picture.save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    owl = endless_owl()
    expected = owl.chat("What is the cat doing?", images=["cat.jpg"], max_new_tokens=256)
    with served({"owlet": owl}) as place:
        exec(examples("python")[0].replace("http://127.0.0.1:8000", place.url), {})
        assert capsys.readouterr().out == expected
        command = next(example for example in examples("sh") if "curl" in example)
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        command = command.replace("http://127.0.0.1:8000", place.url)
        ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    events = [json.loads(line.removeprefix("data: ")) for line in ran.stdout.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == expected
