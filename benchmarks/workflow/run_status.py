"""What each run of a plan is doing, and how its attempts ended."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.workflow.plan import Plan
from runs.errors import UserError, from_os_error
from runs.files import read_json
from runs.progress import PROGRESS
from runs.settings import number
from runs.typed import build

# A line an attempt: the run, when it began (seconds since 1970), its exit status, how many seconds it took.
ATTEMPTS = "runs.jsonl"


@dataclass(frozen=True)
class Attempt:
    """One start of a run's command that has ended."""

    run: str
    started: float
    status: int
    seconds: float = number(least=0)


@dataclass(frozen=True)
class Running:
    """A run that goes on, and what it says of itself in `progress.json`, see `runs.progress`."""

    began: float = 0.0  # seconds since 1970, as `time`
    description: str = "starts"
    done: float = 0.0
    total: float = 0.0
    seconds_left: float | None = None
    time: float = 0.0


@dataclass
class Status:
    """The runs of a plan by what they do; of the failed ones their exit status."""

    done: list[str] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def status_of(plan: Plan, began: Mapping[str, float] | None = None, failed: Mapping[str, int] | None = None) -> Status:
    """Sort the runs.

    Args:
        plan: the plan.
        began: of those that run, since when.
        failed: the exit status of those that failed; by the last attempts if None.
    """
    if failed is None:
        failed = {run: attempt.status for run, attempt in last_attempts(plan).items()}
    status = Status(running={run: _read_progress(plan, run, start) for run, start in (began or {}).items()})
    status.done = [run for run in plan.runs if run not in status.running and plan.target(run).exists()]
    begun = {*status.done, *status.running}
    # A run that ended well has its result; without it, it has failed whatever its status says.
    status.failed = {run: failed[run] for run in plan.runs if run in failed and run not in begun}
    for run in plan.runs:
        if run not in begun and run not in status.failed:
            lost = not status.failed.keys().isdisjoint(plan.with_needs_by_run[run])
            (status.blocked if lost else status.waiting).append(run)
    return status


def append_attempt(plan: Plan, run: str, started: float, status: int) -> Attempt:
    """Note an attempt that has just ended; the clock may have been set back meanwhile."""
    attempt = Attempt(run, started, status, max(0.0, time.time() - started))
    try:
        with open(Path(plan.output) / ATTEMPTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(vars(attempt)) + "\n")
    except OSError as error:
        raise from_os_error(error) from error
    return attempt


def last_attempts(plan: Plan) -> dict[str, Attempt]:
    """The last attempt at every run of the plan that there was; a damaged line is passed over."""
    path, found = Path(plan.output) / ATTEMPTS, {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, UserError):
            attempt = build(Attempt, json.loads(line), str(path))
            if attempt.run in plan.runs:
                found[attempt.run] = attempt
    return found


def _read_progress(plan: Plan, run: str, began: float) -> Running:
    """What a run has said since it `began`; the defaults if nothing that can be read."""
    path = plan.folder(run) / PROGRESS
    with contextlib.suppress(UserError):
        said = build(Running, read_json(path), str(path))
        if said.time >= began:
            return replace(said, began=began)
    return Running(began)
