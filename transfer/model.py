"""The detector's deviations from Detectron2: a norm after res5 in the region heads, float32 statistics for bfloat16."""

from typing import Any

from detectron2.layers import NaiveSyncBatchNorm, get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import Tensor, nn

from runs.distributed import world_size


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5 heads whose shared features pass one more norm.

    He et al., "Momentum Contrast" (arXiv:1911.05722), appendix A.3: a detector trained with batch norm in every layer
    needs normalised features before its new layers. The name is that of facebookresearch/moco@132aea9
    (detection/train_net.py), so that one YAML serves both, and so are the names of its tensors,
    `roi_heads.res5.norm.*`.
    """

    def __init__(self, cfg: Any, input_shape: Any) -> None:
        super().__init__(cfg, input_shape)
        # After every module of the parent, so that the random initial weights are drawn in the same order as there.
        self.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, self.res5[-1].out_channels))


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
