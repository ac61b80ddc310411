"""SimSiam's training step in every setting, beside the official loop, on images that are in memory already."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hardware.build_steps import count_flops, official_step, our_step, random_views
from hardware.measure_peak_rates import multiply_rate, shortest_time
from hardware.section import OFFICIAL, Figure, Options
from runs.distributed import set_precision

# setting: (precision, official, compiled)
SETTINGS = {
    "official=true": ("pytorch", True, False),
    "precision=fp32": ("fp32", False, False),
    "default": ("tf32", False, False),
    "precision=bf16": ("bf16", False, False),
    "precision=bf16, compile=true": ("bf16", False, True),
}
ON_CPU = {"official=true": ("fp32", True, False), "default": ("fp32", False, False)}


def measure(options: Options) -> Iterator[Figure]:
    """Images a second, memory, share of the limit and host synchronisations of a step."""
    device = options.device
    arch, size = ("resnet18", 32) if options.small else ("resnet50", 224)
    batches = (8,) if options.small else (256, 512)
    settings = ON_CPU if device == "cpu" else SETTINGS
    torch.manual_seed(1)
    few = random_views(2, size, "cpu")
    work = count_flops(official_step(arch, few, "cpu", options.official)) / 2  # of an image
    rates: dict[str, float] = {}
    for name in ("fp32",) if device == "cpu" else ("fp32", "tf32", "bf16"):
        set_precision(name, torch.device(device))
        rates[name] = multiply_rate(torch.bfloat16 if name == "bf16" else torch.float32, device)
        yield Figure(f"matrix products in {name}", rates[name] / 1e12, "TFLOP/s")
    for batch in batches:
        images = random_views(batch, size, device)
        peer, memory, _ = time_step(official_step(arch, images, device, options.official), device, batch)
        name = f"{OFFICIAL}'s step" if options.official else "the official loop around our layers"
        yield Figure(f"batch {batch}, {name}", peer, "images/s", note=memory)
        for setting, (precision, official, compiled) in settings.items():
            # Compiling takes a minute for each shape, and the slow settings need no second batch.
            if batch != batches[0] and setting not in ("default", "precision=bf16"):
                continue
            step = our_step(arch, images, device, precision, official, compiled)
            speed, memory, syncs = time_step(step, device, batch)
            share = speed * work / rates["tf32" if precision == "pytorch" else precision]
            note = f"{speed / peer:.2f} times the official loop, {share:.0%} of the matrix products' rate"
            yield Figure(f"batch {batch}, {setting}", speed, "images/s", note=f"{note}, {memory}" if memory else note)
            if device == "cuda":
                yield Figure(f"batch {batch}, {setting}: the host waits", syncs, "times a step", limit=0)
        del images
        if device == "cuda":
            torch.cuda.empty_cache()


def time_step(step: Callable[[], Any], device: str, batch: int) -> tuple[float, str, int]:
    """Images a second of the fastest step, memory as text, and how often the host waited for the device in a step."""
    if device == "cpu":
        return batch / shortest_time(step, 2.0), "", 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    waits = count_waits(step)
    return batch / shortest_time(step, 2.0, device), f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB", waits


def count_waits(step: Callable[[], Any]) -> int:
    """How often the host waits for the GPU in one step, as PyTorch warns of it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
