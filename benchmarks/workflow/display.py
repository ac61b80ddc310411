"""What runs now, how far it is, and how long is left: live on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmarks.workflow.estimate import clock, left, progress_of, run_left
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.status import Status, last_lines

# Seconds between two plain lines that say the same of a run that goes on: a log should show life, not scroll away.
PLAIN_EVERY = 30.0


class Display:
    """Shows a plan's progress. Call `update` a few times a second, and `close` at the end.

    Args:
        plan: the plan.
        expected: seconds of every run; the caller may change them.
    """

    def __init__(self, plan: Plan, expected: dict[str, float]) -> None:
        self.plan, self.expected = plan, expected
        self.console = Console(file=sys.stderr)
        self.began = time.time()
        self._names = plan.names()
        self._printed: set[str] = set()
        self._summary_at = 0.0
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        if self._live:
            self._live.start()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._live.stop()

    def update(self, status: Status) -> None:
        """Show what changed."""
        if self._live:
            self._live.update(Group(self._picture(status), Text(self._summary(status))), refresh=True)
            return
        for run in status.running.keys() - self._printed:
            self._print(f"begins: {self._names[run]} (about {clock(self.expected[run])})")
            self._printed.add(run)
        # What was done before this start is told once, by the command itself.
        for run in self._printed.intersection(status.done):
            self._print(f"done: {self._names[run]}")
        for run, code in status.failed.items():
            self._print(f"failed (status {code}): {self._names[run]}: {''.join(last_lines(self.plan, run, 1))}")
        if time.time() - self._summary_at > PLAIN_EVERY:
            self._summary_at = time.time()
            self._print(self._summary(status))

    def _print(self, line: str) -> None:
        if line not in self._printed:
            self._printed.add(line)
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _picture(self, status: Status) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="bold")
        grid.add_column(width=22)
        grid.add_column(justify="right")
        grid.add_column(style="dim")
        for run, began in status.running.items():
            said, need = progress_of(self.plan, run, began), run_left(self.plan, run, self.expected[run], began)
            elapsed = time.time() - began
            share = said["done"] / said["total"] if said.get("total") else elapsed / (elapsed + need)
            bar = ProgressBar(total=1.0, completed=share, width=22)
            grid.add_row(self._names[run], bar, f"{clock(need)} left", Text(str(said.get("description", "starts"))))
        for run, code in status.failed.items():
            reason = Text(f"failed (status {code})", style="red")
            grid.add_row(Text(self._names[run], style="red"), reason, "", Text("".join(last_lines(self.plan, run, 1))))
        return grid

    def _summary(self, status: Status) -> str:
        parts = [f"{len(status.done)} of {len(self.plan.runs)} runs done", f"{clock(time.time() - self.began)} passed"]
        if status.running or status.waiting:
            parts.append(f"about {clock(left(self.plan, self.expected, status))} left")
        if status.failed:
            parts.append(f"{len(status.failed)} failed")
        if status.blocked:
            parts.append(f"{len(status.blocked)} cannot start because of them")
        return " · ".join(parts)
