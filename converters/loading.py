"""From a checkpoint file to a backbone in torchvision's names."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.architecture import recognise
from runs.errors import UserError
from runs.files import sha256


@dataclass(frozen=True)
class InputConvention:
    """What the network expects at its input: channel order, and mean and std of images in [0, 1], in that order."""

    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    stride_in_1x1: bool = False

    def detectron2(self) -> dict[str, Any]:
        """The same as Detectron2 says it: INPUT.FORMAT, PIXEL_MEAN and PIXEL_STD in 0..255, STRIDE_IN_1X1."""
        return {
            "format": self.channels,
            "pixel_mean": [round(255 * value, 6) for value in self.mean],
            "pixel_std": [round(255 * value, 6) for value in self.std],
            "stride_in_1x1": self.stride_in_1x1,
        }


@dataclass(frozen=True)
class Backbone:
    """A ResNet without its classifier. ``state_dict``: torchvision's names -> float32 tensors."""

    arch: str
    state_dict: dict[str, Tensor]
    format: str
    source_sha256: str
    dropped: list[str] = field(default_factory=list)
    input: InputConvention = InputConvention()


_FORMATS = {
    "simsiam": (r"module\.encoder\.", r"module\.(predictor)\."),
    "moco": (r"module\.encoder_q\.", r"module\.(encoder_k|queue)"),
    "torchvision": (r"", r"$^"),
}


def load_backbone(path: str | Path, format: str | None = None) -> Backbone:
    """Read a checkpoint. Raises UserError for a file that is no complete ResNet of a known format."""
    path = Path(path)
    digest = sha256(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({str(error).splitlines()[0]}); give a torch checkpoint"
        ) from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else {}
    for name in [format] if format else list(_FORMATS):
        prefix, _ = _FORMATS[name]
        inside = {re.sub(f"^{prefix}", "", key): value for key, value in tensors.items() if re.match(prefix, key)}
        backbone = {key: value for key, value in inside.items() if re.match(r"(conv1|bn1|layer\d)\.", key)}
        if "conv1.weight" in backbone:
            backbone = {key: value for key, value in backbone.items() if not key.endswith("num_batches_tracked")}
            arch = recognise({key: tuple(value.shape) for key, value in backbone.items()})
            backbone = {key: backbone[key].float() for key in arch.shapes()}
            kept = {key for key in tensors if re.sub(f"^{prefix}", "", key) in backbone}
            return Backbone(arch.name, backbone, name, digest, [key for key in tensors if key not in kept])
    raise UserError(f"{path}: no ResNet of a known format in it; known formats: {', '.join(_FORMATS)}")
