"""`python -m pretrain method=simsiam data=imagenet data.root=DIR epochs=200`: pre-train a ResNet without labels."""

from pretrain.config import PretrainConfig
from runs.app import hydra_app

main = hydra_app("pretrain", "config", PretrainConfig, "pretrain.trainer:pretrain")

if __name__ == "__main__":
    main()
