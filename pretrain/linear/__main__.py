"""`python -m pretrain.linear checkpoint=FILE data=… data.root=DIR`: linear classifiers on frozen features."""

from pretrain.config import LinearConfig
from runs.app import hydra_app

main = hydra_app("pretrain", "config_linear", LinearConfig, "pretrain.linear.evaluation:evaluate_linear")

if __name__ == "__main__":
    main()
