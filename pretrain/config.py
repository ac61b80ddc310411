"""The settings of pre-training and of all evaluations: typed, checked before anything runs and PyTorch is imported."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from pretrain.method.config import MethodConfig, SiameseConfig
from pretrain.monitor_config import MonitorConfig
from pretrain.variants import register_variants
from runs import plugins
from runs.errors import UserError
from runs.settings import CommandConfig, check_values, choice, number, path


def _piecewise_constant(value: float, table: Any) -> Any:
    """Return the entry of the largest key not above `value`, or of the smallest: a recipe by length or batch size."""
    keys = sorted(table)
    return table[max((key for key in keys if key <= value), default=keys[0])]


# In the YAML files: ${if:${official},pytorch,auto}
OmegaConf.register_new_resolver("if", lambda condition, yes, no: yes if condition else no, replace=True)
# In the YAML files: ${piecewise:${epochs},{100: 0.45, 300: 0.3, 1000: 0.2}}
OmegaConf.register_new_resolver("piecewise", _piecewise_constant, replace=True)
register_variants()

LAYOUTS = (
    "folder", "cifar10", "cifar100", "shards", "parquet", "arrow",
    *(path.stem for path in plugins.find_files("data/*.py")),
)  # fmt: skip
OPERATIONS = ("crop", "jitter", "gray", "blur", "solarize", "flip")


@dataclass
class DataConfig:
    """Where the images are."""

    name: str = MISSING
    """The data set's name, as tables print it."""
    layout: str = choice(MISSING, *LAYOUTS)
    """How it is stored."""
    root: str = path()
    """Its folder."""
    workers: int = number(-1, least=-1)
    """Processes that load and augment; -1 chooses by the number of cores. No result depends on it."""
    cache: bool = False
    """Keep the decoded images in memory."""
    skip_broken: bool = False
    """Go on without images that cannot be decoded, and count them; otherwise the first one ends the run."""

    def check_consistency(self) -> None:  # noqa: D102
        if "/" in self.name:
            raise UserError(f"data.name={self.name}: must not contain a /")


@dataclass
class AugmentConfig:
    """One view recipe. A probability of 0 leaves an operation out."""

    name: str = MISSING
    """The recipe's name, that of its file."""
    pipeline: str = choice("fast", "reference")
    """`reference` (torchvision on PIL images, the releases' bits) or `fast` (the same views up to rounding)."""
    size: int = number(224, least=8)
    """Side of the square view in pixels."""
    order: list[str] = field(default_factory=lambda: list(OPERATIONS))
    """Order of the operations; they differ between releases, and bits depend on it."""
    crop_scale: list[float] = number(lambda: [0.2, 1.0], above=0, most=1)
    """Area of the random crop as a fraction of the image; an empty list means the resized centre crop instead."""
    interpolation: str = choice("bilinear", "bicubic")
    """Of the random crop."""
    jitter: list[float] = number(lambda: [0.4, 0.4, 0.4, 0.1], least=0)
    """Strength of brightness, contrast, saturation and hue."""
    jitter_p: float = number(0.8, least=0, most=1)
    gray_p: float = number(0.2, least=0, most=1)
    blur_p: float = number(0.5, least=0, most=1)
    blur_sigma: list[float] = number(lambda: [0.1, 2.0], least=0)
    """Range of the Gaussian's standard deviation in pixels."""
    blur_kernel: float = number(0.0, least=0, most=1)
    """Kernel side as a fraction of the view (SimCLR: 0.1); 0 means PIL's own Gaussian, as SimSiam and MoCo use."""
    solarize_p: float = number(0.0, least=0, most=1)
    flip_p: float = number(0.5, least=0, most=1)
    second: dict[str, Any] = field(default_factory=dict)
    """What differs in the second view: any of the fields above (BYOL)."""
    mean: list[float] = number(lambda: [0.485, 0.456, 0.406], least=0, most=1)
    """Mean of images in [0, 1], R G B; torchvision's, SimSiam's and MoCo's on ImageNet. In an evaluation, [] is what
    the checkpoint's own pre-training had."""
    std: list[float] = number(lambda: [0.229, 0.224, 0.225], above=0, most=1)
    """Standard deviation of images in [0, 1], R G B; [] as above."""
    eval_resize: int = number(0, least=0)
    """Shorter side before the centre crop in evaluation; 0 means size * 256 / 224."""

    def check_consistency(self) -> None:
        """Check the lists and the second view."""
        if self.eval_resize and self.eval_resize < self.size:
            raise UserError(f"augment.eval_resize={self.eval_resize}: must be at least augment.size={self.size}, or 0")
        if sorted(self.order) != sorted(OPERATIONS):
            raise UserError(f"augment.order={self.order}: must name each of {', '.join(OPERATIONS)} once")
        if len(self.jitter) != 4 or self.jitter[3] > 0.5:
            raise UserError(
                f"augment.jitter={self.jitter}: must be brightness, contrast, saturation, and hue, which is at most 0.5"
            )
        if self.second.get("size", self.size) != self.size:
            raise UserError(f"augment.second.size={self.second['size']}: both views have augment.size={self.size}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, 3):
                raise UserError(f"augment.{name}={getattr(self, name)}: must be three numbers, for R, G and B")
        for name, lengths in (("crop_scale", (0, 2)), ("blur_sigma", (2,))):
            values = getattr(self, name)
            if len(values) not in lengths or values != sorted(values):
                raise UserError(f"augment.{name}={values}: must be two rising numbers")
        unknown = set(self.second) - {f.name for f in fields(self)} - {"second"}
        if unknown:
            raise UserError(f"augment.second: unknown key {sorted(unknown)[0]!r}; it takes the keys of augment")
        if self.second:
            check_values(self.for_views(2)[1], "augment.second.")

    def for_views(self, count: int) -> list["AugmentConfig"]:
        """One recipe a view, with `second` applied to every other one."""
        pair = self, replace(self, **{**self.second, "second": {}})
        return [pair[number % 2] for number in range(count)]

    @property
    def kernel_side(self) -> int:
        """Side of the blur's kernel in pixels, odd; 0 for PIL's own Gaussian."""
        return int(self.blur_kernel * self.size) // 2 * 2 + 1 if self.blur_kernel else 0


@dataclass
class OptimizerConfig:
    """How the weights are updated."""

    name: str = choice("sgd", "lars", "larc")
    """lars: You et al., arXiv:1708.03888, as SimCLR and BYOL use it; larc: apex's, as SwAV uses it."""
    lr: float = number(0.05, above=0)
    """Base learning rate, for 256 images a step; the peak is lr * batch_size / 256 (Goyal et al., arXiv:1706.02677)."""
    momentum: float = number(0.9, least=0, most=1)
    weight_decay: float = number(1e-4, least=0)
    exclude_norm_and_bias: bool = False
    """Leave one-dimensional parameters (biases, norms) without weight decay and LARS's or LARC's adaptation."""
    trust: float = number(0.001, least=0)
    """LARS's and LARC's trust coefficient (eta)."""
    warmup_epochs: int = number(0, least=0)
    """Epochs of linear warm-up."""
    warmup_start: float = number(0.0, least=0, most=1)
    """Learning rate at the start of the warm-up, as a fraction of the peak; with schedule=epoch, that of the
    whole first epoch."""
    final: float = number(0.0, least=0, most=1)
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    schedule: str = choice("epoch", "step")
    """How often the learning rate is set."""
    milestones: list[float] = number(list, above=0, below=1)
    """Fractions of the run at which the learning rate is divided by ten, instead of the cosine."""
    fused: bool = True
    """Update all weights in one pass over memory. Equal but for the last bit of a few weights."""


@dataclass
class ProbeConfig:
    """The linear classifier that is trained beside the pre-training."""

    enabled: bool = False
    """Train one."""
    lr: float = number(0.1, above=0)
    """Its learning rate at 256 images a step; it follows the encoder's schedule."""
    momentum: float = number(0.9, least=0, below=1)
    every: int = number(1, least=1)
    """Epochs between two evaluations on the validation images."""


@dataclass
class CheckpointConfig:
    """When checkpoints are written and which stay."""

    every_epochs: int = number(1, least=1)
    """Epochs between checkpoints; one follows the last epoch in any case."""
    every_steps: int = number(0, least=0)
    """Steps between checkpoints inside an epoch; 0 for none."""
    keep: int = number(2, least=1)
    """Newest checkpoints to keep; with two, a damaged one does not cost the run."""
    keep_every: int = number(0, least=0)
    """Keep those after every so many epochs as well; 0 for none."""


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
    epochs: int = number(100, least=1)
    batch_size: int = number(256, least=1)
    """Images a step, all processes together."""
    compile: bool = False
    """Use torch.compile; needs a C++ compiler."""
    log_every: int = number(10, least=1)
    """Steps between lines in metrics.jsonl."""
    on_collapse: str = choice("warn", "stop")
    """stop: end the run when the monitor says collapsed."""
    tensorboard: bool = True
    """Write TensorBoard events too."""
    wandb: bool = False
    """Log to Weights & Biases too (needs `pip install wandb`)."""

    def check_consistency(self) -> None:  # noqa: D102
        if not self.augment.mean or not self.augment.std:
            raise UserError("augment.mean and augment.std must be three numbers each, for R, G and B")
        if self.optimizer.warmup_epochs >= self.epochs:
            raise UserError(
                f"optimizer.warmup_epochs={self.optimizer.warmup_epochs}: must be fewer than epochs={self.epochs}, "
                "or the run ends before its learning rate is reached"
            )


@dataclass
class EvaluationConfig(CommandConfig):
    """Settings of all evaluations; `seed` is that of the untrained network and of whatever else is drawn."""

    data: DataConfig = MISSING
    augment: AugmentConfig = MISSING
    """The view of the images."""
    checkpoint: str = path()
    """Any checkpoint that `python -m converters inspect` knows, or `random` for the untrained network."""
    arch: str = ""
    """Architecture of the untrained network; taken from the file otherwise."""
    zero_init_residual: bool = True
    """How the untrained network starts; as SimSiam's does by default, so that it is SimSiam before its first step."""


@dataclass
class LinearConfig(EvaluationConfig):
    """Settings of `python -m pretrain.linear`, as in facebookresearch/simsiam@a7bc177 main_lincls.py.

    `augment` is the training view; `augment=none` trains on centre crops, whose features are computed once.
    """

    optimizer: str = choice("larc", "sgd", "lars")
    """larc: the release's --lars; sgd: MoCo's (base lr 30, SimSiam's issue 23: 100)."""
    lr: list[float] = number(lambda: [0.1, 0.02], above=0)
    """Base learning rates for 256 images a step; the first is reported (0.1 of the release; 0.02 is the paper's)."""
    momentum: float = number(0.9, least=0, most=1)
    weight_decay: float = number(0.0, least=0)
    epochs: int = number(90, least=1)
    batch_size: int = number(4096, least=1)
    """Images a step, all processes together."""

    def check_consistency(self) -> None:  # noqa: D102
        if not self.lr or len(set(self.lr)) < len(self.lr):
            raise UserError(f"lr={self.lr}: must be a list of different positive numbers, e.g. lr=[0.1,0.02]")


@dataclass
class KnnConfig(EvaluationConfig):
    """Settings of `python -m pretrain.knn`."""

    k: list[int] = number(lambda: [200, 20, 10, 100], least=1)
    """Neighbours, all in one pass; the first is reported (Wu et al., arXiv:1805.01978, section 3.4: 200)."""
    temperature: list[float] = number(lambda: [0.07, 0.1], above=0)
    """Temperatures, all in one pass; the first is reported (the same section: 0.07)."""
    batch_size: int = number(256, least=1)
    """Images at a time through the network."""
    chunk: int = number(1024, least=1)
    """Queries compared at a time; docs/speed.md says how much memory that takes."""

    def check_consistency(self) -> None:  # noqa: D102
        for name in ("k", "temperature"):
            if not getattr(self, name):
                raise UserError(f"{name}=[]: must be a list of numbers, of which the first is reported")


@dataclass
class CollapseConfig(EvaluationConfig):
    """Settings of `python -m pretrain.collapse`."""

    heads: bool = True
    """Measure the output of a checkpoint's heads where this project wrote it, on the views that it was trained on. Off,
    and for all other files: the pooled features, on the view that `augment` says."""
    images: int = number(2048, least=2)
    """Validation images, at most: a part drawn with `seed`."""
    batch_size: int = number(256, least=1)
    """Images at a time through the network."""
    threshold: float = number(0.2, above=0, below=1)
    """Collapsed is an output whose std * sqrt(d) or spread is below this (`monitor.threshold` in training)."""


# Settings that touch no result: a run may be continued with others. What `data.skip_broken` leaves out is recorded, and
# a run that a broken image has ended must be able to go on.
MAY_DIFFER = ("data.workers", "data.cache", "data.root", "data.skip_broken", "threads", "device")

if _plugins := plugins.find_files("method/*.py"):
    # Here, as it needs PyTorch: without plug-ins, `--help` and a mistyped key do not wait for it.
    from converters.without_dynamo import without_dynamo

    with without_dynamo():
        for _path in _plugins:
            plugins.load(_path)
METHODS: dict[str, type[MethodConfig]] = {s.name: s for s in MethodConfig.__subclasses__()} | {"siamese": SiameseConfig}
"""By the names that `method=` takes."""

# The YAML file of each choice puts its schema first in its defaults list.
_store = ConfigStore.instance()
_store.store(group="data", name="schema_data", node=DataConfig)
_store.store(group="augment", name="schema_augment", node=AugmentConfig)
for _name, _schema in METHODS.items():
    _store.store(group="method", name=f"schema_{_name}", node=_schema)
