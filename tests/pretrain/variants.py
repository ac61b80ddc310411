"""The experiments of `pretrain/variants.yaml` as the tests build them: small heads on the tiny networks of `tiny`."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pretrain.config import OptimizerConfig, PretrainConfig
from pretrain.method.base import Batch, Method, TrainingPlan, build_method
from pretrain.method.config import MethodConfig
from pretrain.optim import build_optimizer
from pretrain.variants import read_variants
from tests.pretrain import tiny

NAMES = sorted(read_variants())
SMALL: dict[str, dict[str, Any]] = {
    "siamese": {"dim": 32, "hidden": 8},
    "simclr": {"dim": 16, "predictor": 4},
    "swav": {"dim": 16, "hidden": 32, "prototypes": 20, "freeze_epochs": 0},
}


@cache
def settings(*arguments: str) -> PretrainConfig:
    """The settings of `python -m pretrain ARGUMENTS`."""
    ConfigStore.instance().store(name="schema_config", node=PretrainConfig)
    with initialize_config_module("pretrain", version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [*arguments, "data.root=none"]))
    assert isinstance(config, PretrainConfig)
    return config


def small(name: str, **changes: Any) -> MethodConfig:
    """The method's settings of `variant=NAME`, with small heads and `changes`."""
    config = settings(f"variant={name}").method
    changes = {**SMALL[config.name], **changes}
    if config.name == "swav" and getattr(config, "predictor", 0):
        changes["predictor"] = 5
    return replace(config, **changes)


def plan(images: int = 3 * tiny.BATCH, epochs: int = 4) -> TrainingPlan:
    """A run of 3 steps an epoch."""
    return TrainingPlan("resnet18x0.125", False, epochs, images // tiny.BATCH, tiny.BATCH, tiny.CLASSES, images)


def build(config: MethodConfig, seed: int = 0, **changes: Any) -> Method:
    """A float64 method from a seed."""
    torch.manual_seed(seed)
    return build_method(config, plan(**changes)).double()


class Data:
    """An epoch's batches again and again: step s shows images s * B … of the set, as views drawn from s."""

    def __init__(self, views: int, side: int = tiny.SIDE, images: int = 3 * tiny.BATCH) -> None:
        self.pictures, self.views = tiny.images(images)[:, :, :side, :side], views

    def batch(self, step: int) -> Batch:
        """One step's batch, always the same."""
        indices = torch.arange(tiny.BATCH) + step % (len(self.pictures) // tiny.BATCH) * tiny.BATCH
        x = self.pictures[indices]
        views = [view for k in range(0, self.views, 2) for view in tiny.views(x, 1000 * k + step)][: self.views]
        return Batch(views, indices % tiny.CLASSES, step, indices)


def train(method: Method, steps: int, lr: float = 0.05, data: Data | None = None, first: int = 0) -> list[float]:
    """Train for some steps; returns the losses."""
    data = data or Data(method.views)
    optimizer = build_optimizer(method.param_groups(), OptimizerConfig(lr=lr, weight_decay=1e-4), lr)
    numbers = range(first, first + steps)
    return [tiny.step(method, optimizer, data.batch(number))["loss"].item() for number in numbers]
