"""What linear and kNN evaluation and `pretrain.collapse` share: their start and their record."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.config import FREE
from pretrain.data import Images, open_splits
from pretrain.evaluation_config import EvaluationConfig
from pretrain.features import FeatureExtractor, Features, extract_features, load_feature_extractor
from runs.distributed import process_group, rank, set_precision, world_size
from runs.folder import RECORD, claim_run
from runs.progress import Progress
from runs.record import Dataset


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

    def describe(self) -> None:
        """Print which images there are, in the first process."""
        if rank() == 0:
            print(f"{self.train.describe()}\n{self.val.describe()}")

    def progress(self, total: int, title: str, unit: str, done: int = 0) -> Progress:
        """Show a bar, in the first process."""
        return Progress(total, title, unit, done, self.output, disable=rank() > 0)

    def features(self, images: Images, indices: Sequence[int] | None = None, batch_size: int = 256) -> Features:
        """Compute the features of whole images, centre crops, all processes together; see `extract_features`."""
        total = len(images) if indices is None else len(indices)
        with self.progress(total, f"features of {images.split}", "image") as bar:
            return extract_features(
                self.network, images, self.network.augment, self.config.data, self.device, indices=indices,
                batch_size=batch_size, bf16=self.config.precision == "bf16", bar=bar, split=True,
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
) -> float:
    """Measure and record, or say that it is done.

    Args:
        kind: `"linear"`, `"knn"` or `"collapse"`.
        config: the settings.
        measure: the evaluation proper; every process calls it.
        free: settings that touch no result, besides those of `FREE`.

    Returns:
        The first metric, what a sweeper of Hydra's optimizes.

    Raises:
        UserError: whatever the user can put right.
    """
    with process_group(config.device) as device:
        train, val = open_splits(config.data)
        bound = {images.split: images.content_fingerprint for images in (train, val)}
        with claim_run(kind, config.output, asdict(config), (*FREE, *free), bound) as claimed:
            if claimed.done:
                return next(iter(claimed.done.metrics.values()))
            set_precision(config.precision, device, config.threads)
            network = load_feature_extractor(
                config.checkpoint, config.arch, config.zero_init_residual, config.augment, config.seed, device
            )
            if config.channels_last:
                network.network.to(memory_format=torch.channels_last)
            found = measure(Evaluation(config, network, train, val, device))
            view = {"mean": network.augment.mean, "std": network.augment.std, "by": network.convention}
            if rank() == 0:
                claimed.finish(
                    network.subject,
                    Dataset(val.name, "val", len(val), val.fingerprint),
                    found.metrics,
                    verdict=found.verdict,
                    details=found.details | {"processes": world_size(), "input": view},
                )
                print(f"{found.sentence} -> {claimed.path / RECORD}")
            return next(iter(found.metrics.values()))
