"""How long runs take, and how long a plan still needs."""

import heapq
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.job import state
from benchmarks.plan import Plan, Run, chains, order
from runs.progress import PROGRESS

# Where nothing is known about a kind of run, one minute: only the relation between runs matters then.
UNKNOWN = 60.0


def durations(plan: Plan) -> dict[str, float]:
    """Expected seconds of every run: as measured on its like in this folder, else as the scale's file says."""
    known = measured(plan)
    return {run.id: known[_like(run)] if _like(run) in known else _assumed(plan, run) for run in plan.runs.values()}


def measured(plan: Plan) -> dict[str, float]:
    """Mean seconds of the finished runs of this folder, by what they have in common."""
    found: dict[str, list[float]] = {}
    for run in plan.runs.values():
        note = state(plan, run.id)
        if note.get("status") == 0 and "ended" in note:
            found.setdefault(_like(run), []).append(note["ended"] - note["started"])
    return {like: _mean(times) for like, times in found.items()}


def is_measured(plan: Plan) -> dict[str, bool]:
    """For every run whether its duration is a measured one."""
    known = measured(plan)
    return {run.id: _like(run) in known for run in plan.runs.values()}


def _assumed(plan: Plan, run: Run) -> float:
    per_epoch = plan.seconds.get(f"{run.task}/epoch")
    if per_epoch is not None and "epochs" in run.settings:
        return per_epoch * float(run.settings["epochs"])
    return plan.seconds.get(run.task, UNKNOWN)


def left(plan: Plan, seconds: dict[str, float], running: dict[str, float], waiting: set[str]) -> float:
    """Seconds until everything is done, by playing the rest of the plan through.

    Args:
        plan: the plan.
        seconds: expected duration of every run.
        running: runs that run now, with the seconds that each still needs.
        waiting: runs that have not begun.
    """
    priority = chains(plan.runs, seconds)
    ends = dict(running)
    blocked = {r: sum(n in waiting or n in running for n in plan.runs[r].needs) for r in waiting}
    ready = [(-priority[r], r) for r in order(plan.runs) if r in waiting and blocked[r] == 0]
    heapq.heapify(ready)
    busy = [(end, run) for run, end in ends.items()]
    heapq.heapify(busy)
    now = 0.0
    while busy or ready:
        while ready and len(busy) < max(plan.jobs, 1):
            run = heapq.heappop(ready)[1]
            heapq.heappush(busy, (now + seconds[run], run))
        now, over = heapq.heappop(busy)
        for other in waiting:
            if over in plan.runs[other].needs:
                blocked[other] -= 1
                if blocked[other] == 0:
                    heapq.heappush(ready, (-priority[other], other))
    return now


def progress_of(plan: Plan, run: str, started: float) -> dict[str, Any]:
    """What a running command says of itself in `progress.json`; empty if nothing since `started`."""
    try:
        body = json.loads((Path(plan.folder(run)) / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) and body.get("time", 0) >= started else {}


def run_left(expected: float, started: float, said: dict[str, Any]) -> float:
    """Seconds that a running command still needs, from its own progress where that says more than the expectation."""
    elapsed = time.time() - started
    own = said.get("seconds_left")
    return max(expected - elapsed, float(own) if own is not None else 0.0, 1.0)


def clock(seconds: float) -> str:
    """`95` -> `1:35`, `3700` -> `1:01:40`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _like(run: Run) -> str:
    """Runs of one task whose settings differ in seed or weights only take the same time."""
    same = {k: v for k, v in run.settings.items() if k not in ("seed", "weights", "checkpoint", "file", "data.root")}
    return f"{run.task} {json.dumps(same, sort_keys=True)}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
