"""One detector, tested on both devices."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.modeling import build_model

from benchmarks.shapes import Settings, generate
from benchmarks.shapes_scenes import CLASSES
from benchmarks.tables import scale as scales
from hardware.run_commands import run
from hardware.section import Figure, Options
from runs.distributed import set_precision
from runs.settings import flatten
from transfer.detectron2_config import build_cfg, set_classes_and_mask_format
from transfer.evaluate_detector import evaluate_and_save
from transfer.fine_tune import MODEL
from transfer.loader import build_test_loader
from transfer.read_splits import read_train_and_test
from transfer.settings import DataConfig, TransferConfig
from transfer.subsets import take_subsets

CLASS_LIST = "data.classes=[" + ",".join(CLASSES) + "]"


def measure(options: Options) -> Iterator[Figure]:
    """Fine-tune briefly at mini size, then test the stored detector on the device and on the CPU."""
    root = options.folder / "shapes"
    generate(root, Settings(images=1, val_images=1, voc07=64, voc07_test=16, voc12=2, coco=32, coco_val=8))
    settings = flatten(dict(scales.load("mini").stages["transfer"]))
    iterations = 30 if options.small else 300
    settings |= {"detectron2.SOLVER.MAX_ITER": iterations, "detectron2.SOLVER.STEPS": [iterations * 3 // 4]}
    settings["detectron2.TEST.PRECISE_BN.NUM_ITER"] = 5
    folder = options.folder / "detector"
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    run("transfer", [
        "task=voc07", "weights=scratch", "arch=resnet50x0.25", f"data.root={root}", CLASS_LIST, "pictures=0",
        f"device={options.device}", f"output={folder}", *words,
    ], options.folder / "log")  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for device in dict.fromkeys(("cpu", options.device)):
        config = TransferConfig(
            task="voc07", weights="scratch", arch="resnet50x0.25", data=DataConfig(str(root), classes=list(CLASSES)),
            output=str(options.folder / f"test-{device}"), device=device,
            detectron2={k.removeprefix("detectron2."): v for k, v in settings.items() if k.startswith("detectron2.")},
        )  # fmt: skip
        set_precision("fp32", torch.device(device), one_shape=False)
        cfg = build_cfg(config, None, device)
        train, test = take_subsets(config.data, *read_train_and_test(config.data, cfg))
        set_classes_and_mask_format(cfg, train)
        Path(config.output).mkdir(exist_ok=True)
        detector = build_model(cfg)
        detector.load_state_dict(torch.load(folder / MODEL, map_location=device, weights_only=True)["model"])
        evaluated = evaluate_and_save(cfg, detector, test, build_test_loader(cfg, test, 0))
        assert evaluated is not None
        found[device] = evaluated[0].metrics
    here, there = found["cpu"], found[options.device]
    yield Figure(f"a detector after {iterations} iterations: AP50 on {options.device}", there["bbox/AP50"], "%")
    for name, value in there.items():
        yield Figure(f"{name} on {options.device} against the CPU", abs(value - here[name]), "points", 0.1)
