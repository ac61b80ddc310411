"""SimCLR. Chen et al.: A Simple Framework for Contrastive Learning of Visual Representations, arXiv:2002.05709."""

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torchvision.models.resnet import ResNet

from pretrain.collectives import all_gather
from pretrain.method.base import Batch, Method, Output, Plan
from pretrain.method.config import SimCLRConfig
from pretrain.networks import exact_products, full_precision, mlp
from runs.distributed import rank


class SimCLR(Method):
    """f: backbone; g: projection head, `encoder.fc`; l: NT-Xent."""

    def __init__(self, config: SimCLRConfig, plan: Plan) -> None:
        super().__init__()
        self.config = config
        self.encoder = plan.base_encoder(num_classes=config.dim)
        width = self.encoder.fc.in_features
        # google-research/simclr@383d414 model_util.py projection_head: BN after every layer, so none has a bias, and
        # no offset after the last.
        self.encoder.fc = mlp([width] * config.layers + [config.dim], output_norm="scale")
        if config.predictor:
            self.predictor = mlp([config.dim, config.predictor, config.dim], output_bias=True)

    def forward(self, batch: Batch) -> Output:  # noqa: D102
        # Both views in one pass, as released: they share the batch norms' statistics.
        x = torch.cat(batch.views)  # 2N-by-3-by-H-by-W
        z = self.encoder(x)  # g(f(x)), 2N-by-d
        if self.config.predictor:
            p = self.predictor(z)  # 2N-by-d
            loss = nt_xent(p, self.config.temperature, z.detach() if self.config.stop_gradient else z)  # scalar
        else:
            loss = nt_xent(z, self.config.temperature)  # scalar
        if self.config.reduction == "sum":
            loss = 2 * loss
        return {"loss": loss, "z": z[: len(z) // 2], "z2": z[len(z) // 2 :]}

    def predict(self, z: Tensor) -> Tensor | None:  # noqa: D102
        return cast(Tensor, self.predictor(z)) if self.config.predictor else None

    def backbone(self) -> ResNet:  # noqa: D102
        return self.encoder


def nt_xent(z: Tensor, temperature: float, keys: Tensor | None = None) -> Tensor:
    """Normalized temperature-scaled cross entropy (the paper's equation 1), negatives from all processes.

    Args:
        z: (2n, d), this process's projections: the n first views, then the n second ones.
        temperature: tau.
        keys: (2n, d), what they are compared with, in the same order; the projections themselves by default.

    Returns:
        The mean over this process's 2n rows, a scalar.
    """
    z = normalize(full_precision(z), dim=1)  # 2n-by-d
    keys = z if keys is None else normalize(full_precision(keys), dim=1)  # 2n-by-d
    with exact_products(z):
        s = z @ all_gather(keys).T / temperature  # 2n-by-2N, N = n * processes
    i = torch.arange(len(z), device=z.device)  # 2n
    first = rank() * len(z)
    itself = torch.zeros_like(s, dtype=torch.bool)  # 2n-by-2N
    itself[i, first + i] = True
    s = s.masked_fill(itself, float("-inf"))  # the indicator k != i
    j = first + i.roll(len(z) // 2)  # 2n, the other view of i
    return cross_entropy(s, j)
