"""The settings of the evaluations: `pretrain.linear`, `pretrain.knn` and `pretrain.collapse`, without PyTorch."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from pretrain.config import AugmentConfig, CommandConfig, DataConfig, check_fits
from runs.distributed import world_size
from runs.errors import UserError
from runs.settings import choice, path

IMAGENET_STEPS = 90 * (1281167 // 4096)
# Below these, LARC's small steps do not arrive.
FEW_STEPS = 3000


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

    def check_images(self, count: int) -> None:
        """Check the settings against the number of training images.

        Raises:
            UserError: they do not go together.
        """

    def advice(self, count: int) -> str:
        """A line for a recipe that does not fit the number of training images; empty where it does."""
        return ""


@dataclass
class LinearConfig(EvaluationConfig):
    """Settings of `python -m pretrain.linear`, as in facebookresearch/simsiam@a7bc177 main_lincls.py.

    `augment` is the training view; `augment=none` trains on centre crops, whose features are computed once.
    """

    optimizer: str = choice("larc", "sgd", "lars")
    """larc: the release's --lars; sgd: MoCo's (base lr 30, SimSiam's issue 23: 100)."""
    lr: list[float] = field(default_factory=lambda: [0.1, 0.02])
    """Base learning rates for 256 images a step; the first is reported (0.1 of the release; 0.02 is the paper's)."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    epochs: int = 90
    batch_size: int = 4096
    """Images a step, all processes together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr or min(self.lr) <= 0 or len(set(self.lr)) < len(self.lr):
            raise UserError(f"lr={self.lr}: must be a list of different positive numbers, e.g. lr=[0.1,0.02]")
        if min(self.epochs, self.batch_size) < 1:
            raise UserError("epochs and batch_size must be at least 1")
        if not 0 <= self.momentum <= 1 or self.weight_decay < 0:
            raise UserError("momentum must lie in 0 to 1 and weight_decay must not be negative")

    def check_images(self, count: int) -> None:  # noqa: D102
        check_fits(self.batch_size, count)
        if self.batch_size % world_size():
            raise UserError(
                f"batch_size={self.batch_size}: does not divide by {world_size()} processes; give a multiple"
            )

    def advice(self, count: int) -> str:  # noqa: D102
        steps = self.epochs * (count // self.batch_size)
        if self.optimizer == "sgd" or steps >= FEW_STEPS:
            return ""
        return (
            f"NOTE: {steps} steps are few for optimizer={self.optimizer}, whose recipe has {IMAGENET_STEPS} on "
            f"ImageNet; for {count} images optimizer=sgd batch_size=256 lr=[1,10,30] gets further"
        )


@dataclass
class KnnConfig(EvaluationConfig):
    """Settings of `python -m pretrain.knn`."""

    k: list[int] = field(default_factory=lambda: [200, 20, 10, 100])
    """Neighbours, all in one pass; the first is reported (Wu et al., arXiv:1805.01978, section 3.4: 200)."""
    temperature: list[float] = field(default_factory=lambda: [0.07, 0.1])
    """Temperatures, all in one pass; the first is reported (the same section: 0.07)."""
    batch_size: int = 256
    """Images at a time through the network."""
    chunk: int = 1024
    """Queries compared at a time; see `knn_accuracy` for the memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.k or min(self.k) < 1:
            raise UserError(f"k={self.k}: must be a list of numbers of at least 1, e.g. k=[200,20]")
        if not self.temperature or min(self.temperature) <= 0:
            raise UserError(
                f"temperature={self.temperature}: must be a list of positive numbers, e.g. temperature=[0.07]"
            )
        if min(self.batch_size, self.chunk) < 1:
            raise UserError("batch_size and chunk must be at least 1")

    def check_images(self, count: int) -> None:  # noqa: D102
        if max(self.k) > count:
            raise UserError(f"k={self.k}: the training set has only {count} images; give smaller numbers")


@dataclass
class CollapseConfig(EvaluationConfig):
    """Settings of `python -m pretrain.collapse`."""

    heads: bool = True
    """Measure the output of a checkpoint's heads where this project wrote it, on the views that it was trained on. Off,
    and for all other files: the pooled features, on the view that `augment` says."""
    images: int = 2048
    """Validation images, at most: a part drawn with `seed`."""
    batch_size: int = 256
    """Images at a time through the network."""
    threshold: float = 0.2
    """Collapsed is an output whose std * sqrt(d) or spread is below this (`monitor.threshold` in training)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 2 or self.batch_size < 1:
            raise UserError("images must be at least 2 and batch_size at least 1")
        if not 0 < self.threshold < 1:
            raise UserError(f"threshold={self.threshold}: must lie between 0 and 1")
