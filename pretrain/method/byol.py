"""BYOL. Grill et al.: Bootstrap Your Own Latent, NeurIPS 2020, Algorithm 1."""

import copy
import math
from typing import cast

import torch
from torch import Tensor

from pretrain.layers import l2_normalize, mlp
from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import BYOLConfig


class BYOL(Method):
    """theta: online network, xi: target. g(f(v)): `encoder` and `target`, whose `fc` is g; q: `predictor`."""

    def __init__(self, config: BYOLConfig, plan: TrainingPlan) -> None:
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

    def forward(self, batch: Batch) -> Output:
        g_theta, q_theta, g_xi = self.encoder, self.predictor, self.g_xi
        v_1, v_2 = batch.views  # t(x) and t'(x), N-by-3-by-H-by-W
        z_1, z_2 = g_theta(v_1), g_theta(v_2)  # projections, N-by-d
        target_2, target_1 = g_xi(v_1), g_xi(v_2)  # target projections z'_2 and z'_1, N-by-d
        q_1, q_2 = q_theta(z_1), q_theta(z_2)  # predictions, N-by-d
        loss = regression(q_1, target_1) + regression(q_2, target_2)  # scalar in [0, 8]
        return {"loss": loss, "z": z_1}

    @torch.no_grad()
    def g_xi(self, v: Tensor) -> Tensor:
        """Target projections (N, d) of views (N, 3, H, W), without a gradient."""
        return cast(Tensor, self.target(v))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        tau = self.tau(step)
        for theta, xi in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
            xi.lerp_(theta, 1 - tau)  # tau * xi + (1 - tau) * theta

    def tau(self, step: int) -> float:
        """Decay rate of the target at a step, counted from 0 (section 3.3)."""
        return 1 - (1 - self.config.momentum) * (math.cos(math.pi * step / self.plan.steps) + 1) / 2


def regression(q: Tensor, z: Tensor) -> Tensor:
    """Squared distance of the normalized (N, d) and (N, d), averaged to a scalar (equation 2).

    It is 2 - 2 cos, of which Algorithm 1 leaves out the constant 2.
    """
    q, z = l2_normalize(q), l2_normalize(z)  # N-by-d
    return (q - z).square().sum(dim=1).mean()
