"""SimCLR. Chen et al.: A Simple Framework for Contrastive Learning of Visual Representations (Algorithm 1).

arXiv:2002.05709.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pretrain.collectives import all_gather
from pretrain.layers import autocast_off, l2_normalize, mlp
from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import SimCLRConfig
from runs.distributed import rank


class SimCLR(Method):
    """f: backbone; g: projection head, `encoder.fc`; l: NT-Xent."""

    def __init__(self, config: SimCLRConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.config = config
        self.encoder = plan.base_encoder(num_classes=config.dim)
        width = self.encoder.fc.in_features
        # google-research/simclr@383d414 model_util.py projection_head: BN after every layer, so none has a bias, and
        # no offset after the last.
        self.encoder.fc = mlp([width] * config.layers + [config.dim], output_norm="scale")
        if config.predictor:
            self.predictor = mlp([config.dim, config.predictor, config.dim], output_bias=True)

    def forward(self, batch: Batch) -> Output:
        tau = self.config.temperature
        # Both views in one pass, as released: they share the batch norms' statistics. NOTE: the first augmentation's
        # rows, then the second's; the paper alternates.
        x = torch.cat(batch.views)  # 2N-by-3-by-H-by-W
        z = self.encoder(x)  # g(f(x)), 2N-by-d
        if self.config.predictor:
            p = self.predictor(z)  # 2N-by-d
            loss = nt_xent(p, tau, z.detach() if self.config.stop_gradient else z)  # scalar
        else:
            loss = nt_xent(z, tau)  # scalar
        if self.config.reduction == "sum":
            loss = 2 * loss  # the mean over 2N rows, as a sum of two means over N
        z_1, z_2 = z.chunk(2)  # N-by-d
        return {"loss": loss, "z": z_1, "z2": z_2}


def nt_xent(z: Tensor, tau: float, keys: Tensor | None = None) -> Tensor:
    """The mean of l(i, j), equation 1, over both orders of the positive pairs; negatives from all processes.

    From this process's projections z (2n, d), the n first views, then the n second ones, to the mean over its rows, a
    scalar. They are compared with the keys (2n, d), in the same order; with themselves by default.
    """
    z = l2_normalize(z)  # 2n-by-d
    keys = z if keys is None else l2_normalize(keys)  # 2n-by-d
    with autocast_off(z):
        s = z @ all_gather(keys).T / tau  # s_ik / tau, pairwise similarity: 2n-by-2N, N = n * processes
    row = torch.arange(len(z), device=z.device)  # 2n
    i = rank() * len(z) + row  # 2n, the rows' places among all processes'
    j = i.roll(len(z) // 2)  # 2n, the other view of i
    s[row, i] = float("-inf")  # the indicator k != i
    return cross_entropy(s, j)  # -log softmax(s)_ij
