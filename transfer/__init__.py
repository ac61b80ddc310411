"""Fine-tune Detectron2's Faster and Mask R-CNN from a backbone by MoCo's protocol, and measure VOC and COCO AP."""

import logging
import warnings

# Detectron2 (2024-04) and fvcore speak to older releases; each of these is theirs alone and changes no result.
for message, category in (
    ("pkg_resources is deprecated", UserWarning),  # detectron2/model_zoo, fvcore: only to find a file
    ("`torch.jit", FutureWarning),  # scripted helpers of detectron2/structures and fvcore/nn
    ("torch.meshgrid: in an upcoming release", UserWarning),  # detectron2's anchors mean today's default order
):
    warnings.filterwarnings("ignore", message=message, category=category)
# "is_fx_tracing will return true for both ...": asked by detectron2/utils/tracing.py, which traces nothing here.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
