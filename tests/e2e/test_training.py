"""Both stages on files a user would have, from the command line: tars, then jsonl, then chat.

The tiny owl learns to name the colour of a picture. What it answers about the pictures must beat
what it answers about grey ones, or it has learned nothing through its eyes.
"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mplug_owl
from mplug_owl.cli import main

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 50), "blue": (40, 60, 220), "white": (250, 250, 250)}
QUESTION = "colour?"
BATCH = """
[optim]
steps = {steps}
warmup_steps = 5
clip = 1.0

[batch]
size = 16
micro = 16

[compute]
dtype = "float32"

[keep]
every = 20
asynchronous = false

[log]
held_out_every = 1000
samples_every = 1000
"""
PRETRAIN = """
name = "colours-pretrain"
stage = "pretrain"
source = "a test"

[init]
family = "tiny-owl2"

[train.vision]
lr = 2e-3
[train.abstractor]
lr = 2e-3
[train.visual]
lr = 2e-3
[train.language]
lr = 2e-3

[data]
max_length = 256
workers = 0
random_resized_crop = [0.7, 1.0]

[[data.sources]]
path = "{data}"
[[data.sources]]
path = "{texts}"
"""
INSTRUCT = """
name = "colours-instruct"
stage = "instruct"
source = "a test"

[init]
start = "{start}"

[train.abstractor]
lr = 1e-3
[train.lora]
lr = 1e-2

[lora]
rank = 8
alpha = 16
dropout = 0.0
targets = ["q_proj", "v_proj", "down_proj"]

[data]
max_length = 256
workers = 0

[[data.sources]]
path = "{data}"
"""


def picture(colour: str, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 12, (48, 64, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def write_tar(path: Path, count: int) -> None:
    """Caption pairs as img2dataset writes them."""
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            colour = list(COLOURS)[index % len(COLOURS)]
            buffer = io.BytesIO()
            picture(colour, index).save(buffer, format="JPEG", quality=92)
            for suffix, content in (("jpg", buffer.getvalue()), ("txt", colour.encode())):
                member = tarfile.TarInfo(f"{index:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_texts(path: Path) -> Path:
    """Text that teaches the language model what an answer is: the real f_L comes with that."""
    rows = []
    for index in range(32):
        colour = list(COLOURS)[index % len(COLOURS)]
        turns = [("user", f"{QUESTION} say {colour}"), ("assistant", colour)]
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_chats(folder: Path, count: int) -> Path:
    rows = []
    for index in range(count):
        colour = list(COLOURS)[index % len(COLOURS)]
        picture(colour, 1000 + index).save(folder / f"{index}.png")
        turns = [("human", f"<image>\n{QUESTION}"), ("gpt", colour)]
        conversations = [{"from": role, "value": value} for role, value in turns]
        rows.append({"id": str(index), "image": f"{index}.png", "conversations": conversations})
    path = folder / "chats.json"
    path.write_text(json.dumps(rows))
    return path


def accuracy(owl: mplug_owl.Owl, *, grey: bool) -> float:
    right = 0
    for index in range(20):
        colour = list(COLOURS)[index % len(COLOURS)]
        image = Image.new("RGB", (64, 48), (128, 128, 128)) if grey else picture(colour, 5000 + index)
        answer = owl.chat(QUESTION, images=[image], max_new_tokens=8, template="training")
        right += answer.strip() == colour
    return right / 20


@pytest.mark.slow
def test_two_stages_then_merge_and_chat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "pairs-00000.tar", 64)
    (tmp_path / "pretrain.toml").write_text(
        PRETRAIN.format(data=tmp_path / "pairs-*.tar", texts=write_texts(tmp_path / "texts.jsonl"))
        + BATCH.format(steps=150)
    )
    first = ["train", str(tmp_path / "pretrain.toml"), "--out", str(tmp_path / "stage1")]
    assert main(["plan", first[1]]) in (0, 1)
    assert main(["doctor", str(tmp_path / "pairs-00000.tar"), "--model", "tiny-owl2"]) == 0
    assert main(first) == 0
    lines = (tmp_path / "stage1" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in losses if row.get("loss") is not None]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])

    chats = write_chats(tmp_path, 64)
    start = tmp_path / "stage1" / "final"
    (tmp_path / "instruct.toml").write_text(INSTRUCT.format(start=start, data=chats) + BATCH.format(steps=150))
    assert main(["train", str(tmp_path / "instruct.toml"), "--out", str(tmp_path / "stage2")]) == 0

    adapter = tmp_path / "stage2" / "adapter"
    owl = mplug_owl.load(adapter, device="cpu")
    seen, unseen = accuracy(owl, grey=False), accuracy(owl, grey=True)
    assert seen >= 0.9 and seen >= unseen + 0.5, (seen, unseen)

    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    picture("blue", 9999).save(tmp_path / "ask.png")
    ask = ["chat", str(tmp_path / "ask.png"), QUESTION, "--max-new-tokens", "8", "--template", "training"]
    answers = []
    for words in (["--adapter", str(adapter)], ["--model", str(tmp_path / "merged")]):
        capsys.readouterr()
        assert main([*ask, *words]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert answers[0].strip() == "blue"
