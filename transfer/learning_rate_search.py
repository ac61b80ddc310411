"""The search for the learning rate, on a part of the training split."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runs.record import Record
from transfer.settings import SearchConfig, TransferConfig
from transfer.trainer import Diverged

# The SimSiam paper searches "for each individual method" and publishes neither grid nor values. These span what is
# known: MoCo's 0.02 and the 0.1 that VISSL chose for SimCLR and SwAV on VOC
# (facebookresearch/vissl configs/.../voc0712/simclr_swav, cvpr21_scale/R50_VOC0712/sBNextraNorm_precBN.yaml).
GRIDS = {"voc07": (0.02, 0.05, 0.1, 0.15), "voc0712": (0.02, 0.05, 0.1, 0.15), "coco": (0.02, 0.04, 0.1)}
# What VISSL chose for its high rates (configs/.../voc0712/simclr_swav): a start at a third, over 1000 iterations.
WARMUP_ABOVE, WARMUP_ITERS, WARMUP_FACTOR = 0.05, 1000, 0.3333
# The share of a run that its warm-up may take, for runs much shorter than the 24000 iterations those were chosen for.
WARMUP_SHARE = 24


def grid_search_learning_rate(
    search: SearchConfig, config: TransferConfig, folder: Path, max_iter: int,
    run_one: Callable[[TransferConfig], Record],
) -> dict[str, Any]:  # fmt: skip
    """Try every rate, in a folder of its own, on the held-out part of the training images.

    `config` is that of one trial, and `max_iter` how many iterations it has.

    Returns:
        The whole grid and the `chosen` rate, for the record.

    Raises:
        Diverged: with every rate.
    """
    grid: list[dict[str, Any]] = []
    data = replace(config.data, held_out=search.held_out)
    for rate in search.rates or GRIDS[config.task]:
        output = str(folder / f"search_lr{rate:g}")
        candidate = replace(with_rate_and_warmup(config, rate, max_iter), data=data, output=output, pictures=0)
        entry: dict[str, Any] = {"rate": rate, "solver": dict(candidate.detectron2["SOLVER"])}
        try:
            entry["metrics"] = run_one(candidate).metrics
        except Diverged as error:
            entry |= {"metrics": None, "diverged": str(error)}
        grid.append(entry)
    finished = [entry for entry in grid if entry["metrics"]]
    if not finished:
        raise Diverged(f"every rate of {[e['rate'] for e in grid]} diverged; give lower search.rates")
    best = max(finished, key=lambda entry: entry["metrics"][search.metric])
    return {
        "chosen": best["rate"], "metric": search.metric, "held_out": search.held_out, "seed": config.seed, "grid": grid,
    }  # fmt: skip


def with_rate_and_warmup(config: TransferConfig, rate: float, max_iter: int) -> TransferConfig:
    """The settings of a run of `max_iter` iterations with another rate, and the longer warm-up that high ones need."""
    other = copy.deepcopy(config)
    solver = other.detectron2.setdefault("SOLVER", {})
    solver["BASE_LR"] = rate
    if rate > WARMUP_ABOVE:
        solver["WARMUP_ITERS"] = min(WARMUP_ITERS, max_iter // WARMUP_SHARE)
        solver["WARMUP_FACTOR"] = WARMUP_FACTOR
    return other
