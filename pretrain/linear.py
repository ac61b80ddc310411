"""`python -m pretrain.linear checkpoint=FILE data=… data.root=DIR`: a linear classifier on frozen features.

Every learning rate of `lr` gets a classifier of its own and all of them see each batch, so that a sweep costs one
forward pass of the frozen network.
"""

from dataclasses import dataclass, field

from pretrain.classifiers import Classifiers, train_classifiers
from pretrain.config import check_fits
from pretrain.data import Images
from pretrain.evaluate import EvaluationConfig, Findings, Ready, evaluate
from pretrain.optim import OPTIMIZERS
from runs.app import hydra_app
from runs.errors import UserError


@dataclass
class LinearConfig(EvaluationConfig):
    """Settings of `python -m pretrain.linear`, as in facebookresearch/simsiam@a7bc177 main_lincls.py.

    `augment` is the training view; `augment=none` trains on centre crops, whose features are computed once.
    """

    optimizer: str = "larc"
    """`larc` (the release's --lars) or `sgd` (MoCo: base lr 30, SimSiam's issue 23: 100)."""
    lr: list[float] = field(default_factory=lambda: [0.1, 0.02])
    """Base learning rates for 256 images a step; the first is reported (0.1 of the release; 0.02 is the paper's)."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    epochs: int = 90
    batch_size: int = 4096
    """Images a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer={self.optimizer}: choose one of {', '.join(OPTIMIZERS)}")
        if not self.lr or min(self.lr) <= 0 or len(set(self.lr)) < len(self.lr):
            raise UserError(f"lr={self.lr}: must be a list of different positive numbers, e.g. lr=[0.1,0.02]")
        if min(self.epochs, self.batch_size) < 1:
            raise UserError("epochs and batch_size must be at least 1")
        if not 0 <= self.momentum <= 1 or self.weight_decay < 0:
            raise UserError("momentum must lie in 0 to 1 and weight_decay must not be negative")

    def check_data(self, train: Images) -> None:  # noqa: D102
        check_fits(self.batch_size, len(train))


@hydra_app("pretrain", "config_linear", LinearConfig)
def main(config: LinearConfig) -> int:
    """Train the classifiers and report the first one's best and last epoch."""

    def measure(ready: Ready) -> Findings:
        if config.data.cache:
            ready.train.cache(config.data.skip_broken)
        before = ready.network.fingerprint()
        heads = Classifiers(config, ready.network.network, len(ready.train.classes), ready.device)
        broken = train_classifiers(config, ready, heads)
        if ready.network.fingerprint() != before:
            raise AssertionError("the frozen network changed during linear evaluation")
        rows = heads.table()
        return Findings(
            {name: rows[0][name] for name in ("top1", "top5", "top1_last")},
            {"learning_rates": rows, "frozen_weights_unchanged": True, "broken_images": sorted(broken)},
            "linear top-1: " + ", ".join(f"{row['top1']:.1f} at lr {row['lr']:g}" for row in rows),
        )

    return evaluate("linear", config, measure)


if __name__ == "__main__":
    main()
