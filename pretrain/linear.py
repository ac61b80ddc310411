"""`python -m pretrain.linear checkpoint=FILE data=… data.root=DIR`: a linear classifier on frozen features.

Every learning rate of `lr` gets a classifier of its own and all of them see each batch, so that a sweep costs one
forward pass of the frozen network.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.architecture import parse
from pretrain.augment import evaluation_view
from pretrain.checkpoint import write_tensors
from pretrain.classifiers import Classifiers
from pretrain.config import check_fits
from pretrain.data import Images
from pretrain.evaluate import EvaluationConfig, Findings, Ready, evaluate
from pretrain.features import Plain, batches, extract
from pretrain.loader import EpochSampler, choose_workers, step_loader
from pretrain.optim import OPTIMIZERS, OptimizerConfig
from pretrain.upload import Upload
from pretrain.views_fast import open_views
from runs.app import hydra_app
from runs.errors import UserError
from runs.log import MetricsLog
from runs.progress import progress

STATE = "linear_state.pt"
Stream = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass
class LinearConfig(EvaluationConfig):
    """Settings of `python -m pretrain.linear`, as in facebookresearch/simsiam@a7bc177 main_lincls.py.

    `augment` is the training view; `augment=none` trains on centre crops, whose features are computed once.
    """

    optimizer: str = "larc"
    """`larc` (the release's --lars) or `sgd` (MoCo: base lr 30, SimSiam's issue 23: 100)."""
    lr: list[float] = field(default_factory=lambda: [0.1, 0.02])
    """Base learning rates for 256 images a step; the first is reported (0.1 of the release; 0.02 is the paper's)."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    epochs: int = 90
    batch_size: int = 4096
    """Images a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer={self.optimizer}: choose one of {', '.join(OPTIMIZERS)}")
        if not self.lr or min(self.lr) <= 0 or len(set(self.lr)) < len(self.lr):
            raise UserError(f"lr={self.lr}: must be a list of different positive numbers, e.g. lr=[0.1,0.02]")
        if min(self.epochs, self.batch_size) < 1:
            raise UserError("epochs and batch_size must be at least 1")
        if not 0 <= self.momentum <= 1 or self.weight_decay < 0:
            raise UserError("momentum must lie in 0 to 1 and weight_decay must not be negative")

    def check_data(self, train: Images) -> None:  # noqa: D102
        check_fits(self.batch_size, len(train))


@hydra_app("pretrain", "config_linear", LinearConfig)
def main(config: LinearConfig) -> int:
    """Train the classifiers and report the first one's best and last epoch."""

    def measure(ready: Ready) -> Findings:
        if config.data.cache:
            ready.train.cache(config.data.skip_broken)
        before = ready.network.fingerprint()
        heads = build_classifiers(config, ready.network.subject.arch, len(ready.train.classes), ready.device)
        broken = train(config, ready, heads)
        if ready.network.fingerprint() != before:
            raise AssertionError("the frozen network changed during linear evaluation")
        rows = heads.table()
        return Findings(
            {name: rows[0][name] for name in ("top1", "top5", "top1_last")},
            {"learning_rates": rows, "frozen_weights_unchanged": True, "broken_images": sorted(broken)},
            "linear top-1: " + ", ".join(f"{row['top1']:.1f} at lr {row['lr']:g}" for row in rows),
        )

    return evaluate("linear", config, measure)


def build_classifiers(config: LinearConfig, arch: str, classes: int, device: torch.device) -> Classifiers:
    """Make a classifier a learning rate. All start alike, so that nothing but the rate differs.

    Args:
        config: the settings.
        arch: of the network, for the features' width.
        classes: number of classes.
        device: where they live.
    """
    generator = torch.Generator().manual_seed(config.seed)
    # main_lincls.py: fc.weight ~ N(0, 0.01), fc.bias = 0.
    start = torch.empty(classes, parse(arch).out_channels).normal_(0, 0.01, generator=generator)  # classes-by-C
    settings = [OptimizerConfig(config.optimizer, lr, config.momentum, config.weight_decay) for lr in config.lr]
    return Classifiers(settings, start.to(device), config.batch_size, config.epochs, config.precision == "bf16")


def train(config: LinearConfig, ready: Ready, heads: Classifiers) -> set[str]:
    """Train to the last epoch, continuing an earlier start.

    NOTE: an incomplete last batch is dropped, as in pre-training; main_lincls.py keeps it (at 4096 images, 3215 of
    ImageNet's 1,281,167 an epoch).

    Returns:
        The names of broken images that were left out.

    Raises:
        UserError: a broken image without `data.skip_broken`, or a loss that is not finite.
    """
    broken: set[str] = set()
    val_features, val_labels = _features(config, ready, ready.val, broken)
    state = ready.output / STATE
    if state.exists():
        saved = _read(state, ready.device)
        heads.load_state(saved)
        broken.update(saved["broken"])
    sampler = EpochSampler(len(ready.train), config.batch_size, config.seed, 0, 1)
    # Without a random crop an image has the same features in every epoch.
    cached = not ready.network.augment.crop_scale
    if cached:
        features, labels = _features(config, ready, ready.train, broken)
        stream = _cached(features, labels, _stand_ins(ready.train, broken), sampler)
    else:
        stream = _fresh(config, ready, sampler, broken)
    log = MetricsLog(ready.output / "metrics.jsonl", heads.epoch)
    with progress(config.epochs * len(sampler), "linear", "step", heads.epoch * len(sampler), ready.output) as bar:
        while heads.epoch < config.epochs:
            sampler.epoch = heads.epoch
            losses = []
            for features, labels in stream():
                losses.append(heads.step(features, labels))
                bar.update(1)
            mean = torch.stack(losses).mean(dim=0)  # K
            if not mean.isfinite().all():
                worst = config.lr[int((~mean.isfinite()).nonzero()[0])]
                raise UserError(
                    f"lr={worst}: the loss is not finite in epoch {heads.epoch}; leave this learning rate out"
                )
            top1 = heads.judge(val_features, val_labels)
            log.write(heads.epoch, epoch=heads.epoch + 1, loss=mean.tolist(), top1=top1)
            heads.epoch += 1
            if not cached:
                # Cached features come back in seconds; an epoch through the network does not.
                write_tensors(state, heads.state() | {"broken": sorted(broken)})
    log.close()
    return broken


def _read(state: Path, device: torch.device) -> Any:
    try:
        return torch.load(state, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the damage provokes
        raise UserError(f"{state}: damaged; delete it to train the classifiers from the start") from error


def _features(config: LinearConfig, ready: Ready, images: Images, broken: set[str]) -> tuple[Tensor, Tensor]:
    """Features (n, C) and labels (n,) of a split's whole images, centre crops."""
    view, workers = evaluation_view(ready.network.augment), choose_workers(config.data.workers, 1)
    with progress(len(images), f"features of {images.split}", "image", folder=ready.output) as bar:
        loader = batches(Plain(images, view), 256, workers, config.data.skip_broken, broken)
        return extract(ready.network, loader, ready.device, config.precision == "bf16", bar, len(images))


def _stand_ins(images: Images, broken: set[str]) -> list[int]:
    """For each image the row of its features; a broken image's place is taken by the next whole one, as in `Views`."""
    whole = [i for i, name in enumerate(images.names) if name not in broken]
    return [bisect_left(whole, i) % len(whole) for i in range(len(images))]


def _cached(features: Tensor, labels: Tensor, rows: list[int], sampler: EpochSampler) -> Stream:
    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for keys in sampler:
            chosen = torch.tensor([rows[index] for _, index in keys], device=labels.device)
            yield features[chosen], labels[chosen]

    return epoch


def _fresh(config: LinearConfig, ready: Ready, sampler: EpochSampler, broken: set[str]) -> Stream:
    network, device, skip = ready.network, ready.device, config.data.skip_broken
    views = open_views(ready.train, network.augment, 1, config.seed, skip, device)
    upload = Upload(views, device, channels_last=False)
    loader = step_loader(views, sampler, choose_workers(config.data.workers, 1), device.type == "cuda")

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            tensors, labels, names = batch
            images, labels = upload(tensors, labels)
            broken.update(names)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                features = network(images[0]).float()
            yield features, labels

    return epoch


if __name__ == "__main__":
    main()
