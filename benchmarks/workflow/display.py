"""What runs now, how far it is, and how long is left: a line for each run that begins or ends, and the state."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from benchmarks.workflow.plan import Plan
from benchmarks.workflow.run_status import Status
from benchmarks.workflow.time_left import clock, run_seconds_left
from runs.folder import LOG

# Seconds between two lines of a log that sum up: it should show life, not scroll away.
SUMMARY_EVERY = 30.0


class Display:
    """Shows a plan's progress inside `with display.live`. Call `update` a few times a second."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.began = plan, time.time()
        self._shown, self._summary_at = set[str](), 0.0
        self._console = Console(file=sys.stderr)
        # Below the lines, where there is a terminal.
        self.live = self._console.status("")

    def update(self, status: Status, expected_seconds: Mapping[str, float], seconds_left: float) -> None:
        """Show what changed; `expected_seconds`: of every run from begin to end; `seconds_left`: until all is done."""
        left = {run: run_seconds_left(running, expected_seconds[run]) for run, running in status.running.items()}
        summary = self._summary(status, seconds_left)
        names = self.plan.name_by_run
        for run in self._shown - status.running.keys():
            self._shown.remove(run)
            if run in status.done:
                self._print(f"done: {names[run]}")
            elif run in status.failed:
                reason = "".join(last_log_lines(self.plan, run, 1))
                self._print(f"failed (status {status.failed[run]}): {names[run]}: {reason}")
        for run in status.running.keys() - self._shown:
            self._print(f"begins: {names[run]} (about {clock(expected_seconds[run])})")
            self._shown.add(run)
        rows = []
        for run, running in status.running.items():
            elapsed = time.time() - running.began
            share = running.done / running.total if running.total else elapsed / (elapsed + left[run])
            rows.append(f"  {share:4.0%}  {clock(left[run]):>7} left  {names[run]}: {running.description}")
        self.live.update(escape("\n".join([summary, *rows])))
        if not self._console.is_terminal and time.time() - self._summary_at > SUMMARY_EVERY:
            self._summary_at = time.time()
            self._print(summary)

    def print_failures(self, status: Status) -> None:
        """The failed runs with the end of their logs and the way to see more."""
        for run, code in status.failed.items():
            self._print(f"failed: {self.plan.name_by_run[run]} (status {code}); its log: {self.plan.folder(run) / LOG}")
            for line in last_log_lines(self.plan, run):
                self._print(f"    {line}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _summary(self, status: Status, left: float) -> str:
        parts = [f"{len(status.done)} of {len(self.plan.runs)} runs done", f"{clock(time.time() - self.began)} passed"]
        if status.running or status.waiting:
            parts.append(f"about {clock(left)} left")
        if status.failed:
            parts.append(f"{len(status.failed)} failed")
        if status.blocked:
            parts.append(f"{len(status.blocked)} cannot start because of them")
        return " · ".join(parts)


def last_log_lines(plan: Plan, run: str, count: int = 8) -> list[str]:
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
