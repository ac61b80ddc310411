"""`python -m pretrain.linear checkpoint=FILE data=… data.root=DIR`: a linear classifier on frozen features.

Every learning rate of `lr` gets a classifier of its own and all of them see each batch, so that a sweep costs one
forward pass of the frozen network.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING

from pretrain.augment import AugmentConfig
from pretrain.classifiers import Classifiers, train_classifiers
from pretrain.config import check_machine
from pretrain.data import DataConfig, Images, open_images
from pretrain.distributed import start_alone
from pretrain.evaluate import Frozen, load_frozen
from pretrain.machine import peak_memory, set_up_arithmetic
from pretrain.optim import OPTIMIZERS
from runs.app import hydra_app
from runs.environment import command_line
from runs.errors import UserError
from runs.folder import RECORD, RunFolder
from runs.record import Dataset, Record, write_record

FREE = ("data.workers", "data.cache", "data.root", "threads", "device")


@dataclass
class LinearConfig:
    """Settings of `python -m pretrain.linear`, as in facebookresearch/simsiam@a7bc177 main_lincls.py."""

    data: DataConfig = MISSING
    augment: AugmentConfig = MISSING
    """The training view; `augment=none` trains on centre crops, whose features are computed once."""
    checkpoint: str = MISSING
    """Any checkpoint that `python -m converters inspect` knows, or `random` for the untrained network."""
    arch: str = ""
    """Architecture of the untrained network; taken from the file otherwise."""
    zero_init_residual: bool = True
    """How the untrained network starts; as SimSiam's does by default, so that it is SimSiam before its first step."""
    optimizer: str = "larc"
    """`larc` (the release's --lars) or `sgd` (MoCo: base lr 30, SimSiam's issue 23: 100)."""
    lr: list[float] = field(default_factory=lambda: [0.1, 0.02])
    """Base learning rates for 256 images a step; the first is reported (0.1 of the release; 0.02 is the paper's)."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    epochs: int = 90
    batch_size: int = 4096
    seed: int = 0
    output: str = MISSING
    device: str = "auto"
    precision: str = "fp32"
    """`fp32`; `tf32`; `bf16` (the features in mixed precision)."""
    threads: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer={self.optimizer}: choose one of {', '.join(OPTIMIZERS)}")
        if not self.lr or min(self.lr) <= 0 or len(set(self.lr)) < len(self.lr):
            raise UserError(f"lr={self.lr}: must be a list of different positive numbers, e.g. lr=[0.1,0.02]")
        if min(self.epochs, self.batch_size) < 1:
            raise UserError("epochs and batch_size must be at least 1")
        if not 0 <= self.momentum <= 1 or self.weight_decay < 0:
            raise UserError("momentum must lie in 0 to 1 and weight_decay must not be negative")
        check_machine(self.device, self.precision, self.threads, self.seed)


@hydra_app("pretrain", "config_linear", LinearConfig)
def main(config: LinearConfig) -> int:
    """Train the classifiers and report the first one's best and last epoch."""
    # Faults of the settings and the files are found before the folder is bound to them; a done run needs no files.
    ready = None if (Path(config.output) / RECORD).exists() else _prepare(config)
    folder = RunFolder(config.output, asdict(config), "linear", FREE)
    if ready is None or folder.done:
        print(f"{config.output}: done, see {folder.record}")
        return 0
    started = time.time()
    device, train, val, network = ready
    print(f"{train.describe()}\n{val.describe()}")
    before = network.fingerprint()
    heads = Classifiers(config, network.network, len(train.classes), device)
    broken = train_classifiers(config, network, heads, train, val, Path(config.output), device)
    if network.fingerprint() != before:
        raise AssertionError("the frozen network changed during linear evaluation")
    rows = heads.table()
    first = rows[0]
    write_record(
        folder.path,
        Record(
            kind="linear",
            subject=network.subject,
            dataset=Dataset(val.name, "val", len(val), val.fingerprint),
            metrics={"top1": first["top1"], "top5": first["top5"], "top1_last": first["top1_last"]},
            seed=config.seed,
            config=asdict(config),
            seconds=time.time() - started,
            peak_memory_mb=peak_memory(device),
            command=command_line(),
            details={"learning_rates": rows, "frozen_weights_unchanged": True, "broken_images": sorted(broken)},
        ),
    )
    sweep = ", ".join(f"{row['top1']:.1f} at lr {row['lr']:g}" for row in rows)
    print(f"linear top-1: {sweep} -> {folder.record}")
    return 0


def _prepare(config: LinearConfig) -> tuple[torch.device, Images, Images, Frozen]:
    device = start_alone(config.device)
    set_up_arithmetic(config.threads, config.precision)
    train, val = open_images(config.data, "train"), open_images(config.data, "val")
    if config.batch_size > len(train):
        raise UserError(
            f"batch_size={config.batch_size}: the training set has {len(train)} images; give at most that many"
        )
    if config.data.cache:
        train.cache(config.data.skip_broken)
    network = load_frozen(
        config.checkpoint, config.arch, config.zero_init_residual, config.augment, config.seed, device
    )
    return device, train, val, network


if __name__ == "__main__":
    main()
