"""Optimizers and learning rates as the sources have them."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pretrain.config import OptimizerConfig


class Schedule:
    """The learning rate of each step.

    A linear warm-up, then half a cosine from the peak to `final` times the peak, or steps down at `milestones`. Without
    a warm-up, per epoch and with `final = 0` it is `adjust_learning_rate` of facebookresearch/simsiam@a7bc177
    main_simsiam.py.

    `batch_size` is that of all processes together; `peak` is the largest learning rate, by the linear scaling rule.
    """

    def __init__(self, config: OptimizerConfig, batch_size: int, steps_per_epoch: int, epochs: int) -> None:
        self.config, self.steps_per_epoch, self.epochs = config, steps_per_epoch, epochs
        self.peak = config.lr * batch_size / 256

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step before which `step` are done."""
        config, peak = self.config, self.peak
        # Position and lengths in epochs, or in steps: both only matter as ratios.
        by_epoch = config.schedule == "epoch"
        position, unit = (step // self.steps_per_epoch, 1) if by_epoch else (step, self.steps_per_epoch)
        warmup, total = config.warmup_epochs * unit, self.epochs * unit
        if position < warmup:
            return peak * (config.warmup_start + (1 - config.warmup_start) * position / warmup)
        if config.milestones:
            return peak * 0.1 ** sum(position >= fraction * total for fraction in config.milestones)
        progress = (position - warmup) / max(total - warmup, 1)
        final = config.final * peak
        return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _separate_norms_and_biases(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give biases and norms groups of their own, without weight decay and adaptation."""
    split: list[dict[str, Any]] = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        split += [{**group, "params": matrices}] if matrices else []
        split += [{**group, "params": vectors, "weight_decay": 0.0, "adapt": False}] if vectors else []
    return split


class _LayerwiseSGD(torch.optim.SGD):
    """SGD after a rule that rescales each layer's gradient by the ratio of two norms, all layers in a few kernels.

    A parameter group with `adapt: False` is plain SGD; `trust` is the trust coefficient (eta).
    """

    lr_in_momentum = False

    def __init__(
        self, params: Any, lr: float, momentum: float, weight_decay: float, trust: float, fused: bool | None = None
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
        self.trust = trust

    def _rescale_gradients(self, weights: list[Tensor], gradients: list[Tensor], decay: float) -> None:
        """Add weight decay to the gradients, one a layer, and rescale them, in place."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step, after `closure`, whose loss is returned."""
        with torch.enable_grad():
            loss = closure() if closure else None
        before = [(group["weight_decay"], group["lr"]) for group in self.param_groups]
        for group in self.param_groups:
            decay, lr = group["weight_decay"], group["lr"]
            # The rule adds the decay; SGD must not add it again.
            group["weight_decay"] = 0.0
            weights = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in weights]
            if weights and group.get("adapt", True):
                self._rescale_gradients(weights, gradients, decay)
            else:
                _add_weight_decay_(weights, gradients, decay)
            if self.lr_in_momentum:
                torch._foreach_mul_(gradients, lr)
                group["lr"] = 1.0
        super().step()
        for group, (decay, lr) in zip(self.param_groups, before, strict=True):
            group["weight_decay"], group["lr"] = decay, lr
        return loss


def _l2_norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norms of n tensors, (n,)."""
    return torch.stack(torch._foreach_norm(tensors))


def _add_weight_decay_(weights: list[Tensor], gradients: list[Tensor], decay: float) -> None:
    """Add `decay` times the weights to the gradients, in place."""
    if decay:
        torch._foreach_add_(gradients, torch._foreach_mul(weights, decay))


class Larc(_LayerwiseSGD):
    """NVIDIA/apex@2ec84eb apex/parallel/LARC.py with `clip=False`, as SwAV and SimSiam's main_lincls.py use it.

    Gradient plus decay, times trust * |p| / (|g| + wd * |p| + 1e-8), where |g| is the norm without the decay.
    """

    EPS = 1e-8  # apex's default

    def _rescale_gradients(self, weights: list[Tensor], gradients: list[Tensor], decay: float) -> None:
        sizes, slopes = _l2_norms(weights), _l2_norms(gradients)  # n
        _add_weight_decay_(weights, gradients, decay)
        ratios = self.trust * sizes / (slopes + sizes * decay + self.EPS)  # n
        # apex leaves a gradient alone, without decay, where either norm is 0, e.g. of a bias that starts there: a
        # weight of 0 has no decay, and a gradient of 0 stays 0.
        ratios = torch.where(sizes == 0, 1.0, torch.where(slopes == 0, 0.0, ratios))
        torch._foreach_mul_(gradients, list(ratios.unbind()))


class Lars(_LayerwiseSGD):
    """You et al., arXiv:1708.03888, as google-research/simclr@383d414 lars_optimizer.py (classic momentum) has it.

    Gradient plus decay g, times trust * |p| / |g|, or times 1 where either norm is 0; the learning rate enters before
    the momentum, v = m * v + lr * g, p = p - v.

    NOTE: BYOL's release (google-deepmind/deepmind-research@4822a45 byol/utils/optimizers.py) multiplies by the learning
    rate after the momentum. The two differ only while the rate changes within the momentum's memory of some ten steps.
    """

    lr_in_momentum = True

    def _rescale_gradients(self, weights: list[Tensor], gradients: list[Tensor], decay: float) -> None:
        _add_weight_decay_(weights, gradients, decay)
        sizes, slopes = _l2_norms(weights), _l2_norms(gradients)  # n
        ratios = torch.where((sizes > 0) & (slopes > 0), self.trust * sizes / slopes, 1.0)  # n
        torch._foreach_mul_(gradients, list(ratios.unbind()))


def build_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig, lr: float) -> torch.optim.Optimizer:
    """Build the optimizer over a method's parameter groups at the learning rate `lr`."""
    if config.exclude_norm_and_bias:
        groups = _separate_norms_and_biases(groups)
    settings: dict[str, Any] = {"lr": lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
    # None, not False, which would also keep PyTorch from moving all of a GPU's weights in a few kernels (foreach).
    settings["fused"] = config.fused or None
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(groups, **settings)
    else:
        optimizer = {"lars": Lars, "larc": Larc}[config.name](groups, trust=config.trust, **settings)
    if config.fused and config.momentum:
        # torch.optim.SGD's fused step fails on a weight whose first gradient comes after the others' (SwAV's
        # prototypes). A momentum of 0 is no momentum.
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    return optimizer


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded momentum the memory layout of its weight.

    A fused step goes through both as they lie in memory: with a channels-last weight and momentum saved from a
    contiguous one it would pair wrong numbers, and say nothing.
    """
    for p, state in optimizer.state.items():
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] = torch.empty_like(p).copy_(state["momentum_buffer"])
