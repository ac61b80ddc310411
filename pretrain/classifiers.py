"""Linear classifiers, one a learning rate, trained side by side on the features of a frozen network."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from pretrain.augment import evaluation_view
from pretrain.checkpoint import write_tensors
from pretrain.data import Images
from pretrain.evaluate import Ready
from pretrain.features import Plain, batches, extract
from pretrain.frozen import Frozen
from pretrain.linear_heads import LinearHeads
from pretrain.loader import EpochSampler, choose_workers, step_loader
from pretrain.optim import OptimizerConfig, peak_lr, scheduled_lr
from pretrain.upload import Upload
from pretrain.views_fast import open_views
from runs.errors import UserError
from runs.log import MetricsLog
from runs.progress import progress

if TYPE_CHECKING:
    from pretrain.linear import LinearConfig

STATE = "linear_state.pt"
Stream = Callable[[], Iterator[tuple[Tensor, Tensor]]]


class Classifiers:
    """K fully connected layers with a learning rate each, their schedule and their best epochs.

    Args:
        config: the settings; K learning rates.
        network: the frozen network, for the features' width.
        classes: number of classes.
        device: where they live.
    """

    def __init__(self, config: "LinearConfig", network: ResNet, classes: int, device: torch.device) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        width = (
            network.layer4[-1].conv3.out_channels
            if hasattr(network.layer4[-1], "conv3")
            else network.layer4[-1].conv2.out_channels
        )
        start = torch.empty(classes, width).normal_(0, 0.01, generator=generator)
        # main_lincls.py: fc.weight ~ N(0, 0.01), fc.bias = 0. All start alike: only the learning rate differs.
        self.settings = [
            OptimizerConfig(config.optimizer, lr, config.momentum, config.weight_decay) for lr in config.lr
        ]
        self.heads = LinearHeads(
            start.to(device), len(config.lr), config.momentum, config.weight_decay, config.optimizer,
            self.settings[0].trust, config.precision == "bf16",
        )  # fmt: skip
        self.epoch = 0
        self.best = [0.0] * len(config.lr)
        self.best_top5 = [0.0] * len(config.lr)
        self.last = [0.0] * len(config.lr)

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take one step with every classifier.

        Args:
            features: (n, C).
            labels: (n,).

        Returns:
            The losses, (K,).
        """
        # adjust_learning_rate of the release: once an epoch.
        rates = [
            scheduled_lr(settings, peak_lr(settings, self.config.batch_size), self.epoch, 1, self.config.epochs)
            for settings in self.settings
        ]
        return self.heads.step(features, labels, torch.tensor(rates))

    @torch.no_grad()
    def judge(self, features: Tensor, labels: Tensor) -> list[float]:
        """Evaluate all classifiers and remember their best epoch.

        Args:
            features: (m, C) of all validation images.
            labels: (m,).

        Returns:
            Top-1 in percent, K values.
        """
        for i, (top1, top5) in enumerate(zip(*self.heads.judge(features, labels), strict=True)):
            if top1 > self.best[i] or self.epoch == 0:
                self.best[i], self.best_top5[i] = top1, top5
            self.last[i] = top1
        return list(self.last)

    def table(self) -> list[dict[str, float]]:
        """One row a learning rate, in the order of the settings."""
        rows = zip(self.config.lr, self.best, self.best_top5, self.last, strict=True)
        return [{"lr": lr, "top1": best, "top5": top5, "top1_last": last} for lr, best, top5, last in rows]

    def state(self) -> dict[str, Any]:
        """All that a resume needs."""
        return {
            "epoch": self.epoch, "best": self.best, "best_top5": self.best_top5, "last": self.last,
            "heads": self.heads.state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.epoch, self.best, self.best_top5, self.last = (state[k] for k in ("epoch", "best", "best_top5", "last"))
        self.heads.load_state(state["heads"])


def train_classifiers(config: "LinearConfig", ready: Ready, heads: Classifiers) -> set[str]:
    """Train to the last epoch, continuing an earlier start.

    Returns:
        The names of broken images that were left out.

    Raises:
        UserError: a broken image without `data.skip_broken`, or a loss that is not finite.
    """
    network, train, device, output = ready.network, ready.train, ready.device, ready.output
    broken: set[str] = set()
    workers = choose_workers(config.data.workers, 1)
    plain = evaluation_view(network.augment)

    def all_features(images: Images) -> tuple[Tensor, Tensor]:
        with progress(len(images), f"features of {images.split}", "image", folder=output) as bar:
            loader = batches(Plain(images, plain), 256, workers, config.data.skip_broken, broken)
            return extract(network, loader, device, config.precision == "bf16", bar, len(images))

    val_features, val_labels = all_features(ready.val)
    state = output / STATE
    if state.exists():
        heads.load_state(_read(state, device))
    sampler = EpochSampler(len(train), config.batch_size, config.seed, 0, 1)
    cached = not network.augment.crop_scale
    if cached:
        features, labels = all_features(train)
        stream = _cached(features, labels, _stand_ins(train, broken), sampler)
    else:
        stream = _fresh(config, network, train, sampler, workers, broken, device)
    log = MetricsLog(output / "metrics.jsonl", heads.epoch)
    with progress(config.epochs * len(sampler), "linear", "step", heads.epoch * len(sampler), output) as bar:
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
                write_tensors(state, heads.state())
    log.close()
    return broken


def _read(state: Path, device: torch.device) -> Any:
    try:
        return torch.load(state, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the damage provokes
        raise UserError(f"{state}: damaged; delete it to train the classifiers from the start") from error


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


def _fresh(
    config: "LinearConfig",
    network: Frozen,
    train: Images,
    sampler: EpochSampler,
    workers: int,
    broken: set[str],
    device: torch.device,
) -> Stream:
    views = open_views(train, network.augment, 1, config.seed, config.data.skip_broken, device)
    upload = Upload(views, device, channels_last=False)
    loader = step_loader(views, sampler, workers, device.type == "cuda")

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
