"""Several trials and a search around the single trial: mean, standard deviation, and a chosen learning rate."""

import copy
import statistics
from dataclasses import replace
from typing import Any

from detectron2.utils import comm

from runs.distributed import rank
from runs.folder import RECORD, Run, claim_run
from runs.record import Record, read_record
from transfer import trial
from transfer.recipe import build_cfg
from transfer.settings import GRIDS, SCRATCH, SearchConfig, TransferConfig
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
    settings = trial.settings_of(config, read_backbone(config.weights))
    with claim_run("transfer", config.folder, settings, trial.FREE) as claimed:
        return claimed.done.metrics if claimed.done else _run(config, claimed)


def _run(config: TransferConfig, claimed: Run) -> dict[str, float]:
    single, search = replace(config, trials=1, search=SearchConfig()), None
    if config.search.enabled:
        search, single = _search(config, single, claimed)
    records = []
    for number in range(config.trials):
        one = replace(single, seed=config.seed + number, output=str(claimed.path / f"trial{number}"))
        records.append(_record_of(one))
    values = {name: [record.metrics[name] for record in records] for name in records[0].metrics}
    metrics = {name: statistics.fmean(v) for name, v in values.items()}
    if rank():
        return metrics
    std = {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in values.items()}
    first = records[0]
    details: dict[str, Any] = {
        "trials": [{"seed": r.seed, "metrics": r.metrics, "seconds": r.seconds} for r in records],
        "std": std, "search": search,
        **{key: first.details[key] for key in ("weights", "recipe", "train", "iterations")},
    }  # fmt: skip
    claimed.finish(first.subject, first.dataset, metrics, details=details)
    print("  ".join(f"{n} {v:.2f} ± {std[n]:.2f}" for n, v in metrics.items()) + f"  ->  {claimed.path / RECORD}")
    return metrics


def _record_of(config: TransferConfig) -> Record:
    trial.run(config)
    # The first process writes it.
    comm.synchronize()
    return read_record(config.folder)


def _search(config: TransferConfig, single: TransferConfig, claimed: Run) -> tuple[dict[str, Any], TransferConfig]:
    """Try every rate on the held-out part; returns (the whole grid and the choice, the settings with the choice)."""
    grid: list[dict[str, Any]] = []
    data = replace(single.data, held_out=config.search.held_out)
    for rate in config.search.rates or GRIDS[config.task]:
        output = str(claimed.path / f"search_lr{rate:g}")
        candidate = replace(with_rate(single, rate), data=data, output=output, pictures=0)
        entry: dict[str, Any] = {"rate": rate, "solver": dict(candidate.detectron2["SOLVER"])}
        try:
            entry["metrics"] = _record_of(candidate).metrics
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
    return result, with_rate(single, best["rate"])


def with_rate(config: TransferConfig, rate: float) -> TransferConfig:
    """The same settings with another learning rate, and the longer warm-up that high rates need."""
    other = copy.deepcopy(config)
    solver = other.detectron2.setdefault("SOLVER", {})
    solver["BASE_LR"] = rate
    if rate > WARMUP_ABOVE:
        # Asked of the resolved settings, whichever of recipe and command line gives the length.
        iterations = build_cfg(replace(other, weights=SCRATCH), None, "cpu").SOLVER.MAX_ITER
        solver["WARMUP_ITERS"] = min(WARMUP_ITERS, iterations // WARMUP_SHARE)
        solver["WARMUP_FACTOR"] = WARMUP_FACTOR
    return other
