"""A run of a plan as a process here, or as a job of a SLURM cluster: its start, its end, its stop."""

import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.workflow.plan import Plan, Run
from runs.app import PARENT
from runs.child_environment import child_environment
from runs.errors import from_os_error
from runs.folder import LOG

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Seconds after which another node's file has to be visible here.
LATENCY = 60.0


class RunProcess:
    """A run that has been started, and the devices that it holds."""

    def __init__(self, plan: Plan, run: Run, executor: str, sbatch_options: Sequence[str], devices: list[str]) -> None:
        """Start the run's command, which writes into the log of its folder; a `UserError` if the system refuses."""
        self.devices, self._slurm = devices, executor == "slurm"
        self._target, self._log, self._job = plan.target(run.id), plan.folder(run.id) / LOG, job_name(plan, run.id)
        # The same interpreter as this one, whatever `python` and `torchrun` mean on the PATH.
        start = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
        command = [*start[run.command[0]], *run.command[1:]]
        if self._slurm:
            command = sbatch_command(plan, run, command, sbatch_options)
        environment = _environment(plan, executor, devices)
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "ab") as log:
                log.write(f"$ {run.shell_command}\n".encode())
                log.flush()
                # In a session of its own: an interrupt at the terminal reaches it once, through `stop`.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    env=environment,
                )  # fmt: skip
        except OSError as error:
            raise from_os_error(error) from error
        self.began = time.time()

    def exit_status(self) -> int | None:
        """None while it goes on; 1 also where it ended well without leaving its result."""
        status = self._process.poll()
        deadline = time.time() + (LATENCY if self._slurm else 0.0)
        while status == 0 and not self._target.exists() and time.time() < deadline:
            time.sleep(1.0)
        if status == 0 and not self._target.exists():
            with open(self._log, "a", encoding="utf-8") as log:
                log.write(f"ended with status 0 but without {self._target.name}\n")
            return 1
        return status

    def terminate(self) -> None:
        """Tell it to end: a training writes a checkpoint first."""
        if self._slurm:
            subprocess.run(["scancel", "--name", self._job], check=False)
        else:
            self._process.terminate()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()


def _environment(plan: Plan, executor: str, devices: list[str]) -> dict[str, str]:
    kept = {k: v for k, v in child_environment().items() if k not in (*THREADS, PARENT)}
    kept |= {name: str(plan.threads) for name in THREADS if plan.threads} | {"PYTHONUNBUFFERED": "1"}
    # Without PyTorch's C++ stack for each store and socket that a killed process leaves behind.
    kept.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if executor == "local":
        # Everything below ends when this process does, even by SIGKILL. On a cluster the jobs live elsewhere.
        kept[PARENT] = str(os.getpid())
    return kept | ({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {})


def sbatch_command(plan: Plan, run: Run, command: Sequence[str], sbatch_options: Sequence[str]) -> list[str]:
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
        *([f"--gpus-per-node={run.gpus}"] if run.gpus else []), *sbatch_options, f"--wrap={script}",
    ]  # fmt: skip


def job_name(plan: Plan, run: str) -> str:
    """A job's name: the same at every start of the same run in the same folder, and no other's."""
    place = hashlib.sha256(str(plan.folder(run).absolute()).encode()).hexdigest()[:8]
    return f"{run.replace('/', '-')}-{place}"
