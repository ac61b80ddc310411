"""Works a plan off: every run once, in order, several at a time, here or as jobs of a SLURM cluster.

A run is done when its result exists, and nothing else is kept of it: killed at any moment, the same command continues.
"""

import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workflow.display import Display, failure_lines
from benchmarks.workflow.plan import KINDS, PLAN, Plan, Run, files_of_report
from benchmarks.workflow.run_status import Running, Status, append_attempt, last_attempts, status_of
from benchmarks.workflow.time_left import chain_seconds, expected_durations
from runs.app import PARENT
from runs.child_environment import child_environment
from runs.environment import command_output
from runs.errors import UserError, from_os_error
from runs.folder import LOG, wait_for_lock
from runs.signals import raise_signals

LOGS = {".log", ".out", ".err"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Seconds after which another node's file has to be visible here.
LATENCY = 60.0


@dataclass
class Started:
    """A run that goes on: its process here, its start, and the devices that it holds."""

    process: "subprocess.Popen[bytes]"
    began: float
    devices: list[str]


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


def visible_devices() -> list[str]:
    """The CUDA devices of this machine as CUDA_VISIBLE_DEVICES names them; none where nothing tells of them.

    Asked of the driver: this package does not import PyTorch.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return re.findall(r"^GPU (\d+):", command_output("nvidia-smi", "-L"), re.MULTILINE)


def devices_to_share(plan: Plan, executor: str, options: Sequence[str]) -> list[str]:
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
        if gpus and not options and not any(name.startswith("SBATCH_") for name in os.environ):
            raise UserError(
                "--executor slurm: say which resources a job gets; add -- --mem=64G --cpus-per-gpu=8 --time=2-0, as "
                "your cluster has them"
            )
        return []
    if options:
        raise UserError(f"-- {' '.join(options)}: options of sbatch; add --executor slurm, or leave them out")
    if nodes > 1:
        raise UserError(
            f"--nodes {nodes}: one machine starts here; add --executor slurm, or type what `plan --commands` prints "
            "on every node, with HEAD=<the first one's name>"
        )
    there = visible_devices() if gpus else []
    if there and len(there) < gpus:
        raise UserError(f"--gpus: a run takes {gpus} devices, this machine shows {len(there)}; add --gpus {len(there)}")
    return there


def start_run(plan: Plan, run: Run, executor: str, options: Sequence[str], devices: list[str]) -> Started:
    """Start a run's command, which writes into the log of its folder; a `UserError` if the system refuses."""
    folder = plan.folder(run.id)
    # The same interpreter as this one, whatever `python` and `torchrun` mean on the PATH.
    start = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    command = [*start[run.command[0]], *run.command[1:]]
    if executor == "slurm":
        command = sbatch_command(plan, run, command, options)
    environment = _environment(plan, executor, devices)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "ab") as log:
            log.write(f"$ {run.shell_command}\n".encode())
            log.flush()
            # In a session of its own: an interrupt at the terminal reaches it once, through `stop_runs`.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=environment,
            )  # fmt: skip
    except OSError as error:
        raise from_os_error(error) from error
    return Started(process, time.time(), devices)


def checked_exit_status(plan: Plan, run: str, over: Started, executor: str) -> int:
    """The exit status of a run that has ended; 1 also where it ended well without leaving its result."""
    status, target = over.process.returncode, plan.target(run)
    deadline = time.time() + (LATENCY if executor == "slurm" else 0.0)
    while status == 0 and not target.exists() and time.time() < deadline:
        time.sleep(1.0)
    if status == 0 and not target.exists():
        with open(plan.folder(run) / LOG, "a", encoding="utf-8") as log:
            log.write(f"ended with status 0 but without {target.name}\n")
        status = 1
    return status


def stop_runs(plan: Plan, started: dict[str, Started], executor: str) -> None:
    """End what still runs and wait for it: a training writes a checkpoint first."""
    for name, run in started.items():
        if executor == "slurm":
            subprocess.run(["scancel", "--name", job_name(plan, name)], check=False)
        else:
            run.process.terminate()
    for run in started.values():
        run.process.wait()


def _environment(plan: Plan, executor: str, devices: list[str]) -> dict[str, str]:
    kept = {k: v for k, v in child_environment().items() if k not in (*THREADS, PARENT)}
    kept |= {name: str(plan.threads) for name in THREADS if plan.threads} | {"PYTHONUNBUFFERED": "1"}
    # Without PyTorch's C++ stack for each store and socket that a killed process leaves behind.
    kept.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if executor == "local":
        # Everything below ends when this process does, even by SIGKILL. On a cluster the jobs live elsewhere.
        kept[PARENT] = str(os.getpid())
    return kept | ({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {})


def sbatch_command(plan: Plan, run: Run, command: Sequence[str], options: Sequence[str]) -> list[str]:
    """The submission of a run: it waits for the job's end and has the job's exit status.

    SLURM waits for a job of the same name, of a start that was killed (`singleton`), and finds it done.
    """
    script = shlex.join(command).replace("'--rdzv-endpoint=$HEAD", '"--rdzv-endpoint=$HEAD"\'')
    if run.nodes > 1:
        head = 'HEAD="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"; '
        script = f"{head}exec srun --ntasks={run.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 {script}"
    else:
        script = f"exec {script}"
    return [
        "sbatch", "--wait", "--quiet", f"--job-name={job_name(plan, run.id)}", "--dependency=singleton",
        f"--output={(plan.folder(run.id) / LOG).absolute()}", "--open-mode=append", f"--chdir={Path.cwd()}",
        f"--nodes={run.nodes}", "--ntasks-per-node=1",
        *([f"--gpus-per-node={run.gpus}"] if run.gpus else []), *options, f"--wrap={script}",
    ]  # fmt: skip


def job_name(plan: Plan, run: str) -> str:
    """A job's name: the same at every start of the same run in the same folder, and no other's."""
    place = hashlib.sha256(str(plan.folder(run).absolute()).encode()).hexdigest()[:8]
    return f"{run.replace('/', '-')}-{place}"
