"""What a view is compared with: how the first paper's eta is solved for (section 5.1, equations 8 to 10)."""

import copy

import torch
from torch import Tensor, nn

from pretrain.collectives import all_gather
from pretrain.layers import l2_normalize
from pretrain.method.base import Batch


class Target(nn.Module):
    """The targets of a step; this one is the views' own outputs of the moment (equation 10)."""

    def __init__(self, stop_gradient: bool = True) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient

    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        """Return the targets that views of a batch give to other views, from their outputs z, (n, d) a view each."""
        return [v.detach() for v in z] if self.stop_gradient else z

    def after_step(self, f: nn.Module, step: int) -> None:
        """A step, counted from 0, of the network f is done."""


class MeanOfAllButFirst(Target):
    """The mean output of all views but the first, for the first (the second paper, appendix A.3)."""

    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        """As `Target`; the mean stands at 1, in place of the second view."""
        return [z[0].detach(), torch.stack(z[1:]).mean(dim=0).detach()]


class MovingAverage(Target):
    """A memory of one vector an image: eta <- m eta + (1 - m) F(T'(x)) (the first paper, section 5.2).

    Outputs and eta are normalized, as footnote 6 has it for the cosine. An image's first eta is its first output.

    NOTE: with the symmetric loss each view's target is eta moved by the other view alone, so that no view is compared
    with itself; the memory is moved by the mean of both. The paper writes the rule for one view.

    The memory is no buffer: ImageNet's has 10 GB, which no device should hold and DDP not send at every step.
    """

    def __init__(self, images: int, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.memory = torch.zeros(images, dim)

    @torch.no_grad()
    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        Z = [l2_normalize(v) for v in z]  # n-by-d
        eta = self.memory[batch.indices].to(Z[0])  # n-by-d
        # Every process writes what all saw: the memories stay equal, and any of them can be saved.
        where = all_gather(batch.indices.to(Z[0].device))  # N
        what = all_gather(self._updated(eta, torch.stack(Z).mean(dim=0)))  # N-by-d
        self.memory[where.cpu()] = what.to(self.memory)
        return [self._updated(eta, v) for v in Z]

    def _updated(self, eta: Tensor, z: Tensor) -> Tensor:
        """The memory's next vectors, (n, d), from the present ones and new outputs; a vector of zeros is yet unset."""
        new = torch.where(eta.any(dim=1, keepdim=True), self.momentum * eta + (1 - self.momentum) * z, z)
        return l2_normalize(new)

    def get_extra_state(self) -> Tensor:
        return self.memory

    def set_extra_state(self, state: Tensor) -> None:
        self.memory = state


class PeriodicCopy(Target):
    """Multi-step alternation: outputs of the network before the first of k steps (the first paper, section 5.2).

    NOTE: the paper computes them before those steps and caches them. A copy of the network f, computed with when they
    are needed, gives the same numbers and holds no table of the images.
    """

    def __init__(self, f: nn.Module, steps: int) -> None:
        super().__init__()
        self.f, self.steps = copy.deepcopy(f).requires_grad_(False), steps

    @torch.no_grad()
    def forward(self, z: list[Tensor], batch: Batch) -> list[Tensor]:
        return [self.f(x) for x in batch.views]

    def after_step(self, f: nn.Module, step: int) -> None:
        """As `Target`: an alternation ends here, or goes on."""
        if (step + 1) % self.steps == 0:
            self.f.load_state_dict(f.state_dict())
