"""Every shipped recipe plans, and takes two real steps, on the tiny owl of its family."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from mplug_owl import load
from mplug_owl.models.tokenizers import byte_tokenizer
from mplug_owl.train import loop
from mplug_owl.train import recipe as recipes
from mplug_owl.train.plan import plan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight chats with a picture each."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for index in range(8):
        Image.new("RGB", (40, 30), (30 * index, 90, 200)).save(folder / f"{index}.png")
        turns = [("human", "<image>\nWhat?"), ("gpt", f"Number {index}.")]
        conversations = [{"from": role, "value": value} for role, value in turns]
        rows.append({"id": str(index), "image": f"{index}.png", "conversations": conversations})
    (folder / "chats.json").write_text(json.dumps(rows))
    return folder / "chats.json"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks
@pytest.mark.parametrize("name", sorted(recipes.shipped()))
def test_two_steps_of_every_recipe(name: str, data: Path, tmp_path: Path) -> None:
    family = "owlet-nano" if name.startswith("owlet") else "tiny-owl2" if name.startswith("owl2") else "tiny-owl"
    seen = "world:places/shapes:8" if name.endswith("-vision") else data
    overrides = [
        f"init.family={family}",
        *(f"init.{part}=none" for part in ("start", "vision", "language", "image_size")),
        f'data.sources=[{{path="{seen}"}}]',
        f'data.held_out=[{{path="{seen}"}}]',
        *("data.multimodal_share=none", "data.workers=0", "data.max_length=512"),
        *("optim.epochs=none", "optim.steps=2", "optim.warmup_steps=0", "batch.size=4", "batch.micro=2"),
        *("keep.asynchronous=false", "log.every=1", "log.held_out_every=2", "log.samples_every=2"),
    ]
    recipe = recipes.load(name, tuple(overrides))
    assert plan(recipe, gpus=1, gpu="CPU").total_memory > 0
    done = loop.run(recipe, tmp_path / "run")
    assert done.step == 2 and done.saved is not None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    assert len(losses) == 2 and all(loss > 0 for loss in losses)
    trained = load(done.saved, device="cpu")
    assert isinstance(trained.chat("What?", max_new_tokens=3), str)


def test_pretraining_starts_from_a_clip_and_a_llama(data: Path, tmp_path: Path) -> None:
    """The parts of the papers' first stage: a CLIP tower and a Llama with its tokenizer, as folders."""
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    clip = CLIPVisionModel(CLIPVisionConfig(**tower, image_size=56, patch_size=14))
    clip.save_pretrained(tmp_path / "clip")
    llama = LlamaForCausalLM(LlamaConfig(**tower, vocab_size=259, pad_token_id=0))
    llama.save_pretrained(tmp_path / "llama")
    byte_tokenizer().save_pretrained(tmp_path / "llama")
    overrides = [
        *("init.family=tiny-owl2", f"init.vision={tmp_path / 'clip'}", f"init.language={tmp_path / 'llama'}"),
        *("init.image_size=none", f'data.sources=[{{path="{data}"}}]', "data.held_out=[]", "data.workers=0"),
        *("data.max_length=512", "data.multimodal_share=none", "optim.steps=2", "optim.warmup_steps=0"),
        *("batch.size=4", "batch.micro=2", "keep.asynchronous=false", "compute.dtype=float32"),
    ]
    done = loop.run(recipes.load("owl2-pretrain", tuple(overrides)), tmp_path / "run")
    state = load(done.saved, device="cpu").model.state_dict()
    frozen = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(state["model.language_model.layers.0.self_attn.q_proj.weight"], llama.state_dict()[frozen])
    moved = state["model.vision.embeddings.patch_embed.weight"]
    patch = next(t for n, t in clip.state_dict().items() if n.endswith("patch_embedding.weight"))
    assert 0 < (moved - patch).abs().max() < 0.01


@pytest.mark.parametrize("name", sorted(name for name in recipes.shipped() if not name.endswith("-language")))
def test_a_recipe_that_was_not_filled_in_says_so(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    with pytest.raises(recipes.ConfigError, match=r"is still 'SET-ME"):
        loop.run(recipe, tmp_path / "run")
    assert not list(tmp_path.glob("run/checkpoints/*"))
