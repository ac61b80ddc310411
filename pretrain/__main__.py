"""`python -m pretrain method=… data=… data.root=DIR`: pre-train a ResNet."""

from pretrain.config import PretrainConfig
from pretrain.engine import run
from runs.app import hydra_app


@hydra_app("pretrain", "config", PretrainConfig)
def main(config: PretrainConfig) -> int:
    """Pre-train as `config` says; continue where an earlier start of the same run stopped."""
    return run(config)


if __name__ == "__main__":
    main()
