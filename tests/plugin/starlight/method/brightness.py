"""A method that anybody could write: both views of an image shall have the same output, on average of norm 1."""

from dataclasses import dataclass

from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import MethodConfig


@dataclass
class BrightnessConfig(MethodConfig):
    """Settings of brightness."""

    name: str = "brightness"
    dim: int = 16
    """Width of z."""


class Brightness(Method):
    """f: backbone and a linear layer."""

    def __init__(self, config: BrightnessConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.encoder = plan.base_encoder(num_classes=config.dim)

    def forward(self, batch: Batch) -> Output:
        z1, z2 = map(self.encoder, batch.views)  # n-by-d
        loss = (z1 - z2).pow(2).mean() + (z1.pow(2).mean() - 1).pow(2)
        return {"loss": loss, "z": z1, "z2": z2}
