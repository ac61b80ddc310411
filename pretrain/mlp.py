"""The multi-layer perceptron of projectors and predictors."""

import itertools
from collections.abc import Sequence

from torch import nn


def mlp(
    dims: Sequence[int],
    *,
    hidden_bias: bool = False,
    output_bias: bool = False,
    hidden_norm: bool = True,
    output_norm: str = "none",
    last: nn.Linear | None = None,
) -> nn.Sequential:
    """Build a projector or predictor: fc, BN, ReLU, …, fc, and perhaps a last BN.

    Args:
        dims: input, hidden and output widths; `len(dims) - 1` layers.
        hidden_bias: biases of all but the last layer; useless before a batch norm.
        output_bias: bias of the last layer.
        hidden_norm: batch norm after all but the last layer.
        output_norm: `"none"`, `"affine"`, `"scale"` (the offset stays 0) or `"plain"` (neither scale nor offset) after
            the last layer.
        last: the last layer, where it exists already.

    Returns:
        A `Sequential` from (N, dims[0]) to (N, dims[-1]).
    """
    layers: list[nn.Module] = []
    *hidden, output = itertools.pairwise(dims)
    for into, out in hidden:
        norm = [nn.BatchNorm1d(out)] if hidden_norm else []
        layers += [nn.Linear(into, out, bias=hidden_bias), *norm, nn.ReLU(inplace=True)]
    layers.append(last or nn.Linear(*output, bias=output_bias))
    if output_norm != "none":
        last_norm = nn.BatchNorm1d(dims[-1], affine=output_norm != "plain")
        if output_norm == "scale":
            last_norm.bias.requires_grad = False
        layers.append(last_norm)
    return nn.Sequential(*layers)
