"""D: how far an output is from its target. Each takes (n, d) and (n, d) and returns a scalar, the mean over rows."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

from pretrain.collectives import all_gather
from pretrain.networks import exact_products, full_precision
from runs.distributed import rank


def cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine similarity, -1 to 1 (the first paper, equation 1)."""
    p = normalize(full_precision(p), dim=1)  # n-by-d
    z = normalize(full_precision(z), dim=1)  # n-by-d
    return -(p * z).sum(dim=1).mean()


def soft_cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """-softmax(z) log softmax(p), over channels (the first paper, section 4.5)."""
    p, z = full_precision(p), full_precision(z)  # n-by-d
    return -(z.softmax(dim=1) * log_softmax(p, dim=1)).sum(dim=1).mean()


def squared_distance(p: Tensor, z: Tensor) -> Tensor:
    """Half the squared distance, as in the second paper's equation 1, over d.

    NOTE: it is used behind a batch norm, where rows have the squared length d and not 1; over d it keeps the size of
    equation 1's loss and with it the learning rate.
    """
    return (full_precision(p) - full_precision(z)).square().sum(dim=1).mean() / (2 * p.shape[1])


def infonce(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """InfoNCE (the second paper, equation 5); the negatives are the targets of all processes' other images."""

    def loss(p: Tensor, z: Tensor) -> Tensor:
        p = normalize(full_precision(p), dim=1)  # n-by-d
        z = normalize(full_precision(z), dim=1)  # n-by-d
        with exact_products(p):
            s = p @ all_gather(z).T / temperature  # n-by-N
        return cross_entropy(s, own_columns(p))

    return loss


def own_columns(p: Tensor) -> Tensor:
    """Where the rows (n, d) of this process stand among those of all processes, (n,)."""
    return rank() * len(p) + torch.arange(len(p), device=p.device)
