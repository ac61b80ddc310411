"""What is minimized: negative similarities D, de-correlation, the inverse predictor."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from pretrain.collectives import all_gather
from pretrain.layers import at_least_float32, autocast_off, l2_normalize
from runs.distributed import rank

Similarity = Callable[[Tensor, Tensor], Tensor]


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine similarity of (n, d) and (n, d), a scalar of -1 to 1 (the first paper, equation 1)."""
    return -(l2_normalize(p) * l2_normalize(z)).sum(dim=1).mean()


def soft_cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """-softmax(z) log softmax(p), over the channels of (n, d) and (n, d), a scalar (the first paper, section 4.5)."""
    p, z = at_least_float32(p), at_least_float32(z)  # n-by-d
    return -(z.softmax(dim=1) * log_softmax(p, dim=1)).sum(dim=1).mean()


def half_mse(p: Tensor, z: Tensor) -> Tensor:
    """Half the mean squared error of (n, d) and (n, d), a scalar (the second paper, equation 1, over d).

    NOTE: it is used after a batch norm, where rows have the squared length d and not 1; over d it keeps the size of
    equation 1's loss and with it the learning rate.
    """
    return (at_least_float32(p) - at_least_float32(z)).square().sum(dim=1).mean() / (2 * p.shape[1])


def infonce(p: Tensor, z: Tensor, temperature: float) -> Tensor:
    """InfoNCE (the second paper, equation 5); the negatives are the targets of all processes' other images."""
    p, z = l2_normalize(p), l2_normalize(z)  # n-by-d
    with autocast_off(p):
        s = p @ all_gather(z).T / temperature  # n-by-N
    return cross_entropy(s, rank() * len(p) + torch.arange(len(p), device=p.device))


def covariance_loss(*views: Tensor) -> Tensor:
    """De-correlation: the sum of the squared covariances of different channels over d, averaged over views (n, d).

    A scalar. The second paper, algorithm 5, after Barlow Twins.

    NOTE: the algorithm calls its input "representation vector", appendix A.6 "encoder output" and follows Barlow Twins,
    which normalizes batches and not rows. So the input is the output after its batch norm, where no channel can
    shrink. On rows of unit length a constant has the least loss, and what has collapsed stays so (docs/collapse.md).
    """
    losses = []
    for z in views:
        n, d = z.shape
        z = at_least_float32(z)
        z = z - z.mean(dim=0)  # n-by-d
        with autocast_off(z):
            covariance = z.T @ z / (n - 1)  # d-by-d
        losses.append(covariance[~torch.eye(d, dtype=torch.bool, device=z.device)].square().sum() / d)
    return torch.stack(losses).mean()


def inverse_predictor_losses(
    h: nn.Module, h_inv: nn.Module, z: list[Tensor], p: list[Tensor], D: Similarity
) -> dict[str, Tensor]:
    """Train h as SimSiam does, h_inv to undo it, and f with h as an encoder whose targets h_inv(p) are.

    The second paper, algorithm 4. NOTE: it prints the second half of the encoder's loss without its 1/2; both halves
    have it here.

    z are two views' outputs and p what h makes of them, each (n, d); the second argument of D is given as a constant.
    Returns the `loss`, a scalar, and its three parts by name.
    """
    z_a, z_b = z  # n-by-d
    p_a, p_b = p  # h(z_a) and h(z_b), n-by-d
    d_p_a, d_p_b = h(z_a.detach()), h(z_b.detach())  # n-by-d
    predict = D(d_p_a, z_b.detach()) / 2 + D(d_p_b, z_a.detach()) / 2
    inv_p_a, inv_p_b = h_inv(p_a.detach()), h_inv(p_b.detach())  # n-by-d
    invert = D(inv_p_a, z_a.detach()) / 2 + D(inv_p_b, z_b.detach()) / 2
    # The algorithm calls h_inv(p) anew, once its argument is no longer detached; as a constant it is the same.
    encode = D(p_a, inv_p_b.detach()) / 2 + D(p_b, inv_p_a.detach()) / 2
    return {
        "loss": predict + invert + encode,
        "predict": predict.detach(), "invert": invert.detach(), "encode": encode.detach(),
    }  # fmt: skip
