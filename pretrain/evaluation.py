"""What linear and kNN evaluation and `pretrain.collapse` share: their settings, their start and their record."""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from pretrain import distributed
from pretrain.augment import AugmentConfig, evaluation_view
from pretrain.config import CommandConfig
from pretrain.data import DataConfig, Images, open_splits
from pretrain.features import FeatureExtractor, Features, extract_features, load_feature_extractor
from pretrain.loader import choose_workers
from pretrain.machine import peak_memory, set_up_arithmetic
from runs.app import mendable
from runs.environment import command_line
from runs.folder import RECORD, RunFolder
from runs.progress import Progress, progress
from runs.record import Dataset, Record, write_record

# Settings that touch no result: a run may be continued with others.
FREE = ("data.workers", "data.cache", "data.root", "threads", "device")


@dataclass
class EvaluationConfig(CommandConfig):
    """Settings of all evaluations; `seed` is that of the untrained network and of whatever else is drawn."""

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


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation works on."""

    config: EvaluationConfig
    network: FeatureExtractor
    train: Images
    val: Images
    device: torch.device

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output)

    @property
    def bf16(self) -> bool:
        """Whether it computes in mixed precision."""
        return self.config.precision == "bf16"

    @property
    def workers(self) -> int:
        """Loading processes of each process."""
        return choose_workers(self.config.data.workers, distributed.world())

    def progress(self, total: int, title: str, unit: str, done: int = 0) -> AbstractContextManager[Progress | None]:
        """Show a bar, in the first process."""
        return progress(total, title, unit, done, self.output) if distributed.rank() == 0 else nullcontext()

    def features(self, images: Images, indices: Sequence[int] | None = None, batch_size: int = 256) -> Features:
        """Compute the features of whole images, centre crops, all processes together; see `extract_features`."""
        total = len(images) if indices is None else len(indices)
        with self.progress(total, f"features of {images.split}", "image") as bar:
            return extract_features(
                self.network, images, evaluation_view(self.network.augment), self.device, indices=indices,
                batch_size=batch_size, workers=self.workers, skip_broken=self.config.data.skip_broken, bf16=self.bf16,
                bar=bar, split=True,
            )  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What an evaluation found: the record's `metrics`, `details` and `verdict`, and a sentence to print."""

    metrics: dict[str, float]
    details: dict[str, Any]
    sentence: str
    verdict: str = ""


def evaluate(
    kind: str, config: EvaluationConfig, measure: Callable[[Evaluation], Result], free: tuple[str, ...] = ()
) -> int:
    """Measure and record, or say that it is done.

    Args:
        kind: `"linear"`, `"knn"` or `"collapse"`.
        config: the settings.
        measure: the evaluation proper; every process calls it.
        free: settings that touch no result, besides those of `FREE`.

    Returns:
        The exit status, 0.

    Raises:
        UserError: whatever the user can mend.
    """
    device = distributed.start(config.device)
    try:
        status = _evaluate(kind, config, device, measure, (*FREE, *free))
    except Exception as error:
        if distributed.world() == 1:
            raise
        if distributed.first_to_fail():
            message = mendable(error)
            if message is None:
                traceback.print_exception(error)
            else:
                print(f"error: {message}", file=sys.stderr)
        distributed.quit_failed()
    distributed.stop()
    return status


def _evaluate(
    kind: str,
    config: EvaluationConfig,
    device: torch.device,
    measure: Callable[[Evaluation], Result],
    free: tuple[str, ...],
) -> int:
    # Faults of the settings and the files are found before the folder is bound to them; a done run needs no files.
    done = distributed.objects((Path(config.output) / RECORD).exists())[0]
    run = None if done else _prepare(config, device)
    folder = RunFolder(config.output, asdict(config), kind, free) if distributed.rank() == 0 else None
    done = distributed.objects(folder.done if folder else None)[0]
    if run is None or done:
        if folder:
            print(f"{config.output}: done, see {folder.record}")
        return 0
    started, val = time.time(), run.val
    if folder:
        print(f"{run.train.describe()}\n{run.val.describe()}")
    found = measure(run)
    if not folder:
        return 0
    record = Record(
        kind=kind,
        subject=run.network.subject,
        dataset=Dataset(val.name, "val", len(val), val.fingerprint),
        metrics=found.metrics,
        seed=config.seed,
        config=asdict(config),
        seconds=time.time() - started,
        peak_memory_mb=peak_memory(device),
        command=command_line(),
        verdict=found.verdict,
        details=found.details | {"processes": distributed.world()},
    )
    write_record(folder.path, record)
    print(f"{found.sentence} -> {folder.record}")
    return 0


def _prepare(config: EvaluationConfig, device: torch.device) -> Evaluation:
    set_up_arithmetic(config.threads, config.precision)
    train, val = open_splits(config.data)
    config.check_data(train)
    network = load_feature_extractor(
        config.checkpoint, config.arch, config.zero_init_residual, config.augment, config.seed, device
    )
    return Evaluation(config, network, train, val, device)
