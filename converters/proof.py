"""The proof: the checkpoint's network and another give the same features for the same pictures."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from converters.architecture import Architecture
from converters.checkpoint_layouts import IMAGENET_MEAN, IMAGENET_STD
from converters.checks import Check
from converters.loading import load_backbone
from converters.naming_schemes import to_detectron2
from converters.without_dynamo import without_dynamo
from runs.errors import UserError

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet

# Largest difference allowed, relative to the largest feature of a stage, in float32 (unit roundoff 6e-8).
TOLERANCE = 1e-5
STAGES = ("stem", "res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Proof:
    """Whether a network computes what a checkpoint's does; true in a condition: `assert prove_loaded(…)` says why.

    Attributes:
        checkpoint: the file.
        arch: the checkpoint's architecture.
        errors: stage -> largest difference of its features, relative to the largest feature; NaN if they are not
            finite or all zero. Below 1e-5 in every stage: the weights are loaded.
        unchanged, total: how many of the checkpoint's tensors the network holds as they are, for the message only.
    """

    checkpoint: Path
    arch: str
    errors: dict[str, float]
    unchanged: int
    total: int

    def __bool__(self) -> bool:
        return all(error < TOLERANCE for error in self.errors.values())

    def __repr__(self) -> str:
        errors = ", ".join(f"{stage} {error:.1e}" for stage, error in self.errors.items())
        verdict = "loaded" if self else "not loaded"
        return (
            f"<{self.checkpoint.name} ({self.arch}) is {verdict}: {self.unchanged} of {self.total} tensors unchanged, "
            f"features {errors}>"
        )


def prove_loaded(checkpoint: str | Path, model: nn.Module, **choice: Any) -> Proof:
    """Did the weights of a checkpoint arrive in a network that somebody else's code has built?

    Both networks see the same fixed pictures, (2, 3, 128, 160) float32, and the features behind the stem and the four
    stages are compared. The network is copied to the CPU for it and stays as it is.

    Args:
        checkpoint: a path or an address, see `load_backbone`.
        model: any module that contains a ResNet of torchvision, timm or Detectron2: the backbone alone, a classifier,
            a C4 or FPN detector, or a method around one.
        choice: `format`, `prefix` and `sha256`, see `load_backbone`.

    Raises:
        UserError: the checkpoint cannot be read, or the model has no ResNet, or several that differ.
    """
    backbone = load_backbone(checkpoint, **choice)
    stages = [copy.deepcopy(stage).cpu().float().eval() for stage in _find_stages(model)]
    held = [tensor for stage in stages for tensor in stage.state_dict().values()]
    unchanged = [any(torch.equal(tensor, other) for other in held) for tensor in backbone.state_dict.values()]
    errors = _feature_errors(_find_stages(backbone.network()), stages)
    return Proof(backbone.path, backbone.arch, errors, sum(unchanged), len(unchanged))


def detectron2_feature_checks(
    network: "ResNet", architecture: Architecture, stride_in_1x1: bool = False
) -> list[Check]:
    """Load the tensors of torchvision's network into Detectron2's and compare their features, stage by stage.

    Returns a check on the names, as Detectron2's own heuristics match them, and one for each stage.
    """
    state_dict = network.state_dict()
    renamed = {to_detectron2(name): state_dict[name] for name in architecture.shapes}
    with without_dynamo():
        target, matched = _c4_network(architecture, renamed, stride_in_1x1)
        complete = matched == len(renamed)
        errors = _feature_errors(_find_stages(network), _find_stages(target)) if complete else {}
    figure = f"{matched} of {len(renamed)} matched by Detectron2: backbone.stem … res4, roi_heads.res5"
    checks = [Check("Detectron2 names", complete, figure, "Detectron2 would leave tensors out; report this file")]
    for stage, error in errors.items():
        remedy = "the networks differ; a --format with another stride or layout may be the right one"
        if math.isnan(error):
            remedy = "the features are all zero, or too large for numbers; the weights are damaged, fetch them again"
        checks.append(
            Check(f"features {stage}", error < TOLERANCE, f"{error:.1e} relative, limit {TOLERANCE:.0e}", remedy)
        )
    return checks


def _c4_network(
    architecture: Architecture, state_dict: dict[str, Tensor], stride_in_1x1: bool
) -> tuple[nn.Module, int]:
    """Build Detectron2's C4 network around the tensors, and count those that its own heuristics match.

    The heuristics are the ones that run when the pkl is loaded for fine-tuning (detectron2/checkpoint/
    c2_model_loading.py@a59f0563, `align_and_update_state_dicts`).
    """
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    from converters.resnet_model import SkipInit

    with torch.device("meta"), SkipInit():
        network = _build_c4(architecture, stride_in_1x1)
    matched = align_and_update_state_dicts(network.state_dict(), dict(state_dict), c2_conversion=False)
    missing, unexpected = network.load_state_dict(matched, strict=False, assign=True)
    unset = [name for name in missing if not name.endswith("num_batches_tracked")]
    return network.eval(), min(len(matched) - len(unexpected), len(state_dict) - len(unset))


def _build_c4(architecture: Architecture, stride_in_1x1: bool) -> nn.Module:
    """Build `backbone` (stem to res4) and `roi_heads.res5` from Detectron2's modules, under the C4 detector's names.

    The arguments are those of detectron2/modeling/backbone/resnet.py, `build_resnet_backbone`, and modeling/roi_heads/
    roi_heads.py, `Res5ROIHeads._build_res5_block`.
    """
    from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

    stages = []
    into = architecture.stem_channels
    for index, count in enumerate(architecture.block_counts):
        out = architecture.stem_channels * architecture.expansion * 2**index
        settings: dict[str, Any] = {"stride_per_block": [1 if index == 0 else 2] + [1] * (count - 1), "norm": "BN"}
        if architecture.bottleneck:
            inner = architecture.stem_channels * architecture.bottleneck_width * 2**index
            settings |= {"bottleneck_channels": inner, "stride_in_1x1": stride_in_1x1}
        block = BottleneckBlock if architecture.bottleneck else BasicBlock
        stages.append(ResNet.make_stage(block, count, in_channels=into, out_channels=out, **settings))
        into = out
    network = nn.Module()
    stem = BasicStem(3, architecture.stem_channels, "BN")
    network.backbone = ResNet(stem, stages[:3], out_features=["stem", "res2", "res3", "res4"])
    network.roi_heads = nn.Module()
    network.roi_heads.res5 = nn.Sequential(*stages[3])
    return network


def _find_stages(model: nn.Module) -> list[nn.Module]:
    """Return the stem (with its activation and pooling) and the four stages of the one ResNet in a model.

    Args:
        model: a module that contains a ResNet of torchvision or timm (`conv1`, `layer1`, …), of Detectron2 (`stem`,
            `res2`, …; `res5` of a C4 detector from its heads), or of lightly (`nn.Sequential(*children)`).

    Raises:
        UserError: there is none, or several that do not hold the same tensors (a teacher and a student).
    """
    for finder in (_torchvision, _detectron2, _sequential):
        found = [stages for stages in map(finder, model.modules()) if stages]
        if len(found) > 1 and any(not _same(found[0], other) for other in found[1:]):
            raise UserError(f"the model holds {len(found)} ResNets that differ; pass the one that is meant")
        if found:
            stages = found[0]
            if len(stages) < len(STAGES):
                stages = [*stages, _res5(model)]
            return stages
    raise UserError("the model has no ResNet of torchvision, timm or Detectron2 in it; pass one that has")


def _named(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    children = dict(module.named_children())
    return [children[name] for name in names] if all(name in children for name in names) else []


def _torchvision(module: nn.Module) -> list[nn.Module]:
    children = dict(module.named_children())
    activation = "act1" if "act1" in children else "relu"
    found = _named(module, ("conv1", "bn1", activation, "maxpool", "layer1", "layer2", "layer3", "layer4"))
    return [nn.Sequential(*found[:4]), *found[4:]] if found else []


def _detectron2(module: nn.Module) -> list[nn.Module]:
    return _named(module, ("stem", *STAGES[1:])) or _named(module, STAGES[:-1])


def _sequential(module: nn.Module) -> list[nn.Module]:
    found = _named(module, tuple(map(str, range(8)))) if isinstance(module, nn.Sequential) else []
    if not found or not isinstance(found[0], nn.Conv2d) or not all(isinstance(s, nn.Sequential) for s in found[4:]):
        return []
    return [nn.Sequential(*found[:4]), *found[4:8]]


def _res5(model: nn.Module) -> nn.Module:
    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "res5"]
    if len(found) != 1:
        raise UserError("res5: the model's ResNet ends at res4, and its heads have no res5; pass the whole detector")
    return found[0]


def _same(stages: list[nn.Module], others: list[nn.Module]) -> bool:
    mine, theirs = (nn.ModuleList(each).state_dict().values() for each in (stages, others))
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


def proof_images() -> Tensor:
    """Fixed pictures with smooth regions, edges and texture, normalised: (2, 3, 128, 160) float32."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 5, 5, generator=generator)
    images = nn.functional.interpolate(coarse, size=(128, 160), mode="bicubic").clamp(0, 1)
    images[:, :, 32:64, 53:80] = torch.rand(2, 3, 1, 1, generator=generator)
    images += 0.05 * torch.randn(images.shape, generator=generator)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return (images.clamp(0, 1) - mean[:, None, None]) / std[:, None, None]


@torch.inference_mode()
def _feature_errors(source: list[nn.Module], target: list[nn.Module]) -> dict[str, float]:
    """Stage -> largest absolute difference over the largest absolute value of the source's feature."""
    expected = found = proof_images()  # (N, 3, H, W)
    errors: dict[str, float] = {}
    for name, ours, theirs in zip(STAGES, source, target, strict=True):
        # (N, C, H/4, W/4) behind the stem and res2, then /8, /16, /32.
        expected, found = ours(expected), theirs(found)
        if expected.shape != found.shape:
            raise UserError(
                f"{name}: the model's features have the shape {tuple(found.shape)}, the checkpoint's "
                f"{tuple(expected.shape)}; build the architecture of the checkpoint"
            )
        scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        error = ((found - expected).abs().max() / scale).item()
        # Features that are NaN or all zero prove nothing; NaN fails every comparison.
        errors[name] = error if expected.abs().max() > 0 else float("nan")
    return errors
