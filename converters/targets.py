"""What the converters write: Detectron2's pkl and torchvision's safetensors or pth, under each one's names."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runs.errors import UserError
from runs.files import atomic_write

# Detectron2 takes a pkl without `__author__` for Caffe2's and renames it (detectron2/checkpoint/
# detection_checkpoint.py@a59f0563, `_load_file`).
AUTHOR = "siamese-transfer converters"


def to_detectron2(name: str) -> str:
    """`layer2.0.bn1.weight` -> `res3.0.conv1.norm.weight`; detectron2/modeling/backbone/resnet.py@a59f0563."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def write_detectron2(path: Path, state_dict: dict[str, Tensor], provenance: dict[str, Any]) -> None:
    """Write `{"model": {name: ndarray}, "__author__", "matching_heuristics": True, "provenance"}`.

    Args:
        path: the pkl, written atomically.
        state_dict: Detectron2's names -> float32 tensors.
        provenance: plain values.
    """
    model = {name: tensor.numpy() for name, tensor in state_dict.items()}
    content = {"model": model, "__author__": AUTHOR, "matching_heuristics": True, "provenance": provenance}
    with atomic_write(path) as file:
        pickle.dump(content, file, protocol=4)


def write_torchvision(path: Path, state_dict: dict[str, Tensor], provenance: dict[str, Any]) -> None:
    """Write torchvision's names as `.safetensors` (provenance in the metadata) or `.pth` (`state_dict`, `provenance`).

    Raises:
        UserError: another suffix.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        data = save(state_dict, metadata={"format": "pt", "provenance": json.dumps(provenance)})
        with atomic_write(path) as file:
            file.write(data)
    elif path.suffix in (".pth", ".pt"):
        with atomic_write(path) as file:
            torch.save({"state_dict": state_dict, "arch": provenance["arch"], "provenance": provenance}, file)
    else:
        raise UserError(f"{path}: the torchvision target is .safetensors or .pth; choose such a name")
