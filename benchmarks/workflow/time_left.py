"""How long the runs of a plan take, and how long what is left of it still does."""

import heapq
import statistics
import time
from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import NamedTuple

from benchmarks.workflow.plan import Plan, Run
from benchmarks.workflow.run_status import Attempt, Running, Status

# Where nothing is known about a kind of run, one minute: only the relation between runs matters then.
UNKNOWN = 60.0


class Expected(NamedTuple):
    """How long runs take, by their ids."""

    seconds: dict[str, float]  # of every run
    measured: set[str]  # the runs whose like has run in this folder


def expected_durations(plan: Plan, attempts: Mapping[str, Attempt]) -> Expected:
    """How long every run takes: as its like took, of the last `attempts`; else what the scale's file says.

    The latter is multiplied by how much longer than that the runs so far took.
    """
    found: dict[str, list[float]] = {}
    took, thought = 0.0, 0.0
    for run, attempt in attempts.items():
        if attempt.status == 0:
            found.setdefault(plan.runs[run].duration_key, []).append(attempt.seconds)
            took, thought = took + attempt.seconds, thought + assumed_seconds(plan, plan.runs[run])
    pace = took / thought if thought else 1.0
    means = {like: statistics.fmean(seconds) for like, seconds in found.items()}
    seconds = {run.id: means.get(run.duration_key, pace * assumed_seconds(plan, run)) for run in plan.runs.values()}
    return Expected(seconds, {run.id for run in plan.runs.values() if run.duration_key in means})


def assumed_seconds(plan: Plan, run: Run) -> float:
    """What the scale's file says of a run; on more devices than it was measured on, in inverse proportion."""
    share = plan.seconds_devices / run.devices if plan.seconds_devices and run.devices else 1.0
    per_epoch = plan.seconds.get(f"{run.task}/epoch")
    if per_epoch is not None and "epochs" in run.settings:
        return share * per_epoch * float(run.settings["epochs"])
    return share * plan.seconds.get(run.task, UNKNOWN)


def plan_seconds_left(plan: Plan, seconds: Mapping[str, float], status: Status, devices: int | None = None) -> float:
    """Seconds until everything is done, by playing the rest of the plan through; `seconds`: expected, of every run.

    With `devices` as many runs go on at a time as share these, instead of the plan's `jobs`.
    """
    capacity = max(plan.jobs, 1) if devices is None else devices
    width = {run.id: 1 if devices is None else run.devices for run in plan.runs.values()}
    unfinished = {*status.waiting, *status.running}
    waiting = {run: unfinished.intersection(plan.runs[run].needs) for run in status.waiting}
    graph = TopologicalSorter(waiting | {run: set[str]() for run in status.running})
    graph.prepare()
    priority = chain_seconds_by_run(plan, seconds)
    ready: list[tuple[float, str]] = []
    busy = [(run_seconds_left(running, seconds[run]), run) for run, running in status.running.items()]
    heapq.heapify(busy)
    now = 0.0
    while graph.is_active():
        for run in waiting.keys() & graph.get_ready():
            heapq.heappush(ready, (-priority[run], run))
        while ready and (not busy or sum(width[r] for _, r in busy) + width[ready[0][1]] <= capacity):
            run = heapq.heappop(ready)[1]
            heapq.heappush(busy, (now + seconds[run], run))
        now, over = heapq.heappop(busy)
        graph.done(over)
    return now


def chain_seconds_by_run(plan: Plan, seconds: Mapping[str, float]) -> dict[str, float]:
    """For every run the seconds from its start to the end of the longest chain of runs behind it."""
    longest: dict[str, float] = dict.fromkeys(plan.runs, 0.0)
    for name in reversed(plan.order):
        longest[name] += seconds.get(name, 0.0)
        for other in plan.runs[name].needs:
            longest[other] = max(longest[other], longest[name])
    return longest


def critical_path(plan: Plan, seconds: Mapping[str, float], waiting: set[str]) -> list[str]:
    """The longest chain of waiting runs that need each other, the first one first."""
    lengths = chain_seconds_by_run(plan, {r: seconds[r] for r in waiting})
    path: list[str] = []
    candidates = waiting
    while candidates:
        path.append(max(sorted(candidates), key=lambda r: lengths[r]))
        candidates = {r for r in waiting if path[-1] in plan.runs[r].needs}
    return path


def run_seconds_left(running: Running, expected: float) -> float:
    """Seconds that a run still needs, from its own progress where that says more than the expected seconds."""
    return max(expected - (time.time() - running.began), running.seconds_left or 0.0, 1.0)


def clock(seconds: float) -> str:
    """`95` -> `1:35`, `3700` -> `1:01:40`."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
