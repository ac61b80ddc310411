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
from runs.record import Dataset, Record, Subject, read_record, write_record
from runs.seeds import seed_everything
from transfer.datasets import Split, load_splits
from transfer.distributed import check_split, choose_device, synchronise_in_full_precision
from transfer.draw_detections import best_and_worst, evenly, sheet
from transfer.inference import detect, measure
from transfer.loading import train_images
from transfer.matches import save_matches
from transfer.recipe import build_cfg
from transfer.settings import DataConfig, TransferConfig
from transfer.subset import balanced, hold_out
from transfer.training import CHECKPOINT, Trainer
from transfer.weights import BackboneFile, load_backbone, read_backbone

MODEL = "model_final.pth"
# They change how fast a run goes, or how it is shown, and not what it computes.
FREE = ("data.workers", "device", "save_seconds", "pictures")


def run(config: TransferConfig) -> dict[str, float]:
    """Fine-tune, measure and record, or continue an interrupted run of the same settings.

    Returns:
        The metrics in percent; empty on all processes but the first.

    Raises:
        UserError: whatever the user can mend; before training starts where it can be known then.
    """
    scratch = config.weights == "scratch"
    backbone = None if scratch else read_backbone(config.weights)
    device = choose_device(config.device)
    autocast = _precision(config.precision, device)
    cfg = build_cfg(config, backbone, device)
    check_split(cfg)
    output = Path(config.output or default_output(config))
    identity = identity_of(config, backbone)
    if (output / RECORD).exists():
        if comm.is_main_process():
            folder = RunFolder(output, identity, "transfer", FREE)
            print(f"{folder.record}: done already")
        return read_record(output).metrics
    train, test = _splits(config.data, cfg)
    images = train_images(cfg, train)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(train.classes)
    if _pixel_masks(images):
        # Detectron2 cuts polygons alone out of an image, unless all masks are made of pixels.
        cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    if comm.is_main_process():
        folder = RunFolder(output, identity, "transfer", FREE)
        with atomic_write(output / "detectron2.yaml", "w") as file:
            file.write(cfg.dump())
    comm.synchronize()

    started = time.perf_counter()
    seed_everything(config.seed)
    detector = build_model(cfg)
    proof = load_backbone(detector, backbone) if backbone else None
    synchronise_in_full_precision(detector)
    if config.channels_last:
        detector.to(memory_format=torch.channels_last)
    # Drawn here, from the generator seeded above, as Detectron2's trainer draws them for its two samplers.
    seeds = comm.shared_random_seed(), comm.shared_random_seed()
    results: dict[str, Any] = {}

    def evaluate() -> dict[str, float]:
        # Without autocast, as Detectron2's own mixed precision: scores of 8 bits would be full of ties.
        found = detect(cfg, detector, test, config.data.processes, output)
        if found is None:
            return {}
        measured = measure(test, found, cfg.MODEL.MASK_ON)
        files = {
            "detections.npz": found.save(output / "detections.npz"),
            "matches.npz": save_matches(
                output / "matches.npz", measured.matches, found.image_ids, test.classes, measured.metric
            ),
        }
        results.update(found=found, matches=measured.matches["bbox"], details=measured.details | {"files": files})
        return measured.metrics

    trainer = Trainer(
        cfg, detector, images, seeds, output, workers=config.data.processes, autocast=autocast,
        log_every=config.log_every, save_seconds=config.save_seconds, evaluate=evaluate,
    )  # fmt: skip
    trainer.train()
    trainer.precise_bn()
    metrics = evaluate()
    if not comm.is_main_process():
        return metrics
    with atomic_write(output / MODEL) as file:
        torch.save({"model": detector.state_dict()}, file)
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
    write_record(output, record)
    # The finished detector stays; what only a restart needs goes.
    for leftover in (output / CHECKPOINT, *output.glob(".*.partial")):
        leftover.unlink(missing_ok=True)
    if config.pictures:
        found = results["found"]
        sheet(output / "detections.png", test, found, evenly(test, config.pictures))
        sheet(output / "best_and_worst.png", test, found, best_and_worst(results["matches"], config.pictures))
    print("  ".join(f"{name} {value:.2f}" for name, value in metrics.items()) + f"  ->  {folder.record}")
    return metrics


def _splits(data: DataConfig, cfg: Any) -> tuple[Split, Split]:
    """Return (images to train on, images to report on)."""
    train = load_splits(data.root, cfg.DATASETS.TRAIN, data.classes, cfg.MODEL.MASK_ON)
    if data.held_out:
        images, held = hold_out(train.images, data.held_out, data.seed)
        test = dataclasses.replace(train, images=held, part=f"{data.held_out:g} held out, seed {data.seed}")
        train = dataclasses.replace(train, images=images, part=f"without {test.part}")
    else:
        test = load_splits(data.root, cfg.DATASETS.TEST, data.classes, cfg.MODEL.MASK_ON)
        if test.classes != train.classes:
            raise UserError(f"data.test={test.name}: other classes than {train.name}; use splits of one data set")
    if not test.countable:
        raise UserError(f"data.test={test.name}: no object counts; choose another share or split")
    if data.images:
        chosen = balanced(train.images, len(train.classes), data.images, data.seed)
        part = f"{data.images} images, seed {data.seed}"
        train = dataclasses.replace(train, images=chosen, part=f"{train.part}, {part}" if train.part else part)
    return train, test


def _pixel_masks(images: list[dict[str, Any]]) -> bool:
    """Whether an object that is no crowd has a run-length coded mask."""
    objects = (a for image in images for a in image["annotations"])
    return any(isinstance(a.get("segmentation"), dict) and not a["iscrowd"] for a in objects)


def identity_of(config: TransferConfig, backbone: BackboneFile | None) -> dict[str, Any]:
    """All that makes a run this run: the settings, and the weights by what is in their file."""
    return dataclasses.asdict(config) | {"weights_sha256": backbone.sha256 if backbone else None}


def _precision(name: str, device: str) -> Callable[[], Any]:
    """Set matrix precision and return the context for forward passes.

    NOTE: `fp32` turns TF32 off everywhere; PyTorch's default allows it in convolutions; the
    GPUs of the published runs had none.

    Raises:
        UserError: the device has no such precision.
    """
    if name == "tf32" and device == "cpu":
        raise UserError("precision=tf32: the CPU has none; use fp32 or bf16, or device=cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "fp32"
    if name == "bf16":
        return lambda: torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext


def default_output(config: TransferConfig) -> str:
    """The folder of a run that was given none."""
    start = f"scratch-{config.arch}" if config.weights == "scratch" else Path(config.weights).stem
    return os.path.join("outputs", "transfer", f"{config.task}_{start}_seed{config.seed}")


def _dataset(split: Split) -> dict[str, Any]:
    name = "VOC" if split.voc else "COCO"
    return {"name": name, "split": split.name, "size": len(split.images), "fingerprint": split.fingerprint()}


def _subject(config: TransferConfig, backbone: BackboneFile | None, cfg: Any) -> Subject:
    if backbone is None:
        return Subject(method="scratch", arch=config.arch)
    provenance = backbone.provenance
    known = provenance.get("subject")
    known = known if isinstance(known, dict) else {}
    width = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS / 64
    arch = provenance.get("arch") or f"resnet{cfg.MODEL.RESNETS.DEPTH}" + (f"x{width:g}" if width != 1 else "")
    return Subject(
        # Of a stranger's checkpoint the file's name is all that is known.
        method=known.get("method") or str(provenance.get("source") or backbone.path.name).split(".")[0],
        arch=arch,
        epochs=known.get("epochs"),
        checkpoint=known.get("checkpoint") or provenance.get("source") or str(backbone.path),
        checkpoint_sha256=known.get("checkpoint_sha256") or provenance.get("sha256") or backbone.sha256,
    )
