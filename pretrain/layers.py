"""Layers and operations of more than one method: MLP, normalization, precision, batch norm over processes or groups."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.collectives import all_reduce
from runs.distributed import world_size


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


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is in a shorter format, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def l2_normalize(x: Tensor) -> Tensor:
    """Scale the rows of (n, d) to unit length, in at least float32."""
    return normalize(at_least_float32(x), dim=1)


def autocast_off(x: Tensor) -> torch.autocast:
    """Return a context on `x`'s device whose matrix products keep their operands' precision under `precision=bf16`.

    Similarities that are divided by a temperature need it: a bf16 cosine over 0.05 is wrong by a tenth.
    """
    return torch.autocast(x.device.type, enabled=False)


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:
        pass  # of either number of dimensions


class SplitBatchNorm(_BatchNorm):
    """Batch norm over groups of images, as if each group were on a device of its own."""

    groups = 1

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each contiguous group of (N, C) or (N, C, H, W) by its own statistics.

        The running statistics follow the first group: under DDP, the first device's are broadcast to the others.
        """
        if not self.training:
            return super().forward(input)
        first, *rest = input.chunk(self.groups)
        parts = [super().forward(first)]
        for part in rest:
            parts.append(nn.functional.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps))
        return torch.cat(parts)


def split_norms_(module: nn.Module, groups: int) -> None:
    """Make every batch norm of `module` treat its input as `groups` devices would; parameters and names stay."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            child.__class__ = SplitBatchNorm  # type: ignore[assignment]
            child.groups = groups  # type: ignore[assignment]


class SyncBatchNorm(_BatchNorm):
    """Batch norm over all processes from plain operations, for devices where PyTorch has none.

    NOTE: `torch.nn.SyncBatchNorm` refuses CPU tensors. The mean is reduced before the variance, so nothing cancels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C) or (N, C, H, W) by the statistics of all processes' inputs; they share one shape."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = input.numel() // input.shape[1] * world_size()
        # Statistics of bf16 inputs are float32 and the output is bf16 again, as PyTorch's.
        x = at_least_float32(input)
        mean = all_reduce(x.sum(axes)) / count  # C
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count  # C
        with torch.no_grad():
            assert (
                self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
            )
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum or 0.1)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum or 0.1)
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        out = out if self.weight is None else out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


def synchronize_norms_(module: nn.Module, device: torch.device) -> None:
    """Make every batch norm of `module` one over all processes; parameters and names stay."""
    if world_size() > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
    elif world_size() > 1:
        for child in module.modules():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                # Only the forward pass differs; parameters, buffers and names are the same.
                child.__class__ = SyncBatchNorm  # type: ignore[assignment]
