"""Why does it not collapse? `python -m pretrain.collapse` measures a checkpoint's outputs; docs/collapse.md reads them.

`measure_checkpoint.py` has the outputs of a checkpoint with its heads, `draw_checkpoint_measures.py` the picture. The
numbers, which training logs too, are in `pretrain/output_measures.py`. The experiments are `method=siamese` and
`pretrain/variants.yaml`.
"""

from dataclasses import dataclass

from pretrain.config import EvaluationConfig
from runs.settings import number


@dataclass
class CollapseConfig(EvaluationConfig):
    """Settings of `python -m pretrain.collapse`."""

    heads: bool = True
    """Measure the output of a checkpoint's heads where this project wrote it, on the views that it was trained on. Off,
    and for all other files: the pooled features, on the view that `augment` says."""
    images: int = number(2048, least=2)
    """Validation images, at most: a part drawn with `seed`."""
    batch_size: int = number(256, least=1)
    """Images at a time through the network."""
    threshold: float = number(0.2, above=0, below=1)
    """Collapsed is an output whose std * sqrt(d) or spread is below this (`monitor.threshold` in training)."""
