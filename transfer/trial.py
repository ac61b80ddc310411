"""One fine-tuning trial from its settings to its record."""

import dataclasses
from typing import Any

import torch
import yaml
from detectron2.modeling import build_model
from detectron2.utils import comm

from runs.distributed import choose_device, rank, set_precision, worker_count
from runs.files import atomic_write
from runs.folder import RECORD, Run, claim_run
from runs.record import Subject
from runs.seeds import seed_everything
from transfer.batch_norm import synchronize_in_float32
from transfer.datasets import open_splits
from transfer.draw_detections import draw_sheets
from transfer.inference import Evaluation, evaluate
from transfer.loading import train_images
from transfer.recipe import build_cfg
from transfer.settings import TransferConfig
from transfer.training import Trainer
from transfer.weights import BackboneFile, load_backbone, read_backbone

MODEL = "model_final.pth"
# They change how fast a run goes, or how it is shown, and not what it computes.
FREE = ("data.workers", "device", "save_seconds", "pictures")


def run(config: TransferConfig) -> dict[str, float]:
    """Fine-tune, measure and record, or continue an interrupted run of the same settings.

    Returns:
        The metrics in percent; empty on all processes but the first.

    Raises:
        UserError: whatever the user can put right; before training starts where it can be known then.
    """
    backbone = read_backbone(config.weights)
    device = choose_device(config.device)
    cfg = build_cfg(config, backbone, device.type)
    with claim_run("transfer", config.folder, settings_of(config, backbone), FREE) as claimed:
        return claimed.done.metrics if claimed.done else _run(config, backbone, cfg, device, claimed)


def settings_of(config: TransferConfig, backbone: BackboneFile | None) -> dict[str, Any]:
    """All that makes a run this run: the settings, and the weights by what is in their file."""
    return dataclasses.asdict(config) | {"weights_sha256": backbone.sha256 if backbone else None}


def _run(
    config: TransferConfig, backbone: BackboneFile | None, cfg: Any, device: torch.device, claimed: Run
) -> dict[str, float]:
    autocast = set_precision(config.precision, device, one_shape=False)
    workers = worker_count(config.data.workers, most=8)
    train, test = open_splits(config.data, cfg)
    images = train_images(cfg, train)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(train.classes)
    cfg.OUTPUT_DIR = str(claimed.path)
    cfg.freeze()
    if rank() == 0:
        with atomic_write(claimed.path / "detectron2.yaml", "w") as file:
            file.write(cfg.dump())

    seed_everything(config.seed)
    detector = build_model(cfg)
    proof = load_backbone(detector, backbone) if backbone else None
    synchronize_in_float32(detector)
    if config.channels_last:
        detector.to(memory_format=torch.channels_last)
    # Drawn here, from the generator seeded above, as Detectron2's trainer draws them for its two samplers.
    seeds = comm.shared_random_seed(), comm.shared_random_seed()
    trainer = Trainer(
        cfg, detector, images, seeds, workers=workers, autocast=autocast,
        log_every=config.log_every, save_seconds=config.save_seconds,
    )  # fmt: skip

    def measure() -> Evaluation | None:
        # Without autocast, as Detectron2's own mixed precision: scores of 8 bits would be full of ties.
        return evaluate(cfg, detector, test, workers)

    trainer.train(measure)
    trainer.precise_bn()
    found = measure()
    if found is None:
        return {}
    with atomic_write(claimed.path / MODEL) as file:
        torch.save({"model": detector.state_dict()}, file)
    details = {
        "weights": proof, "recipe": yaml.safe_load(cfg.dump()),
        "train": dataclasses.asdict(train.described()) | {"used": len(images)}, "iterations": cfg.SOLVER.MAX_ITER,
        "training_seconds": round(trainer.seconds, 3), **found.details,
    }  # fmt: skip
    subject = backbone.subject() if backbone else Subject(method="scratch", arch=config.arch)
    claimed.finish(subject, test.described(), found.metrics, details=details)
    trainer.clean()
    if config.pictures:
        draw_sheets(claimed.path, test, found, config.pictures)
    print("  ".join(f"{name} {value:.2f}" for name, value in found.metrics.items()) + f"  ->  {claimed.path / RECORD}")
    return found.metrics
