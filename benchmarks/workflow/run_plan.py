"""Works a plan off: every run once, in order, several at a time, here or on a SLURM cluster.

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

from benchmarks.workflow.display import Display
from benchmarks.workflow.run_graph import KINDS, PLAN, Run, RunGraph
from benchmarks.workflow.run_status import Status, failures, note_attempt, status_of
from benchmarks.workflow.time_left import chains, expected_durations
from runs.app import PARENT
from runs.child_environment import child_environment
from runs.errors import UserError, from_os_error
from runs.folder import LOG, wait_for_lock
from runs.signals import raise_signals

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Seconds after which another node's file has to be visible here.
LATENCY = 60.0
LOGS = {".log", ".out", ".err"}


@dataclass
class Started:
    """A run that goes on: its process here, its start, and the devices that it holds."""

    process: "subprocess.Popen[bytes]"
    began: float
    devices: list[str]


def run_plan(plan: RunGraph, executor: str = "local", options: Sequence[str] = (), retries: int = 0) -> Status:
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
    devices, output = check_devices(plan, executor, options), Path(plan.output)
    if output.is_dir() and not (output / PLAN).exists():
        # Runs that were started by hand have left their folders, a scheduler its logs.
        foreign = [p for p in output.iterdir() if p.name[0] != "." and p.name not in KINDS and p.suffix not in LOGS]
        if foreign:
            raise UserError(
                f"--output {output}: holds files of something else ({foreign[0].name}); move them or choose another"
            )
    with wait_for_lock(output), raise_signals():
        plan.write()
        status = _loop(plan, executor, options, retries, devices)
    for line in failures(plan, status):
        print(line, file=sys.stderr)
    return status


def _loop(plan: RunGraph, executor: str, options: Sequence[str], retries: int, free: list[str]) -> Status:
    display, expected, known = Display(plan), expected_durations(plan)[0], bool(free)
    chain = chains(plan, expected)
    order = sorted(plan.runs, key=lambda run: -chain[run])
    started: dict[str, Started] = {}
    failed: dict[str, int] = {}
    tries: Counter[str] = Counter()
    try:
        with display.live:
            while True:
                status = status_of(plan, {run: s.began for run, s in started.items()}, failed)
                done = set(status.done)
                ready = [run for run in order if run in status.waiting and done.issuperset(plan.runs[run].needs)]
                for name in ready[: plan.jobs - len(started)]:
                    run = plan.runs[name]
                    wanted = run.gpus if known else 0
                    if wanted > len(free):
                        break
                    taken, free = free[:wanted], free[wanted:]
                    started[name] = _start(plan, run, executor, options, taken)
                    status.running[name] = started[name].began
                    status.waiting.remove(name)
                display.update(status, expected)
                if not started:
                    return status
                time.sleep(0.2)
                for name in [run for run, s in started.items() if s.process.poll() is not None]:
                    over = started.pop(name)
                    free += over.devices
                    tries[name] += 1
                    code = _result(plan, name, over, executor)
                    if code and tries[name] > retries:
                        failed[name] = code
                    # What has ended tells how fast this machine is.
                    expected = expected_durations(plan)[0]
    finally:
        _stop(plan, started, executor)


def _start(plan: RunGraph, run: Run, executor: str, options: Sequence[str], devices: list[str]) -> Started:
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
            log.write(f"$ {run.line}\n".encode())
            log.flush()
            # In a session of its own: an interrupt at the terminal reaches it once, through `_stop`.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=environment,
            )  # fmt: skip
    except OSError as error:
        raise from_os_error(error) from error
    return Started(process, time.time(), devices)


def _result(plan: RunGraph, run: str, over: Started, executor: str) -> int:
    """The exit status of a run that has ended; 1 also where it ended well without leaving its result."""
    status, target = over.process.returncode, plan.target(run)
    deadline = time.time() + (LATENCY if executor == "slurm" else 0.0)
    while status == 0 and not target.exists() and time.time() < deadline:
        time.sleep(1.0)
    if status == 0 and not target.exists():
        with open(plan.folder(run) / LOG, "a", encoding="utf-8") as log:
            log.write(f"ended with status 0 but without {target.name}\n")
        status = 1
    note_attempt(plan, run, over.began, status)
    return status


def _stop(plan: RunGraph, started: dict[str, Started], executor: str) -> None:
    """End what still runs and wait for it: a training writes a checkpoint first."""
    for name, run in started.items():
        if executor == "slurm":
            subprocess.run(["scancel", "--name", job_name(plan, name)], check=False)
        else:
            run.process.terminate()
    for run in started.values():
        run.process.wait()


def _environment(plan: RunGraph, executor: str, devices: list[str]) -> dict[str, str]:
    kept = {k: v for k, v in child_environment().items() if k not in (*THREADS, PARENT)}
    kept |= {name: str(plan.threads) for name in THREADS if plan.threads} | {"PYTHONUNBUFFERED": "1"}
    # Without PyTorch's C++ stack for each store and socket that a killed process leaves behind.
    kept.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if executor == "local":
        # Everything below ends when this process does, even by SIGKILL. On a cluster the jobs live elsewhere.
        kept[PARENT] = str(os.getpid())
    return kept | ({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {})


def visible_devices() -> list[str]:
    """The CUDA devices of this machine as CUDA_VISIBLE_DEVICES names them; none where nothing tells of them.

    Asked of the driver: this package does not import PyTorch.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", listed, re.MULTILINE)


def check_devices(plan: RunGraph, executor: str, options: Sequence[str]) -> list[str]:
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


def sbatch_command(plan: RunGraph, run: Run, command: Sequence[str], options: Sequence[str]) -> list[str]:
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


def job_name(plan: RunGraph, run: str) -> str:
    """A job's name: the same at every start of the same run in the same folder, and no other's."""
    place = hashlib.sha256(str(plan.folder(run).absolute()).encode()).hexdigest()[:8]
    return f"{run.replace('/', '-')}-{place}"
