"""What runs now, how far it is, and how long is left: live on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmarks.workflow.estimate import clock, durations, left, progress_of, run_left
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.status import Status, last_lines

# Seconds between two plain lines that say the same of a run that goes on: a log should show life, not scroll away.
PLAIN_EVERY = 30.0


class Display:
    """Shows a plan's progress. Use as a context manager and call `update` a few times a second."""

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        self.plan = plan
        self.console = console or Console(file=sys.stderr)
        self.began = time.time()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._names = plan.names()
        self._seen: set[str] = set()
        self._spoken = 0.0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._live.stop()

    def update(self, status: Status) -> None:
        """Show what changed."""
        expected, _ = durations(self.plan)
        summary = self._summary(status, left(self.plan, expected, status))
        if self._live:
            self._live.update(self._picture(status, expected, summary), refresh=True)
        else:
            self._lines(status, expected, summary)

    def _picture(self, status: Status, expected: dict[str, float], summary: str) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="bold")
        grid.add_column(width=22)
        grid.add_column(justify="right")
        grid.add_column(style="dim")
        for run, began in status.running.items():
            said, need = progress_of(self.plan, run, began), run_left(self.plan, run, expected[run], began)
            elapsed = time.time() - began
            share = said["done"] / said["total"] if said.get("total") else elapsed / (elapsed + need)
            bar = ProgressBar(total=1.0, completed=share, width=22)
            what = Text(str(said.get("description", "starts")))
            grid.add_row(Text(self._names[run]), bar, f"{clock(need)} left", what)
        for run, code in status.failed.items():
            name, reason = Text(self._names[run], style="red"), Text(f"failed (status {code})", style="red")
            grid.add_row(name, reason, "", Text(self._end(run)))
        return Group(grid, Text(summary))

    def _lines(self, status: Status, expected: dict[str, float], summary: str) -> None:
        for run in status.done:
            # What was done before this start is told once, by the command itself.
            if f"begin {run}" in self._seen:
                self._say(f"done {run}", f"done: {self._names[run]}")
        for run in status.running:
            self._say(f"begin {run}", f"begins: {self._names[run]} (about {clock(expected[run])})")
        for run, code in status.failed.items():
            self._say(f"fail {run}", f"failed (status {code}): {self._names[run]}: {self._end(run)}")
        if time.time() - self._spoken > PLAIN_EVERY:
            self._spoken = time.time()
            self.console.print(summary, highlight=False, soft_wrap=True, markup=False)

    def _say(self, key: str, line: str) -> None:
        if key not in self._seen:
            self._seen.add(key)
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _summary(self, status: Status, remaining: float) -> str:
        parts = [f"{len(status.done)} of {len(self.plan.runs)} runs done", f"{clock(time.time() - self.began)} passed"]
        if status.running or status.waiting:
            parts.append(f"about {clock(remaining)} left")
        if status.failed:
            parts.append(f"{len(status.failed)} failed")
        if status.blocked:
            parts.append(f"{len(status.blocked)} cannot start for that")
        return " · ".join(parts)

    def _end(self, run: str) -> str:
        return "".join(last_lines(self.plan, run, 1))
