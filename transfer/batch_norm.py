"""Detectron2's batch norm over processes, in float32 also where features are bfloat16."""

from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

from runs.distributed import world_size


class Float32SyncBatchNorm(NaiveSyncBatchNorm):
    """Batch norm over processes with float32 statistics of bfloat16 features.

    NOTE: Detectron2's own does so for float16 alone (detectron2/layers/batch_norm.py@a59f0563), and its variance is a
    difference of squares, of which the 8 bits of bfloat16 leave nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W); the output has the input's type."""
        output: Tensor = super().forward(input.float() if self.training else input)
        return output.to(input.dtype)


def synchronize_in_float32(detector: nn.Module) -> None:
    """Give every batch norm over processes float32 statistics; parameters, buffers and names stay."""
    for module in detector.modules() if world_size() > 1 else ():
        if isinstance(module, NaiveSyncBatchNorm):
            # Only the forward pass differs.
            module.__class__ = Float32SyncBatchNorm
