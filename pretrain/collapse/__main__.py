"""`python -m pretrain.collapse checkpoint=FILE data=… data.root=DIR`: measure the outputs of any checkpoint."""

from pretrain.config import CollapseConfig
from runs.app import hydra_app

main = hydra_app(
    "pretrain", "config_collapse", CollapseConfig, "pretrain.collapse.measure_checkpoint:evaluate_collapse"
)

if __name__ == "__main__":
    main()
