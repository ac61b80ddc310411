"""The network that is evaluated, from any checkpoint that `converters` reads, and the features that it computes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.resnet import ResNet

from converters import load_backbone
from converters.architecture import parse
from converters.resnet import build_resnet
from converters.stated_settings import BY_PRETRAINING
from pretrain.augment import Transform
from pretrain.checkpoint import NAME, epochs_of
from pretrain.config import AugmentConfig
from pretrain.data import BrokenImage, Images
from pretrain.loader import share, start_worker
from pretrain.networks import pooled
from runs.distributed import all_gather_object, rank, world_size
from runs.errors import UserError
from runs.files import RANDOM
from runs.folder import CONFIG
from runs.progress import Progress
from runs.record import Subject
from runs.seeds import seed_everything


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen network without a classifier.

    Attributes:
        network: takes RGB.
        subject: what it is.
        augment: the view of images, with the mean and std that the network gets.
        convention: who says so.
    """

    network: ResNet
    subject: Subject
    augment: AugmentConfig
    convention: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features (n, C) of images (n, 3, H, W)."""
        return pooled(self.network, images)

    @property
    def channels(self) -> int:
        """C, the features' width."""
        return parse(self.subject.arch).out_channels

    def input(self) -> dict[str, Any]:
        """What its images are normalized with, and who says so."""
        return {"mean": self.augment.mean, "std": self.augment.std, "by": self.convention}

    def fingerprint(self) -> float:
        """A number that changes when any weight or statistic does."""
        return float(sum(v.double().sum() + v.double().square().sum() for v in self.network.state_dict().values()))


def load_feature_extractor(
    checkpoint: str, arch: str, zero_init_residual: bool, augment: AugmentConfig, seed: int, device: torch.device
) -> FeatureExtractor:
    """Load a checkpoint of any format that `converters` reads, or make an untrained network.

    Args:
        checkpoint: a file, or `random`.
        arch: the architecture; for a file it may be empty and must agree otherwise.
        zero_init_residual: how the untrained network starts, see `PretrainConfig`.
        augment: the view recipe; the checkpoint's own mean and std take the place of empty ones.
        seed: of the untrained network.
        device: where it goes.

    Raises:
        UserError: the file is no complete ResNet or another architecture.
    """
    if checkpoint == RANDOM:
        if not arch:
            raise UserError("arch: is required with checkpoint=random; add e.g. arch=resnet50")
        seed_everything(seed)
        network = build_resnet(arch, None, zero_init_residual)
        own = AugmentConfig(name="")
        view, convention = _with_input(augment, own.mean, own.std, "an untrained network has none")
        return FeatureExtractor(_freeze(network, device), Subject("scratch", arch, 0), view, convention)
    backbone = load_backbone(checkpoint)
    if arch and arch != backbone.arch:
        raise UserError(f"arch={arch}: {checkpoint} is a {backbone.arch}; leave arch out")
    network = backbone.network()
    mean, std = list(backbone.input.mean), list(backbone.input.std)
    if backbone.input.channels == "BGR":
        # Images come as RGB: turning the first filters round is the same as turning every image round.
        network.conv1.weight.data = network.conv1.weight.data.flip(1)
        mean, std = mean[::-1], std[::-1]
    method, epochs, said = backbone.format, None, backbone.assumed
    ours = settings_beside(Path(checkpoint))
    if ours:
        method = ours.get("variant") or ours["method"]["name"]
        epochs = epochs_of(Path(checkpoint))
        if said != BY_PRETRAINING:
            # Checkpoints of 0.2 do not say themselves what they were trained with, CIFAR's mean for example.
            mean, std, said = ours["augment"]["mean"], ours["augment"]["std"], f"{CONFIG} beside it"
    subject = Subject(method, backbone.arch, epochs, Path(checkpoint).name, backbone.source_sha256)
    return FeatureExtractor(_freeze(network, device), subject, *_with_input(augment, mean, std, said))


def settings_beside(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run of ours that wrote `checkpoint`, done or not; empty for anybody else's file."""
    file = checkpoint.parent / CONFIG
    if not NAME.fullmatch(checkpoint.name) or not file.is_file():
        return {}
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: unreadable; put the checkpoint into a folder of its own") from error
    return settings if isinstance(settings, dict) and settings.get("kind") == "pretrain" else {}


def _with_input(augment: AugmentConfig, mean: list[float], std: list[float], said: str) -> tuple[AugmentConfig, str]:
    """The view with the user's own mean and std, or else these."""
    given = [f"augment.{name}" for name in ("mean", "std") if getattr(augment, name)]
    said = " and ".join(given) + (f" for: {said}" if given else said)
    return replace(augment, mean=augment.mean or mean, std=augment.std or std), said


def _freeze(network: ResNet, device: torch.device) -> ResNet:
    for parameter in network.parameters():
        parameter.requires_grad = False
    return network.to(device).eval()


class Features(NamedTuple):
    """Features of the images that could be read, in the order of the images."""

    values: Tensor
    """(n, C) float32 or bfloat16."""
    labels: Tensor
    """(n,) int64."""
    broken: list[str]
    """Names of the images that were left out."""


class ImageDataset(Dataset[Any]):
    """(row, image, label) of images under one transform; of a broken image, the error."""

    def __init__(self, images: Images, transform: Transform, indices: Sequence[int]) -> None:
        self.images, self.transform, self.indices = images, transform, indices

    def __getitem__(self, row: int) -> Any:
        index = self.indices[row]
        try:
            return row, self.transform(self.images.open(index)), self.images.labels[index]
        except UserError as error:
            return error


@torch.no_grad()
def extract_features(
    network: Callable[[Tensor], Tensor],
    images: Images,
    transform: Transform,
    device: torch.device,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    skip_broken: bool = False,
    bf16: bool = False,
    bar: Progress | None = None,
    split: bool = False,
) -> Features:
    """Compute features.

    Args:
        network: (n, 3, H, W) to (n, C).
        images: a split of a data set.
        transform: the view of an image.
        device: where the features are computed and stay.
        indices: which images; all by default.
        batch_size: images a batch.
        workers: loading processes.
        skip_broken: leave broken images out instead of failing.
        bf16: compute in mixed precision, and keep the features in bfloat16.
        bar: counts the images.
        split: divide the batches among the processes, each of which has to call this and gets the features of all.

    Raises:
        BrokenImage: an image cannot be decoded and `skip_broken` is off.
        UserError: not one image is left.
    """
    indices = range(len(images)) if indices is None else indices
    # Whole batches are dealt out, so that a batch, and with it every bit, is the same on any number of processes.
    batches = [list(range(len(indices)))[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    dealt = batches[rank() :: world_size()] if split else batches
    dtype = torch.bfloat16 if bf16 else torch.float32
    table, broken = torch.empty(0), []
    labels = torch.full((len(indices),), -1)
    for rows, inputs, targets, errors in _load(ImageDataset(images, transform, indices), dealt, workers):
        for error in errors:
            if not skip_broken or not isinstance(error, BrokenImage):
                raise error
            broken.append(error.name)
        if len(rows):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                part = network(inputs.to(device)).to(dtype)
            if not len(table):
                table = part.new_zeros(len(indices), part.shape[1])
            table[rows.to(device)] = part
            labels[rows] = targets
        if bar:
            bar.update((len(rows) + len(errors)) * (world_size() if split else 1))
    if split and world_size() > 1:
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
        raise UserError("data.root: not one image can be read; check the files")
    return Features(table[labels >= 0] if broken else table, labels[labels >= 0], sorted(broken))


def _load(
    dataset: ImageDataset, batches: list[list[int]], workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, list[UserError]]]:
    """Rows (n,), images (n, 3, H, W) and labels (n,) of each batch, and the errors of its other images."""

    def collate(samples: list[Any]) -> tuple[Tensor, Tensor, Tensor, list[UserError]]:
        whole = [s for s in samples if not isinstance(s, UserError)]
        errors = [s for s in samples if isinstance(s, UserError)]
        inputs = torch.stack([s[1] for s in whole]) if whole else torch.empty(0)
        rows, labels = (torch.tensor([s[i] for s in whole], dtype=torch.int64) for i in (0, 2))
        if lost := share([rows, inputs, labels]):
            return torch.empty(0), torch.empty(0), torch.empty(0), [lost]
        return rows, inputs, labels, errors

    yield from DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, worker_init_fn=start_worker,
        multiprocessing_context="fork" if workers else None, generator=torch.Generator(),
    )  # fmt: skip


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; the mode of every module returns afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
