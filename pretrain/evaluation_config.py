"""The settings of the evaluations: `pretrain.linear`, `pretrain.knn` and `pretrain.collapse`, without PyTorch."""

from dataclasses import dataclass

from omegaconf import MISSING

from pretrain.config import AugmentConfig, DataConfig
from runs.errors import UserError
from runs.settings import CommandConfig, choice, number, path


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

    def check(self) -> None:  # noqa: D102
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
    """Queries compared at a time; see `knn_accuracy` for the memory."""

    def check(self) -> None:  # noqa: D102
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
