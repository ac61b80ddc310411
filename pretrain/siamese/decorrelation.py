"""The de-correlation loss (the second paper, algorithm 5, after Barlow Twins)."""

import torch
from torch import Tensor

from pretrain.networks import exact_products, full_precision


def decorrelation(*views: Tensor) -> Tensor:
    """Sum of the squared covariances of different channels over d, averaged over views, a scalar.

    NOTE: the algorithm calls its input "representation vector", appendix A.6 "encoder output" and follows Barlow Twins,
    which normalizes batches and not rows. So the input is the output behind its batch norm, where no channel can
    shrink. On rows of unit length a constant has the least loss, and what has collapsed stays so (docs/collapse.md).

    Args:
        views: (n, d) each, this process's outputs as they are.
    """
    return torch.stack([_of_one(full_precision(z)) for z in views]).mean()


def _of_one(z: Tensor) -> Tensor:
    n, d = z.shape
    z = z - z.mean(dim=0)  # n-by-d
    with exact_products(z):
        covariance = z.T @ z / (n - 1)  # d-by-d
    return covariance[~torch.eye(d, dtype=torch.bool, device=z.device)].square().sum() / d
