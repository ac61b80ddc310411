"""What linear and kNN evaluation and `pretrain.collapse` share: the frozen network, its features, start and record.

evaluate("linear", config, measure)  # opens the data, claims the folder, records measure(evaluation)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from converters import load_backbone
from converters.without_dynamo import without_dynamo
from pretrain.augment import evaluation_transform
from pretrain.augment.views import NO_IMAGE, Views
from pretrain.checkpoint import NAME, epoch_and_step
from pretrain.config import MAY_DIFFER, AugmentConfig, DataConfig, EvaluationConfig
from pretrain.data import Images, fingerprints, open_splits
from pretrain.loader import iterate_batches
from runs.distributed import all_gather_object, process_group, rank, set_precision, worker_count, world_size
from runs.errors import UserError
from runs.files import RANDOM, read_yaml
from runs.folder import CONFIG, RECORD, Run, claimed_run
from runs.progress import Progress
from runs.record import Dataset, Subject
from runs.seeds import seed_everything

with without_dynamo():
    from torchvision.models.resnet import ResNet

    from converters.resnet_model import build_resnet


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen network without a classifier.

    Attributes:
        network: turns RGB images (n, 3, H, W) into features (n, C).
        subject: what it is.
        augment: the view of images, with the mean and std that the network gets.
        convention: who says so.
    """

    network: ResNet
    subject: Subject
    augment: AugmentConfig
    convention: str

    def weights_checksum(self) -> float:
        """A number that changes when any weight or statistic does."""
        return float(sum(v.double().sum() + v.double().square().sum() for v in self.network.state_dict().values()))


def load_feature_extractor(config: EvaluationConfig, device: torch.device) -> FeatureExtractor:
    """Load the checkpoint, of any format that `converters` reads, or make an untrained network.

    Raises:
        UserError: the file is no complete ResNet or another architecture than `config.arch`.
    """
    checkpoint, arch = config.checkpoint, config.arch
    if checkpoint == RANDOM:
        if not arch:
            raise UserError("arch: is required with checkpoint=random; add e.g. arch=resnet50")
        seed_everything(config.seed)
        network, own = build_resnet(arch, None, config.zero_init_residual), AugmentConfig(name="")
        subject, mean, std, said = Subject("scratch", arch, 0), own.mean, own.std, "an untrained network has none"
    else:
        backbone = load_backbone(checkpoint).rgb()
        if arch and arch != backbone.arch:
            raise UserError(f"arch={arch}: {checkpoint} is a {backbone.arch}; leave arch out")
        network, mean, std, said = backbone.network(), [*backbone.input.mean], [*backbone.input.std], backbone.assumed
        method, epochs = backbone.format, None
        if ours := settings_beside(Path(checkpoint)):
            epoch, step = epoch_and_step(Path(checkpoint))
            method, epochs = ours.get("variant") or ours["method"]["name"], epoch + (step == math.inf)
        subject = Subject(method, backbone.arch, epochs, Path(checkpoint).name, backbone.source_sha256)
    augment = config.augment
    if given := [f"augment.{name}" for name in ("mean", "std") if getattr(augment, name)]:
        said = f"{' and '.join(given)} for: {said}"
    augment = replace(augment, mean=augment.mean or mean, std=augment.std or std)
    network = network.requires_grad_(False).to(device).eval()
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return FeatureExtractor(network, subject, augment, said)


def settings_beside(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run of ours that wrote `checkpoint`, done or not; empty for anybody else's file.

    Raises:
        UserError: the `config.yaml` beside it is damaged.
    """
    file = checkpoint.parent / CONFIG
    if not NAME.fullmatch(checkpoint.name) or not file.is_file():
        return {}
    settings = read_yaml(file)
    if settings.get("kind") != "pretrain":
        return {}
    if not isinstance(settings.get("method"), dict) or "name" not in settings["method"]:
        raise UserError(f"{file}: lacks method.name; put the checkpoint into a folder of its own")
    return settings


class Features(NamedTuple):
    """Features of the images that could be read, in the order of the images."""

    values: Tensor
    """(n, C) float32 or bfloat16."""
    labels: Tensor
    """(n,) int64."""
    broken: list[str]
    """Names of the images that were left out."""


@torch.no_grad()
def extract_features(
    network: Callable[[Tensor], Tensor],
    images: Images,
    augment: AugmentConfig,
    data: DataConfig,
    device: torch.device,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 256,
    bf16: bool = False,
    bar: Progress | None = None,
    distributed: bool = False,
) -> Features:
    """Compute features (n, C) of centre crops of all images, or of those at `indices`, which stay on the device.

    `network` turns (n, 3, H, W) into (n, C). `bf16` computes in mixed precision and keeps the features in bfloat16.
    `distributed` divides the batches among the processes, each of which has to call this and gets the features of all.

    Raises:
        UserError: an image cannot be decoded and `data.skip_broken` is off, or cannot be read at all.
    """
    indices = range(len(images)) if indices is None else indices
    # Whole batches are dealt out, so that a batch, and with it every bit, is the same on any number of processes.
    first, processes = (rank(), world_size()) if distributed else (0, 1)
    starts = range(0, len(indices), batch_size)[first::processes]
    dealt = [range(len(indices))[start : start + batch_size] for start in starts]
    dtype = torch.bfloat16 if bf16 else torch.float32
    table, broken = torch.empty(0), []
    labels = torch.full((len(indices),), -1)
    views = Views(images, [evaluation_transform(augment)], 0, data.skip_broken)
    workers = worker_count(data.workers, processes=None if distributed else 1)
    loaded = iterate_batches(views, [[(0, indices[row]) for row in rows] for rows in dealt], workers)
    for rows, batch in zip(dealt, loaded, strict=True):
        # Another image stands in for a broken one, which training needs and this does not.
        whole = torch.tensor([not names for names in batch.broken])
        broken += [names[0] for names in batch.broken if names]
        if whole.any():
            (inputs,) = batch.views
            kept = torch.tensor(rows)[whole]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                part = network((inputs if whole.all() else inputs[whole]).to(device)).to(dtype)
            if not len(table):
                table = part.new_zeros(len(indices), part.shape[1])
            table[kept.to(device)] = part
            labels[kept] = batch.labels[whole]
        if bar:
            bar.update(len(rows) * processes)
    if processes > 1:
        found = all_gather_object((table.shape[-1], broken))
        broken = [name for _, names in found for name in names]
        if not len(table):
            table = torch.zeros(len(indices), max(width for width, _ in found), dtype=dtype, device=device)
        labels = labels.to(device)
        # Each row comes from one process and is zero (a label: -1) in the others, so the sum adds no rounding.
        dist.all_reduce(table)
        dist.all_reduce(labels, dist.ReduceOp.MAX)
    labels = labels.to(device)
    if not (labels >= 0).any():
        raise UserError(NO_IMAGE)
    return Features(table[labels >= 0] if broken else table, labels[labels >= 0], sorted(broken))


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation works on."""

    config: EvaluationConfig
    extractor: FeatureExtractor
    train: Images
    val: Images
    device: torch.device
    run: Run

    def print_data_sets(self) -> None:
        """Print which images there are, in the first process."""
        if rank() == 0:
            print(f"{self.train.format_summary()}\n{self.val.format_summary()}")

    def progress(self, total: int, title: str, unit: str, done: int = 0) -> Progress:
        """Show a bar, in the first process."""
        return Progress(total, title, unit, done, self.run.path, disable=rank() > 0)

    def extract_features(self, images: Images, indices: Sequence[int] | None = None, batch_size: int = 256) -> Features:
        """By the function of that name, with a bar; all processes together."""
        total = len(images) if indices is None else len(indices)
        with self.progress(total, f"features of {images.split}", "image") as bar:
            return extract_features(
                self.extractor.network, images, self.extractor.augment, self.config.data, self.device,
                indices=indices, batch_size=batch_size, bf16=self.config.precision == "bf16", bar=bar, distributed=True,
            )  # fmt: skip


class EvaluationResult(NamedTuple):
    """What an evaluation measured."""

    metrics: dict[str, float]
    """Those of the record; a sweeper optimizes the first."""
    details: dict[str, Any]
    summary: str
    """The line that is printed."""
    verdict: str = ""


def evaluate(
    kind: str, config: EvaluationConfig, measure: Callable[[Evaluation], EvaluationResult],
    may_differ: tuple[str, ...] = (),
) -> float:  # fmt: skip
    """Measure and record, or say that it is done; returns the first metric, what a sweeper of Hydra's optimizes.

    Every process calls `measure`; `kind` is the record's, `may_differ` names settings that touch no result besides
    `MAY_DIFFER`.
    """
    with process_group(config.device) as device:
        train, val = open_splits(config.data)
        bound = fingerprints(train, val)
        with claimed_run(kind, config.output, asdict(config), (*MAY_DIFFER, *may_differ), bound) as run:
            if run.done:
                return next(iter(run.done.metrics.values()))
            set_precision(config.precision, device, config.threads)
            extractor = load_feature_extractor(config, device)
            metrics, details, summary, verdict = measure(Evaluation(config, extractor, train, val, device, run))
            if rank() == 0:
                augment = extractor.augment
                view = {"mean": augment.mean, "std": augment.std, "by": extractor.convention}
                run.finish(
                    extractor.subject, Dataset(val.name, "val", len(val), val.metadata_fingerprint), metrics,
                    verdict=verdict, details=details | {"processes": world_size(), "input": view},
                )  # fmt: skip
                print(f"{summary} -> {run.path / RECORD}")
            return next(iter(metrics.values()))
