"""Is the network learning or collapsing? Numbers of the normalized output, and a verdict in words."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from runs.errors import UserError


@dataclass
class MonitorConfig:
    """What is watched."""

    every: int = 10
    """Steps between two looks at the output."""
    patience: int = 3
    """Bad looks in a row that make a collapse, and good ones that end it."""
    threshold: float = 0.5
    """A look is bad when std has fallen below this part of its largest value, at most of 1 / sqrt(d). At half of
    1 / sqrt(d), m_o is 0.87 and m_r 0.5: the centre dominates, which is how Zhang et al. (section 3.1) see collapse."""
    floor: float = 0.05
    """A look is bad too when std * sqrt(d) is below this, also if it never was larger."""
    min_rank: float = 2.0
    """A look is bad too when the effective rank is below this: all outputs lie on one line."""
    knn_every: int = 10
    """Epochs between two kNN evaluations, which also come before the first and after the last epoch; 0 for none."""
    knn_bank: int = 50_000
    """Most training images that the kNN evaluation looks up."""
    knn_queries: int = 10_000
    """Most validation images that it classifies."""
    knn_k: int = 200
    """Neighbours (Wu et al., arXiv:1805.01978, section 3.4); at most a tenth of the bank is used."""
    knn_temperature: float = 0.07
    """Temperature of the votes (the same section)."""

    def __post_init__(self) -> None:
        for name in ("every", "patience", "knn_bank", "knn_queries", "knn_k"):
            if getattr(self, name) < 1:
                raise UserError(f"monitor.{name}={getattr(self, name)}: must be at least 1")
        if self.knn_every < 0 or self.knn_temperature <= 0:
            raise UserError("monitor.knn_every must not be negative, monitor.knn_temperature must be positive")


@dataclass(frozen=True)
class Health:
    """One look at the output."""

    std: float
    """Standard deviation of the L2-normalized output over the images, averaged over channels (SimSiam, figure 2)."""
    std_healthy: float
    """1 / sqrt(d): its value for an isotropic output."""
    m_o: float
    """Length of the mean of the normalized outputs (Zhang et al., ICLR 2022, section 3.1); 1 when collapsed."""
    m_r: float
    """Mean length of what remains of them; 0 when collapsed."""
    covariance: float
    """Mean squared off-diagonal covariance of the normalized output times sqrt(d); 0 decorrelated, 1 all the same."""
    effective_rank: float
    """exp of the entropy of the centred output's normalized singular values (Roy, Vetterli, EUSIPCO 2007); 1 to d."""


@torch.no_grad()
def look(z: Tensor) -> Health:
    """Measure a batch of outputs.

    Args:
        z: (n, d), n at least 2.
    """
    z = normalize(z.detach().double(), dim=1)  # n-by-d
    n, d = z.shape
    o = z.mean(dim=0)  # d
    r = z - o  # n-by-d
    # The smaller Gram matrix has the same eigenvalues, and the sums of squares of the covariance follow from it.
    gram = r @ r.T if n < d else r.T @ r  # min(n, d) squared
    variances = r.square().sum(0) / (n - 1)  # d
    off_diagonal = (gram.square().sum() / (n - 1) ** 2 - variances.square().sum()).clamp(min=0)
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    # Nothing but rounding is left of an output that is constant: its rank is 1, not the rounding's.
    share = singular[singular > 1e-6] / singular[singular > 1e-6].sum()
    return Health(
        std=variances.sqrt().mean().item(),
        std_healthy=d**-0.5,
        m_o=o.norm().item(),
        m_r=r.norm(dim=1).mean().item(),
        covariance=(off_diagonal * d**2 / max(d * (d - 1), 1)).item(),
        effective_rank=torch.exp(-(share * share.log()).sum()).item() if len(share) else 1.0,
    )


class Monitor:
    """Turns looks into a verdict; its state travels in the checkpoint.

    Args:
        config: thresholds.
    """

    STATE = ("bad", "streak", "bad_since", "collapsed_at", "looks", "best")

    def __init__(self, config: MonitorConfig) -> None:
        self.config = config
        self.bad, self.streak, self.bad_since = False, 0, 0
        self.collapsed_at: int | None = None
        self.looks = 0
        self.best = 0.0

    def see(self, step: int, health: Health) -> bool:
        """Take a look into account.

        Returns:
            Whether the verdict became "collapsed" with it.
        """
        self.looks += 1
        # Heads without a batch norm start with outputs close together, which is no collapse: their own best counts.
        self.best = max(self.best, min(health.std, health.std_healthy))
        limit = max(self.config.threshold * self.best, self.config.floor * health.std_healthy)
        bad = health.std < limit or health.effective_rank < self.config.min_rank
        self.streak = self.streak + 1 if bad == self.bad else 1
        if bad and not self.bad:
            self.bad_since = step
        self.bad = bad
        if self.streak < self.config.patience:
            return False
        if not bad:
            # A network that has left the collapsed state for good is healthy: the present counts.
            self.collapsed_at = None
        elif self.collapsed_at is None:
            self.collapsed_at = self.bad_since
            return True
        return False

    @property
    def verdict(self) -> str:
        """A sentence: `healthy`, `collapsed at step 412`, or why there is none."""
        if self.collapsed_at is not None:
            return f"collapsed at step {self.collapsed_at}"
        return "healthy" if self.looks else "not watched"

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.STATE}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        for name in self.STATE:
            setattr(self, name, state[name])
