"""Detectron2's names and Detectron2's network for a backbone in torchvision's names."""

import contextlib
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.architecture import Architecture
from runs.errors import UserError
from runs.files import atomic_write


def to_detectron2(name: str) -> str:
    """``layer2.0.bn1.weight`` -> ``res3.0.conv1.norm.weight``; names of detectron2/modeling/backbone/resnet.py."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


class C4(nn.Module):
    """The part of Detectron2's C4 detector that is initialised from a backbone.

    ``backbone`` is stem to res4; ``roi_heads.res5`` is the last stage, applied to each region (detectron2/modeling/
    roi_heads/roi_heads.py, ``Res5ROIHeads``). Both are Detectron2's own modules under Detectron2's own names.
    """

    def __init__(self, arch: Architecture, stride_in_1x1: bool) -> None:
        from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

        super().__init__()
        stages = []
        into = arch.stem_channels
        for index, count in enumerate(arch.blocks):
            out = arch.stem_channels * arch.expansion * 2**index
            settings: dict[str, Any] = {"stride_per_block": [1 if index == 0 else 2] + [1] * (count - 1), "norm": "BN"}
            if arch.bottleneck:
                inner = arch.stem_channels * arch.inner * 2**index
                settings |= {"bottleneck_channels": inner, "stride_in_1x1": stride_in_1x1}
            block = BottleneckBlock if arch.bottleneck else BasicBlock
            stages.append(ResNet.make_stage(block, count, in_channels=into, out_channels=out, **settings))
            into = out
        features = ["stem", "res2", "res3", "res4"]
        self.backbone = ResNet(BasicStem(3, arch.stem_channels, "BN"), stages[:3], out_features=features)
        self.roi_heads = nn.Module()
        self.roi_heads.res5 = nn.Sequential(*stages[3])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> stem (N, C, H/4, W/4), res2 (N, ., H/4, W/4), res3 /8, res4 /16, res5 /32."""
        features: dict[str, Tensor] = self.backbone(images)
        features["res5"] = self.roi_heads.res5(features["res4"])
        return features


def build_c4(arch: Architecture, state_dict: dict[str, Tensor], stride_in_1x1: bool) -> C4:
    """Detectron2's network with ``state_dict`` (Detectron2's names) in it, in eval mode.

    The names are matched by Detectron2's own heuristics, those that will run when the file is loaded for fine-tuning;
    a tensor that they leave out, or that the file leaves unused, raises UserError.
    """
    with warnings.catch_warnings(), quiet_detectron2():
        # WHY: Detectron2 imports torch.jit, which announces its deprecation on every start.
        warnings.simplefilter("ignore")
        from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

        with torch.device("meta"):
            network = C4(arch, stride_in_1x1)
        matched = align_and_update_state_dicts(network.state_dict(), dict(state_dict), c2_conversion=False)
    outcome = network.load_state_dict(matched, strict=False, assign=True)
    missing = [name for name in outcome.missing_keys if not name.endswith("num_batches_tracked")]
    unused = list(outcome.unexpected_keys)
    if missing or unused or len(matched) != len(state_dict):
        name = (missing + unused + ["?"])[0]
        raise UserError(
            f"{name}: Detectron2 would leave {len(missing)} tensors unset and {len(unused)} unused; convert again"
        )
    return network.eval()


@contextlib.contextmanager
def quiet_detectron2() -> Any:
    """Detectron2 logs a table of every matched tensor; the proof prints its own."""
    import logging

    logger = logging.getLogger("detectron2")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def write_pkl(path: Path, state_dict: dict[str, Tensor], provenance: dict[str, Any]) -> None:
    """Write ``{"model", "__author__", "matching_heuristics", "provenance"}``, the form Detectron2 loads.

    ``__author__`` must be there: without it Detectron2 takes the file for Caffe2's (detectron2/checkpoint/
    detection_checkpoint.py, ``_load_file``).
    """
    model = {name: tensor.detach().contiguous().numpy() for name, tensor in state_dict.items()}
    content = {
        "model": model,
        "__author__": "the transfer benchmark's converters",
        "matching_heuristics": True,
        "provenance": provenance,
    }
    with atomic_write(path) as file:
        pickle.dump(content, file, protocol=4)
