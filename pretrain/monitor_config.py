"""The settings of the monitor: without PyTorch, for which `--help` would wait, and without Hydra, which others lack."""

from dataclasses import dataclass

from runs.errors import UserError


@dataclass
class MonitorConfig:
    """What is watched."""

    every: int = 10
    """Steps between two measurements of the output."""
    patience: int = 3
    """Bad measurements in a row that make a collapse, and good ones that end it."""
    threshold: float = 0.2
    """A measurement is bad when std * sqrt(d) or `spread`, both 1 for an output spread evenly over the sphere, has
    fallen below this part of its largest value in the run."""
    floor: float = 0.05
    """A measurement is bad too when either is below this, also if it never was larger."""
    min_rank: float = 2.0
    """A measurement is bad too when the effective rank is below this: all outputs lie on one line."""
    measures_every: int = 50
    """Steps between two sets of further numbers (docs/collapse.md), also at the last step; 0 for none."""
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
        if min(self.knn_every, self.measures_every) < 0 or self.knn_temperature <= 0:
            raise UserError(
                "monitor.knn_every and monitor.measures_every must not be negative, monitor.knn_temperature must be "
                "positive"
            )
