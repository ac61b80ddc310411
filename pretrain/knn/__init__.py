"""kNN evaluation: `python -m pretrain.knn`, its settings here, the classifier in `evaluation.py`."""

from dataclasses import dataclass

from pretrain.config import EvaluationConfig
from runs.errors import UserError
from runs.settings import number


@dataclass
class KnnConfig(EvaluationConfig):
    """Settings of `python -m pretrain.knn`."""

    k: list[int] = number(lambda: [200, 20, 10, 100], least=1)
    """Neighbours, all in one pass; the first is reported (Wu et al., arXiv:1805.01978, section 3.4: 200)."""
    temperature: list[float] = number(lambda: [0.07, 0.1], above=0)
    """Temperatures, all in one pass; the first is reported (the same section: 0.07)."""
    batch_size: int = number(256, least=1)
    """Images at a time through the network."""
    chunk: int = number(1024, least=1)
    """Queries compared at a time; docs/speed.md says how much memory that takes."""

    def check(self) -> None:  # noqa: D102
        for name in ("k", "temperature"):
            if not getattr(self, name):
                raise UserError(f"{name}=[]: must be a list of numbers, of which the first is reported")
