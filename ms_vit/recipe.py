"""A recipe: all that decides a training run, in one tree of small dataclasses.

Defaults here < a YAML file (a published one by name, or one's own) < what the command line or the caller changes.
The YAML files say only what differs from the defaults, or from the recipe that they name as their "base".
"""

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

import yaml

from ms_vit import schema
from ms_vit.data.images import typical_side
from ms_vit.data.layout import find_layout
from ms_vit.errors import UsageError
from ms_vit.models.config import KEYS, SHARES, ViTConfig, configure, named
from ms_vit.progress import say

RECIPES = Path(__file__).parent / "recipes"
YAML = (".yaml", ".yml")
DEFAULT_MODEL = "vit_tiny_patch16_224"
DEFAULT = "default"     # the recipe of who names none
SMALL_SIDE = 64         # pixels: such images are no photos

# What a number may be, by key: a test that NaN fails, too, and its words.
COUNT = (lambda value: 1 <= value <= 1_000_000, "must be at least 1 and at most 1,000,000")
SHARE = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")
PART = (lambda value: 0 < value <= 1, "must be above 0 and at most 1")
AMOUNT = (lambda value: 0 <= value < float("inf"), "must be a number of at least 0")
BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("train.epochs", "train.batch_size", "train.accumulate", "train.log_every", "data.workers",
                     "augment.repeats", "checkpoint.every_epochs", "checkpoint.keep"), COUNT),
    **dict.fromkeys((*(f"model.{key}" for key in SHARES), "train.ema", "loss.label_smoothing",
                     "optimizer.momentum"), SHARE),
    **dict.fromkeys(("augment.crop_pct", "optimizer.layer_decay", "schedule.gamma", "augment.mix_chance",
                     "augment.cutmix_chance"), PART),
    **dict.fromkeys(("augment.mixup", "augment.cutmix", "optimizer.lr", "optimizer.eps", "optimizer.weight_decay",
                     "optimizer.clip_norm", "schedule.warmup_epochs", "schedule.min_lr", "checkpoint.every_minutes"),
                    AMOUNT),
    "loss.distill_alpha": (lambda value: 0 <= value <= 1, "must be from 0 to 1"),
    "loss.distill_temperature": (lambda value: 0 < value < float("inf"), "must be a number above 0"),
    "data.holdout": (lambda value: 0 < value < 1, "must be above 0 and below 1"),
    "train.seed": (lambda value: 0 <= value < 1 << 32, "must be at least 0 and below 2^32"),
    "optimizer.betas": (lambda pair: all(0 <= value < 1 for value in pair), "must be two numbers from 0 to below 1"),
    "optimizer.tune": (lambda tune: isinstance(tune, str) or tune >= 1, "is all, head, or a number of blocks from 1"),
    "schedule.milestones": (lambda epochs: all(0 < epoch < float("inf") for epoch in epochs),
                            "must be epochs above 0"),
    "augment.train": (bool, "must list an operation"),
    "augment.eval": (bool, "must list an operation"),
    "augment.mean": (lambda mean: len(mean) in (1, 3) and all(map(math.isfinite, mean)),
                     "must be three numbers, or one for grey images"),
    "augment.std": (lambda std: len(std) in (1, 3) and all(0 < value < float("inf") for value in std),
                    "must be three numbers above 0, or one for grey images"),
}


@dataclass(kw_only=True)
class Data:
    """Where the images are.

    Args:
        name: a downloaded data set (a folder under root), or the path of any folder with train/ and val/, with train/
            alone, or with nothing but a folder a class.
        root: the folder that downloads land in.
        workers: threads that read images; what the machine has, where not given.
        bad_images: strict stops at an image that can't be read, skip leaves out all such of train/ and val/ beforehand.
        holdout: share of each class of the training images that is held out to choose the best epoch by; val/ is then
            scored once, at the end. Without val/ 0.2 where not given.
    """

    name: str = "digits"
    root: Path = Path("data")
    workers: int | None = None
    bad_images: Literal["strict", "skip"] = "strict"
    holdout: float | None = None

    @property
    def folder(self) -> Path:
        named = self.root / self.name
        return named if named.is_dir() else Path(self.name)


@dataclass(kw_only=True)
class Augment:
    """What is done to an image, as calls of mindspore.dataset.vision in their order.

    What is not given comes from the weights that training starts from, else it is as for ImageNet.

    Args:
        train: for training; image_size, resize_size, mean and std stand for the model's and the recipe's.
        eval: for validation and prediction.
        crop_pct: resize_size is image_size / crop_pct.
        mean: of the channels red, green, blue, from 0 to 1; one number will do for a model of grey images.
        std: of the channels, likewise.
        repeats: how often a training image comes in a row, augmented anew each time; an epoch has as many steps as
            ever, and so sees the fewer images.
        alternate_flip: mirrors each training image in every other epoch, the first by chance; in the place of
            RandomHorizontalFlip.
        mixup: training images and their labels are blended by shares from Beta(mixup, mixup); 0 for none.
        cutmix: a box of one training image is put into another, as large as Beta(cutmix, cutmix) says; 0 for none.
        mix_chance: of a step that its images are mixed at all.
        cutmix_chance: of a step that is mixed that it is by cutmix, where there is mixup, too.
    """

    train: list[str] = field(default_factory=lambda: [
        "Decode()",
        "RandomResizedCrop(image_size, scale=(0.08, 1.0), ratio=(0.75, 1.333))",
        "RandomHorizontalFlip(0.5)",
        "Normalize(mean, std)",
        "HWC2CHW()",
    ])
    eval: list[str] | None = None
    crop_pct: float | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    repeats: int = 1
    alternate_flip: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_chance: float = 1.0
    cutmix_chance: float = 0.5


@dataclass(kw_only=True)
class Named:
    """The network: a size by its name or a file of weights, and what is to be another than there.

    Args:
        name: vit_{tiny,small,base,large}_patch{8,14,16,32}_SIZE; where not given, what the weights are, or else
            vit_tiny_patch16_224.
        weights: file of any format to start from.
        weight_init: what starts without such - paper, as the paper's own code draws it, patches as timm does; keras, as
            Keras's layers do.
    """

    name: str | None = None
    weights: Path | None = None
    weight_init: Literal["paper", "keras"] = "paper"

    @property
    def changes(self) -> dict[str, Any]:
        """The arguments of ViTConfig that are given."""
        return {key: value for key in KEYS if (value := getattr(self, key)) is not None}

    @property
    def title(self) -> str:
        return self.name or (self.weights.name if self.weights else DEFAULT_MODEL)

    def configure(self, **changes: Any) -> ViTConfig:
        """The network, where there are no weights to say more. Raises UsageError."""
        return configure(named(self.name or DEFAULT_MODEL), **self.changes | changes)


def section_of(config: type, base: type) -> type:
    """A recipe's section of `base`'s fields and, each of which may be left out, those of `config`, with its help."""
    kept = {each.name for each in dataclasses.fields(config) if each.name in SHARES and each.default is not None}
    fields = [(each.name, each.type if each.name in kept else Optional[each.type],       # noqa: UP045
               field(default=each.default if each.name in kept else None)) for each in dataclasses.fields(config)]
    section = dataclasses.make_dataclass("Model", fields, bases=(base,), kw_only=True)
    section.__module__ = __name__
    section.__doc__ = f"{(base.__doc__ or '').rstrip()}\n{(config.__doc__ or '').partition('Args:')[2].strip(chr(10))}"
    return section


Model: Any = section_of(ViTConfig, Named)


@dataclass(kw_only=True)
class Optimizer:
    """How weights follow gradients.

    Args:
        name: an optimiser of training/optimizers.py - adamw (decoupled weight decay), adam (L2), lamb (for large
            batches), lion (a third of adamw's rate, or less), muon (orthogonal updates of the inner matrices, adamw for
            the others, at adamw's rate), or sgd (with momentum).
        lr: learning rate at its highest.
        betas: decay of the two moments; 0.9 and 0.99 are lion's own.
        momentum: of sgd (0.9 where not given) and muon (0.95).
        eps: added to the denominator.
        weight_decay: on matrices only.
        clip_norm: bound of the gradients' joint norm; 0 for none.
        layer_decay: each block learns by this factor less than the one after it.
        tune: what learns - all, the head alone, or the last so many blocks with the head.
    """

    name: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float | None = None
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    layer_decay: float = 1.0
    tune: Literal["all", "head"] | int = "all"


@dataclass(kw_only=True)
class Schedule:
    """The learning rate over time.

    Args:
        name: a schedule of training/schedules.py - cosine, linear, step or constant, each after a linear warm-up.
        warmup_epochs: length of the warm-up; may be a fraction.
        min_lr: where cosine and linear end, and the least of step.
        milestones: epochs, counted from the run's begin, after which step multiplies the rate by gamma.
        gamma: see there.
        per_epoch: change it between epochs only.
    """

    name: str = "cosine"
    warmup_epochs: float = 0.0
    min_lr: float = 0.0
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.1
    per_epoch: bool = False


@dataclass(kw_only=True)
class Loss:
    """What training makes small.

    Args:
        name: a loss of training/losses.py - cross_entropy, or bce, which asks for each class on its own.
        label_smoothing: share of the target spread evenly over all classes.
        distill: what of train.teacher is learned - hard, its best class, or soft, its probabilities.
        distill_alpha: share that this has in the loss.
        distill_temperature: at which soft takes the probabilities.
    """

    name: str = "cross_entropy"
    label_smoothing: float = 0.0
    distill: Literal["hard", "soft"] = "hard"
    distill_alpha: float = 0.5
    distill_temperature: float = 3.0


@dataclass(kw_only=True)
class Train:
    """The run.

    Args:
        epochs: passes over the training images.
        batch_size: images a step.
        seed: fixes initial weights, order, augmentation and dropout.
        precision: of matrix products - float32; bfloat16, which is faster, on a CPU with AVX512-BF16 and on Ascend from
            the 910B on; float16 with loss scaling, for Ascend and GPU. auto is bfloat16 where there is such a thing,
            else float16 on Ascend and GPU, float32 on a CPU, and what it was before for a run that goes on. What
            float32 means is the chip's: the first 910 computes products in float16 all the same, the 910B convolutions
            in HF32, and NVIDIA's from Ampere on may use TF32.
        amp_level: precision in its former words - O0 is float32, O2 and O3 are float16.
        recompute: keep less for the backward pass, and compute it again: less memory, a fifth more time.
        ema: decay of a moving average of the weights, e.g. 0.999, that is validated and used in their place; 0 is none.
        teacher: a run folder, or a weight file of any format, of a network with the same classes, from whose answers
            this one learns, too; loss.distill says how. With model.distilled a head of its own learns from it.
        teacher_model: the name of its network, where its weights don't tell enough.
        on_divergence: stop, or rollback - go on from the last good checkpoint with half the learning rate, three times.
        accumulate: parts that a batch is cut into, one after the other, for a batch that memory doesn't hold at once.
        deterministic: on Ascend and GPU, too, the same run gives the same bits, as it does on a CPU; sums are then
            taken in a fixed order, which costs speed.
        log_every: steps between two lines of metrics.jsonl, and the most that a divergence goes unnoticed.
    """

    epochs: int = 10
    batch_size: int = 16
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    amp_level: Literal["auto", "O0", "O2", "O3"] | None = None
    recompute: bool = False
    accumulate: int = 1
    ema: float = 0.0
    teacher: Path | None = None
    teacher_model: str | None = None
    on_divergence: Literal["stop", "rollback"] = "stop"
    deterministic: bool = False
    log_every: int = 10

    def __post_init__(self) -> None:
        """A recipe of former times goes on as one that says the same in today's word."""
        if self.amp_level not in (None, "auto"):
            meant: Any = "float32" if self.amp_level == "O0" else "float16"
            if self.precision not in ("auto", meant):
                raise UsageError(f'"train.amp_level" {self.amp_level} means {meant}, and "train.precision" is '
                                 f"{self.precision}; leave out the former")
            self.precision = meant
        self.amp_level = None


@dataclass(kw_only=True)
class Checkpoint:
    """What is kept of a run.

    Args:
        every_epochs: epochs between two checkpoints; the best and the last always get one.
        every_minutes: minutes between two within an epoch.
        keep: newest checkpoints that stay, besides the best.
    """

    every_epochs: int = 1
    every_minutes: float = 10.0
    keep: int = 2


@dataclass(kw_only=True)
class Recipe:
    """A training run, whole."""

    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    loss: Loss = field(default_factory=Loss)
    train: Train = field(default_factory=Train)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    @classmethod
    def load(cls, name_or_file: str | Path, changes: dict[str, Any] | None = None) -> "Recipe":
        """A recipe by its published name or its file, with `changes` by dotted keys, e.g. {"train.epochs": 3}.

        "default" is what suits the images and the weights that `changes` name, and tells of its choices.
        """
        changes, known = changes or {}, schema.keys_of(cls)
        for key in changes:
            if key not in known:
                raise UsageError(schema.unknown_key(key, known, "the changes to the recipe"))
        chosen = default_recipe(changes) if name_or_file == DEFAULT else name_or_file
        values = read_recipe(chosen)
        if name_or_file == DEFAULT:
            told = ", ".join(f"{key} {value}" for key, value in values.items()
                             if key not in changes and not key.startswith("augment."))      # of which a run tells
            say(f"by the recipe {chosen}: {told}")
        recipe = schema.build(cls, nest(values | changes), str(chosen))
        recipe.validate()
        return recipe

    def validate(self) -> None:
        """Refuses values that no run can use."""
        for key, (fits, words) in BOUNDS.items():
            section, name = key.split(".")
            value = getattr(getattr(self, section), name)
            if value is not None and not fits(value):
                raise UsageError(f'"{key}" {words}, not {value}')
        if self.model.weights is None:      # else they have a say in it
            self.model.configure()
        if self.schedule.name == "step" and not self.schedule.milestones:
            raise UsageError('"schedule.milestones" must list the epochs after which step lowers the rate')
        if self.train.teacher is None:
            if self.train.teacher_model:
                raise UsageError('"train.teacher_model" names the network of train.teacher, which is not given')
            for key in ("distill", "distill_alpha", "distill_temperature"):
                if getattr(self.loss, key) != getattr(Loss, key):
                    raise UsageError(f'"loss.{key}" says how to learn from train.teacher, which is not given')
        if self.train.batch_size % self.train.accumulate:
            raise UsageError(f'"train.accumulate" must divide train.batch_size, {self.train.batch_size}')

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as YAML and JSON know them."""
        values = plain(dataclasses.asdict(self))
        del values["train"]["amp_level"]        # said by precision
        return values

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, width=120)


def default_recipe(changes: dict[str, Any]) -> str:
    """The published recipe for who names none: by whether there are weights to start from, else by the images' size."""
    if changes.get("model.weights"):
        return "default-finetune"
    given = {key.removeprefix("data."): value for key, value in changes.items() if key in ("data.name", "data.root")}
    data = Data(**given | ({"root": Path(given["root"])} if "root" in given else {})).folder
    small = not data.is_dir() or typical_side(find_layout(data).train.store()) <= SMALL_SIDE
    return "default-small" if small else "default-photos"


def read_recipe(name_or_file: str | Path) -> dict[str, Any]:
    """What a recipe's file says, by dotted keys; above that what its base says, and the base's base."""
    values: dict[str, Any] = {}
    read: list[Path] = []
    base: str | Path | None = name_or_file
    while base is not None:
        file = Path(os.path.normpath(recipe_file(base, where=f", the base of {read[-1]}" if read else "")))
        if file in read:
            raise UsageError(f"{name_or_file} is based on itself, by {read[-1]}; give that another base, or none")
        read.append(file)
        own = schema.read_yaml(file)
        named = own.pop("base", None)
        if not isinstance(named, str | None):
            raise UsageError(f'"base" in {base} must be the name or the file of a recipe, not {named!r}')
        values = schema.flatten(own, Recipe, str(base)) | values
        base = file.parent / named if named and Path(named).suffix in YAML else named
    return values


def recipe_file(name_or_file: str | Path, where: str = "") -> Path:
    """The file of a published recipe's name, or the given file. where: told of in the error."""
    path = Path(name_or_file)
    if path.suffix in YAML:
        return path
    published = RECIPES / f"{name_or_file}.yaml"
    if not published.is_file():
        names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise UsageError(f'no recipe "{name_or_file}"{where}; give one of {names}, or the path of a .yaml file')
    return published


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """{"train.epochs": 3} -> {"train": {"epochs": 3}}."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
