"""Whole pre-trainings with their loader, of JPEG files."""

from collections.abc import Iterator

from hardware.run_commands import run
from hardware.sample_images import write_image_folder
from hardware.section import IMAGENET, Figure, Options
from runs.metrics_log import METRICS_LOG, read_log


def measure(options: Options) -> Iterator[Figure | tuple[str, float]]:
    """`python -m pretrain` on JPEG files: the loader on this machine's own cores included."""
    arch, size, batch = ("resnet18", 32, 8) if options.small else ("resnet50", 224, 256)
    data, epochs = options.images, 1
    if data is None:
        count, width = (64, 80) if options.small else (10 * batch, 500)
        data = write_image_folder(options.folder / "pictures", count, width, width * 3 // 4)
        epochs = 2 if options.small else 4
    cases = {"": epochs} | ({"precision=bf16": epochs} if options.device == "cuda" else {}) | {"official=true": 2}
    for number, (setting, length) in enumerate(cases.items()):
        folder = options.folder / f"run{number}"
        run("pretrain", [
            "method=simsiam", "data=imagefolder", f"data.root={data}", f"output={folder}", f"arch={arch}",
            f"device={options.device}", f"augment.size={size}", f"batch_size={batch}", f"epochs={length}",
            "log_every=5", "monitor.knn_every=0", "tensorboard=false", f"checkpoint.every_epochs={length}",
            *[setting] * bool(setting),
        ], options.folder / "runs.log")  # fmt: skip
        lines = [line for line in read_log(folder / METRICS_LOG) if "images_per_second" in line]
        # The first epoch starts the loading processes and looks for convolutions.
        steady = [line for line in lines if line["epoch"] > 1] or lines[-1:]
        speed = sum(line["images_per_second"] for line in steady) / len(steady)
        waited = sum(line["data_wait"] for line in steady) / len(steady)
        name = f"pretrain with its loader, {setting or 'default'}"
        first = f"the first steps {lines[0]['images_per_second']:.0f}, {lines[0]['data_wait']:.0%} waiting"
        yield Figure(name, speed, "images/s", note=f"{waited:.0%} waiting for data; {first}")
        if not options.small and not setting:
            yield "pretrain/epoch", IMAGENET / speed
