"""The detector's one deviation from Detectron2: a norm after res5 in the region heads."""

from typing import Any

from detectron2.layers import get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads


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
