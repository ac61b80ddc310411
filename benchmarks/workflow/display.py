"""What runs now, how far it is, and how long is left: a line for each run that begins or ends, and the state."""

import sys
import time

from rich.console import Console
from rich.markup import escape

from benchmarks.workflow.run_graph import RunGraph
from benchmarks.workflow.run_status import Status, last_lines
from benchmarks.workflow.time_left import clock, left, progress_of, run_left

# Seconds between two lines of a log that sum up: it should show life, not scroll away.
SUMMARY_EVERY = 30.0


class Display:
    """Shows a plan's progress inside `with display.live`. Call `update` a few times a second."""

    def __init__(self, plan: RunGraph) -> None:
        self.plan, self.began = plan, time.time()
        self._names, self._shown, self._summary_at = plan.names(), set[str](), 0.0
        self._console = Console(file=sys.stderr)
        # Below the lines, where there is a terminal.
        self.live = self._console.status("")

    def update(self, status: Status, expected: dict[str, float]) -> None:
        """Show what changed; `expected`: seconds of every run."""
        summary = self._summary(status, expected)
        rows = [self._row(run, began, expected[run]) for run, began in status.running.items()]
        for run in self._shown - status.running.keys():
            self._shown.remove(run)
            if run in status.done:
                self._print(f"done: {self._names[run]}")
            elif run in status.failed:
                reason = "".join(last_lines(self.plan, run, 1))
                self._print(f"failed (status {status.failed[run]}): {self._names[run]}: {reason}")
        for run in status.running.keys() - self._shown:
            self._print(f"begins: {self._names[run]} (about {clock(expected[run])})")
            self._shown.add(run)
        self.live.update(escape("\n".join([summary, *rows])))
        if not self._console.is_terminal and time.time() - self._summary_at > SUMMARY_EVERY:
            self._summary_at = time.time()
            self._print(summary)

    def _row(self, run: str, began: float, expected: float) -> str:
        said, need = progress_of(self.plan, run, began), run_left(self.plan, run, expected, began)
        elapsed = time.time() - began
        share = said.done / said.total if said.total else elapsed / (elapsed + need)
        return f"  {share:4.0%}  {clock(need):>7} left  {self._names[run]}: {said.description}"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _summary(self, status: Status, expected: dict[str, float]) -> str:
        parts = [f"{len(status.done)} of {len(self.plan.runs)} runs done", f"{clock(time.time() - self.began)} passed"]
        if status.running or status.waiting:
            parts.append(f"about {clock(left(self.plan, expected, status))} left")
        if status.failed:
            parts.append(f"{len(status.failed)} failed")
        if status.blocked:
            parts.append(f"{len(status.blocked)} cannot start because of them")
        return " · ".join(parts)
