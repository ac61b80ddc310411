"""Does the runs of a plan: each one once, in order, several at a time, here or as jobs of a SLURM cluster.

A run is done when its result exists, and nothing else is kept of it: killed at any moment, the same command continues.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.workflow.display import Display
from benchmarks.workflow.plan import KINDS, PAGE, PLAN, TABLES, Plan, has_report
from benchmarks.workflow.run_process import RunProcess
from benchmarks.workflow.run_status import Running, Status, append_attempt, last_attempts, status_of
from benchmarks.workflow.time_left import chain_seconds_by_run, expected_durations, plan_seconds_left
from runs.environment import command_output
from runs.errors import UserError
from runs.folder import wait_for_folder_lock
from runs.signals import raise_signals

LOGS = {".log", ".out", ".err"}


def run_plan(plan: Plan, executor: str = "local", sbatch_options: Sequence[str] = (), retries: int = 0) -> Status:
    """Write a plan and do all its runs that are not done; a failed one does not stop those that do not need it.

    Args:
        plan: the plan.
        executor: `local` or `slurm`.
        sbatch_options: further options of `sbatch`.
        retries: how often a failed run is started again.

    Raises:
        UserError: the runs cannot get their devices, the folder holds files of something else, or the disk refuses.
        Stopped: a signal, behind the end of what still ran.
    """
    output, devices = Path(plan.output), devices_to_share(plan, executor, sbatch_options)
    if output.is_dir() and not (output / PLAN).exists():
        # Runs that were started by hand have left their folders, `report` its files, a scheduler its logs.
        known = {*KINDS, PAGE, *TABLES} if has_report(output) else {*KINDS}
        foreign = [p for p in output.iterdir() if p.name[0] != "." and p.name not in known and p.suffix not in LOGS]
        if foreign:
            raise UserError(
                f"--output {output}: holds files of something else ({foreign[0].name}); move them or choose another"
            )
    with wait_for_folder_lock(output), raise_signals():
        return _do_runs(plan, executor, sbatch_options, retries, devices)


def _do_runs(plan: Plan, executor: str, sbatch_options: Sequence[str], retries: int, free: list[str]) -> Status:
    plan.write()
    display, attempts, shared = Display(plan), last_attempts(plan), bool(free)
    started: dict[str, RunProcess] = {}
    failed: dict[str, int] = {}
    tries: Counter[str] = Counter()
    try:
        with display.live:
            while True:
                for name, process in [*started.items()]:
                    if (code := process.exit_status()) is None:
                        continue
                    del started[name]
                    free += process.devices
                    tries[name] += 1
                    attempts[name] = append_attempt(plan, name, process.began, code)
                    if code and tries[name] > retries:
                        failed[name] = code
                status = status_of(plan, {run: process.began for run, process in started.items()}, failed)
                # What has ended tells how fast this machine is.
                expected = expected_durations(plan, attempts).seconds
                chain, left = chain_seconds_by_run(plan, expected), plan_seconds_left(plan, expected, status)
                ready = [run for run in status.waiting if set(status.done).issuperset(plan.runs[run].needs)]
                for name in sorted(ready, key=lambda run: -chain[run])[: plan.jobs - len(started)]:
                    run = plan.runs[name]
                    wanted = run.gpus if shared else 0
                    if wanted > len(free):
                        break
                    taken, free = free[:wanted], free[wanted:]
                    started[name] = RunProcess(plan, run, executor, sbatch_options, taken)
                    status.running[name] = Running(started[name].began)
                    status.waiting.remove(name)
                display.update(status, expected, left)
                if not started:
                    break
                time.sleep(0.2)
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait()
    display.print_failures(status)
    return status


def visible_devices() -> list[str]:
    """The CUDA devices of this machine as CUDA_VISIBLE_DEVICES names them; none where nothing tells of them.

    Asked of the driver: this package does not import PyTorch.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return re.findall(r"^GPU (\d+):", command_output("nvidia-smi", "-L"), re.MULTILINE)


def devices_to_share(plan: Plan, executor: str, sbatch_options: Sequence[str]) -> list[str]:
    """Refuse what would be found out hours later.

    Returns:
        The devices that the runs share out among them; none where they need none, nothing tells of any, or a cluster
        hands them out.

    Raises:
        UserError: a run takes more devices than this machine has, or several machines; or runs with devices go to a
            cluster without a word on memory, cores and time.
    """
    gpus = max((run.gpus for run in plan.runs.values()), default=0)
    nodes = max((run.nodes for run in plan.runs.values()), default=1)
    if executor == "slurm":
        if gpus and not sbatch_options and not any(name.startswith("SBATCH_") for name in os.environ):
            raise UserError(
                "--executor slurm: say which resources a job gets; add -- --mem=64G --cpus-per-gpu=8 --time=2-0, as "
                "your cluster has them"
            )
        return []
    if sbatch_options:
        raise UserError(f"-- {' '.join(sbatch_options)}: options of sbatch; add --executor slurm, or leave them out")
    if nodes > 1:
        raise UserError(
            f"--nodes {nodes}: one machine starts here; add --executor slurm, or type what `plan --commands` prints "
            "on every node, with HEAD=<the first one's name>"
        )
    there = visible_devices() if gpus else []
    if there and len(there) < gpus:
        raise UserError(f"--gpus: a run takes {gpus} devices, this machine shows {len(there)}; add --gpus {len(there)}")
    return there
