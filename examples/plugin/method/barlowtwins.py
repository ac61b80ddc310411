"""Barlow Twins. Zbontar et al.: Self-Supervised Learning via Redundancy Reduction, ICML 2021, Algorithm 1."""

from dataclasses import dataclass

import torch
from torch import nn

from pretrain.collectives import all_reduce
from pretrain.layers import at_least_float32, autocast_off, mlp
from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import MethodConfig
from runs.distributed import world_size
from runs.settings import number


@dataclass
class BarlowTwinsConfig(MethodConfig):
    """Settings of Barlow Twins."""

    name: str = "barlowtwins"
    dim: int = number(8192, least=1)
    """D: width of z and of the projector's hidden layers."""
    lambd: float = number(0.0051, least=0)
    """lambda: weight of the off-diagonal terms."""


class BarlowTwins(Method):
    """f: backbone and projector; the loss makes the cross-correlation matrix of two views the identity."""

    def __init__(self, config: BarlowTwinsConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.lambd = config.lambd
        # The projector is the backbone's `fc`, so that every converter finds the network under `encoder`.
        self.encoder = plan.base_encoder(num_classes=config.dim)
        self.encoder.fc = mlp([self.encoder.fc.in_features, config.dim, config.dim, config.dim])
        self.bn = nn.BatchNorm1d(config.dim, affine=False)  # over all processes, as the backbone's

    def forward(self, batch: Batch) -> Output:
        f = self.encoder
        y_a, y_b = batch.views  # n-by-3-by-H-by-W
        z_a, z_b = f(y_a), f(y_b)  # n-by-D
        z_a_norm, z_b_norm = self.bn(at_least_float32(z_a)), self.bn(at_least_float32(z_b))  # n-by-D
        with autocast_off(z_a_norm):
            c = all_reduce(z_a_norm.T @ z_b_norm) / (len(z_a) * world_size())  # cross-correlation matrix, D-by-D
        c_diff = (c - torch.eye(len(c), device=c.device)).pow(2)  # D-by-D
        on_diagonal = c_diff.diagonal().sum()
        loss = on_diagonal + self.lambd * (c_diff.sum() - on_diagonal)
        return {"loss": loss, "z": z_a, "z2": z_b}
