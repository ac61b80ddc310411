"""Linear evaluation: `python -m pretrain.linear`, the classifiers in `evaluation.py`."""
