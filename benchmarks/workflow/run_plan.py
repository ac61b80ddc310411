"""Works a plan off: every run once, in order, several at a time, here or on a SLURM cluster.

A run is done when its result exists, and nothing else is kept of it: killed at any moment, the same command continues.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.workflow.display import Display, failure_lines
from benchmarks.workflow.executors import Started, checked_exit_status, devices_to_share, start_run, stop_runs
from benchmarks.workflow.plan import KINDS, PLAN, Plan, files_of_report
from benchmarks.workflow.run_status import Running, Status, append_attempt, last_attempts, status_of
from benchmarks.workflow.time_left import chain_seconds, expected_durations
from runs.errors import UserError
from runs.folder import wait_for_lock
from runs.signals import raise_signals

LOGS = {".log", ".out", ".err"}


def run_plan(plan: Plan, executor: str = "local", options: Sequence[str] = (), retries: int = 0) -> Status:
    """Write a plan and do all its runs that are not done; a failed one does not stop those that do not need it.

    Args:
        plan: the plan.
        executor: `local` or `slurm`.
        options: further options of `sbatch`.
        retries: how often a failed run is started again.

    Raises:
        UserError: the runs cannot get their devices, the folder holds files of something else, or the disk refuses.
        Stopped: a signal, behind the end of what still ran.
    """
    output, devices = Path(plan.output), devices_to_share(plan, executor, options)
    if output.is_dir() and not (output / PLAN).exists():
        # Runs that were started by hand have left their folders, `report` its files, a scheduler its logs.
        known = {*KINDS, *files_of_report(output)}
        foreign = [p for p in output.iterdir() if p.name[0] != "." and p.name not in known and p.suffix not in LOGS]
        if foreign:
            raise UserError(
                f"--output {output}: holds files of something else ({foreign[0].name}); move them or choose another"
            )
    with wait_for_lock(output), raise_signals():
        status = _work_off(plan, executor, options, retries, devices)
    for line in failure_lines(plan, status):
        print(line, file=sys.stderr)
    return status


def _work_off(plan: Plan, executor: str, options: Sequence[str], retries: int, free: list[str]) -> Status:
    plan.write()
    attempts, display, shared = last_attempts(plan), Display(plan), bool(free)
    started: dict[str, Started] = {}
    failed: dict[str, int] = {}
    tries: Counter[str] = Counter()
    try:
        with display.live:
            while True:
                status = status_of(plan, {run: s.began for run, s in started.items()}, failed)
                # What has ended tells how fast this machine is.
                expected = expected_durations(plan, attempts).seconds
                chain, done = chain_seconds(plan, expected), set(status.done)
                ready = [run for run in status.waiting if done.issuperset(plan.runs[run].needs)]
                for name in sorted(ready, key=lambda run: -chain[run])[: plan.jobs - len(started)]:
                    run = plan.runs[name]
                    wanted = run.gpus if shared else 0
                    if wanted > len(free):
                        break
                    taken, free = free[:wanted], free[wanted:]
                    started[name] = start_run(plan, run, executor, options, taken)
                    status.running[name] = Running(started[name].began)
                    status.waiting.remove(name)
                display.update(status, expected)
                if not started:
                    return status
                time.sleep(0.2)
                for name in [run for run, s in started.items() if s.process.poll() is not None]:
                    over = started.pop(name)
                    free += over.devices
                    tries[name] += 1
                    code = checked_exit_status(plan, name, over, executor)
                    attempts[name] = append_attempt(plan, name, over.began, code)
                    if code and tries[name] > retries:
                        failed[name] = code
    finally:
        stop_runs(plan, started, executor)
