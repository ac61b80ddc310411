"""Batches that depend on the seed and the iteration alone: not on workers, devices, or where a run was stopped."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, DatasetMapper
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.detection_utils import SizeMismatchError
from torch.utils.data import DataLoader, Dataset, Sampler

from runs.distributed import rank, world_size
from runs.errors import BrokenImage, raise_errors
from runs.signals import shield_worker
from transfer.model import config_errors
from transfer.splits import Split

# (index of the image, position in the endless stream of images)
Draw = tuple[int, int]


class Images(Dataset[dict[str, Any] | BrokenImage]):
    """Detectron2's mapper over a split; `draw` names the image and seeds its augmentation."""

    def __init__(self, images: list[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any], seed: int | None) -> None:
        # In one block of bytes: each loading process would end with a copy of its own of a million Python objects,
        # because looking at one counts its references and so writes to its page.
        self.images, self.mapper, self.seed = DatasetFromList(images, serialize=True), mapper, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Any] | BrokenImage:
        index, position = draw
        if self.seed is not None:
            # Detectron2's augmentation draws from NumPy's global generator. Seeded per image, the draws do not depend
            # on which worker makes them nor on what was drawn before a restart.
            np.random.seed(np.random.SeedSequence((self.seed, position)).generate_state(1)[0])
        image = self.images[index]
        try:
            mapped: dict[str, Any] = self.mapper(image)
        except (OSError, SyntaxError, ValueError, SizeMismatchError) as error:
            return BrokenImage(image["file_name"], f"cannot be read ({error}); restore it")
        return mapped


def collate(batch: list[Any]) -> list[dict[str, Any]] | BrokenImage:
    """A batch as Detectron2 wants it, or the first of its images that did not decode, for `raise_errors`."""
    return next((image for image in batch if isinstance(image, BrokenImage)), batch)


class Batches(Sampler[list[Draw]]):
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
            bucket.append((index, position))
            if len(bucket) == self.size:
                yield bucket[:]
                bucket.clear()

    def _shuffled_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self.wide), generator=generator).tolist()


def images_with_objects(cfg: Any, split: Split) -> list[dict[str, Any]]:
    """The images that are trained on: with a box that is no crowd, as Detectron2 filters them."""
    if not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return split.images
    return list(filter_images_with_only_crowd_annotations(split.images))


def build_train_loader(
    cfg: Any, split: Split, seed: int, workers: int, start: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """Endless batches for training, from batch number `start` on; making it draws from PyTorch's generator.

    An image that does not decode is raised as `BrokenImage`, by both loaders.
    """
    images = images_with_objects(cfg, split)
    batches = Batches(
        [image["width"] > image["height"] for image in images],
        cfg.SOLVER.IMS_PER_BATCH,
        seed,
        start,
        cfg.DATALOADER.ASPECT_RATIO_GROUPING,
    )
    with config_errors("recipe=, detectron2.INPUT…: Detectron2 cannot read images so"):
        mapper = DatasetMapper(cfg, True)
    return _load(Images(images, mapper, seed), batches, workers)


def build_test_loader(cfg: Any, split: Split, workers: int) -> Iterator[list[dict[str, Any]]]:
    """Every image once, one a batch, this process's share of them."""
    draws: list[list[Draw]] = [[(index, 0)] for index in range(rank(), len(split.images), world_size())]
    return _load(Images(split.images, DatasetMapper(cfg, False), None), draws, workers)


def _load(images: Images, batches: Iterable[list[Draw]], workers: int) -> Iterator[list[dict[str, Any]]]:
    loader = DataLoader(
        images, batch_sampler=batches, num_workers=workers, collate_fn=collate, worker_init_fn=shield_worker
    )
    return raise_errors(iter(loader))
