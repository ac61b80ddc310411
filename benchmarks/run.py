"""`python -m benchmarks run`: Snakemake works the plan off while a display follows its files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.display import Display, failures
from benchmarks.engine import check, options
from benchmarks.plan import Plan
from benchmarks.status import Status, look
from runs.app import PARENT
from runs.children import child_environment
from runs.errors import UserError, from_os_error

ENGINE_LOG = "snakemake.log"


def work(plan: Plan, executor: str = "local", extra: list[str] | None = None) -> Status:
    """Do all runs of a plan that are not done; a failed one does not stop those that do not need it.

    Args:
        plan: the plan; its `plan.json` is written here.
        executor: `local` or a Snakemake executor plugin, e.g. `slurm`.
        extra: further options for Snakemake.

    Returns:
        The state at the end.

    Raises:
        UserError: the runs cannot get their devices, Snakemake could not start (its own words are quoted), or the disk
            refuses.
    """
    check(plan, executor, extra or [])
    plan_file = plan.write()
    before = look(plan)
    if len(before.done) == len(plan.runs):
        return before
    if before.done:
        print(f"{len(before.done)} of {len(plan.runs)} runs are done already", file=sys.stderr)
    log_path = Path(plan.output) / ENGINE_LOG
    command = [sys.executable, "-m", "benchmarks.engine", *options(plan, plan_file, executor, extra or [])]
    try:
        with open(log_path, "wb") as log:
            engine = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_environment(executor))
    except OSError as error:
        raise from_os_error(error) from error
    with Display(plan) as display:
        try:
            while engine.poll() is None:
                status = display.update()
                time.sleep(0.5)
        except KeyboardInterrupt:
            # Snakemake got the same signal from the terminal; were it sent to this process alone, it did not.
            engine.send_signal(signal.SIGINT)
            engine.wait()
            raise
        status = display.update()
    if engine.returncode != 0 and not status.failed:
        raise UserError(
            f"Snakemake ended with status {engine.returncode}: {_complaint(log_path)} (all of it: {log_path})"
        )
    for line in failures(plan, status):
        print(line, file=sys.stderr)
    return status


def _environment(executor: str) -> dict[str, str]:
    environment = child_environment() | {"PYTHONUNBUFFERED": "1"}
    environment.pop(PARENT, None)
    if executor == "local":
        # Everything below ends when this process does, even by SIGKILL. On a cluster the jobs live elsewhere.
        environment[PARENT] = str(os.getpid())
    return environment


def _complaint(log: Path) -> str:
    """The first error that Snakemake tells, with the line behind it, which says more."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if "rror" in line), len(lines) - 1)
    return " ".join(lines[first : first + 2]) or "no message"
