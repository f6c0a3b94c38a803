"""`owl demo --inside`: follows one picture through a tiny owl, from pixels to words, and prints it.

The weights are random, so the words are noise, and it says so. The shapes are observed while the model runs; none is
written down here.
"""

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers.utils import ModelOutput

from mplug_owl.engine.public import load
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
    model, waiting = owl.model.model, owl.model.config.media_length
    modules = {"f_V vision": model.vision, "f_K abstractor": model.abstractor, "f_L language": model.language_model}
    shapes: dict[nn.Module, str] = {}

    def note(module: nn.Module, inputs: object, output: ModelOutput) -> None:
        shapes[module] = size(output.last_hidden_state)

    hooks = [module.register_forward_hook(note) for module in modules.values()]
    with torch.inference_mode():
        logits = owl.model(**inputs).logits
    for hook in hooks:
        hook.remove()
    modules["    head"], shapes[owl.model.lm_head] = owl.model.lm_head, f"{size(logits)}, the logits"

    print(f"{name}: the real architecture, tiny, with random weights\n")
    print(f"picture          {image.width} x {image.height}, a red circle and a blue square")
    print(f"processor        pixel_values {size(inputs['pixel_values'])}")
    print(f"                 input_ids {size(inputs['input_ids'])}, of which {waiting} await it\n")
    for label, module in modules.items():
        parameters = sum(weight.numel() for weight in module.parameters())
        print(f"{label:<16} {parameters:>9,} parameters -> {shapes[module]}")
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


def size(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def printable(text: str) -> str:
    """Random bytes hold broken letters, and control characters that would upset a terminal."""
    return "".join(c if c.isprintable() and c != "\ufffd" else "." for c in text)
