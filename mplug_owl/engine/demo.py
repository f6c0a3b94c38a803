"""`owl demo`: follows one picture through a tiny owl, from pixels to words, and prints it.

The weights are random, so the words are noise, and it says so. The shapes are observed while the model runs; none is
written down here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers.utils import ModelOutput

from mplug_owl.engine.public import Owl, load
from mplug_owl.messages import ImagePart, Message, TextPart

QUESTION = "What do you see?"
FAREWELL = """
The words are noise: this owl has learned nothing. To hear one that has, open a released one:
    owl chat PICTURE "What do you see?" --model FOLDER"""


def run(name: str = "tiny-owl2", *, new_tokens: int = 40) -> None:
    """Build the family `name`; print its three modules, what flows between them and an answer."""
    owl = load(name, device="cpu")
    image = picture()
    messages = [Message("user", (ImagePart(image), TextPart(QUESTION)))]
    inputs = owl.prepare(messages)
    with observed(owl) as shapes, torch.inference_mode():
        logits = owl.model(**inputs).logits
    model, waiting = owl.model.model, owl.model.config.media_length

    print(f"{name}: the real architecture, tiny, with random weights\n")
    print(f"picture          {image.width} x {image.height}, a red circle and a blue square")
    print(f"processor        pixel_values {size(inputs['pixel_values'])}")
    print(f"                 input_ids {size(inputs['input_ids'])}, of which {waiting} await it\n")
    for label, module, shape in (
        ("f_V vision", model.vision, shapes["vision"]),
        ("f_K abstractor", model.abstractor, shapes["abstractor"]),
        ("f_L language", model.language_model, shapes["language"]),
        ("    head", owl.model.lm_head, f"{size(logits)}, the logits"),
    ):
        print(f"{label:<16} {parameters(module):>9,} parameters -> {shape}")
    print(f"\n> {QUESTION}")
    for delta in owl.chat(messages, stream=True, max_new_tokens=new_tokens):
        print(printable(delta), end="", flush=True)
    print(f"\n{FAREWELL}")


def picture() -> Image.Image:
    canvas = Image.new("RGB", (160, 120), "white")
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((15, 25, 75, 85), fill="red")
    draw.rectangle((95, 45, 145, 95), fill="blue")
    return canvas


@contextmanager
def observed(owl: Owl) -> Iterator[dict[str, str]]:
    """Note the shape of what leaves each of the three modules."""
    shapes: dict[str, str] = {}
    model = owl.model.model
    modules = {"vision": model.vision, "abstractor": model.abstractor, "language": model.language_model}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: ModelOutput) -> None:
            shapes[name] = size(output.last_hidden_state)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


def size(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def printable(text: str) -> str:
    """Random bytes hold broken letters, and control characters that would upset a terminal."""
    return "".join(c if c.isprintable() and c != "\ufffd" else "." for c in text)
