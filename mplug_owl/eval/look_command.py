"""`owl look`: have a question answered and show where each word comes from; or play the pointing game.

Parses and prints; the work is in the engine's insight and in `pointing.py`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mplug_owl.errors import RequestError

if TYPE_CHECKING:
    from mplug_owl.engine.insight.look import Look
    from mplug_owl.engine.public import Owl

DEFAULT = "owlet"
EXAMPLES = """\
examples
  owl look scene.png "What colour is the square?" --out look.html
  owl look a.png b.png "What differs?" --rollout vision --model ./mplug-owl2
  owl look --pointing 200              does it look at what it is asked about?
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.usage = 'owl look IMAGE|VIDEO ... "QUESTION" [--out look.png] [options]'
    parser.add_argument("words", nargs="*", metavar="IMAGE|VIDEO|QUESTION", help="as in owl chat; one question")
    parser.add_argument(
        "--out", action="append", type=Path, metavar="FILE", help=".png, .html or .json; more than once for several"
    )
    parser.add_argument("--model", help="folder, hub name or family (owlet)")
    parser.add_argument("--adapter", help="adapter folder, on its base or on --model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    parser.add_argument("--system", help="system message; an empty one leaves the line out")
    parser.add_argument("--template", help="chat template of the family")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="of the answer (64)")
    parser.add_argument("--frames", type=int, metavar="N", help="frames taken from each video")
    parser.add_argument(
        "--rollout", type=_names, default=(), metavar="A,B", help="vision, decoder: layer by layer, not direct"
    )
    parser.add_argument("--layers", type=_numbers, metavar="I,J", help="of the decoder, from 0 (all)")
    parser.add_argument("--lens", type=int, default=3, metavar="K", help="words told of a visual position (3)")
    parser.add_argument("--pointing", type=int, metavar="N", help="play the pointing game on N drawn scenes")


def run(arguments: argparse.Namespace) -> int:
    if arguments.pointing is not None:
        return _point(arguments)
    from mplug_owl.engine import talk
    from mplug_owl.engine.insight.look import check_suffix
    from mplug_owl.messages import Message, TextPart

    media, question = talk.sort_words(arguments.words, arguments.frames)
    if not media or question is None:
        raise RequestError('a look takes a picture or a video, and a question: owl look cat.png "What is this?"')
    outs = arguments.out or [Path("look.png")]
    for out in outs:
        check_suffix(out)
    shown = [talk.opened(part) for part in media]
    message = Message("user", (*shown, TextPart(question)))
    look = _owl(arguments).look(
        [message],
        rollout=arguments.rollout,
        layers=arguments.layers,
        lens=arguments.lens,
        system=arguments.system,
        template=arguments.template,
        max_new_tokens=arguments.max_new_tokens,
    )
    print(look.answer)
    print("\n".join(told(look)))
    for out in outs:
        print(f"written to {look.save(out)}")
    return 0


def told(look: "Look") -> list[str]:
    """A line for each word: how likely it was, how much of the attention was on pictures, and where most."""
    lines = [f"{'word':<20}{'likely':>8}{'on media':>10}  most"]
    on_media = look.shares[:, :, 2:].sum(-1).mean(0).tolist()
    for number, word in enumerate(look.words):
        view, x, y = look.peak(number)
        place = f"{look.views[view].name} at {100 * x:.0f}%, {100 * y:.0f}%"
        lines.append(f"{word.text[:19]:<20}{100 * word.probability:7.0f}%{100 * on_media[number]:9.0f}%  {place}")
    return lines


def _point(arguments: argparse.Namespace) -> int:
    """Play the game; the figures are printed, and the scenes written where asked to."""
    if arguments.words:
        raise RequestError(f"--pointing draws its own pictures; leave out {arguments.words[0]!r}")
    if any(out.suffix != ".json" for out in arguments.out or ()):
        raise RequestError("--pointing writes numbers; expected --out FILE.json")
    from mplug_owl.eval import pointing

    targets = pointing.colour_targets(arguments.pointing)
    pointed = pointing.play(_owl(arguments).desk, targets, rollout=arguments.rollout)
    found = pointing.figures(pointed)
    print(pointing.table(found, len(pointed)))
    for out in arguments.out or ():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(pointing.record(found, pointed), encoding="utf-8")
        print(f"written to {out}")
    return 0


def _owl(arguments: argparse.Namespace) -> "Owl":
    from mplug_owl.engine import talk
    from mplug_owl.engine.public import load

    options: dict[str, Any] = {"device": arguments.device, "dtype": arguments.dtype, "limits": talk.limits()}
    adapter = arguments.adapter if arguments.model else None
    return load(arguments.model or arguments.adapter or DEFAULT, adapter=adapter, **options)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> Sequence[int]:
    return tuple(int(number) for number in text.split(","))
