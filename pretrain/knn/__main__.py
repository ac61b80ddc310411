"""`python -m pretrain.knn checkpoint=FILE data=… data.root=DIR`: weighted kNN on frozen features."""

from pretrain.knn import KnnConfig
from runs.app import hydra_app


@hydra_app("pretrain", "config_knn", KnnConfig)
def main(config: KnnConfig) -> float:
    """Classify the validation images by their nearest training images."""
    # Here, so that `--help` and a mistyped key do not wait for PyTorch.
    from pretrain.knn.evaluation import evaluate_knn

    return evaluate_knn(config)


if __name__ == "__main__":
    main()
