"""SimSiam's training step in every setting, beside the official loop; then whole runs with their loader."""

import json
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torchvision import models

from benchmarks.shapes import Settings, generate
from hardware.detection import CLASS_LIST
from hardware.peak_rates import best, multiply_rate
from hardware.processes import run
from hardware.sample_images import write_pictures
from hardware.section import OFFICIAL, Figure, Options
from hardware.simsiam_steps import flops, official_step, our_step
from pretrain.evaluation_config import LinearConfig
from pretrain.linear_evaluation import LinearClassifiers
from runs.distributed import set_precision
from runs.record import read_record

# ImageNet's training images, of which the paper scale's plan has an epoch.
IMAGENET = 1_281_167
# setting: (precision, official, compiled)
SETTINGS = {
    "official=true": ("pytorch", True, False),
    "precision=fp32": ("fp32", False, False),
    "default": ("tf32", False, False),
    "precision=bf16": ("bf16", False, False),
    "precision=bf16, compile=true": ("bf16", False, True),
}
ON_CPU = {"official=true": ("fp32", True, False), "default": ("fp32", False, False)}


def measure(options: Options) -> Iterator[Figure | tuple[str, float]]:
    """Images a second, memory, share of the limit and host synchronisations of a step; then of whole runs."""
    device = options.device
    arch, size = ("resnet18", 32) if options.small else ("resnet50", 224)
    batches = (8,) if options.small else (256, 512)
    settings = ON_CPU if device == "cpu" else SETTINGS
    torch.manual_seed(1)
    few = [torch.randn(2, 3, size, size) for _ in range(2)]
    work = flops(official_step(arch, few, "cpu", options.official)) / 2  # of an image
    rates: dict[str, float] = {}
    for name in ("fp32",) if device == "cpu" else ("fp32", "tf32", "bf16"):
        set_precision(name, torch.device(device))
        rates[name] = multiply_rate(torch.bfloat16 if name == "bf16" else torch.float32, device)
        yield Figure(f"matrix products in {name}", rates[name] / 1e12, "TFLOP/s")
    for batch in batches:
        images = [torch.randn(batch, 3, size, size) for _ in range(2)]
        if device == "cuda":
            images = [view.pin_memory() for view in images]
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
    yield from whole_runs(options, arch, size, batches[0])
    yield from linear(options)
    if not options.small:
        yield from detectors(options)


def time_step(step: Callable[[], Any], device: str, batch: int) -> tuple[float, str, int]:
    """Images a second of the fastest step, memory as text, and how often the host waited for the device in a step."""
    if device == "cpu":
        return batch / best(step, 2.0), "", 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    waits = count_waits(step)
    return batch / best(step, 2.0, device), f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB", waits


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


def whole_runs(options: Options, arch: str, size: int, batch: int) -> Iterator[Figure | tuple[str, float]]:
    """`python -m pretrain` on JPEG files: the loader on this machine's own cores included."""
    data, epochs = options.images, 1
    if data is None:
        count, width = (64, 80) if options.small else (10 * batch, 500)
        data = write_pictures(options.folder / "pictures", count, width, width * 3 // 4)
        epochs = 2 if options.small else 4
    cases = {"official=true": 2, "": epochs} | ({"precision=bf16": epochs} if options.device == "cuda" else {})
    for number, (setting, length) in enumerate(cases.items()):
        folder = options.folder / f"run{number}"
        run("pretrain", [
            "method=simsiam", "data=imagefolder", f"data.root={data}", f"output={folder}", f"arch={arch}",
            f"device={options.device}", f"augment.size={size}", f"batch_size={batch}", f"epochs={length}",
            "log_every=5", "monitor.knn_every=0", "tensorboard=false", f"checkpoint.every_epochs={length}",
            *[setting] * bool(setting),
        ], options.folder / "runs.log")  # fmt: skip
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        # The first epoch starts the loading processes and looks for convolutions.
        steady = [line for line in lines if "images_per_second" in line and line["epoch"] > 1] or lines[-1:]
        speed = sum(line["images_per_second"] for line in steady) / len(steady)
        waited = sum(line["data_wait"] for line in steady) / len(steady)
        name = f"pretrain with its loader, {setting or 'default'}"
        yield Figure(name, speed, "images/s", note=f"{waited:.0%} waiting for data")
        if not options.small and not setting:
            yield "pretrain/epoch", IMAGENET / speed


def linear(options: Options) -> Iterator[Figure | tuple[str, float]]:
    """Images a second of frozen features, and of twelve classifiers of 2048 x 1000."""
    size, batch = (32, 8) if options.small else (224, 256)
    device = torch.device(options.device)
    rates: dict[str, float] = {}
    for precision in ("fp32",) if device.type == "cpu" else ("fp32", "tf32", "bf16"):
        autocast = set_precision(precision, device)
        network = (models.resnet18() if options.small else models.resnet50()).to(
            device, memory_format=torch.channels_last
        )
        network.eval()
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast():
            rates[precision] = batch / best(lambda: network(images), 1.0, options.device)  # noqa: B023
        yield Figure(f"features, {precision}", rates[precision], "images/s")
    channels, classes = (512, 10) if options.small else (2048, 1000)
    config = LinearConfig(lr=[0.1 * 2**n for n in range(12)], batch_size=batch * 2)
    classifiers = LinearClassifiers(config, channels, classes, device)
    features = torch.randn(batch * 2, channels, device=device)
    labels = torch.randint(0, classes, (batch * 2,), device=device)

    def step() -> None:
        classifiers.optimizer.zero_grad()
        loss = sum(torch.nn.functional.cross_entropy(layer(features), labels) for layer in classifiers.layers)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        classifiers.optimizer.step()

    heads = batch * 2 / best(step, 1.0, options.device)
    yield Figure("step of twelve linear classifiers (LARC)", heads, "images/s")
    if not options.small and "tf32" in rates:
        # 90 epochs of views, each through the network and the classifiers; one pass for kNN.
        yield "linear", 90 * IMAGENET * (1 / rates["tf32"] + 1 / heads)
        yield "knn", IMAGENET / rates["tf32"]


def detectors(options: Options) -> Iterator[Figure | tuple[str, float]]:
    """The published recipes for a few iterations: Faster R-CNN on VOC, Mask R-CNN on COCO."""
    root = options.folder / "shapes"
    generate(root, Settings(images=1, val_images=1, voc07=64, voc07_test=4, voc12=2, coco=32, coco_val=4))
    for task, length in {"voc07": 9000, "coco": 90000}.items():
        folder = options.folder / task
        run("transfer", [
            f"task={task}", "weights=scratch", f"data.root={root}", *[CLASS_LIST] * (task == "voc07"),
            f"device={options.device}", f"output={folder}", "log_every=1", "pictures=0",
            "detectron2.SOLVER.MAX_ITER=12", "detectron2.SOLVER.STEPS=[10]", "detectron2.TEST.PRECISE_BN.NUM_ITER=1",
        ], options.folder / "log")  # fmt: skip
        lines: list[dict[str, Any]] = [json.loads(s) for s in (folder / "metrics.jsonl").read_text().splitlines()]
        steady = [line for line in lines if "time" in line][5:]
        seconds = statistics.median(line["time"] for line in steady)
        waiting = statistics.median(line["data_time"] for line in steady) / seconds
        memory = read_record(folder / "result.json").peak_memory_mb / 1000
        note = f"16 images of 480 to 800 pixels, {waiting:.0%} waiting for data, {memory:.1f} GB"
        yield Figure(f"{task}, R50-C4", seconds, "s an iteration", note=note)
        yield task, seconds * length
        if task == "voc07":
            yield "voc0712", seconds * 24000
