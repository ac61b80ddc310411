"""One fine-tuning trial from its settings to its record."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.modeling import build_model
from detectron2.utils import comm

from runs.environment import command_line, peak_memory_mb
from runs.errors import UserError
from runs.files import atomic_write
from runs.folder import RECORD, RunFolder
from runs.record import Dataset, Record, Subject, write_record
from runs.seeds import seed_everything
from transfer.datasets import Split, load_splits
from transfer.evaluation import detect, measure
from transfer.loading import train_images
from transfer.pictures import sheet
from transfer.recipe import build_cfg
from transfer.settings import TransferConfig
from transfer.training import CHECKPOINT, Trainer
from transfer.weights import BackboneFile, load_backbone, read_backbone

MODEL = "model_final.pth"
# They change how fast a run goes, or how it is shown, and not what it computes.
_FREE = ("data.workers", "device", "save_seconds", "pictures")


def run(config: TransferConfig) -> dict[str, float]:
    """Fine-tune, measure and record, or continue an interrupted run of the same settings.

    Returns:
        The metrics in percent.

    Raises:
        UserError: whatever the user can mend; before training starts where it can be known then.
    """
    scratch = config.weights == "scratch"
    backbone = None if scratch else read_backbone(config.weights)
    device = _device(config.device)
    cfg = build_cfg(config, backbone, device)
    output = Path(config.output or _default_output(config))
    identity = dataclasses.asdict(config) | {"weights_sha256": backbone.sha256 if backbone else None}
    if (output / RECORD).exists():
        folder = RunFolder(output, identity, "transfer", _FREE)
        print(f"{folder.record}: done already")
        return {}
    train = load_splits(config.data.root, cfg.DATASETS.TRAIN, config.data.classes)
    test = load_splits(config.data.root, cfg.DATASETS.TEST, config.data.classes)
    images = train_images(cfg, train)
    if test.classes != train.classes:
        raise UserError(f"data.test={test.name}: other classes than {train.name}; use splits of one data set")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(train.classes)
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    folder = RunFolder(output, identity, "transfer", _FREE)
    with atomic_write(folder.path / "detectron2.yaml", "w") as file:
        file.write(cfg.dump())

    started = time.perf_counter()
    seed_everything(config.seed)
    detector = build_model(cfg)
    proof = load_backbone(detector, backbone) if backbone else None
    # Drawn here, from the generator seeded above, as Detectron2's trainer draws them for its two samplers.
    seeds = comm.shared_random_seed(), comm.shared_random_seed()
    autocast = _precision(config.precision, device)
    results: dict[str, Any] = {}

    def evaluate() -> dict[str, float]:
        with autocast():
            found = detect(cfg, detector, test, config.data.workers, folder.path)
        if found is None:
            return {}
        found.save(folder.path / "detections.npz")
        metrics, results["details"] = measure(test, found, cfg.MODEL.MASK_ON)
        results["found"] = found
        return metrics

    trainer = Trainer(
        cfg, detector, images, seeds, folder.path, workers=config.data.workers, autocast=autocast,
        log_every=config.log_every, save_seconds=config.save_seconds, evaluate=evaluate,
    )  # fmt: skip
    trainer.train()
    trainer.precise_bn()
    metrics = evaluate()
    if not comm.is_main_process():
        return metrics
    with atomic_write(folder.path / MODEL) as file:
        torch.save({"model": detector.state_dict()}, file)
    if config.pictures:
        sheet(folder.path / "detections.png", test, results["found"], config.pictures)
    details = {
        "weights": proof, "recipe": yaml.safe_load(cfg.dump()), "train": _dataset(train) | {"used": len(images)},
        "iterations": cfg.SOLVER.MAX_ITER, "training_seconds": round(trainer.seconds, 3), **results["details"],
    }  # fmt: skip
    record = Record(
        kind="transfer",
        subject=_subject(config, backbone, cfg),
        dataset=Dataset(**_dataset(test)),
        metrics=metrics,
        seed=config.seed,
        config=folder.config,
        seconds=time.perf_counter() - started,
        peak_memory_mb=torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak_memory_mb(),
        command=command_line(),
        details=details,
    )
    write_record(folder.path, record)
    # The finished detector stays; what only a restart needs goes.
    for leftover in (folder.path / CHECKPOINT, *folder.path.glob(".*.partial")):
        leftover.unlink(missing_ok=True)
    print("  ".join(f"{name} {value:.2f}" for name, value in metrics.items()) + f"  ->  {folder.record}")
    return metrics


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch sees no CUDA device; use device=cpu or auto")
    return name


def _precision(name: str, device: str) -> Callable[[], Any]:
    """Set matrix precision and return the context for forward passes.

    NOTE: `fp32` turns TF32 off everywhere; PyTorch's default allows it in convolutions; the
    GPUs of the published runs had none.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "fp32"
    if name == "bf16":
        return lambda: torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext


def _default_output(config: TransferConfig) -> str:
    start = f"scratch-{config.arch}" if config.weights == "scratch" else Path(config.weights).stem
    return os.path.join("outputs", "transfer", f"{config.task}_{start}_seed{config.seed}")


def _dataset(split: Split) -> dict[str, Any]:
    name = "VOC" if split.voc else "COCO"
    return {"name": name, "split": split.name, "size": len(split.images), "fingerprint": split.fingerprint()}


def _subject(config: TransferConfig, backbone: BackboneFile | None, cfg: Any) -> Subject:
    if backbone is None:
        return Subject(method="scratch", arch=config.arch)
    provenance = backbone.provenance
    known = provenance.get("subject") or {}
    width = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS / 64
    arch = provenance.get("arch") or f"resnet{cfg.MODEL.RESNETS.DEPTH}" + (f"x{width:g}" if width != 1 else "")
    return Subject(
        method=known.get("method") or backbone.path.stem,
        arch=arch,
        epochs=known.get("epochs"),
        checkpoint=known.get("checkpoint") or provenance.get("source") or str(backbone.path),
        checkpoint_sha256=known.get("checkpoint_sha256") or provenance.get("sha256") or backbone.sha256,
    )
