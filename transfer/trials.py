"""From settings to a record: one fine-tuning trial, several with their mean, and a search for the learning rate."""

import copy
import dataclasses
import functools
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import yaml

from runs.distributed import all_gather_object, process_group, rank, set_precision
from runs.files import SCRATCH, TRIAL, atomic_write, sha256
from runs.folder import RECORD, Run, claim_run
from runs.record import Record, Subject
from runs.seeds import seed_everything
from transfer.detectron2_config import build_cfg
from transfer.draw_detections import draw_sheets
from transfer.inference import FILES
from transfer.model import build_detector
from transfer.settings import GRIDS, SearchConfig, TransferConfig
from transfer.splits import Split, prepare_splits, read_splits
from transfer.training import CHECKPOINT, Diverged, Trainer
from transfer.weights import BackboneFile, read_backbone

MODEL = "model_final.pth"
# They change how fast a run goes, or how it is shown, and not what it computes; of `data.root` the content is compared.
FREE = ("data.root", "data.workers", "threads", "device", "save_seconds", "pictures")
# What VISSL chose for its high rates (configs/.../voc0712/simclr_swav): a start at a third, over 1000 iterations.
WARMUP_ABOVE, WARMUP_ITERS, WARMUP_FACTOR = 0.05, 1000, 0.3333
# The share of a run that its warm-up may take, for runs much shorter than the 24000 iterations those were chosen for.
WARMUP_SHARE = 24


def run(config: TransferConfig) -> dict[str, float]:
    """One trial, or a search and trials with consecutive seeds, each in a folder below `output`.

    A run of the same settings that was interrupted is continued, and one that is done is not made again.

    Returns:
        The metrics in percent, means over the trials.

    Raises:
        UserError: whatever the user can put right; before training starts where it can be known then.
    """
    with process_group(config.device) as device:
        autocast = set_precision(config.precision, device, config.threads, one_shape=False)
        return _run(config, device, autocast, read_backbone(config.weights)).metrics


def _run(
    config: TransferConfig, device: torch.device, autocast: Callable[[], Any], backbone: BackboneFile | None,
    splits: tuple[Split, Split] | None = None,
) -> Record:  # fmt: skip
    cfg = build_cfg(config, backbone, device.type)
    splits = splits or read_splits(config.data, cfg)
    train, test = prepare_splits(config.data, cfg, splits)
    cfg.freeze()
    # The weights are what is in their file, and so are the images.
    settings = dataclasses.asdict(config) | {"weights_sha256": backbone.sha256 if backbone else None}
    images = {"train": train.fingerprint, "test": test.fingerprint}
    with claim_run("transfer", config.folder, settings, FREE, images) as claimed:
        if claimed.done:
            return claimed.done
        if config.trials > 1 or config.search.enabled:
            run_one = functools.partial(_run, device=device, autocast=autocast, backbone=backbone, splits=splits)
            record = _trials(config, claimed, cfg.SOLVER.MAX_ITER, run_one)
        else:
            record = _fine_tune(config, cfg, backbone, train, test, autocast, claimed)
        return all_gather_object(record)[0]


def _fine_tune(
    config: TransferConfig, cfg: Any, backbone: BackboneFile | None, train: Split, test: Split,
    autocast: Callable[[], Any], claimed: Run,
) -> Record | None:  # fmt: skip
    """Train, test and record; returns the record on process 0."""
    seed_everything(config.seed)
    detector, proof = build_detector(cfg, backbone, config.channels_last)
    trainer = Trainer(cfg, config, detector, train, test, autocast)
    if rank() == 0:
        with atomic_write(claimed.path / "detectron2.yaml", "w") as file:
            file.write(cfg.dump())
    trainer.train()
    found = trainer.evaluate()
    if found is None:
        return None
    evaluation, detections = found
    with atomic_write(claimed.path / MODEL) as file:
        torch.save({"model": detector.state_dict()}, file)
    details = {
        "weights": proof, "recipe": yaml.safe_load(cfg.dump()),
        "train": dataclasses.asdict(train.to_dataset()) | {"used": len(trainer.images)},
        "iterations": cfg.SOLVER.MAX_ITER, "training_seconds": round(trainer.seconds, 3),
        "per_class": evaluation.per_class, "files": {name: sha256(claimed.path / name) for name in FILES},
    }  # fmt: skip
    if evaluation.curves:
        details["curves"] = {name: _thinned(curve) for name, curve in evaluation.curves.items()}
    subject = backbone.subject if backbone else Subject(method=SCRATCH, arch=config.arch)
    record = claimed.finish(subject, test.to_dataset(), evaluation.metrics, details=details)
    (claimed.path / CHECKPOINT).unlink(missing_ok=True)
    if config.pictures:
        draw_sheets(claimed.path, test, detections, evaluation.matches["bbox"], config.pictures)
    metrics = "  ".join(f"{name} {value:.2f}" for name, value in evaluation.metrics.items())
    print(f"{metrics}  ->  {claimed.path / RECORD}")
    return record


def _thinned(curve: np.ndarray) -> Any:
    """At most 101 points of a curve (2, N)."""
    keep = np.unique(np.linspace(0, max(curve.shape[1] - 1, 0), 101).round().astype(int))[: curve.shape[1]]
    return np.nan_to_num(curve[:, keep]).round(4).tolist()


def _trials(
    config: TransferConfig, claimed: Run, iterations: int, run_one: Callable[[TransferConfig], Record]
) -> Record | None:
    """The search and the trials, each by `run_one`; returns the record of them together on process 0."""
    single, search = replace(config, trials=1, search=SearchConfig()), None
    if config.search.enabled:
        search, single = _search_rate(config, single, iterations, run_one)
    records = []
    for number in range(config.trials):
        output = str(config.folder / f"{TRIAL}{number}")
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


def _search_rate(
    config: TransferConfig, single: TransferConfig, iterations: int, run_one: Callable[[TransferConfig], Record]
) -> tuple[dict[str, Any], TransferConfig]:
    """Try every rate on the held-out part; returns (the whole grid and the choice, the settings with the choice)."""
    grid: list[dict[str, Any]] = []
    data = replace(single.data, held_out=config.search.held_out)
    for rate in config.search.rates or GRIDS[config.task]:
        output = str(config.folder / f"search_lr{rate:g}")
        candidate = replace(with_learning_rate(single, rate, iterations), data=data, output=output, pictures=0)
        entry: dict[str, Any] = {"rate": rate, "solver": dict(candidate.detectron2["SOLVER"])}
        try:
            entry["metrics"] = run_one(candidate).metrics
        except Diverged as error:
            entry |= {"metrics": None, "diverged": str(error)}
        grid.append(entry)
    finished = [entry for entry in grid if entry["metrics"]]
    if not finished:
        raise Diverged(f"every rate of {[e['rate'] for e in grid]} diverged; give lower search.rates")
    best = max(finished, key=lambda entry: entry["metrics"][config.search.metric])
    result = {
        "chosen": best["rate"], "metric": config.search.metric, "held_out": config.search.held_out,
        "seed": config.seed, "grid": grid,
    }  # fmt: skip
    return result, with_learning_rate(single, best["rate"], iterations)


def with_learning_rate(config: TransferConfig, rate: float, iterations: int) -> TransferConfig:
    """The settings of a run of so many iterations with another rate, and the longer warm-up that high ones need."""
    other = copy.deepcopy(config)
    solver = other.detectron2.setdefault("SOLVER", {})
    solver["BASE_LR"] = rate
    if rate > WARMUP_ABOVE:
        solver["WARMUP_ITERS"] = min(WARMUP_ITERS, iterations // WARMUP_SHARE)
        solver["WARMUP_FACTOR"] = WARMUP_FACTOR
    return other
