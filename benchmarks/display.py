"""What runs now, how far it is, and how long is left: live on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmarks.estimate import clock, durations, left
from benchmarks.job import last_lines
from benchmarks.plan import Plan, names
from benchmarks.status import Status, log_of, look

# Seconds between two plain lines that say the same of a run that goes on: a log should show life, not scroll away.
PLAIN_EVERY = 30.0


class Display:
    """Follows a plan while Snakemake works on it. Use as a context manager and call `update` a few times a second."""

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        self.plan = plan
        self.console = console or Console(file=sys.stderr)
        self.began = time.time()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._names = names(plan)
        self._seen: set[str] = set()
        self._spoken = 0.0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.update()
        if self._live:
            self._live.stop()

    def update(self) -> Status:
        """Read the runs' files and show what changed."""
        status = look(self.plan, self.began)
        expected = durations(self.plan)
        remaining = left(self.plan, expected, status.seconds_left(expected), set(status.waiting))
        if self._live:
            self._live.update(self._picture(status, expected, remaining), refresh=True)
        else:
            self._lines(status, expected, remaining)
        return status

    def _picture(self, status: Status, expected: dict[str, float], remaining: float) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="bold")
        grid.add_column(width=22)
        grid.add_column(justify="right")
        grid.add_column(style="dim")
        for run, (began, said) in status.running.items():
            need = status.seconds_left(expected)[run]
            elapsed = time.time() - began
            share = said["done"] / said["total"] if said.get("total") else elapsed / (elapsed + need)
            grid.add_row(
                self._names[run], ProgressBar(total=1.0, completed=share, width=22), f"{clock(need)} left",
                str(said.get("description", "starts")),
            )  # fmt: skip
        for run, code in status.failed.items():
            grid.add_row(
                Text(self._names[run], style="red"),
                Text(f"failed (status {code})", style="red"),
                "",
                _end(self.plan, run),
            )
        return Group(grid, Text(self._summary(status, remaining)))

    def _lines(self, status: Status, expected: dict[str, float], remaining: float) -> None:
        for run in status.done:
            # What was done before this start is told once, by the command itself.
            if f"begin {run}" in self._seen:
                self._say(f"done {run}", f"done: {self._names[run]}")
        for run in status.running:
            self._say(f"begin {run}", f"begins: {self._names[run]} (about {clock(expected[run])})")
        for run, code in status.failed.items():
            self._say(f"fail {run}", f"failed (status {code}): {self._names[run]}: {_end(self.plan, run)}")
        if time.time() - self._spoken > PLAIN_EVERY:
            self._spoken = time.time()
            self.console.print(self._summary(status, remaining), highlight=False, soft_wrap=True, markup=False)

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


def failures(plan: Plan, status: Status) -> list[str]:
    """The failed runs with the end of their logs and the way to see more."""
    lines: list[str] = []
    called = names(plan)
    for run, code in status.failed.items():
        lines += [f"failed: {called[run]} (status {code}); its log: {log_of(plan, run)}"]
        lines += [f"    {line}" for line in last_lines(plan, run)]
    return lines


def _end(plan: Plan, run: str) -> str:
    lines = last_lines(plan, run, 1)
    return lines[0] if lines else ""
