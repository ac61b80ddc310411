"""What more devices would change: time, cost, the critical path, and what limits it, by simulation."""

import dataclasses
from collections.abc import Sequence

from benchmarks.formatted_table import Cell, FormattedTable, Line
from benchmarks.tables.scale import Scale
from benchmarks.tables.table import Table
from benchmarks.workflow.expand_tables import LEAST, batch_of, expand
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.run_status import Status
from benchmarks.workflow.time_left import assumed_seconds, chain_seconds_by_run, clock, plan_seconds_left

NODE = 8
# ImageNet's training set: 1,281,167 JPEGs of 138 GB.
IMAGES, IMAGE_MB = 1_281_167, 0.108
# Batch norms of a ResNet-50: the stem's, three in each of 16 blocks, one in each of 4 shortcuts.
NORMS = 53


def device_scaling_table(tables: Sequence[Table], scale: Scale, device_counts: Sequence[int]) -> FormattedTable:
    """Play the plan through on several numbers of devices: a line a number, and below them what was assumed.

    Its columns: the time, hours of all devices, the longest chain, GB/s that the runs read, and what limits the time.
    """
    lines = []
    broken: dict[tuple[int, int], str] = {}
    for count in device_counts:
        size = dataclasses.replace(scale, gpus=min(count, NODE), nodes=-(-count // NODE))
        plan = expand(tables, size, "outputs/growth")
        seconds = {run.id: assumed_seconds(plan, run) for run in plan.runs.values()}
        total = plan_seconds_left(plan, seconds, Status(waiting=list(plan.runs)), count)
        chain = chain_seconds_by_run(plan, seconds)
        longest = max(plan.runs.values(), key=lambda run: chain[run.id])
        hours = sum(seconds[run.id] * run.devices for run in plan.runs.values()) / 3600
        held = longest.devices < count
        limit = f"{plan.name_by_run[longest.id]} on {longest.devices}" if chain[longest.id] > 0.8 * total else "devices"
        limit += ", for its batch" if held and limit != "devices" else ""
        # At the most: every device reads for a pre-training.
        rate = IMAGES * IMAGE_MB / 1000 / scale.seconds["pretrain/epoch"] if "pretrain/epoch" in scale.seconds else 0.0
        reads = rate * count / (scale.seconds_devices or 1)
        lines.append(Line(str(count), (
            Cell(clock(total), value=total), Cell(f"{hours:,.0f}", value=hours),
            Cell(clock(chain[longest.id]), value=chain[longest.id]), Cell(f"{reads:.2f}", value=reads), Cell(limit),
        )))  # fmt: skip
        # Once for a batch: at the first number of devices that is too many for it.
        broken = _too_small_batches(plan, size, count) | broken
    assumed = (
        f"times: {scale.seconds_source or 'the scale file'}",
        f"a run's time falls in proportion to its devices, up to its batch over {LEAST['pretrain']} images a device "
        "(detectors: 1); nothing is lost to the network, the loader or the start",
        f"runs share out the devices, the longest chain first; a node has {NODE}",
        f"reading: every device pre-trains, {IMAGE_MB * 1000:.0f} kB an image, no cache",
        f"why {LEAST['pretrain']}: batch norm over all devices (SimSiam, SimCLR, BYOL, SwAV) waits for the network "
        f"{4 * NORMS} times a step however few images it has ({NORMS} norms of a ResNet-50, two views, forward and "
        "backward); MoCo's and the supervised one sees its own device's images, too few below that",
        *broken.values(),
    )
    heads = (*(("", head) for head in ("time", "GPU-hours", "longest chain", "reads GB/s")), (" ", "limited by"))
    return FormattedTable(heads, tuple(lines), notes=tuple(f"assumed: {words}" for words in assumed), corner="devices")


def _too_small_batches(plan: Plan, scale: Scale, count: int) -> dict[tuple[int, int], str]:
    """Where the batch rule breaks, by batch and devices: what it would be on all of them, and what is done instead."""
    found: dict[tuple[int, int], dict[str, None]] = {}
    for run in plan.runs.values():
        batch = batch_of(scale, run.task, run.settings)
        if batch and run.devices < scale.nodes * scale.gpus:
            found.setdefault((batch, run.devices), {})[run.settings.get("method", run.task)] = None
    said = (
        f"a batch of {batch} ({', '.join(names)}) over {count} devices is {batch / count:.2g} images each, so such a "
        f"run takes {devices} of them, {batch // devices} each, and others run beside it"
        for (batch, devices), names in found.items()
    )
    return dict(zip(found, said, strict=True))
