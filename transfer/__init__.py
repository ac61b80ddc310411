"""Fine-tune Detectron2's Faster and Mask R-CNN from a backbone by MoCo's protocol, and measure VOC and COCO AP."""

import warnings

# Detectron2 (2024-04) and fvcore speak to older releases; each of these is theirs alone and changes no result.
for message, category in (
    ("pkg_resources is deprecated", UserWarning),  # detectron2/model_zoo, fvcore: only a file's path
    ("`torch.jit", FutureWarning),  # scripted helpers of detectron2/structures and fvcore/nn
    ("torch.meshgrid: in an upcoming release", UserWarning),  # the anchor generator; both orders are spelled out there
    (".*torch.cuda.amp.autocast", FutureWarning),  # detectron2/modeling/roi_heads
):
    warnings.filterwarnings("ignore", message=message, category=category)
