"""How time and memory grow: with images, classes, batch, detections and records, against the slope they should have.

    python -m experiments.speed.growth [--quick] [--output DIR]

Each size is done in a process of its own: processor seconds, and resident memory beyond what was there before. A line
through the logarithms gives the slope; 1 is in proportion. Writes growth.json, growth.md and growth.png, and ends with
status 1 if a slope is steeper than expected.
"""

import argparse
import functools
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results.records import find_records
from experiments.speed.rows import seconds
from experiments.speed.views import fast_views, read_files, read_recipe
from experiments.speed.voc_cases import make_detections, make_truth
from pretrain.config import LinearConfig
from pretrain.knn.evaluation import knn_accuracy
from pretrain.linear.evaluation import LinearClassifiers
from runs.files import atomic_write, write_json
from runs.palette import PALETTE
from runs.record import Dataset, Record, Subject, write_record
from transfer.coco_evaluation import evaluate_coco
from transfer.settings import VOC_CLASSES
from transfer.voc_evaluation import evaluate_voc

Work = Callable[[], Any]
BLUE, RED = PALETTE[:2]
SLACK = 0.15  # of a slope fitted to four points
LEAST = 5  # MB: less is noise of the allocator


@dataclass
class Growth:
    """One curve.

    Args:
        name: what is done.
        against: what grows.
        sizes: its values.
        seconds: processor seconds at each.
        megabytes: memory at each, beyond that of the inputs.
        slope: of time, fitted to the logarithms.
        expected: what the slope should be at most.
        memory_slope: the same of memory, from the sizes that need more than 5 MB; None with fewer than three.
    """

    name: str
    against: str
    sizes: list[int]
    seconds: list[float]
    megabytes: list[float]
    slope: float
    expected: float
    memory_slope: float | None


@functools.cache
def scenes() -> list[bytes]:
    """The same 16 images for all sizes."""
    return read_files(None, 16)


def views(images: int) -> Work:
    """Two views of so many images."""
    return fast_views(scenes() * (images // 16), read_recipe("simsiam"))


def neighbours(bank: int) -> Work:
    """kNN of 200 queries."""
    table, x = torch.randn(bank, 512), torch.randn(200, 512)
    labels, y = torch.randint(100, (bank,)), torch.randint(100, (200,))
    return lambda: knn_accuracy(table, labels, x, y, 100, [200], [0.07])


def classifiers(classes: int, batch: int) -> Work:
    """A step of two classifiers."""
    two = LinearClassifiers(LinearConfig(lr=[0.1, 1.0]), 512, classes, torch.device("cpu"))
    x, y = torch.randn(batch, 512), torch.randint(classes, (batch,))
    return lambda: two.step(x, y)


def voc(detections: int) -> Work:
    """VOC AP on 2000 images."""
    rng = np.random.default_rng(0)
    truth = make_truth(2000, len(VOC_CLASSES), rng)
    found = make_detections(truth, list(range(2000)), len(VOC_CLASSES), detections, rng)
    return lambda: evaluate_voc(found, truth)


def coco(detections: int) -> Work:
    """COCO box AP, with an image to 25 detections and three objects to an image."""
    rng, images = np.random.default_rng(0), detections // 25

    def boxes(count: int) -> list[dict[str, Any]]:
        corner, extent = rng.uniform(0, 400, (count, 2)), rng.uniform(4, 200, (count, 2))
        image, category = rng.integers(images, size=count).tolist(), rng.integers(80, size=count).tolist()
        table = np.concatenate([corner, extent], axis=1).tolist()
        return [
            {
                "image_id": i,
                "category_id": c,
                "bbox": b,
                "area": b[2] * b[3],
                "iscrowd": 0,
                "score": float(rng.random()),
            }
            for i, c, b in zip(image, category, table, strict=True)
        ]

    scenes: list[dict[str, Any]] = [
        {"image_id": n, "height": 600, "width": 600, "annotations": []} for n in range(images)
    ]
    for entry in boxes(images * 3):
        scenes[entry["image_id"]]["annotations"].append(entry)
    results, classes = boxes(detections), [str(c) for c in range(80)]
    return lambda: evaluate_coco(results, scenes, classes, ("bbox",))


def records(count: int) -> Work:
    """Reading so many records for a report."""
    folder = Path(tempfile.mkdtemp())
    for number in range(count):
        record = Record(
            kind="knn", subject=Subject("simsiam", "resnet50", 100, "a.pth.tar", "0" * 64),
            dataset=Dataset("made-up", "val", 100, "0" * 16), metrics={"top1": float(number % 100)}, seed=number,
            config={"seed": number}, seconds=1.0, peak_memory_mb=1.0, command="made up", details={},
        )  # fmt: skip
        write_record(folder / str(number), record)
    return lambda: find_records([folder])


# name, what grows, sizes, work of a size, the slope that it should have at most
CURVES: list[tuple[str, str, list[int], Callable[[int], Work], float]] = [
    ("views", "images", [16, 32, 64, 128], views, 1),
    ("kNN", "training images", [20_000, 40_000, 80_000, 160_000], neighbours, 1),
    ("linear step", "classes", [250, 500, 1000, 2000], lambda n: classifiers(n, 512), 1),
    ("linear step", "batch", [256, 512, 1024, 2048], lambda n: classifiers(500, n), 1),
    ("VOC AP", "detections", [50_000, 100_000, 200_000, 400_000], voc, 1),
    ("COCO AP", "detections", [50_000, 100_000, 200_000, 400_000], coco, 1),
    ("reading records", "records", [100, 200, 400, 800], records, 1),
]


def measure_size(make: Callable[[int], Work], size: int) -> tuple[float, float]:
    """Processor seconds and MB of one size, in a forked process so that its peak is its own."""
    receive, send = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(1)
        # What a size writes goes when it is done.
        with tempfile.TemporaryDirectory() as tempfile.tempdir:
            work = make(size)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            send.send((seconds(work), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    send.close()
    figures = receive.recv()
    process.join()
    return figures


def slope(sizes: list[int], values: list[float]) -> float:
    """Slope of a line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def plot(curves: list[Growth], file: Path) -> None:
    """A column a curve: seconds above, megabytes below, over the size, on logarithmic axes, with the expected slope."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(curves), 5.2), layout="constrained", dpi=80)
    rows = figure.subplots(2, len(curves), sharex="col")
    for curve, time_panel, memory_panel in zip(curves, rows[0], rows[1], strict=True):
        _panel(time_panel, curve.sizes, curve.seconds, curve.expected, curve.slope, BLUE)
        time_panel.set_title(curve.name)
        # Below that, noise and the page size would be drawn.
        shown = [(n, m) for n, m in zip(curve.sizes, curve.megabytes, strict=True) if m > LEAST]
        if shown:
            sizes, megabytes = [n for n, _ in shown], [m for _, m in shown]
            _panel(memory_panel, sizes, megabytes, curve.expected, curve.memory_slope, RED)
        else:
            memory_panel.text(0.5, 0.5, "within what\nthe inputs took", transform=memory_panel.transAxes, ha="center")
            memory_panel.set_yticks([])
        memory_panel.set_xlabel(curve.against)
        memory_panel.set_xticks(curve.sizes, [f"{n // 1000}k" if n >= 10_000 else str(n) for n in curve.sizes])
        memory_panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    rows[0][0].set_ylabel("processor seconds")
    rows[1][0].set_ylabel("MB beside the inputs")
    with atomic_write(file) as output:
        figure.savefig(output, format="png", metadata={"Software": None})


def _panel(
    panel: Any, sizes: list[int], values: list[float], expected: float, found: float | None, colour: str
) -> None:
    """The measured points, and the expected slope through the first."""
    panel.set_xscale("log")
    panel.set_yscale("log")
    ideal = [values[0] * (n / sizes[0]) ** expected for n in sizes]
    panel.plot(sizes, ideal, ":", color="#777777", label=f"slope {expected:g}")
    panel.plot(sizes, values, "o-", color=colour, label="" if found is None else f"slope {found:.2f}")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_minor_formatter(lambda *_: "")
    low, high = min(*values, *ideal), max(*values, *ideal)
    panel.set_ylim(low / 1.6, high * 3)
    panel.legend(frameon=False, fontsize=8, loc="upper left")


def table(curves: list[Growth]) -> str:
    """The slopes as Markdown, each beside the one that it should have at most."""
    lines = ["| what | against | sizes | seconds | MB | slope of time | of memory | at most |", "| --- " * 8 + "|"]
    for c in curves:
        memory = "" if c.memory_slope is None else f"{c.memory_slope:.2f}"
        lines.append(
            f"| {c.name} | {c.against} | {c.sizes[0]} to {c.sizes[-1]} | {c.seconds[0]:.3g} to {c.seconds[-1]:.3g} | "
            f"{c.megabytes[0]:.0f} to {c.megabytes[-1]:.0f} | {c.slope:.2f} | {memory} | {c.expected:g} |"
        )
    return "\n".join(lines) + "\n"


def steeper(curves: list[Growth]) -> list[str]:
    """The curves whose time or memory grows faster than it should, one line each."""
    found = [(c, what, s) for c in curves for what, s in (("time", c.slope), ("memory", c.memory_slope))]
    return [
        f"{c.name} against {c.against}: slope of {what} {s:.2f}, expected at most {c.expected:g}"
        for c, what, s in found
        if s is not None and s > c.expected + SLACK
    ]


def main() -> int:
    """Measure, fit, write; 1 if anything grows faster than it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sizes ten times smaller")
    parser.add_argument("--output", type=Path, default=Path("outputs/speed"), metavar="DIR")
    arguments = parser.parse_args()
    scenes()  # once, before the processes of the sizes begin
    curves = []
    for name, against, sizes, make, expected in CURVES:
        sizes = [max(size // 10, 16) if arguments.quick and name != "views" else size for size in sizes]
        figures = [min(measure_size(make, size) for _ in range(1 if arguments.quick else 2)) for size in sizes]
        times, megabytes = [f[0] for f in figures], [f[1] for f in figures]
        large = [(n, m) for n, m in zip(sizes, megabytes, strict=True) if m > LEAST]
        memory = slope([n for n, _ in large], [m for _, m in large]) if len(large) > 2 else None
        curves.append(Growth(name, against, sizes, times, megabytes, slope(sizes, times), expected, memory))
        print(f"{name} against {against}: slope of time {curves[-1].slope:.2f}", flush=True)
    write_json(arguments.output / "growth.json", [asdict(curve) for curve in curves])
    with atomic_write(arguments.output / "growth.md", "w") as output:
        output.write(table(curves))
    plot(curves, arguments.output / "growth.png")
    too_steep = steeper(curves)
    print("\n".join(too_steep) or "nothing grows faster than it should")
    return int(bool(too_steep))


if __name__ == "__main__":
    sys.exit(main())
