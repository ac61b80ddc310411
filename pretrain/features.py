"""Features of images under a frozen network, and the weighted kNN classifier on them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from pretrain.augment import Transform
from pretrain.data import BrokenImage, Images
from pretrain.loader import start_worker
from runs.errors import UserError
from runs.progress import Progress


class Plain(Dataset[Any]):
    """Images under one transform, with labels; a subset where `indices` are given."""

    def __init__(self, images: Images, transform: Transform, indices: Sequence[int] | None = None) -> None:
        self.images, self.transform = images, transform
        self.indices = range(len(images)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Any:
        index = self.indices[i]
        try:
            return self.transform(self.images.open(index)), self.images.labels[index]
        except UserError as error:
            return error


def _collate(samples: list[Any]) -> tuple[Tensor, Tensor, list[UserError]]:
    whole = [s for s in samples if not isinstance(s, UserError)]
    broken = [s for s in samples if isinstance(s, UserError)]
    images = torch.stack([s[0] for s in whole]) if whole else torch.empty(0)
    return images, torch.tensor([s[1] for s in whole], dtype=torch.int64), broken


def batches(
    data: Plain, batch_size: int, workers: int, skip_broken: bool, broken: set[str] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images (n, 3, H, W), labels (n,)) in order.

    Args:
        data: the images.
        batch_size: images a batch.
        workers: loading processes.
        skip_broken: leave broken images out instead of failing.
        broken: gets the names of those left out.

    Raises:
        BrokenImage: an image cannot be decoded and `skip_broken` is off.
    """
    loader = DataLoader(
        data, batch_size=batch_size, num_workers=workers, collate_fn=_collate, worker_init_fn=start_worker,
        multiprocessing_context="fork" if workers else None, generator=torch.Generator(),
    )  # fmt: skip
    for images, labels, errors in loader:
        for error in errors:
            if not skip_broken or not isinstance(error, BrokenImage):
                raise error
            if broken is not None:
                broken.add(error.name)
        if len(labels):
            yield images, labels


@torch.no_grad()
def extract(
    features: Callable[[Tensor], Tensor],
    loader: Iterator[tuple[Tensor, Tensor]],
    device: torch.device,
    bf16: bool = False,
    bar: Progress | None = None,
    total: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute features of all images.

    Args:
        features: (n, 3, H, W) to (n, C).
        loader: the images, see `batches`.
        device: where the features are computed and stay.
        bf16: compute in mixed precision, and keep the features in bfloat16.
        bar: counts the images.
        total: how many images there are at most, so that the table is made once; else it exists twice for a while.

    Returns:
        (n, C) float32, or bfloat16 if `bf16`, and labels (n,) on `device`.

    Raises:
        UserError: not one image is left.
    """
    outputs, labels, table, count = [], [], None, 0
    for images, targets in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            part = features(images.to(device)).to(torch.bfloat16 if bf16 else torch.float32)
        if total:
            table = part.new_empty(total, part.shape[1]) if table is None else table
            table[count : count + len(part)] = part
        else:
            outputs.append(part)
        labels.append(targets.to(device))
        count += len(part)
        if bar:
            bar.update(len(targets))
    if not count:
        raise UserError("data.root: not one image can be read; check the files")
    return torch.cat(outputs) if table is None else table[:count], torch.cat(labels)


@torch.no_grad()
def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    classes: int,
    ks: Sequence[int],
    temperatures: Sequence[float],
    chunk: int = 1024,
) -> dict[tuple[int, float], float]:
    """Classify by weighted nearest neighbours: Wu et al., arXiv:1805.01978, section 3.4.

    Each of the k nearest training images (cosine similarity s) votes for its class with weight exp(s / temperature).

    Args:
        bank: (n, C) training features.
        bank_labels: (n,).
        queries: (m, C) test features.
        query_labels: (m,).
        classes: number of classes.
        ks: numbers of neighbours to try.
        temperatures: temperatures to try.
        chunk: queries at a time; beside both tables, memory grows with chunk * `BANK` and `BANK` * C, not with n.

    Returns:
        top-1 accuracy in percent for every (k, temperature).
    """
    correct = {(k, t): 0 for k in ks for t in temperatures}
    for q, labels in zip(queries.split(chunk), query_labels.split(chunk), strict=True):
        s, nearest = nearest_neighbours(bank, normalize(q.float(), dim=1), min(max(ks), len(bank)))  # chunk-by-k
        voters = bank_labels[nearest]  # chunk-by-k
        for t in temperatures:
            # The largest similarity is taken out, which changes no order and keeps small temperatures finite.
            weights = ((s - s[:, :1]) / t).exp()  # chunk-by-k
            for k in ks:
                votes = weights.new_zeros(len(q), classes).scatter_add_(1, voters[:, :k], weights[:, :k])
                correct[k, t] += int((votes.argmax(dim=1) == labels).sum())
    return {key: 100 * value / len(query_labels) for key, value in correct.items()}


BANK = 2**15
"""Rows of the bank compared at a time: 268 MB of them at C = 2048, and 134 MB of similarities with 1024 queries."""


def nearest_neighbours(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest cosine similarities (m, k), falling, and the rows of the bank that have them (m, k).

    Args:
        bank: (n, C), of any length and type.
        queries: (m, C) float32, each of length 1.
        k: neighbours, at most n.
    """
    best, rows = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64).to(queries.device)
    for start in range(0, len(bank), BANK):
        part = normalize(bank[start : start + BANK].float(), dim=1)
        s, i = (queries @ part.T).topk(min(k, len(part)), dim=1)  # m-by-k
        best, rows = torch.cat([best, s], dim=1), torch.cat([rows, i + start], dim=1)
        if start:
            best, chosen = best.topk(min(k, best.shape[1]), dim=1)
            rows = rows.gather(1, chosen)
    return best, rows


class evaluating:
    """Evaluation mode for a while; the training mode of every module returns afterwards."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __enter__(self) -> None:
        self.modes = {module: module.training for module in self.network.modules()}
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        for module, mode in self.modes.items():
            module.training = mode
