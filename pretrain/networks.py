"""What several methods are built of: MLP heads, pooled features, and products that keep their precision."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet


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


def pooled_features(network: ResNet, images: Tensor) -> Tensor:
    """Return a ResNet's globally average-pooled features (N, C) of normalized images (N, 3, H, W), without its `fc`."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    return torch.flatten(network.avgpool(x), 1)


def full_precision(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is in a shorter format, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exact_products(x: Tensor) -> torch.autocast:
    """Return a context on `x`'s device whose matrix products keep their operands' precision under `precision=bf16`.

    Similarities that are divided by a temperature need it: a bf16 cosine over 0.05 is wrong by a tenth.
    """
    return torch.autocast(x.device.type, enabled=False)
