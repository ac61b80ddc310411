"""`python -m pretrain method=simsiam data=imagenet data.root=DIR epochs=200`: pre-train a ResNet without labels."""

from pathlib import Path

from pretrain.config import PretrainConfig
from runs.app import hydra_app
from runs.folder import RECORD
from runs.record import read_record


@hydra_app("pretrain", "config", PretrainConfig)
def main(config: PretrainConfig) -> float | None:
    """Pre-train as `config` says; continue where an earlier start of the same run stopped."""
    # Here, so that `--help` and a mistyped key do not wait for PyTorch.
    from pretrain.trainer import pretrain

    pretrain(config)
    # For sweepers; where several processes ran, the first has written it.
    path = Path(config.output)
    return read_record(path).metrics.get("knn_top1") if (path / RECORD).exists() else None


if __name__ == "__main__":
    main()
