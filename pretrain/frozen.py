"""Frozen networks: any checkpoint that `converters` reads, or none."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torchvision.models.resnet import ResNet

from converters import load_backbone
from converters.resnet import build_resnet
from pretrain.augment import AugmentConfig
from pretrain.checkpoint import NAME, epochs_of
from pretrain.networks import pooled
from runs.errors import UserError
from runs.folder import CONFIG
from runs.record import Subject
from runs.seeds import seed_everything

RANDOM = "random"


@dataclass(frozen=True)
class Frozen:
    """A network to evaluate: `network` has no classifier; `augment` has the input convention it was trained with."""

    network: ResNet
    subject: Subject
    augment: AugmentConfig

    def __call__(self, images: Tensor) -> Tensor:
        """Features (n, C) of images (n, 3, H, W)."""
        return pooled(self.network, images)

    def fingerprint(self) -> float:
        """A number that changes when any weight or statistic does."""
        return float(sum(v.double().sum() + v.double().square().sum() for v in self.network.state_dict().values()))


def load_frozen(
    checkpoint: str, arch: str, zero_init_residual: bool, augment: AugmentConfig, seed: int, device: torch.device
) -> Frozen:
    """Load a checkpoint of any format that `converters` reads, or make an untrained network.

    Args:
        checkpoint: a file, or `random`.
        arch: the architecture; for a file it may be empty and must agree otherwise.
        zero_init_residual: how the untrained network starts, see `PretrainConfig`.
        augment: the view recipe, whose mean and std the checkpoint's own replace.
        seed: of the untrained network.
        device: where it goes.

    Raises:
        UserError: the file is no complete ResNet, another architecture, or one whose strides torchvision lacks.
    """
    if checkpoint == RANDOM:
        if not arch:
            raise UserError("arch: is required with checkpoint=random; add e.g. arch=resnet50")
        seed_everything(seed)
        network = build_resnet(arch, None, zero_init_residual)
        return Frozen(_freeze(network, device), Subject("scratch", arch, 0), augment)
    backbone = load_backbone(checkpoint)
    if arch and arch != backbone.arch:
        raise UserError(f"arch={arch}: {checkpoint} is a {backbone.arch}; leave arch out")
    if backbone.input.stride_in_1x1:
        raise UserError(
            f"checkpoint={checkpoint}: strides in the 1x1 convolutions (MSRA), which torchvision's ResNet lacks"
        )
    network = build_resnet(backbone.arch, None)
    weights = dict(backbone.state_dict)
    mean, std = list(backbone.input.mean), list(backbone.input.std)
    if backbone.input.channels == "BGR":
        # Images come as RGB: turning the first filters round is the same as turning every image round.
        weights["conv1.weight"] = weights["conv1.weight"].flip(1)
        mean, std = mean[::-1], std[::-1]
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise UserError(f"checkpoint={checkpoint}: tensors missing or left over: {[*missing, *unexpected][:3]}")
    method, epochs = backbone.format, None
    ours = settings_beside(Path(checkpoint))
    if ours:
        # A checkpoint of this project was trained with its recipe's own mean and std, CIFAR's for example.
        method = ours.get("variant") or ours["method"]["name"]
        mean, std = ours["augment"]["mean"], ours["augment"]["std"]
        epochs = epochs_of(Path(checkpoint))
    subject = Subject(method, backbone.arch, epochs, Path(checkpoint).name, backbone.source_sha256)
    return Frozen(_freeze(network, device), subject, replace(augment, mean=mean, std=std))


def settings_beside(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run of ours that wrote `checkpoint`, done or not; empty for anybody else's file."""
    file = checkpoint.parent / CONFIG
    if not NAME.fullmatch(checkpoint.name) or not file.is_file():
        return {}
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: unreadable; put the checkpoint into a folder of its own") from error
    return settings if isinstance(settings, dict) and settings.get("kind") == "pretrain" else {}


def _freeze(network: ResNet, device: torch.device) -> ResNet:
    for parameter in network.parameters():
        parameter.requires_grad = False
    return network.to(device).eval()
