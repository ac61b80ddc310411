"""`python -m pretrain.knn checkpoint=FILE data=… data.root=DIR`: weighted kNN on frozen features."""

from pretrain.config import KnnConfig
from runs.app import hydra_app

main = hydra_app("pretrain", "config_knn", KnnConfig, "pretrain.knn.evaluation:evaluate_knn")

if __name__ == "__main__":
    main()
