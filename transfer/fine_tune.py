"""From settings to a record: one fine-tuning trial, or several with their mean."""

import functools
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
import yaml

from runs.distributed import all_gather_object, process_group, rank, set_precision, worker_count
from runs.files import SCRATCH, TRIAL, atomic_write, sha256
from runs.folder import RECORD, Run, claimed_run
from runs.record import Record, Subject
from runs.seeds import seed_everything
from runs.tensor_files import save_torch_file
from transfer.backbone_file import BackboneFile, read_backbone
from transfer.detectron2_config import build_cfg, recipe_files_fingerprint, set_classes_and_mask_format
from transfer.draw_detections import draw_overview_and_best_worst_sheets
from transfer.evaluate_detector import FILES
from transfer.learning_rate_search import grid_search_learning_rate, with_rate_and_warmup
from transfer.loader import build_data_loaders
from transfer.model import build_detector, load_and_prove_equal
from transfer.read_splits import Split, read_train_and_test
from transfer.settings import SearchConfig, TransferConfig
from transfer.subsets import take_subsets
from transfer.trainer import CHECKPOINT, Trainer

MODEL = "model_final.pth"
# They change how fast a run goes, or how it is shown, and not what it computes; of `data.root` the content is compared.
MAY_DIFFER = ("data.root", "data.workers", "threads", "device", "save_seconds", "pictures")


def run_trials(config: TransferConfig) -> dict[str, float]:
    """One trial, or a search and trials with consecutive seeds, each in a folder below `output`.

    A run of the same settings that was interrupted is continued, and one that is done is not made again. Returned are
    the metrics in percent, means over the trials.
    """
    with process_group(config.device) as device:
        set_precision(config.precision, device, config.threads, one_shape=False)
        return _run(config, device, read_backbone(config.weights)).metrics


def _run(
    config: TransferConfig, device: torch.device, backbone: BackboneFile | None,
    splits: tuple[Split, Split] | None = None,
) -> Record:  # fmt: skip
    """Run what the settings ask for, on the splits where they have been read."""
    cfg = build_cfg(config, backbone, device.type)
    splits = splits or read_train_and_test(config.data, cfg)
    train, test = take_subsets(config.data, *splits)
    set_classes_and_mask_format(cfg, train)
    cfg.freeze()
    # The weights are what is in their file, and so are the images and the recipe.
    settings = asdict(config) | {"weights_sha256": backbone.sha256 if backbone else None}
    bound = {
        "train": train.dataset_record.fingerprint, "test": test.dataset_record.fingerprint,
        "recipe": recipe_files_fingerprint(config),
    }  # fmt: skip
    with claimed_run("transfer", cfg.OUTPUT_DIR, settings, MAY_DIFFER, bound) as claimed:
        if claimed.done:
            return claimed.done
        if config.trials > 1 or config.search.enabled:
            run_one = functools.partial(_run, device=device, backbone=backbone, splits=splits)
            record = _trials(config, claimed, cfg.SOLVER.MAX_ITER, run_one)
        else:
            record = _fine_tune(config, cfg, backbone, train, test, claimed)
        return all_gather_object(record)[0]


def _fine_tune(
    config: TransferConfig, cfg: Any, backbone: BackboneFile | None, train: Split, test: Split, claimed: Run,
) -> Record | None:  # fmt: skip
    """Train, test and record; returns the record on process 0."""
    seed_everything(config.seed)
    detector = build_detector(cfg, config.channels_last)
    proof = load_and_prove_equal(detector, backbone) if backbone else None
    loaders = build_data_loaders(cfg, train, test, worker_count(config.data.workers, most=8))
    trainer = Trainer(cfg, config, detector, loaders, test, claimed)
    if rank() == 0:
        with atomic_write(claimed.path / "detectron2.yaml", "w") as file:
            file.write(cfg.dump())
    found = trainer.train_and_evaluate()
    if found is None:
        return None
    evaluation, detections = found
    save_torch_file(claimed.path / MODEL, {"model": detector.state_dict()})
    details = {
        "weights": proof, "recipe": yaml.safe_load(cfg.dump()),
        "train": asdict(train.dataset_record) | {"used": len(loaders.train_sampler.wide)},
        "iterations": cfg.SOLVER.MAX_ITER, "training_seconds": round(trainer.seconds, 3),
        "per_class": evaluation.per_class, "files": {name: sha256(claimed.path / name) for name in FILES},
    }  # fmt: skip
    if evaluation.curves:
        details["curves"] = evaluation.curves
    subject = backbone.subject if backbone else Subject(method=SCRATCH, arch=config.arch)
    record = claimed.finish(subject, test.dataset_record, evaluation.metrics, details=details)
    (claimed.path / CHECKPOINT).unlink(missing_ok=True)
    if config.pictures:
        draw_overview_and_best_worst_sheets(claimed.path, test, detections, evaluation.matches["bbox"], config.pictures)
    metrics = "  ".join(f"{name} {value:.2f}" for name, value in evaluation.metrics.items())
    print(f"{metrics}  ->  {claimed.path / RECORD}")
    return record


def _trials(
    config: TransferConfig, claimed: Run, max_iter: int, run_one: Callable[[TransferConfig], Record]
) -> Record | None:
    """The search and the trials, each by `run_one`; returns the record of them together on process 0."""
    single, search = replace(config, trials=1, search=SearchConfig()), None
    if config.search.enabled:
        search = grid_search_learning_rate(config.search, single, claimed.path, max_iter, run_one)
        single = with_rate_and_warmup(single, search["chosen"], max_iter)
    records = []
    for number in range(config.trials):
        output = str(claimed.path / f"{TRIAL}{number}")
        records.append(run_one(replace(single, seed=config.seed + number, output=output)))
    if rank():
        return None
    values = {name: [record.metrics[name] for record in records] for name in records[0].metrics}
    metrics = {name: statistics.fmean(v) for name, v in values.items()}
    std = {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in values.items()}
    first = records[0]
    details: dict[str, Any] = {
        "trials": [{"seed": r.seed, "metrics": r.metrics, "seconds": r.seconds} for r in records],
        "std": std, "search": search,
        **{key: first.details[key] for key in ("weights", "recipe", "train", "iterations")},
    }  # fmt: skip
    record = claimed.finish(first.subject, first.dataset, metrics, details=details)
    print("  ".join(f"{n} {v:.2f} ± {std[n]:.2f}" for n, v in metrics.items()) + f"  ->  {claimed.path / RECORD}")
    return record
