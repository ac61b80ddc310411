"""The parts of the losses' gradients, and the loss without some of them.

A loss -X . sg(g), X the normalized output that learns, has exactly the negative gradient g on X. So an experiment that
"removes a component" of a gradient is the loss with what is left of g (the second paper, section 3). Capital letters
are L2-normalized rows; a center is over all processes' images.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.collectives import all_gather, all_reduce
from pretrain.layers import autocast_off, l2_normalize
from runs.distributed import world_size


def _center_vector(Z: Tensor) -> Tensor:
    """o: the mean of the rows of all processes, (1, d) (the second paper, section 3.1)."""
    return all_reduce(Z.sum(dim=0, keepdim=True)) / (len(Z) * world_size())


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
    P_b, Z_b = l2_normalize(p_b), l2_normalize(z_b)  # n-by-d
    G_e = Z_b - P_b  # n-by-d
    o_e = _center_vector(G_e)  # 1-by-d
    return GradientComponents(P_b, o_e, G_e - o_e)


@torch.no_grad()
def triplet_components(z_b: Tensor, z_n: Tensor) -> GradientComponents:
    """The triplet loss's negative gradient on Z_a, Z_b - Z_n (section 3.2): o_e = -o_z; z_b and z_n are (n, d)."""
    Z_b, G_e = l2_normalize(z_b), -l2_normalize(z_n)  # n-by-d
    o_e = -_center_vector(Z_b)  # 1-by-d
    return GradientComponents(Z_b, o_e, G_e - o_e)


@torch.no_grad()
def infonce_components(z_a: Tensor, z_b: Tensor, temperature: float) -> GradientComponents:
    """InfoNCE's negative gradient on Z_a, (Z_b - sum_i lambda_i Z_i) / tau (equation 6): o_e = -o_z / tau.

    z_a and z_b are (n, d); the negatives are the rows of all processes. NOTE: the paper leaves the factor 1 / tau to
    the learning rate; with it the parts sum to equation 5's gradient.
    """
    Z_a, Z_b = l2_normalize(z_a), l2_normalize(z_b)  # n-by-d
    Z = all_gather(Z_b)  # N-by-d
    with autocast_off(Z):
        weights = (Z_a @ Z.T / temperature).softmax(dim=1)  # lambda, n-by-N
        G_e = -weights @ Z / temperature  # n-by-d
    o_e = -_center_vector(Z_b) / temperature  # 1-by-d
    return GradientComponents(Z_b / temperature, o_e, G_e - o_e)


@torch.no_grad()
def self_components(z_a: Tensor) -> GradientComponents:
    """The dummy term Z_a = o_z + r_a of the squared distance's negative gradient (equation 3, figure 4)."""
    Z_a = l2_normalize(z_a)  # n-by-d
    o_z = _center_vector(Z_a)  # 1-by-d
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
    return -(l2_normalize(x) * target).sum(dim=1).mean()
