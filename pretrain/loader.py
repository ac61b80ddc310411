"""From images to batches that depend on (seed, epoch, index) alone: not on workers, processes or restarts."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

from pretrain.augment.views import Key, Views
from pretrain.method.base import Batch
from runs.distributed import worker_count
from runs.errors import NO_SHARED_MEMORY, UserError, raise_or_yield
from runs.signals import shield_worker


@dataclass
class StepSampler(Sampler[list[Key]]):
    """One process's share of the batches of some steps, which are counted over all epochs.

    An epoch's permutation depends on (seed, epoch). Its step k takes images k*B … (k+1)*B of it, of which each process
    takes its contiguous part, so that any number of processes sees the same step. An incomplete last batch is dropped,
    as in the official releases. `size` are the images there are, B is `batch_size`, and `steps` says which to yield.

    Raises:
        UserError: there are not so many images, or they do not divide among the processes.
    """

    size: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    steps: range = range(0)

    def __post_init__(self) -> None:
        said = f"batch_size={self.batch_size}:"
        if self.batch_size > self.size:
            raise UserError(f"{said} the training set has {self.size} images; give at most that many")
        if self.batch_size % self.world:
            raise UserError(f"{said} does not divide by {self.world} processes; choose a multiple of {self.world}")
        self.steps_per_epoch = self.size // self.batch_size
        self._order: tuple[int, list[int]] = (-1, [])

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            epoch, inside = divmod(step, self.steps_per_epoch)
            if self._order[0] != epoch:
                generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
                self._order = epoch, torch.randperm(self.size, generator=generator).tolist()
            share = self.batch_size // self.world
            first = inside * self.batch_size + self.rank * share
            yield [(epoch, index) for index in self._order[1][first : first + share]]

    def __len__(self) -> int:
        """Steps."""
        return len(self.steps)


class HostBatch(NamedTuple):
    """What the loading processes make of a batch's samples."""

    views: list[Tensor]
    """(N, 3, H, W) each, as `Views.sample` makes them."""
    labels: Tensor
    """(N,) int64."""
    broken: list[list[str]]
    """For each sample, the names of the broken images in whose place it stands."""
    indices: Tensor
    """(N,) int64, the images' places in the split."""


def collate_or_error(samples: list[Any]) -> HostBatch | UserError:
    """Stack samples, or return what went wrong."""
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    drawn, labels, broken, indices = zip(*samples, strict=True)
    views = [torch.stack(view) for view in zip(*drawn, strict=True)]
    batch = HostBatch(views, torch.tensor(labels), list(broken), torch.tensor(indices))
    if get_worker_info() is not None:
        # PyTorch would do it later, in a thread whose failure loses the batch and leaves the training waiting for it.
        try:
            for tensor in (*batch.views, batch.labels, batch.indices):
                tensor.share_memory_()
        except RuntimeError:
            return NO_SHARED_MEMORY
    return batch


def _start_worker(number: int) -> None:
    """Begin a loading process: one thread, and not ended by the signals that a cluster sends to all processes."""
    # PyTorch gives a loading process one thread, OpenCV would take all cores in each of them.
    cv2.setNumThreads(0)
    shield_worker(number)


def iterate_batches(
    views: Views, key_batches: Iterable[list[Key]], num_workers: int, pin_memory: bool = False
) -> Iterator[HostBatch]:
    """Load batches, each given by the (epoch, index) of its samples, in their order.

    No workers load in this process; from pinned memory copies to a GPU need not be waited for.

    Raises:
        UserError: an image is broken without `skip_broken`, or cannot be read at all.
    """
    loader = DataLoader(
        views, batch_sampler=key_batches, num_workers=num_workers, collate_fn=collate_or_error, pin_memory=pin_memory,
        multiprocessing_context="fork" if num_workers else None, worker_init_fn=_start_worker,
        # Each start of an iterator draws a number; from the process's generator it would change what the method draws.
        generator=torch.Generator(),
    )  # fmt: skip
    return raise_or_yield(loader)


class DeviceLoader:
    """The batches of a sampler's steps on the computing device, with finished views.

    On a GPU copying and finishing happen in a stream of their own. The processor is ahead of the device by about a
    step, so the copy (pinned memory) and the colour of the fast pipeline run while the device computes the step before.

    Args:
        views: of the images.
        sampler: whose `steps` say which batches.
        workers: loading processes, see `worker_count`.
        device: where the views go.
        channels_last: their memory layout.
        broken: to this set the names of broken images are added.
    """

    def __init__(
        self, views: Views, sampler: StepSampler, workers: int, device: torch.device, channels_last: bool,
        broken: set[str],
    ) -> None:  # fmt: skip
        self.views, self.sampler, self.workers, self.device, self.broken = views, sampler, workers, device, broken
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __iter__(self) -> Iterator[Batch]:
        loaded = iterate_batches(self.views, self.sampler, worker_count(self.workers), self.device.type == "cuda")
        for step, batch in zip(self.sampler.steps, loaded, strict=False):
            views, labels = self.finish_on_device(batch.views, batch.labels)
            self.broken.update(name for names in batch.broken for name in names)
            yield Batch(views, labels, step, batch.indices)

    def finish_on_device(self, tensors: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return (N, 3, H, W) float views and labels (N,) on the device, ready for its current stream."""
        side: Any = torch.cuda.stream(self.stream) if self.stream else nullcontext()
        # Also where the caller computes under mixed precision: a bf16 blur would be another.
        with torch.autocast(self.device.type, enabled=False), side:
            views = [v.contiguous(memory_format=self.layout) for v in self.views.to_float_views(tensors, self.device)]
            labels = labels.to(self.device, non_blocking=True)
        if self.stream:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in (*views, labels):
                # The memory belongs to the other stream, which must not reuse it before this one has done with it.
                tensor.record_stream(current)
        return views, labels
