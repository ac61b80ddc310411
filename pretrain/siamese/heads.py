"""What the encoder ends in and what predicts: the heads of the first paper's table 3 and the second's table 5."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.models.resnet import ResNet

from converters.resnet import build_resnet
from pretrain.networks import full_precision

# Where a head has batch norm: behind no layer, behind the hidden ones, behind all.
NORMS = ("none", "hidden", "all")


def build_encoder(arch: str, zero_init_residual: bool, dim: int, layers: int, norms: str, affine: bool) -> ResNet:
    """Build f, backbone and projection MLP; with `norms="all"` and no `affine` it is SimSiam's, name by name.

    Args:
        arch: the backbone.
        zero_init_residual: start the last batch norm of each residual block at 0.
        dim: d, the width of z.
        layers: layers of the projector.
        norms: which of them have batch norm behind them.
        affine: whether the output's batch norm has scale and offset.
    """
    encoder = build_resnet(arch, num_classes=dim, zero_init_residual=zero_init_residual)
    fc = encoder.fc
    assert isinstance(fc, nn.Linear)
    width = fc.in_features
    projector: list[nn.Module] = []
    for _ in range(layers - 1):
        projector += _hidden(width, width, norms)
    if norms == "all":
        # As in `simsiam.py`: the release keeps a bias that the norm makes useless, without a gradient.
        fc.bias.requires_grad = False
    encoder.fc = nn.Sequential(*projector, fc, *_output(dim, norms, affine))
    return encoder


def _hidden(width: int, out: int, norms: str) -> list[nn.Module]:
    # Without a norm, which has an offset of its own, the layer needs its bias.
    norm = [] if norms == "none" else [nn.BatchNorm1d(out)]
    return [nn.Linear(width, out, bias=norms == "none"), *norm, nn.ReLU(inplace=True)]


def _output(dim: int, norms: str, affine: bool) -> list[nn.Module]:
    return [nn.BatchNorm1d(dim, affine=affine)] if norms == "all" else []


class L2(nn.Module):
    """l2 normalization as the encoder's last layer (the second paper, section 4)."""

    def forward(self, z: Tensor) -> Tensor:
        """Scale the rows of (n, d) to unit length."""
        return normalize(full_precision(z), dim=1)


class L2BatchNorm(L2):
    """Batch norm behind the l2 normalization (the second paper, section 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False)

    def forward(self, z: Tensor) -> Tensor:
        """Scale the rows of (n, d) to unit length, then the columns to mean 0 and variance 1."""
        out: Tensor = self.norm(super().forward(z))
        return out


# What follows the projector, from the width d.
TAILS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "l2": lambda _: L2(),
    "l2_bn": L2BatchNorm,
}


class Bias(nn.Module):
    """h(z) = z + b (the second paper, table 5, "one bias")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # NOTE: the paper does not say how b starts; at 0 the network starts as the one without a predictor.
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        """Add the bias to each row of (n, d)."""
        return z + self.bias


class BoundedLinear(nn.Linear):
    """One layer whose weights a tanh bounds after every step (the second paper, table 5, "one FC")."""

    @torch.no_grad()
    def constrain(self) -> None:
        """Replace the weights by their tanh."""
        self.weight.tanh_()


def _mlp(dim: int, hidden: int, norms: str) -> nn.Module:
    return nn.Sequential(*_hidden(dim, hidden, norms), nn.Linear(hidden, dim), *_output(dim, norms, affine=True))


def _two_fc(dim: int, hidden: int, norms: str) -> nn.Module:
    # "Equivalent to removing the BN and ReLU in the original predictor" (section 4): its first layer has no bias.
    return nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim))


def _one_fc(dim: int, hidden: int, norms: str) -> nn.Module:
    # Without a bias, "to exclude the influence of o_e" (section 3.4).
    return nn.Linear(dim, dim, bias=False)


def _one_fc_tanh(dim: int, hidden: int, norms: str) -> nn.Module:
    return BoundedLinear(dim, dim, bias=False)


PREDICTORS: dict[str, Callable[[int, int, str], nn.Module]] = {
    "mlp": _mlp,
    "two_fc": _two_fc,
    "one_fc": _one_fc,
    "one_fc_tanh": _one_fc_tanh,
    "bias": lambda dim, hidden, norms: Bias(dim),
    "none": lambda dim, hidden, norms: nn.Identity(),
}
"""h by name, from d, its hidden width and its norms (the last two for `mlp`)."""
