"""The project's commands as a section starts them: real processes, whose end and output it sees."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from runs.child_environment import child_environment
from runs.errors import UserError


def start(module: str, words: list[str], log: Path, processes: int = 1) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE WORDS`, by torchrun on more than one process; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *torchrun, "-m", module, *words], stdout=file, stderr=subprocess.STDOUT,
            env=child_environment(),
        )  # fmt: skip


def run(module: str, words: list[str], log: Path, processes: int = 1) -> None:
    """Run a command to its end.

    Raises:
        UserError: it failed; with the last line that it printed.
    """
    finish(start(module, words, log, processes), log)


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a command that `start` started.

    Raises:
        UserError: it failed; with the last line that it printed.
    """
    status = process.wait()
    if status:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise UserError(f"exit status {status}: {lines[-1] if lines else 'no output'} ({log})")


def kill_when_written(process: subprocess.Popen[bytes], folder: Path, pattern: str, seconds: float = 120.0) -> bool:
    """Send SIGKILL as soon as a folder has such a file; False if the process had ended or the time was over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if any(folder.glob(pattern)):
            os.kill(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.01)
    process.kill()
    process.wait()
    return False


def describe_machine() -> dict[str, Any]:
    """What `describe_environment` says in a process that has imported PyTorch, and `device_type`, `cpu` or `cuda`.

    This process needs no PyTorch for it, and gets no context on the GPU.

    Raises:
        UserError: PyTorch cannot be imported.
    """
    code = (
        "import json, torch; from runs.environment import describe_environment; "
        "print(json.dumps(describe_environment() | {'device_type': 'cuda' if torch.cuda.is_available() else 'cpu'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    if done.returncode:
        raise UserError(
            f"PyTorch cannot be used: {(done.stderr.strip().splitlines() or ['no output'])[-1]}; run doctor"
        )
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts
