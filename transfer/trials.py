"""Several trials and a search around the single trial: mean, standard deviation, and a chosen learning rate."""

import copy
import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from runs.environment import command_line
from runs.folder import RECORD, RunFolder
from runs.record import Record, read_record, write_record
from transfer import trial
from transfer.settings import GRIDS, SearchConfig, TransferConfig
from transfer.training import Diverged
from transfer.weights import read_backbone

# What VISSL chose for its high rates (configs/.../voc0712/simclr_swav): a start at a third, over 1000 iterations.
WARMUP_ABOVE, WARMUP_ITERS, WARMUP_FACTOR = 0.05, 1000, 0.3333
# The share of a run that its warm-up may take, for runs much shorter than the 24000 iterations those were chosen for.
WARMUP_SHARE = 24


def run(config: TransferConfig) -> dict[str, float]:
    """One trial, or a search and trials with consecutive seeds, each in a folder below `output`.

    Returns:
        The metrics in percent, means over the trials.

    Raises:
        UserError: see `transfer.trial.run`.
    """
    if config.trials == 1 and not config.search.enabled:
        return trial.run(config)
    output = Path(config.output or trial.default_output(config))
    backbone = None if config.weights == "scratch" else read_backbone(config.weights)
    identity = trial.identity_of(config, backbone)
    folder = RunFolder(output, identity, "transfer", trial.FREE) if comm.is_main_process() else None
    comm.synchronize()
    if (output / RECORD).exists():
        if folder:
            print(f"{folder.record}: done already")
        return read_record(output).metrics
    started = time.perf_counter()
    base = copy.deepcopy(config)
    base.trials, base.search = 1, SearchConfig()
    search = None
    if config.search.enabled:
        search, base = _search(config, base, output)
    records = []
    for number in range(config.trials):
        one = copy.deepcopy(base)
        one.seed, one.output = config.seed + number, str(output / f"trial{number}")
        trial.run(one)
        comm.synchronize()
        records.append(read_record(one.output))
    metrics = {name: statistics.fmean(r.metrics[name] for r in records) for name in records[0].metrics}
    if folder is None:
        return metrics
    write_record(output, _summary(config, folder, records, metrics, search, time.perf_counter() - started))
    spread = _spread(records)
    print("  ".join(f"{n} {v:.2f} ± {spread[n]:.2f}" for n, v in metrics.items()) + f"  ->  {folder.record}")
    return metrics


def _search(config: TransferConfig, base: TransferConfig, output: Path) -> tuple[dict[str, Any], TransferConfig]:
    """Try every rate on the held-out part; returns (the whole grid and the choice, the settings with the choice)."""
    grid: list[dict[str, Any]] = []
    for rate in config.search.rates or GRIDS[config.task]:
        candidate = with_rate(base, rate)
        candidate.data.held_out = config.search.held_out
        candidate.output, candidate.pictures = str(output / f"search_lr{rate:g}"), 0
        entry: dict[str, Any] = {"rate": rate, "solver": dict(candidate.detectron2["SOLVER"])}
        try:
            trial.run(candidate)
            comm.synchronize()
            entry["metrics"] = read_record(candidate.output).metrics
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
    return result, with_rate(base, best["rate"])


def with_rate(config: TransferConfig, rate: float) -> TransferConfig:
    """The same settings with another learning rate, and the longer warm-up that high rates need."""
    other = copy.deepcopy(config)
    solver = other.detectron2.setdefault("SOLVER", {})
    solver["BASE_LR"] = rate
    if rate > WARMUP_ABOVE:
        from transfer.recipe import build_cfg

        # Asked of the resolved settings, whichever of recipe and command line gives the length.
        iterations = build_cfg(dataclasses.replace(other, weights="scratch"), None, "cpu").SOLVER.MAX_ITER
        solver["WARMUP_ITERS"] = min(WARMUP_ITERS, iterations // WARMUP_SHARE)
        solver["WARMUP_FACTOR"] = WARMUP_FACTOR
    return other


def _summary(
    config: TransferConfig, folder: RunFolder, records: list[Record], metrics: dict[str, float],
    search: dict[str, Any] | None, seconds: float,
) -> Record:  # fmt: skip
    trials = [{"seed": r.seed, "metrics": r.metrics, "seconds": r.seconds} for r in records]
    first = records[0]
    details: dict[str, Any] = {"trials": trials, "std": _spread(records), "search": search}
    details |= {key: first.details[key] for key in ("weights", "recipe", "train", "iterations")}
    return dataclasses.replace(
        first,
        metrics=metrics,
        seed=config.seed,
        config=folder.config,
        seconds=seconds,
        peak_memory_mb=max(r.peak_memory_mb for r in records),
        command=command_line(),
        details=details,
    )


def _spread(records: list[Record]) -> dict[str, float]:
    """Sample standard deviation of each metric over the trials; 0 for one trial."""
    values = {name: [r.metrics[name] for r in records] for name in records[0].metrics}
    return {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in values.items()}
