"""The command `owl`: it parses, imports what a subcommand needs, calls one function, prints.

It knows every other part and none knows it; it alone joins siblings. Nothing heavy is imported before a subcommand
runs, so `owl --help` is instant. An OwlError becomes one line on stderr and exit status 2; `--debug` shows where it
came from.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import mplug_owl
from mplug_owl.errors import OwlError, RequestError, did_you_mean

HELP = """\
owl: the mPLUG-Owl family of multimodal models; owl COMMAND --help says more

use      chat ask about images and videos     batch  answer a file of them
         serve an OpenAI-compatible server    keys   who may ask it
         ui   pages: chat, compare, vote      demo   the owlet answers
         info what a model is, and takes      convert  published checkpoints
train    doctor what is wrong with data       plan   parameters, memory, time
         train  carry out a recipe            merge  an adapter into its base
         build  an owl from parts, or from a LLaVA or BLIP-2
measure  eval   scores, with intervals        score  answers of a file
         rate   grade answers blind           judge  let a model grade them
         report runs side by side; `report owleval`: that paper's figures
try      lab    a paper's ablation, small     world  the drawn world
         bench  measure speed                 look   where an answer comes from

examples
  owl chat cat.jpg "What is the cat doing?" --model ./mplug-owl2
  owl train owl2-instruct-lora init.start=./mplug-owl2 --out run

MODEL is a folder (published or native layout, or an adapter), a hub name, or a
family: owlet is trained and the default, the others have random weights.
"""

DEFAULT = "owlet"  # the model where none is named
OPTION = re.compile(r"--?[A-Za-z][^\s=]*")  # -1 is a number


class Parser(argparse.ArgumentParser):
    """The library's parser, which says what is wrong as everything here does: by an error of one line."""

    def error(self, message: str) -> NoReturn:
        said = message.removeprefix("argument ")
        raise RequestError(f"{said}{'' if said.endswith('?') else ';'} see `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ever, but a word that is no option is told before what is missed because of it."""
        words, known = list(sys.argv[1:] if args is None else args), self._option_string_actions
        for word in words[: words.index("--")] if "--" in words else words:
            option = OPTION.match(word)
            if option and " " not in word and not any(name.startswith(option[0]) for name in known):
                close = get_close_matches(option[0], [name for name in known if name.startswith("--")], 1, 0.7)
                self.error(f"unknown option {option[0]}" + (f"; did you mean {close[0]}?" if close else ""))
        return super().parse_known_args(words, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            which = f"{action.option_strings[-1]} " if action.option_strings else ""
            guess = did_you_mean(str(value), map(str, action.choices))
            raise argparse.ArgumentError(None, f"unknown {which}{value!r}{guess}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(HELP, end="")
            return 0
        if words[0] == "--version":
            print(f"owl {mplug_owl.__version__}")
            return 0
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        # Intermixed: `owl train RECIPE --out DIR name=value` as well as `... name=value --out DIR`.
        arguments = parser(name).parse_intermixed_args(words[len(name.split()) :])
        return arguments.run(arguments)
    except OwlError as error:
        if "--debug" in words:
            raise
        print(f"owl: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser(name: str) -> Parser:
    """The parser of one command, made only when that command is asked for."""
    if name not in COMMANDS:
        raise RequestError(f"unknown command {name!r}{did_you_mean(name, COMMANDS)}")
    description, fill = COMMANDS[name]
    made = Parser(prog=f"owl {name}", description=description)
    fill(made)
    made.add_argument("--debug", action="store_true", help="show where an error came from")
    return made


# ---- chat, info, convert, demo -----------------------------------------------------------------


def chat(made: Parser) -> None:
    made.add_argument(
        "words",
        nargs="*",
        metavar="IMAGE|VIDEO|QUESTION",
        help="files, folders of frames, http(s) or data URLs; and one question, in quotes",
    )
    made.add_argument("--model", help="folder, hub name or family (default: owlet, or the base of --adapter)")
    made.add_argument("--adapter", help="adapter folder; opens its base unless --model names one")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (untested)")
    made.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    made.add_argument("--system", help="system message; an empty one leaves the line out")
    made.add_argument("--template", help="chat template of the family, such as training")
    made.add_argument("--max-new-tokens", type=int, default=512, metavar="N")
    made.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    made.add_argument("--top-p", type=float, default=1.0, metavar="P")
    made.add_argument("--top-k", type=int, default=0, metavar="K")
    made.add_argument("--min-p", type=float, default=0.0, metavar="P")
    made.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R")
    made.add_argument("--seed", type=int, help="makes sampling repeat")
    made.add_argument("--quantize", choices=("int8", "int4"), help="weights of the decoder in fewer bits")
    made.add_argument("--frames", type=int, metavar="N", help="frames taken from each video")
    made.set_defaults(run=run_chat)


def run_chat(arguments: argparse.Namespace) -> int:
    from mplug_owl.engine import talk

    def open_owl() -> mplug_owl.Owl:
        quiet_when_piped()
        return mplug_owl.load(
            arguments.model or arguments.adapter or DEFAULT,
            adapter=arguments.adapter if arguments.model else None,
            device=arguments.device,
            dtype=arguments.dtype,
            quantize=arguments.quantize,
            limits=talk.limits(),
        )

    wishes = ("system", "template", "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    options = {name: getattr(arguments, name) for name in (*wishes, "seed")}
    talk.chat(arguments.words, open_owl, arguments.frames, options)
    return 0


def info(made: Parser) -> None:
    made.add_argument("model", metavar="MODEL", help="folder, hub name or family")
    made.add_argument("--json", action="store_true", help="for programs")
    made.add_argument(
        "--quantize", choices=("int8", "int4"), help="open it, and measure what fewer bits save and cost in accuracy"
    )
    made.set_defaults(run=run_info)


def run_info(arguments: argparse.Namespace) -> int:
    from mplug_owl.models.info import describe

    card = describe(arguments.model)
    cost = None
    if arguments.quantize:
        quiet_when_piped()
        from mplug_owl.engine.quantize import measured

        cost = measured(mplug_owl.load(arguments.model, dtype="bfloat16"), arguments.quantize)
    if arguments.json:
        found = dataclasses.asdict(card) | ({"quantized": dataclasses.asdict(cost)} if cost else {})
        print(json.dumps(found, indent=2))
    else:
        print(card, *([f"\n{cost}"] if cost else []), sep="\n")
    return 0


def convert(made: Parser) -> None:
    made.add_argument("published", metavar="PUBLISHED", help="published folder or hub name")
    made.add_argument("out", metavar="OUT", help="new folder")
    made.add_argument("--dtype", default="auto", help="auto (as published), bfloat16, float16, float32")
    made.set_defaults(run=run_convert)


def run_convert(arguments: argparse.Namespace) -> int:
    quiet_when_piped()
    from mplug_owl.models.published import convert

    print(convert(arguments.published, arguments.out, dtype=arguments.dtype))
    print(f"written to {arguments.out}")
    return 0


def demo(made: Parser) -> None:
    made.add_argument("--model", help=f"folder, hub name or family (default: {DEFAULT}; of --inside: tiny-owl2)")
    made.add_argument("--inside", action="store_true", help="follow one picture through a tiny random owl instead")
    made.add_argument("--draw", metavar="DIR", help="only draw the pictures and their questions anew, into DIR")
    made.set_defaults(run=run_demo)


def run_demo(arguments: argparse.Namespace) -> int:
    if arguments.draw:
        from mplug_owl.world.showcase import write

        write(arguments.draw)
        return 0
    quiet_when_piped()
    from mplug_owl.engine import demo, inside
    from mplug_owl.models.families import FAMILIES

    untaught = arguments.model is None and not FAMILIES[DEFAULT].is_trained
    if untaught and not arguments.inside:
        print(f"the {DEFAULT} has no weights in this copy yet (`owl train {DEFAULT} --out RUN` makes them);")
        print("here is the way of a picture through a tiny random owl instead\n")
    if untaught or arguments.inside:
        inside.run(arguments.model or "tiny-owl2")
    else:
        demo.run(mplug_owl.load(arguments.model or DEFAULT))
    return 0


def quiet_when_piped() -> None:
    """Progress bars are for people: none where stderr is a file or a pipe."""
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()


# ---- commands whose parsers stand beside their code ----------------------------------------------


def doctor(made: Parser) -> None:
    from mplug_owl.data.doctor import add_arguments

    add_arguments(made)
    made.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """The doctor knows data alone: the recipe and the processor are opened for it."""
    from mplug_owl.data import doctor

    recipe = processor = None
    if arguments.recipe:
        from mplug_owl.train import recipe as recipes

        recipe = recipes.load(arguments.recipe)
    model = arguments.model
    if recipe is not None and model is None and recipe.init.connector:
        from mplug_owl.models.built import built_processor
        from mplug_owl.models.slots import Slots

        names = [field.name for field in dataclasses.fields(Slots)]
        parts: dict[str, Any] = {name: getattr(recipe.init, name) for name in names}
        processor = built_processor(Slots(**{**parts, "adaptive": bool(recipe.init.adaptive)}))
    elif recipe is not None and model is None:
        model = recipe.init.start or recipe.init.family
    if model:
        from mplug_owl.models import load_processor

        processor = load_processor(model)
    return doctor.run(arguments, recipe.data if recipe else None, processor)


def beside(module: str, *, quiet: bool = True) -> Callable[[Parser], None]:
    """A command whose arguments and work stand in a module of its own."""

    def fill(made: Parser) -> None:
        command = import_module(module)
        command.add_arguments(made)
        made.set_defaults(run=quietly(command.run) if quiet else command.run)

    return fill


def quietly(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def call(arguments: argparse.Namespace) -> int:
        quiet_when_piped()
        return run(arguments)

    return call


def world(made: Parser) -> None:
    from mplug_owl.world.command import add_arguments

    add_arguments(made)
    made.set_defaults(run=run_world)


def run_world(arguments: argparse.Namespace) -> int:
    """The world knows no models: what is made of both is made here."""
    from mplug_owl.world import command

    if arguments.what[:1] != ["tokenizer"]:
        return command.run(arguments)
    if len(arguments.what) != 2:
        raise RequestError("expected: owl world tokenizer OUT, a folder for tokenizer.json")
    from mplug_owl.models.tokenizers import train_tokenizer
    from mplug_owl.world.vocabulary import ROWS, lines, vocabulary

    made, folder = train_tokenizer(lines(ROWS), known=vocabulary()), Path(arguments.what[1])
    folder.mkdir(parents=True, exist_ok=True)
    made.backend_tokenizer.save(str(folder / "tokenizer.json"))
    print(f"{len(made)} ids written to {folder / 'tokenizer.json'}")
    return 0


def rate(made: Parser) -> None:
    from mplug_owl.eval.rate_command import add_arguments

    add_arguments(made)
    made.set_defaults(run=run_rate)


def run_rate(arguments: argparse.Namespace) -> int:
    """What is rated is made in eval, the page in serve."""
    from mplug_owl.eval import rate_command
    from mplug_owl.serve.ui.rate import open_page

    return rate_command.run(arguments, open_page)


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "chat": ("Ask about images and videos. Without a QUESTION a conversation begins; /help lists its commands.", chat),
    "batch": (
        "Answer a file of conversations, one line each; the same command goes on.",
        beside("mplug_owl.serve.batch_command"),
    ),
    "info": ("What a model is, from its configuration and file headers alone.", info),
    "convert": ("Convert a published checkpoint into the native Transformers layout.", convert),
    "doctor": ("Examine training data before a run: every row that would not train.", doctor),
    "plan": ("What a recipe will take: parameters, FLOPs, memory, hours.", beside("mplug_owl.train.plan", quiet=False)),
    "train": (
        "Carry out a recipe. The same command goes on where a run was stopped.",
        beside("mplug_owl.train.command"),
    ),
    "merge": ("Fold an adapter into its base and write an ordinary model folder.", beside("mplug_owl.models.adapters")),
    "build": ("Put an owl together from parts, or import somebody else's.", beside("mplug_owl.models.build_command")),
    "serve": ("Serve owls behind the OpenAI API.", beside("mplug_owl.serve.command")),
    "keys": ("Make, list and remove the keys that a server asks for.", beside("mplug_owl.serve.keys", quiet=False)),
    "ui": ("Pages in the browser: chat with an owl, compare two, vote.", beside("mplug_owl.serve.ui.command")),
    "eval": (
        "Ask a model the questions of a task and score its answers; the same command goes on.",
        beside("mplug_owl.eval.command"),
    ),
    "score": ("Score a file of answers as owl eval would.", beside("mplug_owl.eval.score_command")),
    "rate": ("Grade answers to OwlEval A to D, blind, on a page.", rate),
    "judge": (
        "Let a model grade answers, and say how far people agree with it.",
        beside("mplug_owl.eval.judge_command"),
    ),
    "report": ("Runs of owl eval and owl score side by side.", beside("mplug_owl.eval.report_command", quiet=False)),
    "report owleval": ("The figures of OwlEval from grades.", beside("mplug_owl.eval.owleval.command", quiet=False)),
    "lab": (
        "Carry out a study of small owls; the same command goes on where it stopped.",
        beside("mplug_owl.lab.command"),
    ),
    "bench": (
        "Measure speed against named baselines; one JSON line a measurement.",
        beside("mplug_owl.bench", quiet=False),
    ),
    "world": ("Look at the drawn world or write it to files; `tokenizer OUT` trains the owlet's on its texts.", world),
    "look": ("Show where in the pictures each word of an answer comes from.", beside("mplug_owl.eval.look_command")),
    "demo": ("Let the owlet answer about six pictures; on a terminal, then about yours.", demo),
}
