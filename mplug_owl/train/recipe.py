"""A recipe: one complete run as frozen dataclasses, read from one TOML file.

Each field says below what it means. Cross-field rules stand in `__post_init__`, each naming both fields and both
values. How a recipe is carried out is written in `stages.py` and `loop.py`.
"""

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

from mplug_owl import settings
from mplug_owl.errors import ConfigError, did_you_mean

PLACEHOLDER = "SET-ME"  # begins the paths in shipped recipes that a user fills in
MODULES = ("vision", "abstractor", "visual", "language", "lora")


@dataclass(frozen=True)
class Init:
    """Where the weights come from; what is not named starts random."""

    family: str = "tiny-owl2"
    """Architecture, a row of families.py; ignored where `start` is given."""
    start: str | None = None
    """A whole owl to go on from: a folder, a hub name, or the result of an earlier stage."""
    vision: str | None = None
    """A Transformers CLIPVisionModel folder for f_V; with a connector, any vision tower."""
    language: str | None = None
    """A Transformers LlamaForCausalLM folder for f_L, with its tokenizer; with a connector, any Llama-like decoder."""
    connector: Literal["abstractor", "linear", "mlp", "q-former", "resampler"] | None = None
    """Puts an owl together from `vision` and `language`, with this between them (`family` is then not asked); or takes
    the place of f_K in `start`, and starts random.
    """
    features: Literal["last", "penultimate"] | None = None
    """Layer of the tower that a connector reads; the penultimate one for linear and mlp unless given."""
    cls: bool | None = None
    """Whether a connector sees the cls token; all but linear and mlp do unless told."""
    image_size: int | None = None
    """Side of the pictures, where it is not that of the family or of `start`."""
    queries: int | None = None
    """Learned queries of f_K, where they are not as many as in the family or in `start`; f_K then starts random."""
    adaptive: bool | None = None
    """Give a Llama-like decoder a visual branch (a copy of its text branch) or take it away; None leaves it as it
    is.
    """

    def __post_init__(self) -> None:
        for name in ("vision", "language"):
            if self.start is not None and getattr(self, name) is not None:
                raise ConfigError(
                    f"init.start={self.start!r} and init.{name}={getattr(self, name)!r} are both "
                    "given: start from a whole owl or put one together from parts"
                )
        absent = [name for name in ("vision", "language") if getattr(self, name) is None]
        if self.connector is not None and self.start is None and absent:
            raise ConfigError(
                f"init.connector={self.connector!r} is given, but not init.{absent[0]}: a connector stands between two "
                "parts, give both, or a whole owl as init.start"
            )
        for name in ("features", "cls"):
            if (self.connector is None or self.start is not None) and getattr(self, name) is not None:
                raise ConfigError(
                    f"init.{name}={getattr(self, name)!r} is given without init.connector, or with init.start: only an "
                    "owl put together from a tower and a decoder has that choice"
                )


@dataclass(frozen=True)
class Source:
    path: str
    """File, glob or folder."""
    weight: float | None = None
    """Share in the mixture, relative to the other sources; given for all or for none. Without weights every row comes
    once an epoch.
    """
    format: str | None = None
    """Record format; recognised if not given."""
    image_root: str | None = None
    """Folder that media paths are relative to; the data file's own unless given."""


@dataclass(frozen=True)
class Data:
    sources: tuple[Source, ...] = ()
    held_out: tuple[Source, ...] = ()
    """Sources for the held-out loss."""
    max_length: int = 2048
    """Positions of a row, media included."""
    pack: bool = True
    """Put whole samples together into one row."""
    images_per_row: int = 16
    """Image budget of a packed row."""
    multimodal_share: float | None = None
    """Fixed share of samples with media in every batch; None leaves it to the weights."""
    random_resized_crop: tuple[float, float] | None = None
    """Area range of a random crop of each picture; None for the plain image rule. Never a flip."""
    decode: Literal["exact", "fast"] = "exact"
    """"fast" lets the JPEG decoder scale down; it may differ by 2/255 on average."""
    template: str = "training"
    learn: Literal["answers", "text", "places"] = "answers"
    """What counts in the loss: answers and captions, as in the papers; all text, as language models are pretrained (the
    held-out loss is that of answers even so); or what is where in a picture, which f_V learns alone.
    """
    workers: int = 2
    bad_share: float = 0.05
    """The run stops when a larger share of the rows cannot be used."""

    def __post_init__(self) -> None:
        weights = [source.weight for source in self.sources]
        if None in weights and set(weights) != {None}:
            raise ConfigError(f"data.sources have weights {weights}: give all of them or none")


@dataclass(frozen=True)
class Module:
    """Makes one module train."""

    lr: float
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    """Each layer below the last learns at this factor of the one above it."""


@dataclass(frozen=True)
class Lora:
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05


@dataclass(frozen=True)
class Optim:
    steps: int | None = None
    """Optimizer steps; give this or `epochs`."""
    epochs: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 turns clipping off."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    min_lr: float = 0.0
    """Floor of the schedule, for a module whose lr is the largest; scaled for the others."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(f"steps={self.steps} and epochs={self.epochs}: give exactly one")


@dataclass(frozen=True)
class Batch:
    size: int = 256
    """Samples between two optimizer steps, over all ranks, packed or not."""
    micro: int = 4
    """Rows of one forward pass on one rank."""

    def __post_init__(self) -> None:
        if self.size % self.micro:
            raise ConfigError(f"batch.size={self.size} is not a multiple of batch.micro={self.micro}")


@dataclass(frozen=True)
class Compute:
    dtype: Literal["bfloat16", "float32", "float64"] = "bfloat16"
    """Compute and frozen weights; trained parameters and their optimizer state stay float32 (or float64)."""
    parallel: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    shard_group: int | None = None
    """Ranks that share one copy under hsdp."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Fused, or spelled out: three times as fast in bfloat16 on a CPU, but its memory grows with the square of the
    length.
    """
    checkpoint_activations: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Keep:
    every: int = 500
    """Steps between checkpoints."""
    last: int = 2
    """Checkpoints kept."""
    asynchronous: bool = True


@dataclass(frozen=True)
class Log:
    every: int = 1
    held_out_every: int = 500
    samples_every: int = 500
    """Steps between printed answers to held-out prompts."""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()


@dataclass(frozen=True)
class Recipe:
    name: str
    stage: Literal["language", "vision", "pretrain", "instruct"]
    """Which of the papers' stages this is (language and vision: those that LLaMA and CLIP bring along), for the reader
    and the records; the sections below decide what happens.
    """
    source: str
    """Where the values come from."""
    train: dict[str, Module]
    """What trains: vision, abstractor, visual (the decoder's visual branch), language, lora."""
    contradictions: tuple[str, ...] = ()
    """Where paper, appendix, script and authors disagree, and what was chosen."""
    seed: int = 0
    init: Init = field(default_factory=Init)
    data: Data = field(default_factory=Data)
    lora: Lora | None = None
    optim: Optim = field(default_factory=lambda: Optim(steps=1))
    batch: Batch = field(default_factory=Batch)
    compute: Compute = field(default_factory=Compute)
    keep: Keep = field(default_factory=Keep)
    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        for name in self.train:
            if name not in MODULES:
                raise ConfigError(f"train.{name}: unknown module{did_you_mean(name, MODULES)}")
        if ("lora" in self.train) != (self.lora is not None):
            raise ConfigError(
                f"train.lora is {'given' if 'lora' in self.train else 'absent'} but the section "
                f"lora is {'given' if self.lora else 'absent'}: give both or neither"
            )
        if "lora" in self.train and "language" in self.train:
            raise ConfigError("train.lora and train.language are both given: train one of them")
        changes = ("vision", "language", "connector", "image_size", "queries", "adaptive")
        made = [name for name in changes if getattr(self.init, name) is not None]
        if self.lora is not None and made:
            raise ConfigError(
                f"the section lora and init.{made[0]}={getattr(self.init, made[0])!r} are both "
                "given: an adapter is opened on a base that exists, so train without LoRA first "
                "and give the result as init.start"
            )
        doubled = [name for name in self.lora.targets if "visual_" in name] if self.lora else []
        if doubled and "visual" in self.train:
            raise ConfigError(
                f"train.visual and lora.targets={doubled[0]!r} are both given: train the visual "
                "branch whole or through LoRA"
            )

    def refuse_placeholders(self) -> None:
        """A shipped recipe leaves paths open; running it needs them."""
        data = [s.path for s in (*self.data.sources, *self.data.held_out)]
        paths = {"init.start": self.init.start, "init.vision": self.init.vision}
        paths |= {"init.language": self.init.language}
        paths |= {f"data path {i}": path for i, path in enumerate(data)}
        for name, path in paths.items():
            if path is not None and path.startswith(PLACEHOLDER):
                raise ConfigError(
                    f"{self.name}: {name} is still {path!r}; give your own, such as "
                    "init.start=FOLDER or 'data.sources=[{path=\"FILE\"}]' "
                    "('data.held_out=[]' for no held-out data)"
                )


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(str(files("mplug_owl") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """A shipped recipe by name or a TOML file by path, with dotted overrides."""
    known = shipped()
    if not name_or_path.endswith(".toml") and name_or_path not in known:
        raise ConfigError(f"unknown recipe {name_or_path!r}{did_you_mean(name_or_path, known)}")
    return settings.read(Recipe, known.get(name_or_path, Path(name_or_path)), overrides)
