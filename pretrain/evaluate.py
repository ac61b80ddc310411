"""What linear and kNN evaluation share: their settings, their start and their record."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from pretrain.augment import AugmentConfig
from pretrain.config import CommandConfig
from pretrain.data import DataConfig, Images, open_splits
from pretrain.distributed import start_alone
from pretrain.frozen import Frozen, load_frozen
from pretrain.machine import peak_memory, set_up_arithmetic
from runs.environment import command_line
from runs.folder import RECORD, RunFolder
from runs.record import Dataset, Record, write_record

# Settings that touch no result: a run may be continued with others.
FREE = ("data.workers", "data.cache", "data.root", "threads", "device")


@dataclass
class EvaluationConfig(CommandConfig):
    """Settings of both evaluations; `seed` is that of the untrained network and of whatever else is drawn."""

    data: DataConfig = MISSING
    augment: AugmentConfig = MISSING
    """The view of the images."""
    checkpoint: str = MISSING
    """Any checkpoint that `python -m converters inspect` knows, or `random` for the untrained network."""
    arch: str = ""
    """Architecture of the untrained network; taken from the file otherwise."""
    zero_init_residual: bool = True
    """How the untrained network starts; as SimSiam's does by default, so that it is SimSiam before its first step."""

    def check_data(self, train: Images) -> None:
        """Check the settings against the training images.

        Raises:
            UserError: they do not go together.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Ready:
    """What an evaluation works on."""

    network: Frozen
    train: Images
    val: Images
    device: torch.device
    output: Path


@dataclass(frozen=True)
class Findings:
    """What an evaluation found: the record's `metrics`, `details` and `verdict`, and a sentence to print."""

    metrics: dict[str, float]
    details: dict[str, Any]
    sentence: str
    verdict: str = ""


def evaluate(
    kind: str, config: EvaluationConfig, measure: Callable[[Ready], Findings], free: tuple[str, ...] = ()
) -> int:
    """Measure and record, or say that it is done.

    Args:
        kind: `"linear"`, `"knn"` or `"collapse"`.
        config: the settings.
        measure: the evaluation proper.
        free: settings that touch no result, besides those of `FREE`.

    Returns:
        The exit status, 0.

    Raises:
        UserError: whatever the user can mend.
    """
    # Faults of the settings and the files are found before the folder is bound to them; a done run needs no files.
    ready = None if (Path(config.output) / RECORD).exists() else _prepare(config)
    folder = RunFolder(config.output, asdict(config), kind, (*FREE, *free))
    if ready is None or folder.done:
        print(f"{config.output}: done, see {folder.record}")
        return 0
    started = time.time()
    print(f"{ready.train.describe()}\n{ready.val.describe()}")
    found = measure(ready)
    val = ready.val
    record = Record(
        kind=kind,
        subject=ready.network.subject,
        dataset=Dataset(val.name, "val", len(val), val.fingerprint),
        metrics=found.metrics,
        seed=config.seed,
        config=asdict(config),
        seconds=time.time() - started,
        peak_memory_mb=peak_memory(ready.device),
        command=command_line(),
        verdict=found.verdict,
        details=found.details,
    )
    write_record(folder.path, record)
    print(f"{found.sentence} -> {folder.record}")
    return 0


def _prepare(config: EvaluationConfig) -> Ready:
    device = start_alone(config.device)
    set_up_arithmetic(config.threads, config.precision)
    train, val = open_splits(config.data)
    config.check_data(train)
    network = load_frozen(
        config.checkpoint, config.arch, config.zero_init_residual, config.augment, config.seed, device
    )
    return Ready(network, train, val, device, Path(config.output))
