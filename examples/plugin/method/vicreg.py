"""VICReg. Bardes et al.: Variance-Invariance-Covariance Regularization, ICLR 2022, Algorithm 1."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from pretrain.collectives import all_gather
from pretrain.layers import at_least_float32, autocast_off, mlp
from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import MethodConfig
from runs.settings import number


@dataclass
class VICRegConfig(MethodConfig):
    """Settings of VICReg."""

    name: str = "vicreg"
    dim: int = number(8192, least=1)
    """D: width of z and of the expander's hidden layers."""
    invariance: float = number(25.0, least=0)
    """lambda."""
    variance: float = number(25.0, least=0)
    """mu."""
    covariance: float = number(1.0, least=0)
    """nu."""


class VICReg(Method):
    """f: encoder and expander; the loss is of the variance, the invariance and the covariance of the embeddings."""

    def __init__(self, config: VICRegConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.config = config
        # The expander is the backbone's `fc`, so that every converter finds the network under `encoder`.
        self.encoder = plan.base_encoder(num_classes=config.dim)
        self.encoder.fc = mlp([self.encoder.fc.in_features, config.dim, config.dim, config.dim], hidden_bias=True)

    def forward(self, batch: Batch) -> Output:
        f, config = self.encoder, self.config
        x_a, x_b = batch.views  # n-by-3-by-H-by-W
        z_a, z_b = at_least_float32(f(x_a)), at_least_float32(f(x_b))  # n-by-D
        sim_loss = mse_loss(z_a, z_b)
        std_loss, cov_loss = torch.zeros((), device=z_a.device), torch.zeros((), device=z_a.device)
        for z in (all_gather(z_a), all_gather(z_b)):  # N-by-D, of all processes
            # As released; the paper's algorithm adds the two views' terms without the halves.
            std_loss = std_loss + relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() / 2
            cov_loss = cov_loss + off_diagonal(covariance(z)).pow(2).sum() / z.shape[1]
        loss = config.invariance * sim_loss + config.variance * std_loss + config.covariance * cov_loss
        return {"loss": loss, "z": z_a, "z2": z_b}


def covariance(z: Tensor) -> Tensor:
    """Covariance matrix (D, D) of (N, D)."""
    z = z - z.mean(dim=0)
    with autocast_off(z):
        return z.T @ z / (len(z) - 1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """The matrix with zeros on its diagonal."""
    return matrix - torch.diag(matrix.diagonal())
