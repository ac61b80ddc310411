"""One conversion from end to end: read, recognise, check, prove, write, report."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from converters.architecture import Architecture, parse
from converters.checks import Check
from converters.digests import digest
from converters.fetching import local
from converters.loading import Backbone, load_backbone
from converters.proof import TOLERANCE, detectron2_obstacle, prove_detectron2
from converters.targets import to_detectron2, write_detectron2, write_torchvision
from converters.vital_signs import check_vital_signs, read_images
from runs.errors import UserError
from runs.record import subject_beside


@dataclass
class Report:
    """What a file is, what was verified, and what was written."""

    path: Path
    backbone: Backbone
    arch: Architecture
    checks: list[Check] = field(default_factory=list)
    obstacles: dict[str, str] = field(default_factory=dict)
    output: Path | None = None


def inspect(path: str | Path, images: Path | None = None, unchecked: bool = False, **choice: Any) -> Report:
    """Read and prove a checkpoint without writing anything.

    Args:
        path: the checkpoint file, or an address.
        images: a folder of pictures for the vital signs, see `converters.vital_signs`; None makes some.
        unchecked: leave the vital signs out, which the record says.
        choice: `format`, `prefix` and `sha256`, see `loading.load_backbone`.

    Returns:
        The report; `obstacles` says for each target why it cannot hold the network, empty where it can.

    Raises:
        UserError: see `loading.load_backbone`; also where the features differ.
    """
    path = local(path)
    backbone = load_backbone(path, **choice)
    arch = parse(backbone.arch)
    report = Report(path, backbone, arch, list(backbone.checks))
    stride = backbone.input.stride_in_1x1 and arch.bottleneck
    report.obstacles = {
        "detectron2": detectron2_obstacle(arch),
        "torchvision": "the stride lies in the 1x1 convolutions, torchvision's in the 3x3; use the detectron2 target"
        if stride
        else "",
    }
    if not report.obstacles["detectron2"]:
        report.checks += prove_detectron2(arch, backbone.state_dict, backbone.input)
    if unchecked:
        report.checks.append(Check("vital signs", True, "not checked, --unchecked"))
    else:
        pictures = read_images(images) if images else None
        report.checks.append(check_vital_signs(backbone.network(), backbone.input, pictures, backbone.batches))
    for check in report.checks:
        if not check.passed:
            raise UserError(f"{path}: {check.name}: {check.figure}; {check.remedy}")
    return report


def provenance(report: Report) -> dict[str, Any]:
    """Where the weights come from and what was proved; plain values for the file."""
    backbone = report.backbone
    subject = subject_beside(report.path, backbone.source_sha256)
    return {
        "source": report.path.name,
        "subject": asdict(subject) if subject else {},
        "sha256": backbone.source_sha256,
        "digest": digest(backbone.state_dict),
        "format": backbone.format,
        "prefix": backbone.prefix,
        "arch": backbone.arch,
        "input": backbone.input.detectron2(),
        "assumed": backbone.assumed,
        "resnets": report.arch.detectron2_settings(backbone.input.stride_in_1x1),
        "dropped": backbone.dropped,
        "caveat": backbone.caveat,
        "proof": {
            "tolerance": TOLERANCE,
            "checks": {check.name: check.figure for check in report.checks},
        },
    }


def convert(path: str | Path, output: str | Path, **choice: Any) -> Report:
    """Convert a checkpoint, proved: to Detectron2 C4 weights (`.pkl`), or to torchvision (`.safetensors`, `.pth`).

    Args:
        path: the checkpoint file, or an address.
        output: the file to write; whole or not at all.
        choice: `format`, `prefix` and `sha256`, see `loading.load_backbone`.

    Raises:
        UserError: see `inspect`; also if the target cannot hold the network, or for another suffix.
    """
    output = Path(output)
    return (to_detectron2_file if output.suffix == ".pkl" else to_torchvision_file)(path, output, **choice)


def to_detectron2_file(path: str | Path, output: Path, **choice: Any) -> Report:
    """Convert a checkpoint to Detectron2 C4 weights, proved.

    Raises:
        UserError: see `inspect`; also if Detectron2's ResNet cannot hold the network. Nothing is written then.
    """
    if output.suffix != ".pkl":
        raise UserError(f"{output}: Detectron2 recognises such weights by the suffix .pkl; choose such a name")
    _check_output(path, output)
    report = inspect(path, **choice)
    _check_target(report, "detectron2")
    renamed = {to_detectron2(name): tensor for name, tensor in report.backbone.state_dict.items()}
    write_detectron2(output, renamed, provenance(report))
    report.output = output
    return report


def to_torchvision_file(path: str | Path, output: Path, **choice: Any) -> Report:
    """Convert a checkpoint to torchvision's names, proved.

    Raises:
        UserError: see `inspect`; also if torchvision's ResNet cannot hold the network. Nothing is written then.
    """
    if output.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"{output}: the torchvision target is .safetensors or .pth; choose such a name")
    _check_output(path, output)
    report = inspect(path, **choice)
    _check_target(report, "torchvision")
    write_torchvision(output, report.backbone.state_dict, provenance(report))
    report.output = output
    return report


def _check_output(path: str | Path, output: Path) -> None:
    if output.exists() and Path(path).exists() and output.samefile(path):
        raise UserError(f"{output}: is the checkpoint itself; choose another name for the output")


def _check_target(report: Report, target: str) -> None:
    if reason := report.obstacles[target]:
        raise UserError(f"{report.path}: {reason}")
