"""Linear classifiers on frozen features: what `python -m pretrain.linear` trains and measures.

Every learning rate of `lr` gets a classifier of its own and all of them are trained on each batch, so that a sweep
costs one forward pass of the frozen network. `torchrun` divides each batch among any number of processes.
"""

import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from pretrain.augment.views import build_views
from pretrain.collectives import all_reduce, average_gradients
from pretrain.config import LinearConfig, OptimizerConfig
from pretrain.data import Images
from pretrain.evaluation import Evaluation, EvaluationResult, Features, evaluate
from pretrain.loader import DeviceLoader, StepSampler
from pretrain.optim import Schedule, build_optimizer
from runs.distributed import all_gather_object, rank, world_size
from runs.errors import UserError
from runs.metrics_log import METRICS_LOG, MetricsLog
from runs.tensor_files import load_torch_file, restore_errors, save_torch_file
from runs.typed import build

STATE = "linear_state.pt"
CHUNK = 4096
"""Validation images classified at a time."""
SMALL = 2**16
"""Weights of a classifier up to which all share one matrix product."""
Batches = Iterator[tuple[Tensor, Tensor]]


class LinearClassifiers(nn.Module):
    """An `nn.Linear` for each learning rate, trained side by side, as in facebookresearch/dinov2 dinov2/eval/linear.py.

    Attributes:
        epoch: epochs done.
        table: a row a learning rate: `lr`, `top1` and `top5` of its best epoch, `top1_last`, in percent.
    """

    def __init__(self, config: LinearConfig, channels: int, classes: int, device: torch.device) -> None:
        super().__init__()
        self.config = config
        # main_lincls.py: fc.weight ~ N(0, 0.01), fc.bias = 0. All start alike, so that nothing but the rate differs.
        generator = torch.Generator().manual_seed(config.seed)
        start = torch.empty(classes, channels).normal_(0, 0.01, generator=generator)
        self.layers: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(channels, classes, device=device) for _ in config.lr
        )
        for layer in self.layers:
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.weight.copy_(start)
        settings = [
            OptimizerConfig(config.optimizer, lr, config.momentum, config.weight_decay, fused=not config.official)
            for lr in config.lr
        ]
        # adjust_learning_rate of the release: once an epoch.
        self.schedules = [Schedule(one, config.batch_size, 1, config.epochs) for one in settings]
        groups = [{"params": list(layer.parameters())} for layer in self.layers]
        self.optimizer = build_optimizer(groups, settings[0], settings[0].lr)
        self.epoch = 0
        self.table = [{"lr": lr, "top1": 0.0, "top5": 0.0, "top1_last": 0.0} for lr in config.lr]

    def forward(self, features: Tensor) -> Tensor:
        """Logits (K, n, classes) from features (n, C)."""
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            if self.layers[0].weight.numel() > SMALL:
                return torch.stack([layer(features) for layer in self.layers]).float()
            # Products of few columns are slow: small classifiers share one.
            weights, biases = (
                torch.cat([getattr(layer, name) for layer in self.layers]) for name in ("weight", "bias")
            )
            logits = linear(features, weights, biases).float()  # n-by-(K * classes)
            return logits.unflatten(1, (len(self.layers), -1)).transpose(0, 1)

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take a step on this process's features (n, C) and labels (n,); returns the losses before it, (K,)."""
        for group, schedule in zip(self.optimizer.param_groups, self.schedules, strict=True):
            group["lr"] = schedule(self.epoch)
        logits = self(features)  # K-by-n-by-classes
        losses = cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")  # K * n
        losses = losses.view(len(logits), -1).mean(dim=1)  # K
        self.optimizer.zero_grad()
        losses.sum().backward()
        average_gradients(self)
        self.optimizer.step()
        return losses.detach()

    @torch.no_grad()
    def record_accuracies(self, features: Tensor, labels: Tensor) -> None:
        """Measure all classifiers into `table`, which keeps their best epochs.

        Features (m, C) and labels (m,) are those of all validation images, which the processes divide.
        """
        correct = torch.zeros(len(self.layers), 2, dtype=torch.int64, device=labels.device)
        chunks = zip(features.split(CHUNK), labels.split(CHUNK), strict=True)
        for x, y in list(chunks)[rank() :: world_size()]:
            logits = self(x)  # K-by-n-by-classes
            hits = logits.topk(min(5, logits.shape[2]), dim=2).indices == y[:, None]  # K-by-n-by-5
            correct += torch.stack([hits[..., 0].sum(dim=1), hits.sum(dim=(1, 2))], dim=1)
        percent = (100 * all_reduce(correct).double() / len(labels)).tolist()
        for row, (top1, top5) in zip(self.table, percent, strict=True):
            if top1 > row["top1"] or self.epoch == 0:
                row["top1"], row["top5"] = top1, top5
            row["top1_last"] = top1

    def get_extra_state(self) -> dict[str, Any]:  # noqa: D102
        return {"optimizer": self.optimizer.state_dict(), "epoch": self.epoch, "table": self.table}

    def set_extra_state(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, table = build(int, state["epoch"], "epoch"), build(list[dict[str, float]], state["table"], "table")
        if [row.keys() for row in table] != [row.keys() for row in self.table]:
            raise KeyError("table")
        self.table = table


def evaluate_linear(config: LinearConfig) -> float:
    """Train the classifiers and report the first one's best and last epoch."""

    def measure(evaluation: Evaluation) -> EvaluationResult:
        if config.data.cache:
            evaluation.train.decode_into_memory(config.data.skip_broken)
        before = evaluation.extractor.weights_checksum()
        channels = evaluation.extractor.network.inplanes  # what `layer4` puts out
        classifiers = LinearClassifiers(config, channels, len(evaluation.train.classes), evaluation.device)
        broken = train_classifiers(config, evaluation, classifiers)
        if evaluation.extractor.weights_checksum() != before:
            raise AssertionError("the frozen network changed during linear evaluation")
        rows = classifiers.table
        return EvaluationResult(
            {name: rows[0][name] for name in ("top1", "top5", "top1_last")},
            {"learning_rates": rows, "frozen_weights_unchanged": True, "broken_images": broken},
            "linear top-1: " + ", ".join(f"{row['top1']:.1f} at lr {row['lr']:g}" for row in rows),
        )

    return evaluate("linear", config, measure)


def train_classifiers(config: LinearConfig, evaluation: Evaluation, classifiers: LinearClassifiers) -> list[str]:
    """Train to the last epoch, continuing an earlier start.

    NOTE: an incomplete last batch is dropped, as in pre-training; main_lincls.py keeps it (at 4096 images, 3215 of
    ImageNet's 1,281,167 an epoch).

    Returns:
        The names of broken images that were left out.

    Raises:
        UserError: a broken image without `data.skip_broken`, a loss that is not finite, or a state that is damaged or
            another run's.
    """
    sampler = StepSampler(len(evaluation.train), config.batch_size, config.seed, rank(), world_size())
    evaluation.print_data_sets()
    if rank() == 0 and (few := few_steps_note(config, len(evaluation.train))):
        print(few, file=sys.stderr)
    val = evaluation.extract_features(evaluation.val)
    broken = set(val.broken)
    file = evaluation.run.path / STATE
    if file.exists():
        again = "delete it to train the classifiers from the start"
        with restore_errors(file, again):
            saved = dict(load_torch_file(file))
        evaluation.run.check_identity(saved.get("run"), file)
        with restore_errors(file, again):
            classifiers.load_state_dict(saved["classifiers"])
            broken.update(build(list[str], saved["broken"], "broken"))
    length = sampler.steps_per_epoch
    sampler.steps = range(classifiers.epoch * length, config.epochs * length)
    # Without a random crop an image has the same features in every epoch.
    cached = not evaluation.extractor.augment.crop_scale
    if cached:
        features = evaluation.extract_features(evaluation.train)
        broken.update(features.broken)
        batches = cached_feature_batches(features, evaluation.train, sampler)
    else:
        batches = augmented_feature_batches(config, evaluation, sampler, broken)
    log = MetricsLog(evaluation.run.path / METRICS_LOG, classifiers.epoch) if rank() == 0 else None
    with evaluation.progress(config.epochs * length, "linear", "step", classifiers.epoch * length) as bar:
        while classifiers.epoch < config.epochs:
            losses = []
            for inputs, labels in islice(batches, length):
                losses.append(classifiers.step(inputs, labels))
                bar.update(1)
            mean = all_reduce(torch.stack(losses).mean(dim=0)) / world_size()  # K
            if not mean.isfinite().all():
                worst = config.lr[int((~mean.isfinite()).nonzero()[0])]
                raise UserError(
                    f"lr={worst}: the loss is not finite in epoch {classifiers.epoch}; leave this learning rate out"
                )
            classifiers.record_accuracies(val.values, val.labels)
            if log:
                top1 = [row["top1_last"] for row in classifiers.table]
                log.write(classifiers.epoch, epoch=classifiers.epoch + 1, loss=mean.tolist(), top1=top1)
            classifiers.epoch += 1
            broken.update(name for names in all_gather_object(broken) for name in names)
            if log and not cached:
                # Cached features come back in seconds; an epoch through the network does not.
                state = {"run": evaluation.run.identity, "broken": sorted(broken)}
                save_torch_file(file, state | {"classifiers": classifiers.state_dict()})
    if log:
        log.close()
    return sorted(broken)


def cached_feature_batches(features: Features, images: Images, sampler: StepSampler) -> Batches:
    """Batches of features that were computed once; the next whole image takes a broken one's place, as in `Views`."""
    broken = set(features.broken)
    whole = [i for i, name in enumerate(images.names) if name not in broken]
    rows = torch.tensor([bisect_left(whole, i) % len(whole) for i in range(len(images))])
    for keys in sampler:
        chosen = rows[[index for _, index in keys]].to(features.labels.device)
        yield features.values[chosen], features.labels[chosen]


def augmented_feature_batches(
    config: LinearConfig, evaluation: Evaluation, sampler: StepSampler, broken: set[str]
) -> Batches:
    """Batches of features of views that are drawn anew; the names of broken images are added to `broken`."""
    extractor, device = evaluation.extractor, evaluation.device
    views = build_views(evaluation.train, [extractor.augment], config.seed, config.data.skip_broken, device)
    for batch in DeviceLoader(views, sampler, config.data.workers, device, config.channels_last, broken):
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            features = extractor.network(batch.views[0]).float()
        yield features, batch.labels


def few_steps_note(config: LinearConfig, num_images: int) -> str:
    """A line for a recipe whose small steps do not arrive with so few training images; empty for any other."""
    steps = config.epochs * (num_images // config.batch_size)
    if config.optimizer == "sgd" or steps >= 3000:
        return ""
    return (
        f"NOTE: {steps} steps are few for optimizer={config.optimizer}, whose recipe has {90 * (1281167 // 4096)} on "
        f"ImageNet; for {num_images} images optimizer=sgd batch_size={min(num_images, 256)} lr=[1,10,30] gets further"
    )
