"""`python -m pretrain.linear checkpoint=FILE data=… data.root=DIR`: linear classifiers on frozen features."""

from pretrain.linear import LinearConfig
from runs.app import hydra_app


@hydra_app("pretrain", "config_linear", LinearConfig)
def main(config: LinearConfig) -> float:
    """Train the classifiers and report the first one's best and last epoch."""
    # Here, so that `--help` and a mistyped key do not wait for PyTorch.
    from pretrain.linear.evaluation import evaluate_linear

    return evaluate_linear(config)


if __name__ == "__main__":
    main()
