"""Optimizers and learning rates as the sources have them."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pretrain.config import OptimizerConfig


def peak_lr(config: OptimizerConfig, batch_size: int) -> float:
    """Return the peak learning rate by the linear scaling rule."""
    return config.lr * batch_size / 256


def scheduled_lr(config: OptimizerConfig, peak: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of a step.

    A linear warm-up, then half a cosine from `peak` to `final * peak`, or steps down at `milestones`. The cosine
    without a warm-up, per epoch and with `final = 0` is `adjust_learning_rate` of facebookresearch/simsiam@a7bc177
    main_simsiam.py.

    Args:
        config: the schedule.
        peak: largest learning rate.
        step: steps done before this one.
        steps_per_epoch: steps of one epoch.
        epochs: epochs of the whole run.
    """
    # Position and lengths in epochs, or in steps: both only matter as ratios.
    position, unit = (step // steps_per_epoch, 1) if config.schedule == "epoch" else (step, steps_per_epoch)
    warmup, total = config.warmup_epochs * unit, epochs * unit
    if position < warmup:
        return peak * (config.warmup_start + (1 - config.warmup_start) * position / warmup)
    if config.milestones:
        return peak * 0.1 ** sum(position >= fraction * total for fraction in config.milestones)
    progress = (position - warmup) / max(total - warmup, 1)
    final = config.final * peak
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def split_groups(groups: Iterable[dict[str, Any]], exclude: bool) -> list[dict[str, Any]]:
    """Give biases and norms groups of their own without weight decay and adaptation, if `exclude`."""
    if not exclude:
        return list(groups)
    split: list[dict[str, Any]] = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        split += [{**group, "params": matrices}] if matrices else []
        split += [{**group, "params": vectors, "weight_decay": 0.0, "adapt": False}] if vectors else []
    return split


class Layerwise(torch.optim.SGD):
    """SGD behind a rule that rescales each layer's gradient by the ratio of two norms.

    Args:
        params: parameter groups; a group with `adapt: False` is plain SGD.
        lr: learning rate.
        momentum: momentum.
        weight_decay: weight decay; the rule adds it.
        trust: trust coefficient (eta).
    """

    lr_in_momentum = False

    def __init__(self, params: Any, lr: float, momentum: float, weight_decay: float, trust: float) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.trust = trust

    def rule(self, p: Tensor, gradient: Tensor, decay: float) -> Tensor:
        """Return the gradient with weight decay, rescaled; all arguments have one shape."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        before = [(group["weight_decay"], group["lr"]) for group in self.param_groups]
        for group in self.param_groups:
            decay, lr = group["weight_decay"], group["lr"]
            # The rule adds the decay; SGD must not add it again.
            group["weight_decay"] = 0.0
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.grad.copy_(self.rule(p, p.grad, decay) if group.get("adapt", True) else p.grad + decay * p)
                if self.lr_in_momentum:
                    p.grad.mul_(lr)
            if self.lr_in_momentum:
                group["lr"] = 1.0
        super().step(closure)
        for group, (decay, lr) in zip(self.param_groups, before, strict=True):
            group["weight_decay"], group["lr"] = decay, lr
        return None


class Larc(Layerwise):
    """NVIDIA/apex@2ec84eb apex/parallel/LARC.py with `clip=False`, as SwAV and SimSiam's main_lincls.py use it.

    Gradient plus decay, times trust * |p| / (|g| + wd * |p| + 1e-8), where |g| is the norm without the decay.
    """

    EPS = 1e-8  # apex's default

    def rule(self, p: Tensor, gradient: Tensor, decay: float) -> Tensor:
        """See the class."""
        size, slope = torch.linalg.vector_norm(p), torch.linalg.vector_norm(gradient)
        ratio = self.trust * size / (slope + size * decay + self.EPS)
        # apex leaves gradient and decay alone where either norm is 0, e.g. a bias that starts there.
        return torch.where((size != 0) & (slope != 0), (gradient + decay * p) * ratio, gradient)


class Lars(Layerwise):
    """You et al., arXiv:1708.03888, as google-research/simclr@383d414 lars_optimizer.py (classic momentum) has it.

    Gradient plus decay g, times trust * |p| / |g|, or times 1 where either norm is 0; the learning rate enters before
    the momentum, v = m * v + lr * g, p = p - v.

    NOTE: BYOL's release (google-deepmind/deepmind-research@4822a45 byol/utils/optimizers.py) multiplies by the learning
    rate behind the momentum. The two differ only while the rate changes within the momentum's memory of some ten steps.
    """

    lr_in_momentum = True

    def rule(self, p: Tensor, gradient: Tensor, decay: float) -> Tensor:
        """See the class."""
        gradient = gradient + decay * p
        size, slope = torch.linalg.vector_norm(p), torch.linalg.vector_norm(gradient)
        return torch.where((size > 0) & (slope > 0), gradient * (self.trust * size / slope), gradient)


def build_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig, lr: float) -> torch.optim.Optimizer:
    """Build the optimizer over a method's parameter groups at the learning rate `lr`."""
    groups = split_groups(groups, config.exclude_norm_and_bias)
    settings: dict[str, Any] = {"lr": lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
    if config.name == "larc":
        return Larc(groups, trust=config.trust, **settings)
    if config.name == "lars":
        return Lars(groups, trust=config.trust, **settings)
    # None, not False, which would also keep PyTorch from moving all of a GPU's weights in a few kernels (foreach).
    return torch.optim.SGD(groups, fused=config.fused or None, **settings)


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> None:
    """Scale all gradients down together so that their L2 norm is at most `limit`; 0 does nothing."""
    if limit:
        torch.nn.utils.clip_grad_norm_(parameters, limit)
