"""`python -m pretrain.knn checkpoint=FILE data=… data.root=DIR`: weighted kNN on frozen features."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING

from pretrain.augment import AugmentConfig, evaluation_view
from pretrain.config import check_machine
from pretrain.data import DataConfig, Images, open_images
from pretrain.distributed import start_alone
from pretrain.evaluate import Frozen, load_frozen
from pretrain.features import Plain, batches, extract, knn_accuracy
from pretrain.loader import choose_workers
from pretrain.machine import peak_memory, set_up_arithmetic
from runs.app import hydra_app
from runs.environment import command_line
from runs.errors import UserError
from runs.folder import RECORD, RunFolder
from runs.progress import progress
from runs.record import Dataset, Record, write_record

FREE = ("data.workers", "data.cache", "data.root", "batch_size", "chunk", "threads", "device")


@dataclass
class KnnConfig:
    """Settings of `python -m pretrain.knn`."""

    data: DataConfig = MISSING
    augment: AugmentConfig = MISSING
    checkpoint: str = MISSING
    """Any checkpoint that `python -m converters inspect` knows, or `random` for the untrained network."""
    arch: str = ""
    """Architecture of the untrained network; taken from the file otherwise."""
    zero_init_residual: bool = True
    """How the untrained network starts; as SimSiam's does by default, so that it is SimSiam before its first step."""
    k: list[int] = field(default_factory=lambda: [200, 20, 10, 100])
    """Neighbours, all in one pass; the first is reported (Wu et al., arXiv:1805.01978, section 3.4: 200)."""
    temperature: list[float] = field(default_factory=lambda: [0.07, 0.1])
    """Temperatures, all in one pass; the first is reported (the same section: 0.07)."""
    batch_size: int = 256
    chunk: int = 1024
    """Queries compared at a time; memory grows with chunk times training images."""
    seed: int = 0
    """Seed of the untrained network; nothing else here is random."""
    output: str = MISSING
    device: str = "auto"
    precision: str = "fp32"
    """`fp32`; `tf32`; `bf16` (the features in mixed precision)."""
    threads: int = 0

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise UserError(f"k={self.k}: must be a list of numbers of at least 1, e.g. k=[200,20]")
        if not self.temperature or min(self.temperature) <= 0:
            raise UserError(
                f"temperature={self.temperature}: must be a list of positive numbers, e.g. temperature=[0.07]"
            )
        if min(self.batch_size, self.chunk) < 1:
            raise UserError("batch_size and chunk must be at least 1")
        check_machine(self.device, self.precision, self.threads, self.seed)


@hydra_app("pretrain", "config_knn", KnnConfig)
def main(config: KnnConfig) -> int:
    """Classify the validation images by their nearest training images."""
    # Faults of the settings and the files are found before the folder is bound to them; a done run needs no files.
    ready = None if (Path(config.output) / RECORD).exists() else _prepare(config)
    folder = RunFolder(config.output, asdict(config), "knn", FREE)
    if ready is None or folder.done:
        print(f"{config.output}: done, see {folder.record}")
        return 0
    started = time.time()
    device, train, val, network = ready
    print(f"{train.describe()}\n{val.describe()}")
    view, workers, broken = evaluation_view(network.augment), choose_workers(config.data.workers, 1), set[str]()
    parts = []
    with progress(len(train) + len(val), "features", "image", folder=folder.path) as bar:
        for images in (train, val):
            loader = batches(Plain(images, view), config.batch_size, workers, config.data.skip_broken, broken)
            parts.append(extract(network, loader, device, config.precision == "bf16", bar))
    (bank, labels), (queries, targets) = parts
    accuracies = knn_accuracy(
        bank, labels, queries, targets, len(train.classes), config.k, config.temperature, config.chunk
    )
    top1 = accuracies[config.k[0], config.temperature[0]]
    grid = [{"k": k, "temperature": t, "top1": accuracy} for (k, t), accuracy in accuracies.items()]
    write_record(
        folder.path,
        Record(
            kind="knn",
            subject=network.subject,
            dataset=Dataset(val.name, "val", len(val), val.fingerprint),
            metrics={"top1": top1},
            seed=config.seed,
            config=asdict(config),
            seconds=time.time() - started,
            peak_memory_mb=peak_memory(device),
            command=command_line(),
            details={"grid": grid, "train_images": len(bank), "broken_images": sorted(broken)},
        ),
    )
    print(f"kNN top-1 {top1:.1f} % (k={config.k[0]}, temperature={config.temperature[0]}) -> {folder.record}")
    return 0


def _prepare(config: KnnConfig) -> tuple[torch.device, Images, Images, Frozen]:
    device = start_alone(config.device)
    set_up_arithmetic(config.threads, config.precision)
    train, val = open_images(config.data, "train"), open_images(config.data, "val")
    if max(config.k) > len(train):
        raise UserError(f"k={config.k}: the training set has only {len(train)} images; give smaller numbers")
    network = load_frozen(
        config.checkpoint, config.arch, config.zero_init_residual, config.augment, config.seed, device
    )
    return device, train, val, network


if __name__ == "__main__":
    main()
