"""Why does it not collapse? `python -m pretrain.collapse` measures a checkpoint's outputs; docs/collapse.md reads them.

`measure_checkpoint.py` has the outputs of a checkpoint with its heads, `draw_checkpoint_measures.py` the picture. The
numbers, which training logs too, are in `pretrain/output_measures.py`. The experiments are `method=siamese` and
`pretrain/variants.yaml`.
"""
