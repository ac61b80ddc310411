"""Batches that depend on the seed and the iteration alone: not on workers, devices, or where a run was stopped."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetFromList, DatasetMapper
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from runs.distributed import rank, world_size
from runs.errors import BrokenImage
from runs.signals import shield_worker
from transfer.model import as_user_errors
from transfer.read_splits import Split

# (index of the image, what seeds its augmentation: the run's seed and the position in the endless stream of images)
Draw = tuple[int, tuple[int, int] | None]


class _MappedImages(Dataset[dict[str, Any] | BrokenImage]):
    """Detectron2's mapper over images; a `Draw` names the image and seeds its augmentation."""

    def __init__(self, images: list[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any]) -> None:
        # In one block of bytes: each loading process would end with a copy of its own of a million Python objects,
        # because looking at one counts its references and so writes to its page.
        self.images, self.mapper = DatasetFromList(images, serialize=True), mapper

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Any] | BrokenImage:
        index, entropy = draw
        if entropy is not None:
            # Detectron2's augmentation draws from NumPy's global generator. Seeded per image, the draws do not depend
            # on which worker makes them nor on what was drawn before a restart.
            np.random.seed(np.random.SeedSequence(entropy).generate_state(1)[0])
        image = self.images[index]
        try:
            mapped: dict[str, Any] = self.mapper(image)
        except (OSError, SyntaxError, ValueError, SizeMismatchError) as error:
            return BrokenImage(image["file_name"], f"cannot be read ({error}); restore it")
        return mapped


def _collate(batch: list[Any]) -> list[dict[str, Any]] | BrokenImage:
    """A batch as Detectron2 wants it, or the first of its images that did not decode, which `raise_or_yield` raises."""
    return next((image for image in batch if isinstance(image, BrokenImage)), batch)


class GroupedBatchSampler(Sampler[list[Draw]]):
    """Endless batches of images of one orientation, shuffled anew each epoch.

    Order and grouping are those of Detectron2's `TrainingSampler` and `AspectRatioGroupedDataset` in one process.

    NOTE: with several processes Detectron2 groups within each; here the whole batch is one group which the processes
    share out, so that a seed gives the same batches on any number of devices.

    `wide` says of each image whether it is wider than high, `size` counts the images of a batch over all processes, and
    `start` the batches that an interrupted run has used.
    """

    def __init__(self, wide: list[bool], size: int, seed: int, start: int = 0, group: bool = True) -> None:
        self.wide, self.size, self.seed, self.start, self.group = wide, size, seed, start, group

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in itertools.islice(self._batches(), self.start, None):
            yield batch[rank() :: world_size()]

    def _batches(self) -> Iterator[list[Draw]]:
        waiting: dict[bool, list[Draw]] = {False: [], True: []}
        for position, index in enumerate(self._shuffled_indices()):
            bucket = waiting[self.group and self.wide[index]]
            bucket.append((index, (self.seed, position)))
            if len(bucket) == self.size:
                yield bucket[:]
                bucket.clear()

    def _shuffled_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self.wide), generator=generator).tolist()


class DataLoaders(NamedTuple):
    """Of images to train on, by `train_sampler`, and for precise batch norm, both endless; to test on, each image once.

    They are read through `raise_or_yield`.
    """

    train: DataLoader[Any]
    train_sampler: GroupedBatchSampler
    precise_bn: DataLoader[Any]
    test: DataLoader[Any]


def build_data_loaders(cfg: Any, train: Split, test: Split, workers: int) -> DataLoaders:
    """Make all loaders of a run; their seeds are drawn from NumPy's generator, as Detectron2 draws its samplers'.

    Args:
        cfg: Detectron2's settings.
        train: what to train on.
        test: what to report on; each process loads its share.
        workers: loading processes of each.

    Raises:
        UserError: Detectron2 cannot read images with these settings.
    """
    chosen = images_with_objects(cfg, train)
    wide = [image["width"] > image["height"] for image in chosen]
    with as_user_errors("recipe=, detectron2.INPUT…: Detectron2 cannot read images so"):
        images = _MappedImages(chosen, DatasetMapper(cfg, True))
        test_loader = build_test_loader(cfg, test, workers)
    sampler, other = (
        GroupedBatchSampler(wide, cfg.SOLVER.IMS_PER_BATCH, seed, group=cfg.DATALOADER.ASPECT_RATIO_GROUPING)
        for seed in (comm.shared_random_seed(), comm.shared_random_seed())
    )
    return DataLoaders(_loader(images, sampler, workers), sampler, _loader(images, other, workers), test_loader)


def build_test_loader(cfg: Any, split: Split, workers: int) -> DataLoader[Any]:
    """Every image once, one a batch, this process's share of them; for `evaluate_and_save`."""
    draws: list[list[Draw]] = [[(index, None)] for index in range(rank(), len(split.images), world_size())]
    return _loader(_MappedImages(split.images, DatasetMapper(cfg, False)), draws, workers)


def images_with_objects(cfg: Any, split: Split) -> list[dict[str, Any]]:
    """The images that are trained on: with a box that is no crowd, as Detectron2 filters them."""
    if not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return split.images
    return list(filter_images_with_only_crowd_annotations(split.images))


def _loader(images: _MappedImages, batches: Any, workers: int) -> DataLoader[Any]:
    return DataLoader(
        images, batch_sampler=batches, num_workers=workers, collate_fn=_collate, worker_init_fn=shield_worker
    )
