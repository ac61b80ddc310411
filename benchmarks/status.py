"""What each run of a plan is doing, read from its files only, so that it holds on any executor."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.estimate import progress_of, run_left
from benchmarks.job import state
from benchmarks.plan import Plan
from runs.folder import LOG


@dataclass
class Status:
    """The runs of a plan by what they do. `running` holds, for each, when it began and what it says of its progress."""

    done: list[str] = field(default_factory=list)
    running: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def seconds_left(self, expected: dict[str, float]) -> dict[str, float]:
        """For each running one the seconds it still needs."""
        return {run: run_left(expected[run], began, said) for run, (began, said) in self.running.items()}


def look(plan: Plan, since: float | None = None) -> Status:
    """Read the state of all runs.

    Args:
        plan: the plan.
        since: attempts before this time (seconds since 1970) do not count as running or failed: they belong to an
            earlier start that may have been killed. None counts all.
    """
    status = Status()
    for run in plan.runs.values():
        if plan.target(run).exists():
            status.done.append(run.id)
            continue
        note = state(plan, run.id)
        if not note or (since is not None and note["started"] < since):
            status.waiting.append(run.id)
        elif "ended" not in note:
            status.running[run.id] = (note["started"], progress_of(plan, run.id, note["started"]))
        else:
            # A run that ended well has its target; without it, it has failed whatever its status says.
            status.failed[run.id] = int(note["status"])
    unreachable = _behind(plan, set(status.failed))
    status.blocked = [r for r in status.waiting if r in unreachable]
    status.waiting = [r for r in status.waiting if r not in unreachable]
    return status


def _behind(plan: Plan, failed: set[str]) -> set[str]:
    """All runs that need one of `failed`, directly or not."""
    found: set[str] = set()
    fresh = failed
    while fresh:
        fresh = {r.id for r in plan.runs.values() if any(n in fresh for n in r.needs)} - found
        found |= fresh
    return found


def log_of(plan: Plan, run: str) -> Path:
    """A run's log."""
    return plan.folder(run) / LOG
