"""Linear classifiers, one a learning rate, side by side: their schedule, their best epochs, their state."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pretrain.linear_heads import LinearHeads
from pretrain.optim import OptimizerConfig, peak_lr, scheduled_lr


class Classifiers:
    """K fully connected layers with a learning rate each, their schedule and their best epochs.

    Args:
        settings: an optimizer for each; they differ in the learning rate alone.
        start: (classes, C) weights that all begin with; biases begin at 0.
        batch_size: images a step.
        epochs: of the whole training.
        bf16: form the products in bfloat16.
    """

    def __init__(
        self, settings: Sequence[OptimizerConfig], start: Tensor, batch_size: int, epochs: int, bf16: bool = False
    ) -> None:
        self.settings, self.batch_size, self.epochs = settings, batch_size, epochs
        first = settings[0]
        self.heads = LinearHeads(
            start, len(settings), first.momentum, first.weight_decay, first.name, first.trust, bf16
        )
        self.epoch = 0
        self.best = [0.0] * len(settings)
        self.best_top5 = [0.0] * len(settings)
        self.last = [0.0] * len(settings)

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take one step with every classifier.

        Args:
            features: (n, C).
            labels: (n,).

        Returns:
            The losses, (K,).
        """
        # adjust_learning_rate of the release: once an epoch.
        rates = [
            scheduled_lr(settings, peak_lr(settings, self.batch_size), self.epoch, 1, self.epochs)
            for settings in self.settings
        ]
        return self.heads.step(features, labels, torch.tensor(rates))

    @torch.no_grad()
    def judge(self, features: Tensor, labels: Tensor) -> list[float]:
        """Evaluate all classifiers and remember their best epoch.

        Args:
            features: (m, C) of all validation images.
            labels: (m,).

        Returns:
            Top-1 in percent, K values.
        """
        for i, (top1, top5) in enumerate(zip(*self.heads.judge(features, labels), strict=True)):
            if top1 > self.best[i] or self.epoch == 0:
                self.best[i], self.best_top5[i] = top1, top5
            self.last[i] = top1
        return list(self.last)

    def table(self) -> list[dict[str, float]]:
        """One row a learning rate, in the order of the settings."""
        rows = zip(self.settings, self.best, self.best_top5, self.last, strict=True)
        return [{"lr": one.lr, "top1": best, "top5": top5, "top1_last": last} for one, best, top5, last in rows]

    def state(self) -> dict[str, Any]:
        """All that a resume needs."""
        return {
            "epoch": self.epoch, "best": self.best, "best_top5": self.best_top5, "last": self.last,
            "heads": self.heads.state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.epoch, self.best, self.best_top5, self.last = (state[k] for k in ("epoch", "best", "best_top5", "last"))
        self.heads.load_state(state["heads"])
