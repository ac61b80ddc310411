"""How long the runs of a plan take, and how long what is left of it still does."""

import contextlib
import heapq
import json
import statistics
import time
from dataclasses import dataclass

from benchmarks.workflow.run_graph import Run, RunGraph
from benchmarks.workflow.run_status import Status, last_attempts
from runs.errors import UserError
from runs.files import read_json
from runs.progress import PROGRESS
from runs.typed import build

# Where nothing is known about a kind of run, one minute: only the relation between runs matters then.
UNKNOWN = 60.0


def expected_durations(plan: RunGraph) -> tuple[dict[str, float], set[str]]:
    """Expected seconds of every run, and the runs whose like was measured.

    A run takes what its like took in this folder, else what the scale's file says, times how much longer than that the
    runs so far took.
    """
    found: dict[str, list[float]] = {}
    took, thought = 0.0, 0.0
    for run, attempt in last_attempts(plan).items():
        if attempt.status == 0:
            found.setdefault(_like(plan.runs[run]), []).append(attempt.seconds)
            took, thought = took + attempt.seconds, thought + assumed(plan, plan.runs[run])
    pace = took / thought if thought else 1.0
    means = {like: statistics.fmean(seconds) for like, seconds in found.items()}
    seconds = {run.id: means.get(_like(run), pace * assumed(plan, run)) for run in plan.runs.values()}
    return seconds, {run.id for run in plan.runs.values() if _like(run) in means}


def assumed(plan: RunGraph, run: Run) -> float:
    """What the scale's file says of a run; on more devices than it was measured on, in inverse proportion."""
    share = plan.seconds_devices / run.devices if plan.seconds_devices and run.devices else 1.0
    per_epoch = plan.seconds.get(f"{run.task}/epoch")
    if per_epoch is not None and "epochs" in run.settings:
        return share * per_epoch * float(run.settings["epochs"])
    return share * plan.seconds.get(run.task, UNKNOWN)


def left(plan: RunGraph, seconds: dict[str, float], status: Status, devices: int | None = None) -> float:
    """Seconds until everything is done, by playing the rest of the plan through; `seconds`: expected, of every run.

    With `devices` as many runs go on at a time as share these, instead of the plan's `jobs`.
    """
    capacity = max(plan.jobs, 1) if devices is None else devices
    width = {run.id: 1 if devices is None else run.devices for run in plan.runs.values()}
    waiting, running = set(status.waiting), {run: run_left(plan, run, seconds[run], began)
                                             for run, began in status.running.items()}  # fmt: skip
    priority = chains(plan, seconds)
    blocked = {r: sum(n in waiting or n in running for n in plan.runs[r].needs) for r in waiting}
    ready = [(-priority[r], r) for r in plan.runs if r in waiting and blocked[r] == 0]
    busy = [(end, run) for run, end in running.items()]
    heapq.heapify(ready)
    heapq.heapify(busy)
    now = 0.0
    while busy or ready:
        while ready and (not busy or sum(width[r] for _, r in busy) + width[ready[0][1]] <= capacity):
            run = heapq.heappop(ready)[1]
            heapq.heappush(busy, (now + seconds[run], run))
        now, over = heapq.heappop(busy)
        for other in waiting:
            if over in plan.runs[other].needs:
                blocked[other] -= 1
                if blocked[other] == 0:
                    heapq.heappush(ready, (-priority[other], other))
    return now


def chains(plan: RunGraph, seconds: dict[str, float]) -> dict[str, float]:
    """For every run the seconds from its start to the end of the longest chain of runs behind it."""
    longest: dict[str, float] = dict.fromkeys(plan.runs, 0.0)
    for name in reversed(plan.order()):
        longest[name] += seconds.get(name, 0.0)
        for other in plan.runs[name].needs:
            longest[other] = max(longest[other], longest[name])
    return longest


@dataclass(frozen=True)
class ProgressNote:
    """What a running command says of itself in `progress.json`, see `runs.progress`."""

    description: str = "starts"
    done: float = 0.0
    total: float = 0.0
    seconds_left: float | None = None
    time: float = 0.0


def progress_of(plan: RunGraph, run: str, started: float) -> ProgressNote:
    """What a running command has said since `started`; the defaults if nothing that can be read."""
    path = plan.folder(run) / PROGRESS
    with contextlib.suppress(UserError):
        said = build(ProgressNote, read_json(path), str(path))
        if said.time >= started:
            return said
    return ProgressNote()


def run_left(plan: RunGraph, run: str, expected: float, started: float) -> float:
    """Seconds that a running command still needs, from its own progress where that says more than the expectation."""
    own = progress_of(plan, run, started).seconds_left
    return max(expected - (time.time() - started), own or 0.0, 1.0)


def clock(seconds: float) -> str:
    """`95` -> `1:35`, `3700` -> `1:01:40`."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _like(run: Run) -> str:
    """Runs of one task whose settings differ in seed or weights only take the same time."""
    same = {k: v for k, v in run.settings.items() if k not in ("seed", "weights", "checkpoint", "file", "data.root")}
    return f"{run.task} {run.devices} {json.dumps(same, sort_keys=True)}"
