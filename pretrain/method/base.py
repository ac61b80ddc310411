"""What a pre-training method is: one small interface between the papers' pseudo-code and the trainer."""

import importlib
import sys
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from converters.resnet_model import build_resnet
from pretrain.method.config import MethodConfig


@dataclass(frozen=True)
class TrainingPlan:
    """What a method may know of the run that it is part of."""

    arch: str
    """Backbone, see `converters.architecture`."""
    zero_init_residual: bool
    """Whether the last batch norm of each residual block starts at 0."""
    epochs: int
    steps_per_epoch: int
    batch_size: int
    """Images a step, all processes together."""
    classes: int
    """Classes of the training set."""
    images: int = 0
    """Images of the training set; 0 where nobody counted them."""
    init: dict[str, Tensor] | None = None
    """What the backbone starts from, torchvision's names without `fc`; None draws it."""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def base_encoder(self, num_classes: int) -> ResNet:
        """Build the backbone; `fc` has `num_classes` outputs."""
        network = build_resnet(self.arch, num_classes=num_classes, zero_init_residual=self.zero_init_residual)
        if self.init is not None:
            missing, unexpected = network.load_state_dict(self.init, strict=False)
            left = [name for name in missing if not name.startswith("fc.") and not name.endswith("num_batches_tracked")]
            if left or unexpected:
                raise ValueError(f"the initial weights do not fit {self.arch}: {(left + unexpected)[0]}")
        return network


@dataclass(frozen=True)
class Batch:
    """One process's share of a step."""

    views: list[Tensor]
    """As many views as the method asks for, each (N, 3, H, W) float, normalized."""
    labels: Tensor
    """(N,) int64; only `supervised` may use them."""
    step: int
    """Steps done before this one."""
    indices: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """(N,) int64 in the host's memory, the images' places in the training set; empty where nobody counted them."""


Output = dict[str, Tensor]
Group = dict[str, Any]


class Method(nn.Module):
    """A network with a loss.

    A method's file defines its class with `forward`, the paper's pseudo-code; the other hooks have defaults. All that
    training changes lives in parameters and buffers (EMA weights, queue, prototypes), so `state_dict` alone resumes a
    method. The parameters carry the official releases' names.
    """

    sync_bn = True
    """Whether the protocol normalizes over all processes' images."""
    views = 2
    """Views a step needs of each image."""
    monitor_warmup = 0
    """Steps before which outputs close together are no collapse, since the loss does not compare real images yet."""
    constant_loss: float | None = None
    """The loss of a constant output, where it is a trap that the monitor would not see; None elsewhere."""

    predicts_from_z = True
    """Whether `predictor`, where there is one, makes p of z."""

    encoder: ResNet
    """The backbone, whose pooled features are evaluated; its `fc` may hold the projector."""
    predictor: nn.Module

    def forward(self, batch: Batch) -> Output:
        """Compute one step's loss.

        Returns:
            `loss`: scalar, mean over this process's images. `z`: (N, d) one view's output, for the monitor. `p`: (N, d)
            the prediction from `z`, and `z2`: (N, d) the other view's output, for `pretrain.collapse`. Any further
            scalars are logged under their names.
        """
        raise NotImplementedError

    def project(self, view: Tensor) -> Tensor:
        """Outputs z (n, d) of images' views (n, 3, H, W)."""
        return cast(Tensor, self.encoder(view))

    def predict(self, z: Tensor) -> Tensor | None:
        """Predictions p (n, d) from outputs z (n, d), by `predictor`; None for a method without one there."""
        predictor = getattr(self, "predictor", None) if self.predicts_from_z else None
        return cast(Tensor, predictor(z)) if isinstance(predictor, nn.Module) else None

    def param_groups(self) -> list[Group]:
        """Parameter groups for the optimizer; `fix_lr: True` keeps a group's learning rate at its start value."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "fix_lr": False}]

    def after_backward(self, step: int) -> None:
        """Change gradients before the optimizer uses them, e.g. SwAV's frozen prototypes."""

    def after_step(self, step: int) -> None:
        """Update what gradients do not: EMA weights, unit-norm prototypes. `step` counts steps done before this one."""


def build_method(config: MethodConfig, plan: TrainingPlan) -> Method:
    """Build the method that `config` names: of `SimSiamConfig`, the class `SimSiam` of `pretrain/method/simsiam.py`.

    A plug-in has both in one file.

    Raises:
        UserError: an unknown architecture.
    """
    name, module = type(config).__name__.removesuffix("Config"), sys.modules[type(config).__module__]
    if not hasattr(module, name):
        module = importlib.import_module(f"pretrain.method.{config.name}")
    method: Method = getattr(module, name)(config, plan)
    return method
