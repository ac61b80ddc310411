"""What a view is compared with: how the first paper's eta is solved for (section 5.1, equations 8 to 10)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pretrain.collectives import all_gather
from pretrain.method.base import Batch
from pretrain.method.siamese.losses import unit
from runs.distributed import rank, world_size

Encoder = Callable[[Tensor], Tensor]


class Target(nn.Module):
    """The targets of a step; this one is the views' own outputs of the moment (equation 10).

    Args:
        stop_gradient: make them constants.
    """

    def __init__(self, stop_gradient: bool = True) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient

    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        """Return the target that each view gives to another one.

        Args:
            z: (n, d) a view.
            batch: what they are the outputs of.

        Returns:
            (n, d) a view.
        """
        return [v.detach() for v in z] if self.stop_gradient else z

    def look_ahead(self, step: int) -> int:
        """How many steps' batches `prepare` needs before `step`; 0 for none."""
        return 0

    def prepare(self, f: nn.Module, batches: Iterable[Batch]) -> None:
        """See the next steps' batches."""

    def after_step(self, step: int) -> None:
        """A step, counted from 0, is done."""


class Mean(Target):
    """The mean output of all views but the first, for the first (the second paper, appendix A.3)."""

    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        """As `Target`; the mean stands at 1, in place of the second view."""
        return [z[0].detach(), torch.stack(z[1:]).mean(dim=0).detach()]


class HostTensor(nn.Module):
    """A large tensor in the host's memory that is part of the state dict.

    It is no buffer: ImageNet's memory has 10 GB, which no device should hold and DDP not send at every step.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def get_extra_state(self) -> Tensor:
        """For `state_dict`."""
        return self.values

    def set_extra_state(self, state: Tensor) -> None:
        """For `load_state_dict`."""
        self.values = state


class MovingAverage(Target):
    """A memory of one vector an image: eta <- m eta + (1 - m) F(T'(x)) (the first paper, section 5.2).

    Outputs and eta are normalized, as footnote 6 has it for the cosine. An image's first eta is its first output.

    NOTE: with the symmetric loss each view's target is eta moved by the other view alone, so that no view is compared
    with itself; the memory is moved by the mean of both. The paper writes the rule for one view.

    Args:
        images: size of the training set.
        dim: d.
        momentum: m.
    """

    def __init__(self, images: int, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.memory = HostTensor(torch.zeros(images, dim))

    @torch.no_grad()
    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        """As `Target`."""
        Z = [unit(v) for v in z]  # n-by-d
        eta = self.memory.values[batch.indices].to(Z[0])  # n-by-d
        # Every process writes what all saw: the memories stay equal, and any of them can be saved.
        where = all_gather(batch.indices.to(Z[0].device))  # N
        what = all_gather(self.moved(eta, torch.stack(Z).mean(dim=0)))  # N-by-d
        self.memory.values[where.cpu()] = what.to(self.memory.values)
        return [self.moved(eta, v) for v in Z]

    def moved(self, eta: Tensor, z: Tensor) -> Tensor:
        """The memory's next vectors, (n, d), from the present ones and new outputs; a vector of zeros is yet unset."""
        new = torch.where(eta.any(dim=1, keepdim=True), self.momentum * eta + (1 - self.momentum) * z, z)
        return unit(new)


class Cached(Target):
    """Multi-step alternation: targets of k steps are computed before the first of them (the first paper, section 5.2).

    Args:
        steps: k.
    """

    first: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("first", torch.tensor(0))
        self.cache = HostTensor(torch.empty(0))

    def look_ahead(self, step: int) -> int:
        """As `Target`: at the start of an alternation k, inside it none."""
        return 0 if len(self.cache.values) else self.steps

    @torch.no_grad()
    def prepare(self, f: nn.Module, batches: Iterable[Batch]) -> None:
        """Compute and keep the outputs of all views of the coming steps."""
        # Training will see the same views again: seen twice, they would count twice in the running statistics.
        statistics = [(buffer, buffer.clone()) for buffer in f.buffers()]
        cache = []
        for number, batch in enumerate(batches):
            if not number:
                self.first.fill_(batch.step)
            cache.append(torch.stack([all_gather(f(x)) for x in batch.views]).cpu())  # views-by-N-by-d
        self.cache.values = torch.stack(cache)  # k-by-views-by-N-by-d
        for buffer, before in statistics:
            buffer.copy_(before)

    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        """As `Target`."""
        targets = self.cache.values[batch.step - int(self.first)]  # views-by-N-by-d
        return list(targets.chunk(world_size(), dim=1)[rank()].to(z[0].device))

    def after_step(self, step: int) -> None:
        """Drop what has been used up."""
        if step + 1 == int(self.first) + len(self.cache.values):
            self.cache.values = torch.empty(0)
