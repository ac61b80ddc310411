"""Batch norm over the images of all processes, or over a part of one process's."""

import torch
from torch import Tensor, nn

from pretrain.collectives import all_reduce
from pretrain.keep_float32 import at_least_float32
from runs.distributed import world_size


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


def split_norms(module: nn.Module, groups: int) -> None:
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


def synchronize_norms(module: nn.Module, device: torch.device) -> None:
    """Make every batch norm of `module` one over all processes; parameters and names stay."""
    if world_size() > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
    elif world_size() > 1:
        for child in module.modules():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                # Only the forward pass differs; parameters, buffers and names are the same.
                child.__class__ = SyncBatchNorm  # type: ignore[assignment]
