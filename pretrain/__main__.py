"""`python -m pretrain method=simsiam data=imagenet data.root=DIR epochs=200`: pre-train a ResNet without labels."""

import sys

from pretrain.config import PretrainConfig
from runs.app import hydra_app


@hydra_app("pretrain", "config", PretrainConfig)
def main(config: PretrainConfig) -> None:
    """Pre-train as `config` says; continue where an earlier start of the same run stopped."""
    # Here, so that `--help` and a mistyped key do not wait for PyTorch.
    from pretrain.trainer import pretrain

    status = pretrain(config)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
