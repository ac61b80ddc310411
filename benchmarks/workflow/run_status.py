"""What each run of a plan is doing, and how its attempts ended."""

import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workflow.run_graph import RunGraph
from runs.errors import UserError, from_os_error
from runs.folder import LOG
from runs.typed import build

# A line an attempt: the run, when it began (seconds since 1970), how many seconds it took, its exit status.
ATTEMPTS = "runs.jsonl"


@dataclass(frozen=True)
class Attempt:
    """One start of a run's command that has ended."""

    run: str
    started: float
    seconds: float
    status: int

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ValueError("seconds must be at least 0")


@dataclass
class Status:
    """The runs of a plan by what they do: `running` says when each began, `failed` its exit status."""

    done: list[str] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def status_of(plan: RunGraph, running: dict[str, float] | None = None, failed: dict[str, int] | None = None) -> Status:
    """Sort the runs; `running`: with their start, `failed`: with their exit status, by the last attempts if None."""
    if failed is None:
        failed = {run: attempt.status for run, attempt in last_attempts(plan).items()}
    status = Status(running=running or {})
    status.done = [run for run in plan.runs if run not in status.running and plan.target(run).exists()]
    begun = {*status.done, *status.running}
    # A run that ended well has its result; without it, it has failed whatever its status says.
    status.failed = {run: failed[run] for run in plan.runs if run in failed and run not in begun}
    for run in plan.runs:
        if run not in begun and run not in status.failed:
            lost = not status.failed.keys().isdisjoint(plan.with_needs(run))
            (status.blocked if lost else status.waiting).append(run)
    return status


def note_attempt(plan: RunGraph, run: str, started: float, status: int) -> None:
    """Append an attempt that has just ended; the clock may have been set back meanwhile."""
    line = json.dumps(vars(Attempt(run, started, max(0.0, time.time() - started), status)))
    try:
        with open(Path(plan.output) / ATTEMPTS, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise from_os_error(error) from error


def last_attempts(plan: RunGraph) -> dict[str, Attempt]:
    """The last attempt at every run of the plan that there was; a damaged line is passed over."""
    path, found = Path(plan.output) / ATTEMPTS, {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, UserError):
            attempt = build(Attempt, json.loads(line), str(path))
            if attempt.run in plan.runs:
                found[attempt.run] = attempt
    return found


def last_lines(plan: RunGraph, run: str, count: int = 8) -> list[str]:
    """The end of a run's log, for a person who wants to know why it failed.

    Of several processes the one that failed says why in a line of its own, and torchrun a page about it behind that.
    """
    try:
        text = (plan.folder(run) / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # A progress bar rewrites its line with carriage returns: what counts is what stood there last.
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    begun = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=0)
    said = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=0)
    end = said + 1 if said > begun else len(lines)
    return [line for line in lines[:end] if line.strip()][-count:]


def failures(plan: RunGraph, status: Status) -> list[str]:
    """The failed runs with the end of their logs and the way to see more."""
    lines: list[str] = []
    called = plan.names()
    for run, code in status.failed.items():
        lines += [f"failed: {called[run]} (status {code}); its log: {plan.folder(run) / LOG}"]
        lines += [f"    {line}" for line in last_lines(plan, run)]
    return lines
