"""kNN evaluation: `python -m pretrain.knn`, the classifier in `evaluation.py`."""
