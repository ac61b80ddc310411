"""Linear evaluation: `python -m pretrain.linear`, its settings here, the classifiers in `evaluation.py`."""

from dataclasses import dataclass

from pretrain.config import EvaluationConfig
from runs.errors import UserError
from runs.settings import choice, number


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
