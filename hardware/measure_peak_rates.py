"""What the hardware allows, measured: multiply-add rate, memory bandwidth, JPEG decoding alone."""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image


def shortest_time(work: Callable[[], Any], seconds: float = 0.5, device: str = "cpu") -> float:
    """Shortest time of one call among those of `seconds` s, in processor seconds on the CPU, else in wall seconds.

    The shortest, since a limit is what nothing else on the machine disturbs. On one thread processor time is wall time.
    """
    if device == "cpu" and torch.get_num_threads() == 1:
        now, wait = time.process_time, None
    else:
        now, wait = time.perf_counter, torch.cuda.synchronize if device == "cuda" else None
    work()
    shortest, end = float("inf"), time.perf_counter() + seconds
    # At least once, however busy the machine is.
    while shortest == float("inf") or time.perf_counter() < end:
        if wait:
            wait()
        start = now()
        work()
        if wait:
            wait()
        shortest = min(shortest, now() - start)
    return shortest


def multiply_rate(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """FLOP/s of a large matrix product, 2 n^3 a product, with the threads that PyTorch has now."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / shortest_time(lambda: a @ b, device=device)


def bandwidth(device: str = "cpu") -> float:
    """Bytes/s read and written by a copy of 256 MB (more than any cache), with the threads that PyTorch has now."""
    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / shortest_time(lambda: target.copy_(source), device=device)


def decode_rate(files: Sequence[bytes]) -> float:
    """Images a second and core that Pillow decodes, doing nothing with them."""

    def decode() -> None:
        for content in files:
            Image.open(io.BytesIO(content)).convert("RGB")

    return len(files) / shortest_time(decode, seconds=2.0)
