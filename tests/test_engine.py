"""The engine gives every request the ids that `generate` gives it alone, whatever runs beside it.

Work is counted, never timed.
"""

import pytest
import torch

from asking import answers, endless, generated, ids, mixed, request, run, staggered, together, wait
from mplug_owl.engine import attention
from mplug_owl.engine import step as steps
from mplug_owl.engine.engine import Engine
from mplug_owl.engine.forward import Chunk
from mplug_owl.engine.options import EngineOptions
from mplug_owl.engine.request import Busy, Event, Failure, Finish, Medium, Request, Token
from mplug_owl.engine.sampling import Sampling
from mplug_owl.errors import RequestError
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlForConditionalGeneration
from owls import TINY, Row, Rows, batch, random_owl

NEW = 12


@pytest.fixture(scope="module", params=[*TINY, "owlet-nano"])
def owl(request: pytest.FixtureRequest) -> OwlForConditionalGeneration:
    return endless(request.param)


@pytest.fixture(scope="module")
def owl2() -> OwlForConditionalGeneration:
    return endless("tiny-owl2")


# ---- the same ids as alone -----------------------------------------------------------------------


def test_one_request_is_generate(owl: OwlForConditionalGeneration) -> None:
    row = mixed(owl)[0]
    events = list(Engine(owl).submit(request(owl, row)))
    assert ids(events) == generated(owl, row)
    assert events[-1] == Finish("length", len(row.ids), 0, NEW)


@pytest.mark.parametrize("chunk", [256, 5])
def test_many_at_once_and_prompts_in_chunks(owl: OwlForConditionalGeneration, chunk: int) -> None:
    rows = mixed(owl)
    engine = Engine(owl, EngineOptions(chunk=chunk, media=1))
    assert answers(engine, [request(owl, row) for row in rows]) == [generated(owl, row) for row in rows]
    assert engine.counts["prefill_forwards"] > (20 if chunk == 5 else 1)


def test_staggered_requests_with_aborts(owl: OwlForConditionalGeneration) -> None:
    engine = Engine(owl, EngineOptions(slots=6, chunk=24, media=40))
    staggered(owl, engine)
    assert engine.counts["ended_abort"] > 3
    assert engine.running == engine.waiting == 0


def test_a_decoder_without_a_step_of_its_own_answers_the_same(owl: OwlForConditionalGeneration) -> None:
    rows = mixed(owl)
    engine = Engine(owl)
    assert engine.forward.step is not None
    engine.forward.step = None
    assert answers(engine, [request(owl, row) for row in rows]) == [generated(owl, row) for row in rows]


def test_packed_matrices_answer_the_same(owl: OwlForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_WORTH_PACKING", {torch.float32: 1})
    rows = mixed(owl)
    engine = Engine(owl)
    assert isinstance(engine.forward.head, steps.Packed)
    assert answers(engine, [request(owl, row) for row in rows]) == [generated(owl, row) for row in rows]


@pytest.mark.parametrize("family", ["tiny-owl2", "tiny-owl2.1", "tiny-owl-bloomz"])
def test_sixteen_bits_are_widened_on_their_way(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of a step in bfloat16 are those of the model, up to rounding; groups of rows split where they must."""
    monkeypatch.setattr(attention, "_WIDENED_BYTES", 2**15)
    owl = endless(family, torch.bfloat16)
    engine = Engine(owl)
    engine.scheduler.cache.reshape(4, 64)
    prompts = [[5, 9, 77, 30 + row] * (2 + 4 * row) for row in range(3)]
    with torch.inference_mode():
        for row, prompt in enumerate(prompts):
            alpha = engine.forward.alpha(len(prompt))
            engine.forward.prefill(row, [Chunk(prompt, 0, [], alpha, True)])
        lengths = [len(prompt) for prompt in prompts]
        got = engine.forward.decode(0, [8, 8, 8], lengths, [engine.forward.alpha(length) for length in lengths])
        expected = torch.cat([owl(input_ids=torch.tensor([[*prompt, 8]])).logits[:, -1] for prompt in prompts])
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl2", "tiny-owl2.1", "owlet-nano"])
def test_in_sixteen_bits_ids_part_only_where_rounding_decides(family: str) -> None:
    owl = endless(family, torch.bfloat16)
    rows = mixed(owl)
    for row, got in zip(rows, answers(Engine(owl), [request(owl, row) for row in rows]), strict=True):
        expected = generated(owl, row)
        parting = next((place for place in range(NEW) if got[place] != expected[place]), None)
        if parting is None:
            continue
        said = Row([*row.ids, *expected[:parting]], row.images, row.videos)
        with torch.inference_mode():
            logits = owl(**batch([said])).logits[0, -1].float()
        # A bfloat16 has 8 bits; what was rounded on the way to the logits adds up to a few of the last.
        assert logits.max() - logits[got[parting]] < 4 * 2**-8 * logits.abs().max()


@pytest.mark.parametrize("most", [2**62, 300])
def test_spans_cover_all_rows_and_waste_little(most: int) -> None:
    for lengths in ([5], [10] * 9, [2000, 10, 10, 10], [10, 10, 2000, 10], [64, 128, 256, 512, 1024]):
        spans = attention.spans(lengths, most)
        assert [row for a, b in spans for row in range(a, b)] == list(range(len(lengths)))
        for a, b in spans:
            read = (b - a) * (max(lengths[a:b]) + 32)
            assert read <= 1.5 * sum(length + 32 for length in lengths[a:b])
            assert read <= most or b == a + 1


# ---- counted work --------------------------------------------------------------------------------


def test_running_chats_share_one_forward_a_step(owl2: OwlForConditionalGeneration) -> None:
    rows = Rows(owl2)
    engine = Engine(owl2)
    together(engine, [request(owl2, rows.row("image", 3 + number)) for number in range(8)])
    assert engine.counts["decode_forwards"] == NEW - 1
    assert engine.counts["tokens"] == 1 + 8 * NEW
    assert engine.counts["prefill_forwards"] <= 3


def test_a_follow_up_reads_only_what_is_new(owl: OwlForConditionalGeneration) -> None:
    rows = Rows(owl)
    first = rows.row(3, "image", 6)
    engine = Engine(owl)
    said = ids(list(engine.submit(request(owl, first))))
    second = Row([*first.ids, *said, *rows.text(7)], first.images)
    before = engine.counts.copy()
    events = list(engine.submit(request(owl, second)))
    assert ids(events) == generated(owl, second)
    # The last token of an answer was never read itself.
    assert engine.counts["prefill_positions"] - before["prefill_positions"] == 7 + 1
    assert events[-1].reused == len(first.ids) + NEW - 1
    assert engine.counts["media_encoded"] == 1


def test_what_was_said_before_may_change_in_the_middle(owl: OwlForConditionalGeneration) -> None:
    """Reuse ends where ids or pictures differ, although positions look the same."""
    rows = Rows(owl)
    first = rows.row(5, "image", 8, "image", 4)
    other_picture = Row(first.ids, [first.images[0], rows.pixels()])
    other_word = Row([*first.ids[:3], 7, *first.ids[4:]], first.images)
    engine = Engine(owl)
    answers(engine, [request(owl, first)])
    kept_with_picture = 1 + 5 + owl.config.media_length + 8
    for row, kept in ((other_picture, kept_with_picture), (other_word, 3), (first, None)):
        events = list(engine.submit(request(owl, row)))
        assert ids(events) == generated(owl, row)
        if kept is not None:
            assert events[-1].reused == kept


def test_many_may_share_a_beginning_that_still_runs(owl2: OwlForConditionalGeneration) -> None:
    rows = Rows(owl2)
    stem = rows.row("image", 30)
    engine = Engine(owl2)
    others = [Row([*stem.ids, *rows.text(2)], stem.images) for _ in range(3)]
    handles = []

    def hear(event: Event) -> None:
        if isinstance(event, Token) and not handles:
            handles.extend(engine.submit(request(owl2, other)) for other in others)

    run(engine, request(owl2, stem), hear)
    for other, handle in zip(others, handles, strict=True):
        events = list(handle)
        assert ids(events) == generated(owl2, other)
        assert events[-1].reused == len(stem.ids)
    assert engine.counts["media_encoded"] == 1


def test_a_repeated_picture_is_encoded_once(owl2: OwlForConditionalGeneration) -> None:
    rows = Rows(owl2)
    one = rows.row("image", 4, "image", 2)
    twice = Row(one.ids, [one.images[0], one.images[0]])
    again = Row([9, *one.ids], [one.images[0], one.images[0]])
    engine = Engine(owl2)
    assert answers(engine, [request(owl2, twice), request(owl2, again)]) == [
        generated(owl2, twice),
        generated(owl2, again),
    ]
    assert engine.counts["media_encoded"] == 1


def test_rows_that_are_known_need_no_pixels(owl2: OwlForConditionalGeneration) -> None:
    row = Rows(owl2).row("image", 4)
    asked = request(owl2, row)
    medium = asked.media[0]
    made = Engine(owl2).forward.encode([medium])[0].detach()
    known = Request(
        asked.ids, [Medium("image", medium.start, medium.length, b"k", rows=made)], NEW, stop_ids=frozenset()
    )
    engine = Engine(owl2)
    assert answers(engine, [known]) == [generated(owl2, row)]
    assert engine.counts["media_encoded"] == 0


def test_another_rotary_stretch_reuses_nothing() -> None:
    config = FAMILIES["tiny-owl2.1"].config()
    config.text_config.seq_length = 16
    owl = random_owl(config, torch.float32)
    owl.generation_config.eos_token_id = None
    rows = Rows(owl)
    first = rows.row(10)
    longer = Row([*first.ids, *rows.text(3)])
    stretched = Row([*first.ids, *rows.text(30)])
    engine = Engine(owl)
    answers(engine, [request(owl, first, 2)])
    for row, reused in ((longer, 11), (stretched, 0)):
        events = list(engine.submit(request(owl, row)))
        assert ids(events) == generated(owl, row)
        assert events[-1].reused == reused
    together_again = [rows.row(n) for n in (4, 40, 20, 70)]
    assert answers(engine, [request(owl, row) for row in together_again]) == [
        generated(owl, row) for row in together_again
    ]


def test_changed_weights_make_what_was_kept_void(owl2: OwlForConditionalGeneration) -> None:
    owl = endless("tiny-owl2", seed=5)
    row = Rows(owl).row("image", 6)
    engine = Engine(owl)
    answers(engine, [request(owl, row)])
    with torch.no_grad():
        owl.model.vision.embeddings.position_embedding.mul_(-2)
        owl.model.language_model.layers[0].mlp.up_proj.weight.mul_(3)
    events = list(engine.submit(request(owl, row)))
    assert ids(events) == generated(owl, row)
    assert events[-1].reused == 0


# ---- memory, queue, order ------------------------------------------------------------------------


def test_little_memory_means_waiting_not_failing(owl2: OwlForConditionalGeneration) -> None:
    rows = Rows(owl2)
    each = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, width, bytes
    engine = Engine(owl2, EngineOptions(memory=int(2.3 * 128 * each / 0.9)))
    asked = [rows.row(20 + 9 * number, *["image"][: number % 2]) for number in range(7)]
    assert answers(engine, [request(owl2, row) for row in asked]) == [generated(owl2, row) for row in asked]
    assert engine.scheduler.cache.slots == 2
    with pytest.raises(RequestError, match=r"300 new ones need .* MiB; there are .* MiB .* positions"):
        engine.submit(request(owl2, rows.row(9), 300))


def test_a_long_request_gets_the_room_of_short_ones_that_ended(owl2: OwlForConditionalGeneration) -> None:
    rows = Rows(owl2)
    each = 2 * 2 * 2 * 16 * 4
    engine = Engine(owl2, EngineOptions(memory=int(4 * 128 * each / 0.9) + 99))
    short, long = [rows.row(9) for _ in range(4)], rows.row(400)
    assert answers(engine, [request(owl2, row) for row in short]) == [generated(owl2, row) for row in short]
    assert engine.scheduler.cache.slots == 4
    assert answers(engine, [request(owl2, long)]) == [generated(owl2, long)]
    assert engine.scheduler.cache.slots == 1
    assert answers(engine, [request(owl2, row) for row in short]) == [generated(owl2, row) for row in short]
    assert engine.scheduler.cache.slots == 4


def test_the_context_ends_an_answer(owl2: OwlForConditionalGeneration) -> None:
    engine = Engine(owl2, EngineOptions(context=20))
    row = Rows(owl2).row(14)
    *_, last = engine.submit(request(owl2, row))
    assert last == Finish("length", 15, 0, 5)
    with pytest.raises(RequestError, match="a prompt of 21 positions; the context holds 20"):
        engine.submit(request(owl2, Rows(owl2).row(20)))


def test_the_queue_is_bounded_and_in_order(owl2: OwlForConditionalGeneration) -> None:
    engine = Engine(owl2, EngineOptions(slots=1, queue=2))
    row, ended = Rows(owl2).row(3), []

    def hear(event: Event) -> None:
        if isinstance(event, Token) and not ended:
            ended.append("first token")
            for name in "ab":
                engine.submit(request(owl2, row, 2), lambda event, name=name: note(name, event))
            with pytest.raises(Busy, match="2 requests wait, of 2"):
                engine.submit(request(owl2, row))
        note("first", event)

    def note(name: str, event: Event) -> None:
        if isinstance(event, Finish):
            ended.append(name)

    run(engine, request(owl2, row, 3), hear)
    assert ended == ["first token", "first", "a", "b"]


def test_closing_ends_what_runs(owl2: OwlForConditionalGeneration) -> None:
    engine = Engine(owl2)
    handle = engine.submit(request(owl2, Rows(owl2).row(3), 1500))
    assert isinstance(next(iter(handle)), Token)
    engine.close()
    with pytest.raises(RequestError, match="the engine was closed"):
        list(handle)
    with pytest.raises(RequestError, match="the engine is closed"):
        engine.submit(request(owl2, Rows(owl2).row(3)))


# ---- one fault stays one -------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["shape", "not finite"])
def test_bad_pixels_fail_alone_and_leave_nothing_behind(owl2: OwlForConditionalGeneration, fault: str) -> None:
    rows = Rows(owl2)
    asked = [rows.row("image", 3 + number) for number in range(3)]
    bad = rows.row("image", 5)
    bad.images = [torch.zeros(3, 9, 9) if fault == "shape" else torch.full_like(bad.images[0], torch.inf)]
    expected = [generated(owl2, row) for row in asked]
    engine = Engine(owl2)
    requests = [request(owl2, row) for row in asked]
    for _ in range(2):  # the second time around, slots hold what the first one left
        handles: list = []

        def hear(event: Event, handles: list = handles) -> None:
            if isinstance(event, Token):
                handles.extend(engine.submit(each) for each in (requests[0], request(owl2, bad), *requests[1:]))

        run(engine, Request([1], max_new_tokens=1, stop_ids=frozenset()), hear)
        broken = handles.pop(1)
        assert [ids(list(handle)) for handle in handles] == expected
        with pytest.raises((RequestError, RuntimeError, ValueError)):
            list(broken)
    assert engine.counts["ended_failure"] == 2
    assert engine.running == 0


def test_a_listener_or_a_step_that_raises_ends_its_own_request(
    owl2: OwlForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(owl2)
    engine = Engine(owl2)
    asked = [rows.row(5 + number) for number in range(4)]
    decode = engine.forward.decode

    def choke(first: int, tokens: list[int], lengths: list[int], alphas: list) -> torch.Tensor:
        if len(asked[2].ids) + 3 in lengths and any(
            slot.ids[:6] == asked[2].ids[:6] for slot in rows_of(first, tokens)
        ):
            raise MemoryError("full")
        return decode(first, tokens, lengths, alphas)

    def rows_of(first: int, tokens: list[int]) -> list:
        return engine.scheduler.slots[first : first + len(tokens)]

    monkeypatch.setattr(engine.forward, "decode", choke)
    heard: dict[int, list[Event]] = {number: [] for number in range(4)}

    def hear(number: int, event: Event) -> None:
        heard[number].append(event)
        if number == 1 and len(heard[1]) == 4:
            raise ZeroDivisionError("mine")

    def enter(event: Event) -> None:
        if isinstance(event, Token):
            for number, row in enumerate(asked):
                engine.submit(request(owl2, row), lambda event, number=number: hear(number, event))

    run(engine, Request([1], max_new_tokens=1, stop_ids=frozenset()), enter)
    for number in (0, 3):
        assert ids(heard[number]) == generated(owl2, asked[number])
    for number, kind, tokens in ((1, ZeroDivisionError, 4), (2, MemoryError, 4)):
        assert ids(heard[number]) == generated(owl2, asked[number])[:tokens]
        assert isinstance(heard[number][-1], Failure)
        assert isinstance(heard[number][-1].error, kind)


def test_a_fault_of_the_engine_is_told_to_all_and_overcome(
    owl2: OwlForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(owl2)
    engine = Engine(owl2)
    asked = [rows.row("image", 5 + number) for number in range(3)]
    expected = [generated(owl2, row) for row in asked]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_prefill", lambda: 1 / 0)
        handles = engine.submit_all([(request(owl2, row), None) for row in asked])
        for handle in handles:
            with pytest.raises(ZeroDivisionError):
                list(handle)
    wait(engine)
    assert answers(engine, [request(owl2, row) for row in asked]) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": []}, "no positions"),
        ({"ids": [1, 5000]}, "outside of the vocabulary of 259"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"logprobs": 99}, "logprobs=99"),
        ({"media": []}, r"9 media position\(s\) in the prompt, but its 0"),
        ({"media": [Medium("image", 2, 9, b"", torch.zeros(3, 56, 56))]}, "cover 9 or others"),
        ({"media": [Medium("image", 1, 9, b"")]}, "neither pixels nor rows"),
    ],
)
def test_requests_that_contradict_themselves(owl2: OwlForConditionalGeneration, change: dict, words: str) -> None:
    asked = request(owl2, Rows(owl2).row("image", 4))
    given = {"ids": asked.ids, "media": asked.media} | change
    with pytest.raises(RequestError, match=words):
        Engine(owl2).submit(Request(**given))


# ---- wishes --------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_whatever_runs_beside_it(owl: OwlForConditionalGeneration) -> None:
    rows = mixed(owl)
    wishes = [
        Sampling(temperature=1.3, seed=3),
        Sampling(temperature=0.8, seed=3, top_k=7, top_p=0.9),
        Sampling(),
        Sampling(temperature=2.0, seed=2**70, min_p=0.05, repetition_penalty=1.2),
    ]
    asked = [request(owl, row, sampling=wish) for row, wish in zip(rows, wishes, strict=True)]
    alone = [answers(Engine(owl), [one])[0] for one in asked]
    assert answers(Engine(owl), asked) == alone
    assert answers(Engine(owl, EngineOptions(chunk=7)), asked[::-1]) == alone[::-1]
    other = Sampling(temperature=1.3, seed=4)
    assert answers(Engine(owl), [request(owl, rows[0], sampling=other)]) != alone[:1]


def test_repetition_penalty_is_that_of_generate(owl: OwlForConditionalGeneration) -> None:
    row = mixed(owl)[0]
    wish = Sampling(repetition_penalty=0.4)
    expected = generated(owl, row, repetition_penalty=0.4)
    assert expected != generated(owl, row)
    assert answers(Engine(owl), [request(owl, row, sampling=wish)]) == [expected]


def test_logprobs_are_those_of_the_model(owl2: OwlForConditionalGeneration) -> None:
    row = Rows(owl2).row(7)
    events = list(Engine(owl2).submit(request(owl2, row, 4, logprobs=3)))
    said = ids(events)
    with torch.inference_mode():
        logits = owl2(input_ids=torch.tensor([[*row.ids, *said]])).logits[0, len(row.ids) - 1 : -1]
    expected = logits.log_softmax(-1)
    for place, event in enumerate(events[:-1]):
        assert event.logprob == pytest.approx(float(expected[place, said[place]]), abs=1e-4)
        values, likely = expected[place].topk(3)
        assert [id for id, _ in event.likely] == likely.tolist()
        assert [logprob for _, logprob in event.likely] == pytest.approx(values.tolist(), abs=1e-4)


def test_end_ids_and_the_listener_end_an_answer(owl2: OwlForConditionalGeneration) -> None:
    row = Rows(owl2).row(7)
    said = generated(owl2, row)
    end = next(place for place in range(2, NEW) if said[place] not in said[:place])
    *tokens, last = Engine(owl2).submit(request(owl2, row, stop_ids=frozenset([said[end]])))
    assert ids(tokens) == said[:end]
    assert last == Finish("stop", len(row.ids), 0, end + 1)
    heard: list[Event] = []
    run(Engine(owl2), request(owl2, row), lambda event: heard.append(event) or len(heard) == 3)
    assert ids(heard) == said[:3]
    assert heard[-1] == Finish("stop", len(row.ids), 0, 3)
