"""One conversion from end to end: read, recognise, check, prove, write, report."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from converters.architecture import Architecture
from converters.checks import Check, require
from converters.loading import load_backbone
from converters.naming_schemes import to_detectron2
from converters.proof import TOLERANCE, detectron2_feature_checks
from converters.report import Report
from converters.tensor_digest import tensor_digest
from converters.vital_signs import read_images, vital_signs_check
from runs.errors import UserError
from runs.files import atomic_write
from runs.record import find_subject_beside

# Detectron2 knows its own weights by .pkl.
SUFFIXES = {"detectron2": (".pkl",), "torchvision": (".safetensors", ".pth", ".pt")}
# Detectron2 takes a pkl without `__author__` for Caffe2's and renames it (detectron2/checkpoint/
# detection_checkpoint.py@a59f0563, `_load_file`).
AUTHOR = "siamese-transfer converters"


def detectron2_obstacle(arch: Architecture) -> str:
    """Say why Detectron2's backbone cannot hold a network; empty where it can."""
    if not arch.cifar:
        return ""
    return f"{arch.name} has a 3x3 stem without pooling, Detectron2's a 7x7 one; use the torchvision target"


def inspect(path: str | Path, images: Path | None = None, skip_vital_signs: bool = False, **choice: Any) -> Report:
    """Read and prove a checkpoint without writing anything.

    Args:
        path: the checkpoint file, or an address.
        images: a folder of pictures for the vital signs, see `converters.vital_signs`; None makes some.
        skip_vital_signs: leave them out, which the record says.
        choice: `format`, `prefix` and `sha256`, see `loading.load_backbone`.

    Raises:
        UserError: see `loading.load_backbone`; also where the features differ.
    """
    backbone = load_backbone(path, **choice)
    arch, network = backbone.architecture, backbone.network()
    checks, obstacles = list(backbone.checks), {"detectron2": detectron2_obstacle(arch), "torchvision": ""}
    if backbone.input.stride_in_1x1 and arch.bottleneck:
        obstacles["torchvision"] = (
            "the stride lies in the 1x1 convolutions, torchvision's in the 3x3; use the detectron2 target"
        )
    if not obstacles["detectron2"]:
        checks += detectron2_feature_checks(network, arch, backbone.input.stride_in_1x1)
    if skip_vital_signs:
        checks.append(Check("vital signs", True, "not checked, --unchecked"))
    else:
        pictures = read_images(images) if images else None
        checks.append(vital_signs_check(network, backbone.input, pictures, backbone.batches))
    require(checks, backbone.path)
    return Report(backbone, checks, obstacles)


def convert(path: str | Path, output: str | Path, target: str | None = None, **choice: Any) -> Report:
    """Convert a checkpoint, proved: to Detectron2 C4 weights (`.pkl`), or to torchvision (`.safetensors`, `.pth`).

    Args:
        path: the checkpoint file, or an address.
        output: the file to write; whole or not at all.
        target: `detectron2` or `torchvision`; None takes the one of the output's suffix.
        choice: see `inspect`.

    Raises:
        UserError: see `inspect`; also if the target cannot hold the network, or for another suffix.
    """
    output = Path(output)
    target = target or ("detectron2" if output.suffix == ".pkl" else "torchvision")
    if output.suffix not in SUFFIXES[target]:
        raise UserError(f"{output}: {target} weights have the suffix {' or '.join(SUFFIXES[target])}; name it so")
    if output.exists() and Path(path).exists() and output.samefile(path):
        raise UserError(f"{output}: is the checkpoint itself; choose another name for the output")
    report = inspect(path, **choice)
    if report.obstacles[target]:
        raise UserError(f"{report.backbone.path}: {report.obstacles[target]}")
    state_dict, source = report.backbone.state_dict, _provenance(report)
    with atomic_write(output) as file:
        if output.suffix == ".pkl":
            model = {to_detectron2(name): tensor.numpy() for name, tensor in state_dict.items()}
            content = {"model": model, "__author__": AUTHOR, "matching_heuristics": True, "provenance": source}
            pickle.dump(content, file, protocol=4)
        elif output.suffix == ".safetensors":
            from safetensors.torch import save

            file.write(save(state_dict, metadata={"format": "pt", "provenance": json.dumps(source)}))
        else:
            torch.save({"state_dict": state_dict, "arch": source["arch"], "provenance": source}, file)
    report.output = output
    return report


def _provenance(report: Report) -> dict[str, Any]:
    """Where the weights come from and what was proved; plain values for the file."""
    backbone = report.backbone
    subject = find_subject_beside(backbone.path, backbone.source_sha256)
    return {
        **backbone.facts(),
        "source": backbone.path.name,
        "subject": asdict(subject) if subject else {},
        "digest": tensor_digest(backbone.state_dict),
        "resnets": backbone.architecture.detectron2_settings(backbone.input.stride_in_1x1),
        "proof": {"tolerance": TOLERANCE, "checks": {check.name: check.figure for check in report.checks}},
    }
