"""Fine-tuning by the published recipes: seconds of an iteration, and memory."""

import statistics
from collections.abc import Iterator

from benchmarks.shapes import Settings, generate
from hardware.detection import CLASS_LIST
from hardware.run_commands import run
from hardware.section import Figure, Options
from runs.metrics_log import METRICS_LOG, read_log
from runs.record import read_record


def measure(options: Options) -> Iterator[Figure | tuple[str, float]]:
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
        steady = [line for line in read_log(folder / METRICS_LOG) if "time" in line][5:]
        seconds = statistics.median(line["time"] for line in steady)
        waiting = statistics.median(line["data_time"] for line in steady) / seconds
        memory = read_record(folder / "result.json").peak_memory_mb / 1000
        note = f"16 images of 480 to 800 pixels, {waiting:.0%} waiting for data, {memory:.1f} GB"
        yield Figure(f"{task}, R50-C4", seconds, "s an iteration", note=note)
        yield task, seconds * length
        if task == "voc07":
            yield "voc0712", seconds * 24000
