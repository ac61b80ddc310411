"""The processes of one run, as `torchrun` starts them, or one alone: joining, device, precision, failures.

    with process_group(config.device) as device:  # joins the others, if there are any
        set_precision(config.precision, device)
        ...  # rank(), world_size(), all_gather_object(value)

Whatever a process raises inside ends all of them, and the first that fails says why. PyTorch is imported inside the
functions, so that a command without it stays quick.
"""

import contextlib
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runs.environment import cpu_has_bf16
from runs.errors import UserError, user_message

if TYPE_CHECKING:
    import torch

# The others wait while the first process evaluates and saves; the backends' own limits of 10 and 30 minutes are too
# short for that on a large data set or a slow disk.
TIMEOUT = timedelta(hours=4)
# Processes that compute the same thing reach the same place within an iteration.
ARRIVAL_TIMEOUT = timedelta(minutes=2)
# Seconds that the process which serves the store gives the others to fail too.
WAIT_FOR_FAILURES = 10.0
# Seconds after which a process says whom it waits for.
REPORT_AFTER = 10.0

# The key-value store through which the processes found each other; None for one process.
_store: Any = None


class TorchrunEnv(NamedTuple):
    """This process among those that torchrun started together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def torchrun_env_or_single_process() -> TorchrunEnv:
    """Read torchrun's environment variables; a process without a `WORLD_SIZE` above 1 is alone, whatever else is set.

    Raises:
        UserError: one of several processes lacks a variable, or has one that is not a number.
    """

    def number(name: str, default: str) -> int:
        value = os.environ.get(name) or default
        if not value.isdecimal():
            raise UserError(f"{name}={value}: must be a number; torchrun sets it, or unset it to run one process")
        return int(value)

    world = number("WORLD_SIZE", "1")
    if world < 2:
        return TorchrunEnv()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE={world}, but {' and '.join(missing)} not set: start with torchrun --nproc_per_node={world} "
            "-m …, or unset WORLD_SIZE to run one process"
        )
    found = TorchrunEnv(number("RANK", ""), world, number("LOCAL_RANK", "0"), number("LOCAL_WORLD_SIZE", "1"))
    if not 0 < (port := number("MASTER_PORT", "")) < 2**16:
        raise UserError(f"MASTER_PORT={port}: must be a port, 1 to 65535; torchrun chooses one")
    if found.rank >= world:
        raise UserError(f"RANK={found.rank}: must be below WORLD_SIZE={world}")
    return found


@contextlib.contextmanager
def process_group(device: str) -> Iterator["torch.device"]:
    """Join the processes that `torchrun` describes in the environment, if any, and leave them at the end.

    Yields the device of this process, by `device`: `auto`, `cpu` (Gloo) or `cuda` (NCCL, a device a process).

    Raises:
        UserError: there is no such device.
    """
    import torch.distributed as dist

    here = torchrun_env_or_single_process()
    left = [f"{name}={os.environ[name]}" for name in ("RANK", "LOCAL_RANK") if os.environ.get(name, "0") != "0"]
    if here.world_size == 1 and left:
        print(f"{', '.join(left)} without other processes (WORLD_SIZE): left over; running alone", file=sys.stderr)
    chosen = choose_and_set_device(device)
    if here.world_size > 1:
        _join("nccl" if chosen.type == "cuda" else "gloo", here)
    try:
        yield chosen
    except Exception as error:
        if world_size() == 1:
            raise
        _fail(error)
    if dist.is_initialized():
        dist.destroy_process_group()


def choose_and_set_device(name: str) -> "torch.device":
    """Return the device that `auto`, `cpu` or `cuda` means for this process, and make it CUDA's current one.

    Raises:
        UserError: there are fewer CUDA devices than processes on this machine.
    """
    import torch

    _, _, local, here = torchrun_env_or_single_process()
    found, needed = torch.cuda.device_count(), max(here, local + 1)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not found:
        raise UserError("device=cuda: PyTorch sees no CUDA device; use device=cpu or auto")
    if needed > found:
        raise UserError(f"device=cuda: {needed} processes for {found} CUDA devices; start fewer, or use device=cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def set_precision(name: str, device: "torch.device", threads: int = 0, one_shape: bool = True) -> None:
    """Set how matrices are multiplied from here on; for `bf16`, forward passes run in `torch.autocast` besides.

    NOTE: `fp32` turns TF32 off everywhere, as on the GPUs of the papers. The releases leave PyTorch's default,
    `pytorch`, which on newer GPUs allows it in convolutions.
    A CPU without bf16 instructions still computes in `bf16`, at 0.02 to 0.4 of its speed in fp32, with a warning.

    Args:
        name: `fp32`, `pytorch` (float32 with TF32 convolutions), `tf32` (with TF32 products too), `bf16` (mixed
            precision), or `auto`: `tf32` on a GPU, `fp32` on the CPU.
        device: where the network computes.
        threads: PyTorch's on the CPU; 0 leaves its choice.
        one_shape: all batches have one, so that cuDNN may look for the fastest convolution once, as main_simsiam.py.

    Raises:
        UserError: the device has no such precision.
    """
    import torch

    if name == "auto":
        name = "tf32" if device.type == "cuda" else "fp32"
    if name == "bf16" and device.type == "cpu" and cpu_has_bf16() is False and rank() == 0:
        print(
            "warning: precision=bf16: this CPU has no bf16 instructions and is several times slower with it; use fp32",
            file=sys.stderr,
        )
    if name == "tf32" and device.type == "cpu":
        raise UserError("precision=tf32: a CPU has no TF32; use fp32 or bf16, or device=cuda")
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = one_shape
    torch.backends.cudnn.allow_tf32 = name != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = name in ("tf32", "bf16")


def worker_count(asked: int, most: int = 16, processes: int | None = None) -> int:
    """Return the number of loading processes: as asked, or for -1 by the cores that this process may use.

    Args:
        asked: the user's number, or -1.
        most: more rarely help.
        processes: that load at the same time on this machine; None for all that `torchrun` started here.
    """
    if asked >= 0:
        return asked
    # On a shared machine a job has fewer cores than there are.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # One core a process is left to the training.
    return max(0, min(most, cores // (processes or torchrun_env_or_single_process().local_world_size) - 1))


def rank() -> int:
    """This process's number, 0 alone."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 alone."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def all_gather_object(value: Any) -> list[Any]:
    """Return every process's value, by rank."""
    import torch.distributed as dist

    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def all_arrived_in_time(place: str) -> bool:
    """Wait for the other processes at the same place, which is named for the first time; return whether they came."""
    if world_size() == 1:
        return True
    _store.set(f"{place}/{rank()}", "")
    try:
        _store.wait([f"{place}/{number}" for number in range(world_size())], ARRIVAL_TIMEOUT)
    except RuntimeError:
        return False
    return True


def _join(backend: str, here: TorchrunEnv) -> None:
    """Meet the other processes, saying after `REPORT_AFTER` whom this one waits for."""
    global _store
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # The agent of torchrun serves the store; without it the first process does.
    serves = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not serves:
        _wait(lambda: [] if _answers(address, port) else [0], here, f" to answer at {address}:{port}")
    try:
        _store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, here.world_size, serves, TIMEOUT, wait_for_workers=False
        )
    except RuntimeError as error:
        raise UserError(
            f"MASTER_ADDR={address}, MASTER_PORT={port}: {str(error).splitlines()[0]}; choose another MASTER_PORT"
        ) from error
    _store.set(f"joined/{here.rank}", "")
    _wait(lambda: [n for n in range(here.world_size) if not _store.check([f"joined/{n}"])], here, "")
    dist.init_process_group(backend, store=_store, rank=here.rank, world_size=here.world_size, timeout=TIMEOUT)


def _answers(address: str, port: int) -> bool:
    # PyTorch's own waiting ends with a signal only, and prints stacks.
    try:
        socket.create_connection((address, port), timeout=REPORT_AFTER).close()
    except OSError:
        return False
    return True


def _wait(absent: Callable[[], list[int]], here: TorchrunEnv, what: str) -> None:
    start, told = time.monotonic(), list[int]()
    while missing := absent():
        waited = time.monotonic() - start
        if waited > TIMEOUT.total_seconds():
            raise UserError(f"processes {missing} of {here.world_size} did not start; look at their logs")
        if waited > REPORT_AFTER and missing != told and here.local_rank == 0:
            names = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
            said = f"process {here.rank} of {here.world_size} waits for {names}{what}"
            print(f"{said}; with WORLD_SIZE unset it runs alone", file=sys.stderr)
            told = missing
        time.sleep(0.05 if waited < REPORT_AFTER else 1.0)


def _fail(error: Exception) -> NoReturn:
    """End this process of several, whatever the others do: status 2 for what the user can put right, else 1.

    A failure that all processes find is said once, and one that a single process finds, by that one: the others lose
    their connection to it. Not by way of `destroy_process_group`: NCCL leaves a group only when all do, and the others
    wait in a collective for this process. When it is gone, `torchrun` ends them. Without `torchrun` the first process
    serves the store and waits for the others: PyTorch prints a stack for a lost store, below the line that says what is
    wrong.
    """
    lost = _lost_process_message(error)
    message = lost or user_message(error)
    try:
        first = _store.add("failures", 1) == 1
    except RuntimeError:
        # The store ended with the process or the node that served it, perhaps before a word: a process a node says so.
        here = torchrun_env_or_single_process()
        first = here.local_rank >= here.local_world_size - 1
    if first:
        print(f"error: {message}" if message else "".join(traceback.format_exception(error)), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        end = time.monotonic() + WAIT_FOR_FAILURES
        while _store.add("failures", 0) < world_size() - bool(lost) and time.monotonic() < end:
            time.sleep(0.02)
    os._exit(1 if message is None else 2)


def _lost_process_message(error: Exception) -> str | None:
    """One line where the error is that another process is gone; None for any other."""
    import torch.distributed as dist

    # Gloo's errors have no type of their own.
    if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
        return None
    return (
        f"process {rank()} of {world_size()} on {platform.node()} has lost another, which was killed or whose machine "
        "is gone; the log above, dmesg or the scheduler says why; run the same command again to continue"
    )
