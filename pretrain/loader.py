"""From images to batches that depend on (seed, epoch, index) alone: not on workers, processes or restarts."""

import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import cv2
import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from pretrain.augment import Transform
from pretrain.data import BrokenImage, Images
from runs.errors import NO_SHARED_MEMORY, UserError

Key = tuple[int, int]


class Views(Dataset[Any]):
    """Augmented views of images, addressed by (epoch, index).

    Args:
        images: the split.
        transforms: one a view.
        seed: the run's seed.
        skip_broken: replace a broken image by the next whole one instead of failing.
    """

    def __init__(self, images: Images, transforms: Sequence[Transform], seed: int, skip_broken: bool) -> None:
        self.images, self.transforms, self.seed, self.skip_broken = images, transforms, seed, skip_broken

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        """Return a batch's samples; the process's own random generators are left as they were."""
        python, state = random.getstate(), torch.get_rng_state()
        try:
            return [self[key] for key in keys]
        finally:
            random.setstate(python)
            torch.set_rng_state(state)

    def __getitem__(self, key: Key) -> Any:
        _, index = key
        broken: list[str] = []
        for step in range(len(self.images)):
            place = (index + step) % len(self.images)
            try:
                return self.sample(place, key), self.images.labels[place], broken
            except UserError as error:
                if not self.skip_broken or not isinstance(error, BrokenImage):
                    # An exception that crosses a worker's border comes out as many lines: hand it over as a value.
                    return error
                broken.append(error.name)
        return BrokenImage(broken[0])

    def sample(self, place: int, key: Key) -> list[Tensor]:
        """Return the views of the image at `place`, drawn for `key`."""
        image = self.images.open(place)
        self.seed_generators(key)
        return [transform(image) for transform in self.transforms]

    def seed_generators(self, key: Key) -> None:
        """Seed torch's and Python's generator: the releases' transforms draw from both."""
        words = numpy.random.SeedSequence((self.seed, *key)).generate_state(2, numpy.uint64).tolist()
        random.seed(words[0])
        torch.default_generator.manual_seed(words[1] % 2**63)

    def finish(self, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        """Turn a batch of samples into (N, 3, H, W) float views on a device."""
        return [tensor.to(device, non_blocking=True) for tensor in tensors]

    def __len__(self) -> int:
        return len(self.images)


class EpochSampler(Sampler[list[Key]]):
    """One process's share of an epoch's batches, from any position.

    The permutation depends on (seed, epoch). Step k takes images k*B … (k+1)*B of it, of which each process takes its
    contiguous part, so that any number of processes sees the same step. An incomplete last batch is dropped, as in the
    official releases.

    Args:
        size: images.
        batch_size: images a step, all processes together.
        seed: the run's seed.
        rank: this process.
        world: processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.size, self.batch_size, self.seed, self.rank, self.world = size, batch_size, seed, rank, world
        self.epoch, self.position = 0, 0
        self._order: tuple[int, list[int]] = (-1, [])

    def __iter__(self) -> Iterator[list[Key]]:
        # An epoch whose iterator is still running keeps its number.
        epoch = self.epoch
        for step in range(self.position, len(self)):
            yield self.keys(epoch, step)

    def keys(self, epoch: int, step: int) -> list[Key]:
        """Return this process's images of one step of an epoch."""
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._order = epoch, torch.randperm(self.size, generator=generator).tolist()
        share = self.batch_size // self.world
        first = step * self.batch_size + self.rank * share
        return [(epoch, index) for index in self._order[1][first : first + share]]

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.size // self.batch_size


class Ahead(Sampler[list[Key]]):
    """One process's share of some steps' batches, past the ends of epochs.

    Args:
        sampler: of the run.
        first: the first step, counted over all epochs.
        count: steps.
    """

    def __init__(self, sampler: EpochSampler, first: int, count: int) -> None:
        self.sampler, self.steps = sampler, range(first, first + count)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            yield self.sampler.keys(*divmod(step, len(self.sampler)))

    def __len__(self) -> int:
        """Steps."""
        return len(self.steps)


def collate(samples: list[Any]) -> tuple[list[Tensor], Tensor, list[str]] | UserError:
    """Stack samples into ([(N, 3, H, W)] a view, labels (N,), names of broken images), or return what went wrong."""
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    views = [torch.stack(list(view)) for view in zip(*(sample[0] for sample in samples), strict=True)]
    labels = torch.tensor([sample[1] for sample in samples])
    return share([*views, labels]) or (views, labels, [name for sample in samples for name in sample[2]])


def share(tensors: list[Tensor]) -> UserError | None:
    """In a loading process, put a batch's tensors into shared memory; return what went wrong.

    PyTorch would do it later, in a thread whose failure loses the batch and leaves the training process waiting for it.
    """
    if get_worker_info() is not None:
        try:
            for tensor in tensors:
                tensor.share_memory_()
        except RuntimeError:
            return NO_SHARED_MEMORY
    return None


def start_worker(_: int) -> None:
    """Begin a loading process: one thread, and not ended by the signals that a cluster sends to all processes.

    Its parent may still end it. If a cluster could, the training process would not finish its step and save.
    """
    # PyTorch gives a loading process one thread, OpenCV would take all cores in each of them.
    cv2.setNumThreads(0)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Only Linux and its like tell who sent a signal.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def step_loader(dataset: Views, sampler: EpochSampler | Ahead, workers: int, pin: bool) -> DataLoader[Any]:
    """Build the loader of training steps."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        # The sampler's epoch is read when an epoch starts; the workers get it inside each key and may stay alive.
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=start_worker,
        # Each start of an iterator draws a number; from the process's generator it would change what the method draws.
        generator=torch.Generator(),
    )


class HostToDevice:
    """Copies the loader's batches from host memory to the computing device, and finishes their views there.

    On a GPU both happen in a stream of their own. The processor is ahead of the device by about a step, so the copy
    (pinned memory) and the colour of the fast pipeline run while the device computes the step before.

    Args:
        views: whose batches come.
        device: where they go.
        channels_last: the memory layout of the result.
    """

    def __init__(self, views: Views, device: torch.device, channels_last: bool) -> None:
        self.views, self.device = views, device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, tensors: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return (N, 3, H, W) float views and labels (N,) on the device, ready for its current stream."""
        side: Any = torch.cuda.stream(self.stream) if self.stream else nullcontext()
        # What `Method.prepare` asks for under mixed precision are the views of training: a bf16 blur would be another.
        with torch.autocast(self.device.type, enabled=False), side:
            views = [v.contiguous(memory_format=self.layout) for v in self.views.finish(tensors, self.device)]
            labels = labels.to(self.device, non_blocking=True)
        if self.stream:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in (*views, labels):
                # The memory belongs to the other stream, which must not reuse it before this one has done with it.
                tensor.record_stream(current)
        return views, labels
