"""K linear classifiers as one: a learning rate each, one matrix product for all, one update for all."""

from typing import Any

import torch
from torch import Tensor

from pretrain.optim import Larc

ROOM = 2**24
"""Logits computed at a time, 64 MB."""
CACHE = 2**21
"""Weights moved at a time on a processor, 8 MB: gradient, weights and velocity of larger ones would leave its cache."""


class LinearHeads:
    """K fully connected layers under SGD with momentum, or LARC in front of it, as `pretrain.optim` has both.

    Args:
        start: (classes, C) weights that all begin with; biases begin at 0.
        count: K.
        momentum: momentum.
        weight_decay: weight decay.
        optimizer: `sgd`, `larc` or `lars`.
        trust: LARC's and LARS's trust coefficient.
        bf16: form the products in bfloat16, as mixed precision does; weights, losses and updates stay float32.
    """

    def __init__(
        self,
        start: Tensor,
        count: int,
        momentum: float,
        weight_decay: float,
        optimizer: str,
        trust: float,
        bf16: bool = False,
    ) -> None:
        self.momentum, self.weight_decay, self.optimizer, self.trust = momentum, weight_decay, optimizer, trust
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.weight = start.expand(count, *start.shape).contiguous()  # (K, classes, C)
        self.bias = start.new_zeros(count, len(start))  # (K, classes)
        self.velocities = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def __len__(self) -> int:
        return len(self.weight)

    def logits(self, features: Tensor, first: int, last: int) -> Tensor:
        """Scores of the classifiers `first` to `last - 1`: (n, C) to (n, last - first, classes)."""
        weight = self.weight[first:last].flatten(0, 1)  # a view, ((last - first) * classes, C)
        scores = features.to(self.dtype) @ weight.to(self.dtype).T
        return scores.float().add_(self.bias[first:last].flatten()).unflatten(1, (last - first, -1))

    def parts(self, images: int) -> list[tuple[int, int]]:
        """Cut the classifiers into runs: small ones share a product, large ones (`ROOM`, `CACHE`) have their own."""
        size = ROOM // (images * self.weight.shape[1])
        if self.weight.device.type == "cpu":
            size = min(size, CACHE // self.weight[0].numel())
        size = max(1, size)
        return [(first, min(first + size, len(self))) for first in range(0, len(self), size)]

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
        """Take one step with every classifier on the mean cross-entropy of its own.

        Args:
            features: (n, C).
            labels: (n,).
            rates: (K,) learning rates of this step.

        Returns:
            The losses before the step, (K,).
        """
        features, losses, image = features.to(self.dtype), [], torch.arange(len(labels), device=labels.device)
        for first, last in self.parts(len(features)):
            scores = self.logits(features, first, last)  # (n, k, classes)
            rows = torch.log_softmax(scores, dim=2, out=scores)
            losses.append(-rows[image, :, labels].mean(dim=0))
            # The gradient of the mean cross-entropy in closed form: (softmax - one-hot) / n.
            slope = rows.exp_()
            slope[image, :, labels] -= 1
            matrix = (slope.flatten(1).to(self.dtype).T @ features).float().div_(len(labels))  # (k * classes, C)
            part = slice(first, last)
            self._move(self.weight[part], matrix.view(last - first, -1, features.shape[1]), 0, part, rates)
            self._move(self.bias[part], slope.sum(dim=0).div_(len(labels)), 1, part, rates)
        return torch.cat(losses)

    def _move(self, p: Tensor, gradient: Tensor, which: int, part: slice, rates: Tensor) -> None:
        """Update one kind of parameter: `p` and `gradient` (k, ...), a norm and a learning rate to each of the k."""
        self._rescale(p, gradient)
        rate = rates[part].to(p).view(-1, *([1] * (p.ndim - 1)))
        velocity = self.velocities[which][part].mul_(self.momentum)
        if self.optimizer == "lars":
            p -= velocity.addcmul_(gradient, rate)
        else:
            p.addcmul_(velocity.add_(gradient), rate, value=-1)

    def _rescale(self, p: Tensor, gradient: Tensor) -> None:
        """Add the decay and apply the rule of `pretrain.optim.Larc` or `Lars`, in place."""
        decay, shape = self.weight_decay, (-1, *([1] * (p.ndim - 1)))
        if decay and self.optimizer != "larc":
            gradient.add_(p, alpha=decay)
        if self.optimizer == "sgd":
            return
        size, slope = (torch.linalg.vector_norm(tensor.flatten(1), dim=1) for tensor in (p, gradient))  # k
        adapted = (size != 0) & (slope != 0)
        if self.optimizer == "larc":
            slope = slope + size * decay + Larc.EPS
            if decay:
                gradient += (adapted * decay).view(shape) * p
        gradient *= torch.where(adapted, self.trust * size / slope, 1.0).view(shape)

    @torch.no_grad()
    def judge(self, features: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
        """Top-1 and top-5 in percent of every classifier, from features (m, C) and labels (m,)."""
        depth = min(5, self.weight.shape[1])
        hits = torch.zeros(len(self), depth, dtype=torch.int64, device=labels.device)
        for x, y in zip(features.split(4096), labels.split(4096), strict=True):
            for first, last in self.parts(len(x)):
                best = self.logits(x, first, last).topk(depth, dim=2).indices  # (n, k, depth)
                hits[first:last] += (best == y[:, None, None]).sum(dim=0)
        share = 100 * hits.cumsum(dim=1) / len(labels)  # (K, depth)
        return share[:, 0].tolist(), share[:, -1].tolist()

    def state(self) -> dict[str, Any]:
        """All tensors that a resume needs."""
        return {"weight": self.weight, "bias": self.bias, "velocities": self.velocities}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        for mine, saved in ((self.weight, state["weight"]), (self.bias, state["bias"])):
            mine.copy_(saved)
        for mine, saved in zip(self.velocities, state["velocities"], strict=True):
            mine.copy_(saved)
