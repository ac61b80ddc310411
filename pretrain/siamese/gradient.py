"""Gradients by parts: basic, extra center o_e, extra residual r_e (the second paper, section 3).

A loss -X . sg(g), X the normalized output that learns, has exactly the negative gradient g on X. So an experiment that
"removes a component" is the loss with what is left of g.

The center of a batch is over all processes' images.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.collectives import all_gather, all_reduce
from pretrain.networks import exact_products, full_precision
from runs.distributed import world_size

REMOVABLE = ("o_e", "r_e")


class Components(NamedTuple):
    """Parts of the negative gradient on a normalized output; they sum to it. Each (n, d), without a gradient."""

    basic: Tensor
    """What a symmetric network without anything against collapse has."""
    o_e: Tensor
    """The extra gradient's center, (1, d)."""
    r_e: Tensor
    """What remains of the extra gradient."""


def unit(z: Tensor) -> Tensor:
    """Z = z / |z|, row by row, (n, d)."""
    return normalize(full_precision(z), dim=1)


def center(Z: Tensor) -> Tensor:
    """o: the mean of the rows of all processes, (1, d) (section 3.1)."""
    return all_reduce(Z.sum(dim=0, keepdim=True)) / (len(Z) * world_size())


@torch.no_grad()
def of_simsiam(p_b: Tensor, z_b: Tensor) -> Components:
    """SimSiam's negative gradient on P_a, Z_b = P_b + G_e (equation 4): o_e = o_z - o_p.

    Args:
        p_b: (n, d), the other view's prediction.
        z_b: (n, d), its output.
    """
    P_b, Z_b = unit(p_b), unit(z_b)  # n-by-d
    G_e = Z_b - P_b  # n-by-d
    o_e = center(G_e)  # 1-by-d
    return Components(P_b, o_e, G_e - o_e)


@torch.no_grad()
def of_triplet(z_b: Tensor, z_n: Tensor) -> Components:
    """The triplet loss's negative gradient on Z_a, Z_b - Z_n (section 3.2): o_e = -o_z.

    Args:
        z_b: (n, d), the other view's output.
        z_n: (n, d), the outputs of the negatives.
    """
    Z_b, G_e = unit(z_b), -unit(z_n)  # n-by-d
    o_e = -center(Z_b)  # 1-by-d
    return Components(Z_b, o_e, G_e - o_e)


@torch.no_grad()
def of_infonce(z_a: Tensor, z_b: Tensor, temperature: float) -> Components:
    """InfoNCE's negative gradient on Z_a, (Z_b - sum_i lambda_i Z_i) / tau (equation 6): o_e = -o_z / tau.

    NOTE: the paper leaves the factor 1 / tau to the learning rate; with it the parts sum to equation 5's gradient.

    Args:
        z_a: (n, d), one view's output.
        z_b: (n, d), the other's; the negatives are the rows of all processes.
        temperature: tau.
    """
    Z_a, Z_b = unit(z_a), unit(z_b)  # n-by-d
    Z = all_gather(Z_b)  # N-by-d
    with exact_products(Z):
        weights = (Z_a @ Z.T / temperature).softmax(dim=1)  # lambda, n-by-N
        G_e = -weights @ Z / temperature  # n-by-d
    o_e = -center(Z_b) / temperature  # 1-by-d
    return Components(Z_b / temperature, o_e, G_e - o_e)


@torch.no_grad()
def of_itself(z_a: Tensor) -> Components:
    """The dummy term Z_a = o_z + r_a of the squared distance's negative gradient (equation 3, figure 4)."""
    Z_a = unit(z_a)  # n-by-d
    o_z = center(Z_a)  # 1-by-d
    return Components(torch.zeros_like(Z_a), o_z, Z_a - o_z)


def another(z: Tensor) -> Tensor:
    """For each row of (n, d) that of another image, drawn at random: (n, d)."""
    n = len(z)
    # Drawn on the CPU, whose generator a checkpoint holds.
    shift = torch.randint(1, n, (n,))  # n
    return z[((torch.arange(n) + shift) % n).to(z.device)]


def pull(x: Tensor, parts: Components, remove: Collection[str] = ()) -> Tensor:
    """The loss -X . sg(basic + o_e + r_e) without the parts to remove, a scalar.

    Args:
        x: (n, d), the output that learns; it is normalized here.
        parts: of the negative gradient on X.
        remove: `"o_e"`, `"r_e"`, both or none.
    """
    target = parts.basic  # n-by-d
    if "o_e" not in remove:
        target = target + parts.o_e
    if "r_e" not in remove:
        target = target + parts.r_e
    return -(unit(x) * target).sum(dim=1).mean()
