"""The de-correlation loss (the second paper, algorithm 5, after Barlow Twins)."""

import torch
from torch import Tensor

from pretrain.networks import exact_products
from pretrain.siamese.gradient import unit


def decorrelation(*views: Tensor) -> Tensor:
    """Sum of the squared covariances of different channels over d, averaged over views, a scalar.

    Args:
        views: (n, d) each, this process's outputs; they are normalized here.
    """
    return torch.stack([_of_one(z) for z in views]).mean()


def _of_one(z: Tensor) -> Tensor:
    Z = unit(z)  # n-by-d
    n, d = Z.shape
    Z = Z - Z.mean(dim=0)
    with exact_products(Z):
        covariance = Z.T @ Z / (n - 1)  # d-by-d
    return covariance[~torch.eye(d, dtype=torch.bool, device=Z.device)].square().sum() / d
