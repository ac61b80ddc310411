"""Weighted nearest neighbours in parts of the bank against the usual way: the whole product, then its top k.

The usual way is that of lightly (`knn_predict`) and of this project until the bank came in parts: similarities of a
chunk of queries with the entire bank. Peak memory is counted in a process of its own a side, beyond the two tables.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from experiments.speed.rows import Row, Skipped, alternate, run_script
from hardware.measure_peak_rates import multiply_rate
from pretrain.knn.evaluation import knn_accuracy

WIDTH, CLASSES = 2048, 1000
PEER = "the whole product of similarities, as lightly's knn_predict"


def lightly_knn_predict(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Predicted classes as lightly/utils/benchmarking/knn.py has them: all similarities, top 200, exp(s / t)."""
    similarity = normalize(queries, dim=1) @ normalize(bank, dim=1).T
    weights, nearest = similarity.topk(k=200, dim=-1)
    votes = torch.zeros(len(queries), CLASSES).scatter_add_(1, labels[nearest], (weights / 0.07).exp())
    return votes.argmax(dim=1)


def random_features(size: int, queries: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bank (size, 2048), its labels, queries (queries, 2048), their labels."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        (torch.randn(n, WIDTH, generator=generator), torch.randint(CLASSES, (n,), generator=generator))
        for n in (size, queries)
    ]
    return (*parts[0], *parts[1])


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """Time, then memory."""
    torch.set_num_threads(1)
    size, queries = (2000, 100) if arguments.quick else (100_000, 1000)
    bank, labels, x, y = random_features(size, queries)
    ours, peer = alternate(
        lambda: knn_accuracy(bank, labels, x, y, CLASSES, [200], [0.07]), lambda: lightly_knn_predict(bank, labels, x),
        2 if arguments.quick else 3, "cpu",
    )  # fmt: skip
    title = f"kNN, {queries} queries, bank of {size} x {WIDTH}"
    least = 2 * size * queries * WIDTH / multiply_rate()
    yield Row("knn/time", title, "s", False, ours, peer, PEER, "cpu", least, "the product at full rate")
    ours, peer = [
        [peak_memory(side, size, queries) for _ in range(1 if arguments.quick else 2)] for side in ("ours", "peer")
    ]
    yield Row("knn/memory", f"{title}: memory beside the tables", "GB", False, ours, peer, PEER)


def peak_memory(side: str, size: int, queries: int) -> float:
    """GB of resident memory that one side adds to its tables."""
    command = [sys.executable, "-m", "experiments.speed.knn", "--peak", side, str(size), str(queries)]
    return max(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 1e-3)


def print_peak(side: str, size: int, queries: int) -> None:
    """The child of `peak_memory`."""
    bank, labels, x, y = random_features(size, queries)
    before = most_resident()
    if side == "ours":
        knn_accuracy(bank, labels, x, y, CLASSES, [200], [0.07])
    else:
        lightly_knn_predict(bank, labels, x)
    print(most_resident() - before)


def most_resident() -> float:
    """GB of memory that this program has had at most; the operating system's `ru_maxrss` counts its parent's too."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e9 if found else 0.0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        run_script(measure, __doc__ or "")
