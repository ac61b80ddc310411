"""BYOL. Grill et al.: Bootstrap Your Own Latent, NeurIPS 2020, Algorithm 1."""

import copy
import math
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.models.resnet import ResNet

from pretrain.method.base import Batch, Method, Output, Plan
from pretrain.method.config import BYOLConfig
from pretrain.networks import full_precision, mlp


class BYOL(Method):
    """f, g: backbone and projector (`fc`), online (`encoder`) and target (`target`); q: predictor."""

    def __init__(self, config: BYOLConfig, plan: Plan) -> None:
        super().__init__()
        self.config, self.plan = config, plan
        self.encoder = plan.base_encoder(num_classes=config.dim)
        width = self.encoder.fc.in_features
        # google-deepmind/deepmind-research@4822a45 byol/utils/networks.py MLP: a bias before the norm, none at the end.
        self.encoder.fc = mlp([width, config.hidden, config.dim], hidden_bias=True)
        self.predictor = mlp([config.dim, config.hidden, config.dim], hidden_bias=True)
        # NOTE: the target starts as a copy. The release draws it anew and reports no difference (byol_experiment.py).
        self.target = copy.deepcopy(self.encoder)
        for p in self.target.parameters():
            p.requires_grad = False

    def forward(self, batch: Batch) -> Output:  # noqa: D102
        f_theta, q_theta = self.encoder, self.predictor
        v1, v2 = batch.views  # N-by-3-by-H-by-W
        z1, z2 = f_theta(v1), f_theta(v2)  # online projections, N-by-d
        q1, q2 = q_theta(z1), q_theta(z2)  # predictions, N-by-d
        t1, t2 = self.f_xi(v1), self.f_xi(v2)  # target projections, N-by-d
        loss = regression(q1, t2) + regression(q2, t1)  # scalar in [0, 8]
        return {"loss": loss, "z": z1}

    @torch.no_grad()
    def f_xi(self, v: Tensor) -> Tensor:
        """Target projections (N, d) of views (N, 3, H, W), without a gradient."""
        return cast(Tensor, self.target(v))

    def tau(self, step: int) -> float:
        """Decay rate of the target at a step, counted from 0 (section 3.3)."""
        return 1 - (1 - self.config.momentum) * (math.cos(math.pi * step / self.plan.steps) + 1) / 2

    @torch.no_grad()
    def after_step(self, step: int) -> None:  # noqa: D102
        for theta, xi in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
            xi.lerp_(theta, 1 - self.tau(step))

    def predict(self, z: Tensor) -> Tensor:  # noqa: D102
        return cast(Tensor, self.predictor(z))

    def backbone(self) -> ResNet:  # noqa: D102
        return self.encoder


def regression(q: Tensor, z: Tensor) -> Tensor:
    """Squared distance of the normalized (N, d) and (N, d), 2 - 2 cos, averaged to a scalar (equation 2)."""
    q, z = normalize(full_precision(q), dim=1), normalize(full_precision(z), dim=1)  # N-by-d
    return (q - z).square().sum(dim=1).mean()
