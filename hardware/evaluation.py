"""Linear evaluation and kNN: the numbers on the device against the CPU's."""

from collections.abc import Iterator

import torch
from torchvision import models

from hardware.run_commands import finish, start
from hardware.sample_images import write_image_folder
from hardware.section import Figure, Options
from runs.record import read_record


def measure(options: Options) -> Iterator[Figure]:
    """Top-1 of one checkpoint on both devices."""
    data = write_image_folder(options.folder / "pictures", 256, 80, 60)
    torch.manual_seed(0)
    network = models.resnet18()
    with torch.no_grad():  # batch norm statistics as of a trained network
        network.train()
        network(torch.randn(64, 3, 64, 64))
    checkpoint = options.folder / "resnet18.pth"
    torch.save(network.state_dict(), checkpoint)
    common = ["data=imagefolder", f"data.root={data}", f"checkpoint={checkpoint}", "augment.size=32", "data.workers=0"]
    words = {
        "knn": ["k=[20]"], "linear": ["augment=none", "optimizer=sgd", "lr=[1.0,10.0]", "batch_size=64", "epochs=5"],
    }  # fmt: skip
    devices = tuple(dict.fromkeys(("cpu", options.device)))
    folders = {(task, device): options.folder / f"{task}-{device}" for task in words for device in devices}
    started = {
        (task, device): start(
            f"pretrain.{task}",
            [*common, *words[task], f"device={device}", f"output={folder}"],
            folder.with_suffix(".log"),
        )
        for (task, device), folder in folders.items()
    }
    for key, process in started.items():
        finish(process, folders[key].with_suffix(".log"))
    for task in words:
        found = [read_record(folders[task, device]).metrics["top1"] for device in devices]
        # Of 32 images one is 3.1 points.
        yield Figure(f"{task}: top-1 on {options.device} against the CPU", abs(found[-1] - found[0]), "points", 3.2)
