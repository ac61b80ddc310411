"""Why does it not collapse? `python -m pretrain.collapse` measures a checkpoint's outputs; docs/collapse.md reads them.

`measures.py` has the numbers, which training logs too, `evaluation.py` the outputs of a checkpoint with its heads and
the words for both, and `figure.py` the picture. The experiments are `method=siamese` and `pretrain/variants.yaml`.
"""
