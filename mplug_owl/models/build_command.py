"""`owl build`: an owl from parts or from somebody else's owl, written as an ordinary model folder. Light to import."""

import argparse
from pathlib import Path

from mplug_owl.errors import ConfigError

EXAMPLES = """\
examples
  owl build my-owl --vision google/siglip-so400m-patch14-384 \\
      --connector abstractor --language Qwen/Qwen2.5-7B-Instruct --adaptive
  owl build llava --from llava-hf/llava-1.5-7b-hf
"""
CONNECTORS = ("abstractor", "linear", "mlp", "q-former", "resampler")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `owl build`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("out", metavar="OUT", help="new folder")
    parser.add_argument("--vision", metavar="V", help="CLIP, SigLIP, DINO, BLIP-2, an owl")
    parser.add_argument("--connector", metavar="C", help=", ".join(CONNECTORS))
    parser.add_argument("--language", metavar="L", help="Llama, Mistral, Qwen2/3, SmolLM, Gemma, Phi-3, OPT")
    parser.add_argument(
        "--adaptive", action="store_true", default=None, help="norms, keys and values of its own for vision"
    )
    parser.add_argument("--queries", type=int, metavar="N", help="learned queries (64)")
    parser.add_argument("--features", metavar="F", help="layer of V: last or penultimate")
    parser.add_argument("--cls", action=argparse.BooleanOptionalAction, help="keep the cls token")
    parser.add_argument("--image-size", type=int, metavar="N", help="side of the pictures")
    parser.add_argument("--from", dest="source", metavar="X", help="import a LLaVA-1.5 or BLIP-2 folder")
    parser.add_argument("--projection", metavar="FILE", help="MiniGPT-4: --from BLIP-2 --language VICUNA")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what starts random (0)")
    parser.add_argument("--dtype", default="auto", metavar="T", help="float32 (auto), bfloat16")


def run(arguments: argparse.Namespace) -> int:
    """Build, write, and say what it became."""
    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} exists and is not empty; give a new folder, or empty it")
    check(arguments)

    from mplug_owl.models import as_dtype
    from mplug_owl.models.info import describe

    dtype = "auto" if arguments.dtype == "auto" else as_dtype(arguments.dtype)
    if arguments.source is not None:
        from mplug_owl.models.imports import imported

        model, processor = imported(
            arguments.source, language=arguments.language, projection=arguments.projection, dtype=dtype
        )
    else:
        from mplug_owl.models.built import build
        from mplug_owl.models.slots import Slots

        slots = Slots(
            arguments.vision,
            arguments.connector,
            arguments.language,
            bool(arguments.adaptive),
            arguments.queries,
            arguments.features,
            arguments.cls,
            arguments.image_size,
        )
        model, processor = build(slots, seed=arguments.seed, dtype=dtype)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    print(describe(out))
    print(f"written to {out}")
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Either three slots, or somebody else's owl."""
    slots = ("vision", "connector", "language")
    absent = [name for name in slots if getattr(arguments, name) is None]
    if arguments.source is None and absent:
        raise ConfigError(
            f"no --{absent[0]}: an owl is built from --vision, --connector ({', '.join(CONNECTORS)}) and "
            "--language, or imported with --from"
        )
    if arguments.source is not None:
        choices = ("vision", "connector", "adaptive", "queries", "features", "cls", "image_size")
        given = [name for name in choices if getattr(arguments, name) is not None]
        if given:
            raise ConfigError(
                f"--from and --{given[0].replace('_', '-')} are both given: an import is what it was; leave one out"
            )
