"""What the encoder ends in and what predicts: the heads of the first paper's table 3 and the second's table 5."""

import torch
from torch import Tensor, nn

from pretrain.layers import l2_normalize, mlp


def build_projector(fc: nn.Linear, layers: int, norms: str, affine: bool) -> nn.Sequential:
    """Build the projection MLP; with `norms="all"` and no `affine` it is SimSiam's, name by name.

    `fc` is the encoder's last layer, and the last of `layers`. `norms` says which have batch norm after them, `none`,
    `hidden` (all but the last) or `all`; `affine`, whether the last batch norm has scale and offset.
    """
    # As in `simsiam.py`: the release keeps a bias that the norm makes useless, without a gradient.
    fc.bias.requires_grad = norms != "all"
    output_norm = "none" if norms != "all" else "affine" if affine else "plain"
    # Without a norm, which has an offset of its own, a layer needs its bias.
    return mlp(
        [fc.in_features] * layers + [fc.out_features], hidden_norm=norms != "none", hidden_bias=norms == "none",
        output_norm=output_norm, last=fc,
    )  # fmt: skip


def build_output_norm(name: str, dim: int) -> nn.Module:
    """Build what follows the projector (the second paper, section 4): nothing, `l2`, or `l2_bn`."""
    if name == "none":
        return nn.Identity()
    return L2() if name == "l2" else nn.Sequential(L2(), nn.BatchNorm1d(dim, affine=False))


def build_predictor(name: str, dim: int, hidden: int, norms: str) -> nn.Module:
    """Build h, a choice of `SiameseConfig.predictor` by `name`, from (n, dim) to (n, dim).

    `hidden` is the width of the hidden layer of `mlp` and `two_fc`, `norms` as for the projector those of `mlp`.
    """
    if name == "mlp":
        output_norm = "affine" if norms == "all" else "none"
        return mlp(
            [dim, hidden, dim], hidden_norm=norms != "none", hidden_bias=norms == "none", output_bias=True,
            output_norm=output_norm,
        )  # fmt: skip
    if name == "two_fc":
        # "Equivalent to removing the BN and ReLU in the original predictor" (section 4): its first layer has no bias.
        return nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim))
    if name in ("one_fc", "one_fc_tanh"):
        # Without a bias, "to exclude the influence of o_e" (section 3.4).
        return nn.Linear(dim, dim, bias=False)
    return Bias(dim) if name == "bias" else nn.Identity()


class L2(nn.Module):
    """l2 normalization as a layer."""

    def forward(self, z: Tensor) -> Tensor:
        """Scale the rows of (n, d) to unit length."""
        return l2_normalize(z)


class Bias(nn.Module):
    """h(z) = z + b (the second paper, table 5, "one bias")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # NOTE: the paper does not say how b starts; at 0 the network starts as the one without a predictor.
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        """Add the bias to each row of (n, d)."""
        return z + self.bias
