"""What is minimized: negative similarities D, the parts of their gradients, de-correlation, the inverse predictor.

A loss -X . sg(g), X the normalized output that learns, has exactly the negative gradient g on X. So an experiment that
"removes a component" of a gradient is the loss with what is left of g (the second paper, section 3). Capital letters
are L2-normalized rows; a center is over all processes' images.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, normalize

from pretrain.collectives import all_gather, all_reduce
from pretrain.precision import at_least_float32, autocast_off
from runs.distributed import rank, world_size

Similarity = Callable[[Tensor, Tensor], Tensor]


def unit(z: Tensor) -> Tensor:
    """Z = z / |z|, row by row, (n, d)."""
    return normalize(at_least_float32(z), dim=1)


def center(Z: Tensor) -> Tensor:
    """o: the mean of the rows of all processes, (1, d) (the second paper, section 3.1)."""
    return all_reduce(Z.sum(dim=0, keepdim=True)) / (len(Z) * world_size())


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine similarity of (n, d) and (n, d), a scalar of -1 to 1 (the first paper, equation 1)."""
    return -(unit(p) * unit(z)).sum(dim=1).mean()


def soft_cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """-softmax(z) log softmax(p), over the channels of (n, d) and (n, d), a scalar (the first paper, section 4.5)."""
    p, z = at_least_float32(p), at_least_float32(z)  # n-by-d
    return -(z.softmax(dim=1) * log_softmax(p, dim=1)).sum(dim=1).mean()


def squared_distance(p: Tensor, z: Tensor) -> Tensor:
    """Half the squared distance of (n, d) and (n, d), over d, a scalar (the second paper, equation 1).

    NOTE: it is used after a batch norm, where rows have the squared length d and not 1; over d it keeps the size of
    equation 1's loss and with it the learning rate.
    """
    return (at_least_float32(p) - at_least_float32(z)).square().sum(dim=1).mean() / (2 * p.shape[1])


def infonce(p: Tensor, z: Tensor, temperature: float) -> Tensor:
    """InfoNCE (the second paper, equation 5); the negatives are the targets of all processes' other images."""
    p, z = unit(p), unit(z)  # n-by-d
    with autocast_off(p):
        s = p @ all_gather(z).T / temperature  # n-by-N
    return cross_entropy(s, rank() * len(p) + torch.arange(len(p), device=p.device))


class GradientComponents(NamedTuple):
    """Parts of the negative gradient on a normalized output; they sum to it. Each (n, d), without a gradient."""

    basic: Tensor
    """What a symmetric network without anything against collapse has."""
    o_e: Tensor
    """The extra gradient's center, (1, d)."""
    r_e: Tensor
    """What remains of the extra gradient, its residual."""


@torch.no_grad()
def simsiam_components(p_b: Tensor, z_b: Tensor) -> GradientComponents:
    """SimSiam's negative gradient on P_a, Z_b = P_b + G_e (equation 4): o_e = o_z - o_p; p_b and z_b are (n, d)."""
    P_b, Z_b = unit(p_b), unit(z_b)  # n-by-d
    G_e = Z_b - P_b  # n-by-d
    o_e = center(G_e)  # 1-by-d
    return GradientComponents(P_b, o_e, G_e - o_e)


@torch.no_grad()
def triplet_components(z_b: Tensor, z_n: Tensor) -> GradientComponents:
    """The triplet loss's negative gradient on Z_a, Z_b - Z_n (section 3.2): o_e = -o_z; z_b and z_n are (n, d)."""
    Z_b, G_e = unit(z_b), -unit(z_n)  # n-by-d
    o_e = -center(Z_b)  # 1-by-d
    return GradientComponents(Z_b, o_e, G_e - o_e)


@torch.no_grad()
def infonce_components(z_a: Tensor, z_b: Tensor, temperature: float) -> GradientComponents:
    """InfoNCE's negative gradient on Z_a, (Z_b - sum_i lambda_i Z_i) / tau (equation 6): o_e = -o_z / tau.

    z_a and z_b are (n, d); the negatives are the rows of all processes. NOTE: the paper leaves the factor 1 / tau to
    the learning rate; with it the parts sum to equation 5's gradient.
    """
    Z_a, Z_b = unit(z_a), unit(z_b)  # n-by-d
    Z = all_gather(Z_b)  # N-by-d
    with autocast_off(Z):
        weights = (Z_a @ Z.T / temperature).softmax(dim=1)  # lambda, n-by-N
        G_e = -weights @ Z / temperature  # n-by-d
    o_e = -center(Z_b) / temperature  # 1-by-d
    return GradientComponents(Z_b / temperature, o_e, G_e - o_e)


@torch.no_grad()
def self_components(z_a: Tensor) -> GradientComponents:
    """The dummy term Z_a = o_z + r_a of the squared distance's negative gradient (equation 3, figure 4)."""
    Z_a = unit(z_a)  # n-by-d
    o_z = center(Z_a)  # 1-by-d
    return GradientComponents(torch.zeros_like(Z_a), o_z, Z_a - o_z)


def random_negatives(z: Tensor) -> Tensor:
    """For each row of (n, d) that of another image, drawn at random: (n, d)."""
    n = len(z)
    # Drawn on the CPU, whose generator a checkpoint holds.
    shift = torch.randint(1, n, (n,))  # n
    return z[((torch.arange(n) + shift) % n).to(z.device)]


def component_loss(x: Tensor, parts: GradientComponents, remove: Collection[str] = ()) -> Tensor:
    """The loss -X . sg(basic + o_e + r_e) without the parts to remove, a scalar; x (n, d) is normalized here."""
    target = sum(part for name, part in parts._asdict().items() if name not in remove)  # n-by-d
    return -(unit(x) * target).sum(dim=1).mean()


def decorrelation_loss(*views: Tensor) -> Tensor:
    """Sum of the squared covariances of different channels over d, averaged over views (n, d), a scalar.

    The second paper, algorithm 5, after Barlow Twins.

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


def inverse_predictor_losses(h: nn.Module, h_inv: nn.Module, z: list[Tensor], D: Similarity) -> dict[str, Tensor]:
    """Train h as SimSiam does, h_inv to undo it, and f with h as an encoder whose targets h_inv(p) are.

    The second paper, algorithm 4. NOTE: it prints the second half of the encoder's loss without its 1/2; both halves
    have it here.

    z are two views' outputs, each (n, d); the second argument of D is given as a constant. Returns the output of
    `Method.forward`, and the three losses by name.
    """
    z_a, z_b = z  # n-by-d
    p_a, p_b = h(z_a), h(z_b)  # n-by-d
    d_p_a, d_p_b = h(z_a.detach()), h(z_b.detach())  # n-by-d
    predict = D(d_p_a, z_b.detach()) / 2 + D(d_p_b, z_a.detach()) / 2
    inv_p_a, inv_p_b = h_inv(p_a.detach()), h_inv(p_b.detach())  # n-by-d
    invert = D(inv_p_a, z_a.detach()) / 2 + D(inv_p_b, z_b.detach()) / 2
    # The algorithm calls h_inv(p) anew, once its argument is no longer detached; as a constant it is the same.
    encode = D(p_a, inv_p_b.detach()) / 2 + D(p_b, inv_p_a.detach()) / 2
    return {
        "loss": predict + invert + encode, "z": z_a, "z2": z_b, "p": p_a,
        "predict": predict.detach(), "invert": invert.detach(), "encode": encode.detach(),
    }  # fmt: skip
