"""The settings of pre-training: typed, documented, checked before anything runs, and before PyTorch is imported."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from pretrain.method.config import METHODS, MethodConfig
from pretrain.monitor_config import MonitorConfig
from pretrain.variants import register_variants
from runs import plugins
from runs.errors import UserError
from runs.settings import choice, path


def preset(value: float, table: Any) -> Any:
    """Return the entry of the largest key not above `value`, or of the smallest: a recipe by length or batch size."""
    keys = sorted(table)
    return table[max((key for key in keys if key <= value), default=keys[0])]


# In config.yaml: the variant's name, or else the method's.
OmegaConf.register_new_resolver("either", lambda first, second: first or second, replace=True)
# In the YAML files: ${if:${official},fp32,auto}
OmegaConf.register_new_resolver("if", lambda condition, yes, no: yes if condition else no, replace=True)
# In the YAML files: ${preset:${epochs},{100: 0.45, 300: 0.3, 1000: 0.2}}
OmegaConf.register_new_resolver("preset", preset, replace=True)
register_variants()

LAYOUTS = (
    "folder", "cifar10", "cifar100", "shards", "parquet", "arrow", *(path.stem for path in plugins.find("data/*.py")),
)  # fmt: skip
OPERATIONS = ("crop", "jitter", "gray", "blur", "solarize", "flip")
PIPELINES = ("reference", "fast")


@dataclass
class DataConfig:
    """Where the images are."""

    name: str = MISSING
    """The data set's name, as tables print it."""
    layout: str = MISSING
    """How it lies on the disk: `folder`, `cifar10`, `cifar100`, `shards`, `parquet`, `arrow`, or a plug-in's."""
    root: str = path()
    """Its folder."""
    workers: int = -1
    """Processes that load and augment; -1 chooses by the cores at hand. No result depends on it."""
    cache: bool = False
    """Keep the decoded images in memory."""
    skip_broken: bool = False
    """Go on without images that cannot be decoded, and count them; otherwise the first one ends the run."""

    def __post_init__(self) -> None:
        if self.workers < -1:
            raise UserError(f"data.workers={self.workers}: must be 0 or more, or -1 to choose by the cores")
        if self.layout not in LAYOUTS and self.layout != "???":
            raise UserError(f"data.layout={self.layout}: choose one of {', '.join(LAYOUTS)}")


@dataclass
class AugmentConfig:
    """One view recipe. A probability of 0 leaves an operation out."""

    name: str = MISSING
    """The recipe's name, that of its file."""
    pipeline: str = "fast"
    """`reference` (torchvision on PIL images, the releases' bits) or `fast` (the same views up to rounding)."""
    size: int = 224
    """Side of the square view in pixels."""
    order: list[str] = field(default_factory=lambda: ["crop", "jitter", "gray", "blur", "solarize", "flip"])
    """Order of the operations; they differ between releases, and bits depend on it."""
    crop_scale: list[float] = field(default_factory=lambda: [0.2, 1.0])
    """Area of the random crop as a fraction of the image; an empty list means the resized centre crop instead."""
    interpolation: str = "bilinear"
    """`bilinear` or `bicubic`, of the random crop."""
    jitter: list[float] = field(default_factory=lambda: [0.4, 0.4, 0.4, 0.1])
    """Strength of brightness, contrast, saturation and hue."""
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    """Range of the Gaussian's standard deviation in pixels."""
    blur_kernel: float = 0.0
    """Kernel side as a fraction of the view (SimCLR: 0.1); 0 means PIL's own Gaussian, as SimSiam and MoCo use."""
    solarize_p: float = 0.0
    flip_p: float = 0.5
    second: dict[str, Any] = field(default_factory=dict)
    """What differs in the second view: any of the fields above (BYOL)."""
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    """Mean of images in [0, 1], R G B; torchvision's, SimSiam's and MoCo's on ImageNet. In an evaluation, [] is what
    the checkpoint's own pre-training had."""
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    """Standard deviation of images in [0, 1], R G B; [] as above."""
    eval_resize: int = 0
    """Shorter side before the centre crop in evaluation; 0 means size * 256 / 224."""

    def __post_init__(self) -> None:
        if self.pipeline not in PIPELINES:
            raise UserError(f"augment.pipeline={self.pipeline}: choose reference or fast")
        if self.size < 8:
            raise UserError(f"augment.size={self.size}: must be at least 8 pixels")
        if self.eval_resize and self.eval_resize < self.size:
            raise UserError(f"augment.eval_resize={self.eval_resize}: must be at least augment.size={self.size}, or 0")
        if sorted(self.order) != sorted(OPERATIONS):
            raise UserError(f"augment.order={self.order}: must name each of {', '.join(OPERATIONS)} once")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UserError(f"augment.interpolation={self.interpolation}: choose bilinear or bicubic")
        if self.crop_scale and not (len(self.crop_scale) == 2 and 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1):
            raise UserError(
                f"augment.crop_scale={self.crop_scale}: must be two rising fractions, e.g. [0.2,1.0], or []"
            )
        if len(self.jitter) != 4:
            raise UserError(f"augment.jitter={self.jitter}: must be brightness, contrast, saturation, hue")
        for name in ("jitter_p", "gray_p", "blur_p", "solarize_p", "flip_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name}={getattr(self, name)}: must be a probability, 0 to 1")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, 3):
                raise UserError(f"augment.{name}={getattr(self, name)}: must be three numbers, for R, G and B")
        if min(self.std, default=1) <= 0:
            raise UserError(f"augment.std={self.std}: must be positive")
        if len(self.blur_sigma) != 2 or not 0 <= self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UserError(f"augment.blur_sigma={self.blur_sigma}: must be two rising numbers, e.g. [0.1,2.0]")
        unknown = set(self.second) - {f.name for f in fields(self)} - {"second"}
        if unknown:
            raise UserError(f"augment.second: unknown key {sorted(unknown)[0]!r}; it takes the keys of augment")
        if self.second:
            self.second_view()

    def second_view(self) -> "AugmentConfig":
        """The recipe of every other view, with `second` worked in.

        Raises:
            UserError: `second` has a wrong value.
        """
        return replace(self, **{**self.second, "second": {}})

    @property
    def kernel_side(self) -> int:
        """Side of the blur's kernel in pixels, odd; 0 for PIL's own Gaussian."""
        return int(self.blur_kernel * self.size) // 2 * 2 + 1 if self.blur_kernel else 0


@dataclass
class OptimizerConfig:
    """How weights move."""

    name: str = choice("sgd", "lars", "larc")
    """lars: You et al., arXiv:1708.03888, as SimCLR and BYOL use it; larc: apex's, as SwAV uses it."""
    lr: float = 0.05
    """Base learning rate, for 256 images a step; the peak is lr * batch_size / 256 (Goyal et al., arXiv:1706.02677)."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    exclude_norm_and_bias: bool = False
    """Spare one-dimensional parameters (biases, norms) weight decay, and LARS and LARC their adaptation too."""
    trust: float = 0.001
    """LARS's and LARC's trust coefficient (eta)."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up."""
    warmup_start: float = 0.0
    """Learning rate at the start of the warm-up, as a fraction of the peak; of its whole first epoch if set once an
    `epoch`."""
    final: float = 0.0
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    schedule: str = choice("epoch", "step")
    """How often the learning rate is set."""
    milestones: list[float] = field(default_factory=list)
    """Fractions of the run at which the learning rate is divided by ten, instead of the cosine."""
    fused: bool = True
    """Update all weights in one pass over memory. Equal but for the last bit of a few weights."""
    clip: float = 0.0
    """Largest L2 norm of the gradient; 0 clips nothing (no source clips)."""

    def __post_init__(self) -> None:
        if any(not 0 < fraction < 1 for fraction in self.milestones):
            raise UserError(f"optimizer.milestones={self.milestones}: must be fractions of the run, 0 to 1")
        if self.lr <= 0:
            raise UserError(f"optimizer.lr={self.lr}: must be positive")
        for name in ("weight_decay", "warmup_epochs", "clip", "trust"):
            if getattr(self, name) < 0:
                raise UserError(f"optimizer.{name}={getattr(self, name)}: must not be negative")
        for name in ("momentum", "warmup_start", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"optimizer.{name}={getattr(self, name)}: must lie in 0 to 1")


@dataclass
class ProbeConfig:
    """The linear classifier beside the pre-training."""

    enabled: bool = False
    """Train one."""
    lr: float = 0.1
    """Its learning rate at 256 images a step; it follows the encoder's schedule."""
    momentum: float = 0.9
    every: int = 1
    """Epochs between two evaluations on the validation images."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or not 0 <= self.momentum < 1 or self.every < 1:
            raise UserError("probe.lr must be positive, probe.momentum lie in 0 to 1 and probe.every be at least 1")


@dataclass
class CheckpointConfig:
    """When checkpoints are written and which stay."""

    every_epochs: int = 1
    """Epochs between checkpoints; one follows the last epoch in any case."""
    every_steps: int = 0
    """Steps between checkpoints inside an epoch; 0 for none."""
    keep: int = 2
    """Newest checkpoints to keep; with two, a damaged newest one costs no run."""
    keep_every: int = 0
    """Keep those after every so many epochs as well; 0 for none."""

    def __post_init__(self) -> None:
        if self.every_epochs < 1 or self.keep < 1:
            raise UserError("checkpoint.every_epochs and checkpoint.keep must be at least 1")
        if self.every_steps < 0 or self.keep_every < 0:
            raise UserError("checkpoint.every_steps and checkpoint.keep_every must not be negative")


@dataclass
class CommandConfig:
    """Settings that pre-training and all evaluations have."""

    official: bool = False
    """The official releases' arithmetic, bit for bit, in place of what is equal up to rounding and faster: sets
    precision, channels_last, augment.pipeline and optimizer.fused, of which one that is given stays as given."""
    seed: int = 0
    output: str = path()
    """The run's folder."""
    device: str = choice("auto", "cpu", "cuda")
    precision: str = choice("auto", "fp32", "tf32", "bf16")
    """auto: tf32 on a GPU, fp32 on a CPU; tf32: fp32 with TF32 products and convolutions; bf16: mixed precision."""
    channels_last: bool = True
    """Lay images out with channels last, which convolutions are faster on."""
    threads: int = 0
    """PyTorch's threads on the CPU; 0 leaves its choice."""

    def __post_init__(self) -> None:
        for name in ("threads", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: must not be negative")


@dataclass
class PretrainConfig(CommandConfig):
    """Settings of `python -m pretrain`."""

    method: MethodConfig = MISSING
    variant: str = ""
    """The experiment of `pretrain/variants.yaml` that chose the settings; empty for none."""
    data: DataConfig = MISSING
    augment: AugmentConfig = MISSING
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    arch: str = "resnet50"
    """Backbone: `resnet18|34|50|101|152`, with a width (`resnet50x0.25`), with the CIFAR stem (`resnet18_cifar`)."""
    zero_init_residual: bool = True
    """Start the last batch norm of every residual block at 0."""
    init: str = path("")
    """Weights to start from, any file that `python -m converters inspect` knows: all of the backbone, or none of it."""
    epochs: int = 100
    batch_size: int = 256
    """Images a step, all processes together."""
    compile: bool = False
    """Use torch.compile; needs a C++ compiler."""
    log_every: int = 10
    """Steps between lines in metrics.jsonl."""
    on_collapse: str = choice("warn", "stop")
    """stop: end the run when the monitor says collapsed."""
    tensorboard: bool = True
    """Write TensorBoard events too."""
    wandb: bool = False
    """Log to Weights & Biases too (needs `pip install wandb`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")
        if not self.augment.mean or not self.augment.std:
            raise UserError("augment.mean and augment.std must be three numbers each, for R, G and B")
        if self.optimizer.warmup_epochs >= self.epochs:
            raise UserError(
                f"optimizer.warmup_epochs={self.optimizer.warmup_epochs}: must be fewer than epochs={self.epochs}, "
                "or the run ends before its learning rate is reached"
            )


def check_fits(batch_size: int, images: int) -> None:
    """Check that there are as many images as a step takes.

    Raises:
        UserError: there are fewer.
    """
    if batch_size > images:
        raise UserError(f"batch_size={batch_size}: the training set has {images} images; give at most that many")


def check_batch(batch_size: int, images: int, world: int) -> None:
    """Check that a step's images exist and divide among `world` processes.

    Raises:
        UserError: they do not, or a process gets too few for batch norm.
    """
    check_fits(batch_size, images)
    if batch_size % world:
        raise UserError(f"batch_size={batch_size}: does not divide by {world} processes; choose a multiple of {world}")
    if batch_size // world < 2:
        raise UserError(
            f"batch_size={batch_size}: {world} processes get fewer than 2 images each, too few for batch norm; "
            "use a larger batch or fewer processes"
        )


# Settings that touch no weight: a run may be continued with others.
FREE = (
    "checkpoint", "log_every", "tensorboard", "wandb", "threads", "device", "on_collapse",
    "data.workers", "data.cache", "data.root", "init",
)  # fmt: skip

if _plugins := plugins.find("method/*.py"):
    # Here, as it needs PyTorch: without plug-ins, `--help` and a mistyped key do not wait for it.
    from converters.light_imports import light_imports

    with light_imports():
        for _path in _plugins:
            plugins.load(_path)
METHODS.update({schema.name: schema for schema in MethodConfig.__subclasses__()})

# The YAML file of each choice puts its schema first in its defaults list.
_store = ConfigStore.instance()
_store.store(group="data", name="schema_data", node=DataConfig)
_store.store(group="augment", name="schema_augment", node=AugmentConfig)
for _name, _schema in METHODS.items():
    _store.store(group="method", name=f"schema_{_name}", node=_schema)
