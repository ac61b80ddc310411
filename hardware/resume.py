"""A pre-training that is killed and started again; with several GPUs, a process on each of them against one alone."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hardware.run_commands import finish, kill_when_written, run, start
from hardware.sample_images import write_image_folder
from hardware.section import Figure, Options
from runs.metrics_log import METRICS_LOG, read_log

PATTERN = "checkpoint_*.pth.tar"


def measure(options: Options) -> Iterator[Figure]:
    """Weights of a killed and resumed run against those of two that nothing interrupted."""
    data = write_image_folder(options.folder / "pictures", 64 if options.small else 512, 80, 60, 512)
    words = [
        "method=simsiam", "data=imagefolder", f"data.root={data}", f"device={options.device}", "augment.size=32",
        "arch=resnet18x0.25" if options.small else "arch=resnet18", f"batch_size={16 if options.small else 64}",
        "epochs=6", "data.workers=0" if options.small else "data.workers=2", "tensorboard=false", "monitor.knn_every=0",
        "checkpoint.every_steps=3", "log_every=1",
    ]  # fmt: skip
    folders = {name: options.folder / name for name in ("whole", "again", "killed")}
    log = options.folder / "resume.log"
    started = {name: start("pretrain", [*words, f"output={folder}"], log) for name, folder in folders.items()}
    killed = kill_when_written(started.pop("killed"), folders["killed"], PATTERN)
    for process in started.values():
        finish(process, log)
    yield Figure("killed after a checkpoint", float(killed), "", 1.0, least=True)
    run("pretrain", [*words, f"output={folders['killed']}"], log)
    weights = {name: last_weights(folder) for name, folder in folders.items()}
    repeat = largest(weights["whole"], weights["again"])
    yield Figure(
        "two whole runs: largest difference of a weight", repeat, "", note="0 where the device is deterministic"
    )
    # A GPU adds up in an order that changes from run to run; a resumed run may differ by what two whole ones do.
    limit = 0.0 if repeat == 0 else 10 * repeat
    yield Figure("resumed against whole", largest(weights["whole"], weights["killed"]), "", limit)
    count = torch.cuda.device_count() if options.device == "cuda" else 1  # the CPU's are tested elsewhere
    if count > 1:
        folder = options.folder / "processes"
        run("pretrain", [*words, f"output={folder}", "epochs=1"], log, count)
        one = options.folder / "one"
        run("pretrain", [*words, f"output={one}", "epochs=1"], log)
        losses = [first_loss(place) for place in (folder, one)]
        yield Figure(f"first loss of {count} processes against one", abs(losses[0] - losses[1]), "", 1e-5)


def last_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a run's newest checkpoint."""
    newest = max(folder.glob(PATTERN), key=lambda path: path.stat().st_mtime)
    state: dict[str, Tensor] = torch.load(newest, map_location="cpu", weights_only=True)["state_dict"]
    return state


def largest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest absolute difference of two state dicts."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def first_loss(folder: Path) -> float:
    """The loss of a run's first step."""
    return float(next(line["loss"] for line in read_log(folder / METRICS_LOG) if "loss" in line))
