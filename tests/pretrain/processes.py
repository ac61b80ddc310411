"""Real processes of the commands, to be watched and killed, without five seconds of imports for each."""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint import Checkpoints

# Forked from a server that has imported everything: a process of its own all the same, with its own memory and signals.
CONTEXT = multiprocessing.get_context("forkserver")
# PyTorch imports torch._dynamo with the first optimizer.
CONTEXT.set_forkserver_preload(
    [
        "tests.pretrain.without_coverage",
        "pretrain.trainer",
        "pretrain.linear.evaluation",
        "pretrain.knn.evaluation",
        "transfer.fine_tune",
        "torch._dynamo",
        "tests.pretrain.processes",
    ]
)

SMALL = (
    "data=imagefolder", "arch=resnet18x0.25", "batch_size=16", "epochs=3", "augment.size=32", "log_every=1",
    "monitor.every=2", "monitor.knn_every=1", "checkpoint.every_steps=3", "data.workers=0", "threads=1",
    "tensorboard=false",
)  # fmt: skip
# Heads small enough for a test; a method that is not named here is run as it is.
HEADS = {
    "simsiam": ("method.dim=64", "method.hidden=16"),
    "siamese": ("method.dim=64", "method.hidden=16"),
    "simclr": ("method.dim=16",),
    "moco": ("method.dim=16", "method.queue=64", "method.bn_groups=2"),
    "byol": ("method.dim=16", "method.hidden=64"),
    "swav": ("method.dim=16", "method.hidden=64", "method.prototypes=12", "method.queue=16",
             "method.queue_from_epoch=1"),
}  # fmt: skip
TIMING = ("images_per_second", "data_wait")


def small(method: str, data: Path, output: Path, *more: str) -> list[str]:
    """Arguments of a run of 12 steps."""
    return [f"method={method}", *SMALL, *HEADS.get(method, ()), f"data.root={data}", f"output={output}", *more]


class Command:
    """`python -m MODULE ARGUMENTS` in `world` processes; what it prints goes to a file.

    Args:
        module: e.g. `pretrain.knn`.
        arguments: of the command line.
        log: the file.
        world: processes that find each other as those of `torchrun` do.
    """

    def __init__(self, module: str, arguments: list[str], log: Path, world: int = 1) -> None:
        self.log = log
        shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.processes = []
        for rank in range(world):
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
            process = CONTEXT.Process(target=_main, args=(module, arguments, environment, str(log)))
            process.start()
            self.processes.append(process)

    def signal(self, number: int) -> None:
        """Send a signal to every process."""
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def wait(self, seconds: float = 200) -> int:
        """Wait for the end; returns the first process's exit status, negative for a signal."""
        deadline = time.time() + seconds
        for process in self.processes:
            process.join(max(deadline - time.time(), 0.1))
        if any(process.is_alive() for process in self.processes):
            self.signal(signal.SIGKILL)
            raise TimeoutError(f"still running after {seconds} s:\n{self.log.read_text()}")
        status = self.processes[0].exitcode
        assert status is not None
        return status

    def until(self, reached: Callable[[], bool]) -> bool:
        """Wait until `reached` or the end; returns whether it was reached first."""
        while any(process.is_alive() for process in self.processes):
            if reached():
                return True
            time.sleep(0.003)
        return False


def run(module: str, arguments: list[str], folder: Path, world: int = 1) -> tuple[int, str]:
    """Run a command to its end; returns its exit status and what it printed."""
    log = folder.with_name(f"{folder.name}.{time.monotonic_ns()}.txt")
    status = Command(module, arguments, log, world).wait()
    return status, log.read_text()


def _main(module: str, arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = [module, *arguments]
    # The server has imported it; it is to run afresh under the name of __main__.
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without what a clock measured."""
    path = folder / "metrics.jsonl"
    values = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{k: v for k, v in line.items() if k not in TIMING} for line in values]


def steps_logged(folder: Path) -> int:
    """How far a running run's log is; a line that is being written is not counted."""
    path = folder / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


def newest(folder: Path) -> dict[str, Any]:
    """The newest checkpoint without the run's duration."""
    found = Checkpoints(folder, 1, 0).load_newest_undamaged()
    assert found is not None
    del found[1]["resume"]["seconds"]
    return found[1]


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Names at which two nested structures of tensors and values differ by so much as a bit."""
    if isinstance(a, torch.Tensor):
        return [] if isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b) else [name]
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in {**a, **b} for d in differences(a.get(k), b.get(k), f"{name}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{name}.{i}")]
    return [] if a == b else [name]


def assert_same_run(resumed: Path, whole: Path) -> None:
    """Check identity, weights, optimizer, generators, monitor and log of two finished runs bit for bit."""
    assert differences(newest(resumed), newest(whole)) == []
    assert lines(resumed) == lines(whole)
    a, b = (json.loads((folder / "result.json").read_text()) for folder in (resumed, whole))
    assert (a["metrics"], a["verdict"], a["details"]) == (b["metrics"], b["verdict"], b["details"])
