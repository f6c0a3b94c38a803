"""Properties of the composed model, for every family: rows alone and in batches, media in any
order, loss, gradients.
"""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from mplug_owl.errors import RequestError
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.loss import token_loss
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from owls import TINY, Rows, batch, media, random_owl

EXACT = {"rtol": 0, "atol": 1e-9}


@pytest.fixture(scope="module", params=TINY)
def owl(request: pytest.FixtureRequest) -> OwlForConditionalGeneration:
    return random_owl(request.param)


def mixed_rows(owl: OwlForConditionalGeneration, seed: int = 1) -> list:
    rows = Rows(owl, seed)
    return [
        rows.row(4, "image", 3, "image", 2),
        rows.row("image", 5),
        rows.row(6),
        rows.row(2, ("video", 3), 1, "image", 4),
        rows.row(("video", 1), ("video", 2), 3),
    ]


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_each_row_alone(owl: OwlForConditionalGeneration, side: str) -> None:
    rows = mixed_rows(owl)
    together = owl(**batch(rows, side)).logits
    for row, logits in zip(rows, together, strict=True):
        alone = owl(**batch([row])).logits[0]
        inside = logits[-len(row.ids) :] if side == "left" else logits[: len(row.ids)]
        torch.testing.assert_close(inside, alone, **EXACT)


@torch.inference_mode()
def test_every_picture_reaches_its_own_place(owl: OwlForConditionalGeneration) -> None:
    """Two images in one row, touching each other and a video: changing one changes exactly its
    own positions.
    """
    rows = Rows(owl)
    row = rows.row("image", "image", ("video", 2), 3)
    model, inputs = owl.model, batch([row])
    features = model.media_features(inputs["pixel_values"], inputs["pixel_values_videos"], None)
    embeds = model.embed(inputs["input_ids"], features)[0]
    q = owl.config.media_length
    torch.testing.assert_close(embeds[1 : 1 + q], features["image"][0], **EXACT)
    torch.testing.assert_close(embeds[1 + q : 1 + 2 * q], features["image"][1], **EXACT)
    torch.testing.assert_close(embeds[1 + 2 * q : -3], features["video"].flatten(0, 1), **EXACT)
    assert (features["image"][0] - features["image"][1]).abs().max() > 0.1
    before = owl(**inputs).logits
    row.images[1] = rows.pixels()
    after = owl(**batch([row])).logits
    assert torch.equal(before[:, : 1 + q], after[:, : 1 + q])
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-3


@torch.inference_mode()
def test_ragged_batch_loss_is_the_mean_over_all_targets(owl: OwlForConditionalGeneration) -> None:
    rows = mixed_rows(owl)
    inputs = batch(rows, "right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    loss = owl(**inputs, labels=labels).loss
    total, count = 0.0, 0
    for row in rows:
        alone = batch([row])
        out = owl(**alone, labels=alone["input_ids"])
        targets = sum(i < owl.config.image_token_id for i in row.ids[1:])
        total, count = total + out.loss * targets, count + targets
    torch.testing.assert_close(loss, total / count, **EXACT)


def test_batch_without_targets_gives_zero_loss_and_zero_gradients(owl: OwlForConditionalGeneration) -> None:
    inputs = batch([Rows(owl).row(3, "image", 2)])
    loss = owl(**inputs, labels=torch.full_like(inputs["input_ids"], -100)).loss
    loss.backward()
    assert loss.item() == 0.0
    grads = [p.grad for p in owl.parameters() if p.grad is not None]
    assert grads and all(torch.count_nonzero(g) == 0 for g in grads)
    owl.zero_grad(set_to_none=True)


def test_loss_normalised_by_a_given_count_adds_up_over_micro_batches(owl: OwlForConditionalGeneration) -> None:
    rows = mixed_rows(owl)
    with torch.inference_mode():
        whole = batch(rows, "right")
        labels = whole["input_ids"].masked_fill(whole["attention_mask"] == 0, -100)
        expected = owl(**whole, labels=labels).loss
        targets = int(((labels[:, 1:] >= 0) & (labels[:, 1:] < owl.config.image_token_id)).sum())
        parts = [batch([row]) for row in rows]
        got = sum(owl(**p, labels=p["input_ids"], num_items_in_batch=targets).loss for p in parts)
    torch.testing.assert_close(got, expected, **EXACT)


def test_loss_equals_the_library_loss() -> None:
    logits, labels = torch.randn(2, 5, 7, dtype=torch.float32), torch.randint(0, 7, (2, 5))
    labels[0, 2:] = -100
    from transformers.loss.loss_utils import ForCausalLMLoss

    torch.testing.assert_close(token_loss(logits, labels), ForCausalLMLoss(logits, labels, 7))


@torch.inference_mode()
def test_a_video_of_one_frame_is_an_image(owl: OwlForConditionalGeneration) -> None:
    pixels = Rows(owl).pixels(1)
    image = owl.get_image_features(pixels).pooler_output
    for video in (pixels[None], [pixels]):
        torch.testing.assert_close(owl.get_video_features(video).pooler_output, image, **EXACT)


@torch.inference_mode()
def test_videos_of_different_lengths_equal_each_alone(owl: OwlForConditionalGeneration) -> None:
    rows = Rows(owl)
    videos = [rows.pixels(n) for n in (3, 1, 4, 3)]
    together = owl.get_video_features(videos).pooler_output
    alone = torch.cat([owl.get_video_features([v]).pooler_output for v in videos])
    torch.testing.assert_close(together, alone, **EXACT)
    temporal = owl.config.vision_config.temporal
    assert len(together) == (len(videos) if temporal else sum(map(len, videos)))


@torch.inference_mode()
def test_the_order_of_frames_matters_only_with_a_temporal_branch(owl: OwlForConditionalGeneration) -> None:
    video = Rows(owl).pixels(3)
    forth = owl.get_video_features([video]).pooler_output
    back = owl.get_video_features([video.flip(0)]).pooler_output
    if owl.config.vision_config.temporal:
        assert (forth - back).abs().max() > 1e-3
    else:
        torch.testing.assert_close(forth, back.flip(0), **EXACT)


@torch.inference_mode()
@pytest.mark.parametrize("family", [name for name in TINY if "bloomz" not in name])  # BLOOM is eager only
def test_eager_attention_equals_sdpa(family: str) -> None:
    owl = random_owl(family, torch.float32)
    inputs = batch(mixed_rows(owl))
    sdpa = owl(**inputs).logits
    owl.set_attn_implementation("eager")
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(owl(**inputs).logits[kept], sdpa[kept], rtol=0, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_mask_of_true_and_false_means_the_same_everywhere(
    owl: OwlForConditionalGeneration, implementation: str
) -> None:
    """Two rows packed into one, by a block-diagonal mask, equal each row alone."""
    if implementation == "sdpa" and "bloom" in owl.config.text_config.model_type:
        pytest.skip("BLOOM is eager only")
    owl = copy.deepcopy(owl)
    owl.set_attn_implementation(implementation)
    rows = mixed_rows(owl)[:2]
    lengths = [len(row.ids) for row in rows]
    segment = torch.tensor([i for i, n in enumerate(lengths) for _ in range(n)])
    mask = (segment[:, None] == segment) & torch.ones(len(segment), len(segment)).tril().bool()
    packed = owl(
        input_ids=torch.tensor([[i for row in rows for i in row.ids]]),
        attention_mask=mask[None, None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        **media(rows),
    ).logits[0]
    alone = torch.cat([owl(**batch([row])).logits[0] for row in rows])
    exact = implementation == "sdpa"  # the library's eager softmax is in float32
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-9 if exact else 1e-4)


@torch.inference_mode()
def test_logits_to_keep(owl: OwlForConditionalGeneration) -> None:
    inputs = batch(mixed_rows(owl))
    whole, last = owl(**inputs).logits, owl(**inputs, logits_to_keep=2).logits
    torch.testing.assert_close(last, whole[:, -2:], **EXACT)


@torch.inference_mode()
def test_embeddings_and_features_brought_along_give_the_same_logits(owl: OwlForConditionalGeneration) -> None:
    rows = mixed_rows(owl)
    inputs = batch(rows)
    expected = owl(**inputs).logits
    outputs = {
        "image": owl.get_image_features(inputs["pixel_values"]),
        "video": owl.get_video_features(inputs["pixel_values_videos"]),
    }
    text = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    torch.testing.assert_close(owl(**text, mm_encoder_outputs=outputs).logits, expected, **EXACT)
    features = {name: output.pooler_output for name, output in outputs.items()}
    embeds = owl.model.embed(inputs["input_ids"], features)
    extra = {}
    if getattr(owl.model.language_model, "takes_visual_index", False):
        extra["visual_index"] = owl.model.visual_index(inputs["input_ids"], features)
    got = owl(inputs_embeds=embeds, attention_mask=inputs["attention_mask"], **extra).logits
    torch.testing.assert_close(got, expected, **EXACT)


def gradients(owl: OwlForConditionalGeneration, inputs: dict) -> dict[str, torch.Tensor]:
    owl.zero_grad(set_to_none=True)
    owl(**inputs, labels=inputs["input_ids"]).loss.backward()
    grads = {name: p.grad.clone() for name, p in owl.named_parameters() if p.grad is not None}
    owl.zero_grad(set_to_none=True)
    return grads


@pytest.mark.parametrize("family", TINY)
def test_activation_checkpointing_gives_the_same_gradients(family: str) -> None:
    owl = random_owl(family).train()
    inputs = batch(mixed_rows(owl), "right")
    plain = gradients(owl, inputs)
    owl.activation_checkpointing_enable({"use_reentrant": False})
    saved = gradients(owl, inputs)
    assert plain.keys() == saved.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(saved[name], grad, **EXACT)


@pytest.mark.parametrize("family", ["tiny-owl2", "tiny-owl2.1"])
def test_a_training_batch_without_pictures_still_uses_the_visual_branch(family: str) -> None:
    """Every rank must touch every trainable parameter: with zero rows the gradients are zeros,
    not absent.
    """
    owl = random_owl(family).train()
    grads = gradients(owl, batch([Rows(owl).row(6)]))
    visual = {name: g for name, g in grads.items() if "visual_" in name and "language_model" in name}
    assert visual and all(torch.count_nonzero(g) == 0 for g in visual.values())


def test_wrong_placeholder_counts_name_both_numbers(owl: OwlForConditionalGeneration) -> None:
    rows, q = Rows(owl), owl.config.media_length
    one = rows.row("image", 3)
    with pytest.raises(RequestError, match=rf"{q} image position.*pixels give {2 * q}"):
        owl(**batch([one]) | {"pixel_values": rows.pixels(2)})
    with pytest.raises(RequestError, match=rf"{q} image position.*pixels give 0"):
        owl(input_ids=torch.tensor([one.ids]))
    with pytest.raises(RequestError, match=rf"0 image position.*pixels give {q}"):
        owl(input_ids=torch.tensor([rows.row(4).ids]), pixel_values=rows.pixels(1))
    with pytest.raises(RequestError, match=rf"{q - 1} image position.*pixels give {q}"):
        owl(input_ids=torch.tensor([one.ids[:1] + one.ids[2:]]), **media([one]))
    lone = torch.tensor([[owl.config.image_token_id]])
    with pytest.raises(RequestError, match="1 image position"):
        owl(input_ids=lone)


def test_wrong_picture_sizes_name_both_sizes(owl: OwlForConditionalGeneration) -> None:
    row = Rows(owl).row("image", 3)
    for shape in ((1, 3, 28, 28), (1, 3, 112, 112), (1, 1, 56, 56), (1, 3, 56, 28)):
        with pytest.raises(RequestError, match=r"\[images, 3, 56, 56\]"):
            owl(input_ids=torch.tensor([row.ids]), pixel_values=torch.zeros(shape, dtype=owl.dtype))


def test_inputs_that_contradict_each_other_are_refused(owl: OwlForConditionalGeneration) -> None:
    row = Rows(owl).row("image", 3)
    inputs = batch([row])
    features = {"image": owl.get_image_features(inputs["pixel_values"])}
    with pytest.raises(RequestError, match="both image pixels and image features"):
        owl(**inputs, mm_encoder_outputs=features)
    with pytest.raises(RequestError, match="exactly one of input_ids and inputs_embeds"):
        owl(pixel_values=inputs["pixel_values"])
    embeds = owl.model.embed(inputs["input_ids"], {"image": features["image"].pooler_output})
    with pytest.raises(RequestError, match="already hold the media"):
        owl(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])


@torch.inference_mode()
def test_grouped_heads_equal_repeated_heads() -> None:
    """Grouped-query attention of the adaptive decoder against the same decoder with its
    key/value heads written out.
    """
    grouped = random_owl("tiny-owl2")
    config = grouped.config.text_config
    repeats = config.num_attention_heads // config.num_key_value_heads
    assert repeats > 1
    text = type(config)(**config.to_dict() | {"num_key_value_heads": config.num_attention_heads})
    full = OwlForConditionalGeneration(
        OwlConfig(
            vision_config=grouped.config.vision_config,
            abstractor_config=grouped.config.abstractor_config,
            text_config=text,
        )
    )
    full = full.to(grouped.dtype).eval()
    state = grouped.state_dict()
    for name, weight in state.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.unflatten(0, (config.num_key_value_heads, config.head_dim))
            state[name] = heads.repeat_interleave(repeats, 0).flatten(0, 1)
    full.load_state_dict(state)
    inputs = batch(mixed_rows(grouped))
    torch.testing.assert_close(full(**inputs).logits, grouped(**inputs).logits, **EXACT)


@torch.inference_mode()
def test_families_share_a_process_without_touching_each_other_or_llama() -> None:
    functions = {n: getattr(modeling_llama, n) for n in dir(modeling_llama) if n[0].isupper()}
    forwards = {n: f.forward for n, f in functions.items() if hasattr(f, "forward")}
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    llama, ids = LlamaForCausalLM(config).eval(), torch.arange(12)[None]
    before = llama(ids).logits
    owls = {name: random_owl(name) for name in TINY}
    alone = {name: owl(**batch(mixed_rows(owl))).logits for name, owl in owls.items()}
    for name in reversed(TINY):
        assert torch.equal(owls[name](**batch(mixed_rows(owls[name]))).logits, alone[name])
    assert torch.equal(llama(ids).logits, before)
    assert all(functions[n].forward is f for n, f in forwards.items())


@torch.inference_mode()
def test_untrained_visual_branch_equal_to_text_makes_a_plain_decoder() -> None:
    """With both branches alike, the adaptive decoder is the library's Llama, pictures included."""
    owl = random_owl("tiny-owl2")
    decoder = owl.model.language_model
    plain = modeling_llama.LlamaModel(LlamaConfig(**decoder.config.to_dict())).to(owl.dtype).eval()
    state = decoder.state_dict()
    plain.load_state_dict({n: t for n, t in state.items() if "visual_" not in n})
    state |= {n: state[n.replace("visual_", "")] for n in state if "visual_" in n}
    decoder.load_state_dict(state)
    embeds = torch.randn(2, 9, 64, dtype=owl.dtype)
    index = torch.tensor([1, 2, 3, 10, 11])
    expected = plain(inputs_embeds=embeds).last_hidden_state
    for visual in (None, index[:0], index):
        got = decoder(inputs_embeds=embeds, visual_index=visual).last_hidden_state
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["tiny-owl2", "tiny-owl2.1"])
def test_the_index_decides_the_branch_not_the_attention_mask(family: str) -> None:
    owl = random_owl(family)
    decoder = owl.model.language_model
    embeds = torch.randn(1, 8, 64, dtype=owl.dtype)
    text = decoder(inputs_embeds=embeds).last_hidden_state
    visual = decoder(inputs_embeds=embeds, visual_index=torch.tensor([2, 3])).last_hidden_state
    assert torch.equal(text[:, :2], visual[:, :2])
    assert (text[:, 2:4] - visual[:, 2:4]).abs().max() > 0.1
    assert (text[:, 5] - visual[:, 5]).abs().max() > 1e-4  # later text reads the visual keys and values


def test_every_family_is_one_class() -> None:
    kinds = {type(random_owl(name)) for name in TINY}
    assert kinds == {OwlForConditionalGeneration}
    assert {f"tiny-{n}" for n in ("owl", "owl-video", "owl-bloomz", "owl2", "owl2.1")} == set(TINY) <= set(FAMILIES)
