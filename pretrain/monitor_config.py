"""The settings of the monitor: without PyTorch, for which `--help` would wait, and without Hydra, which others lack."""

from dataclasses import dataclass

from runs.settings import number


@dataclass
class MonitorConfig:
    """What is monitored."""

    every: int = number(10, least=1)
    """Steps between two measurements of the output."""
    patience: int = number(3, least=1)
    """Bad measurements in a row that make a collapse, and good ones that end it."""
    threshold: float = number(0.2, least=0, below=1)
    """A measurement is bad when std * sqrt(d) or `spread`, both 1 for an output spread evenly over the sphere, has
    fallen below this part of its largest value in the run."""
    floor: float = number(0.05, least=0, below=1)
    """A measurement is also bad when either is below this, even if it never was larger."""
    min_rank: float = number(2.0, least=1)
    """A measurement is bad too when the effective rank is below this: all outputs lie on one line."""
    measures_every: int = number(50, least=0)
    """Steps between two sets of further numbers (docs/collapse.md), also at the last step; 0 for none."""
    knn_every: int = number(10, least=0)
    """Epochs between two kNN evaluations, which also come before the first and after the last epoch; 0 for none."""
    knn_bank: int = number(50_000, least=1)
    """Most training images that the kNN evaluation looks up."""
    knn_queries: int = number(10_000, least=1)
    """Most validation images that it classifies."""
    knn_k: int = number(200, least=1)
    """Neighbours (Wu et al., arXiv:1805.01978, section 3.4); at most a tenth of the bank is used."""
    knn_temperature: float = number(0.07, above=0)
    """Temperature of the votes (the same section)."""
