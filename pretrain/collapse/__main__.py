"""`python -m pretrain.collapse checkpoint=FILE data=… data.root=DIR`: measure the outputs of any checkpoint."""

from pretrain.collapse import CollapseConfig
from runs.app import hydra_app


@hydra_app("pretrain", "config_collapse", CollapseConfig)
def main(config: CollapseConfig) -> float:
    """Measure a checkpoint's outputs."""
    # Here, so that `--help` and a mistyped key do not wait for PyTorch.
    from pretrain.collapse.measure_checkpoint import evaluate_collapse

    return evaluate_collapse(config)


if __name__ == "__main__":
    main()
