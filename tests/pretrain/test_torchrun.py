"""Under torchrun: the run of one process, a signal to the launcher, and errors that are said once."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from runs import distributed
from runs.errors import UserError
from tests.pretrain.processes import CONTEXT, Command, free_port, lines, newest, run, small, steps_logged


def torchrun(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `torchrun --nproc_per_node=2 -m pretrain ARGUMENTS`; what it prints goes to a file."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "pretrain"]
    with open(log, "ab") as file:
        return subprocess.Popen([*command, *arguments], stdout=file, stderr=file)


@pytest.mark.slow
def test_two_processes_stopped_and_continued_end_as_one_process_does(images: Path, tmp_path: Path) -> None:
    one, two, log = tmp_path / "one", tmp_path / "two", tmp_path / "log.txt"
    # No other checkpoint: what the second start continues from is what the signal saved.
    rare = ("checkpoint.every_steps=0", "checkpoint.every_epochs=100")
    process = torchrun(small("simsiam", images, two, *rare), log)
    while process.poll() is None and steps_logged(two) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    # The launcher passes the signal on, waits for the processes, and has an exit status of its own.
    assert process.wait(timeout=100) not in (0, 75)
    done = newest(two)["resume"]["step"]
    said = re.findall("stopped by .*", log.read_text())
    assert 3 <= done < 12 and said == [
        f"stopped by SIGTERM after step {done}, saved; run the same command again to continue"
    ], log.read_text()
    status, text = run("pretrain", small("simsiam", images, two, *rare), two, world=2)
    assert status == 0 and f"continuing after step {done} of 12" in text, text
    status, text = run("pretrain", small("simsiam", images, one), one)
    assert status == 0, text
    losses = [[line["loss"] for line in lines(folder) if "loss" in line] for folder in (one, two)]
    assert len(losses[0]) == 12 and losses[1] == pytest.approx(losses[0], abs=1e-6)
    weights = [newest(folder)["state_dict"] for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert (value.double() - weights[1][name].double()).abs().max().item() < 1e-6, name


@pytest.mark.parametrize("argument", ["batchsize=4", "batch_size=15", "data.root=gone"])
def test_an_error_of_all_processes_is_said_once(argument: str, images: Path, tmp_path: Path) -> None:
    status, text = run("pretrain", [*small("simsiam", images, tmp_path / "run"), argument], tmp_path / "run", world=2)
    assert status == 2 and text.startswith("error: ") and text.count("\n") == 1, text


def fail_late(rank: int, port: int, patience: float, log: str) -> None:
    """One of two processes that fail, the second some time after the first."""
    environment = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
    distributed.WAIT_FOR_FAILURES = patience
    with distributed.process_group("cpu"):
        # Else the first could leave while the second still joins, which is another failure.
        distributed.all_arrived_in_time("joined")
        # Longer than the first needs to come to its end.
        time.sleep(rank)
        raise UserError("a: b; c")


@pytest.mark.parametrize(("patience", "clean"), [(60, True), (0, False)])
def test_the_process_that_serves_the_store_waits_for_the_others_failures(
    patience: float, clean: bool, tmp_path: Path
) -> None:
    """Else they print a stack for the store that they lost."""
    log, port = tmp_path / "log.txt", free_port()
    processes = [CONTEXT.Process(target=fail_late, args=(rank, port, patience, str(log))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [2, 2]
    assert (log.read_text() == "error: a: b; c\n") == clean, log.read_text()


def join(rank: int, port: int, log: str) -> None:
    """One of three processes that meet, and say at once whom they wait for."""
    environment = {"RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
    distributed.REPORT_AFTER = 0.5
    with distributed.process_group("cpu"):
        assert distributed.all_gather_object(rank) == [0, 1, 2]


def test_a_process_says_whom_it_waits_for(tmp_path: Path) -> None:
    log, port = tmp_path / "log.txt", free_port()
    processes = {rank: CONTEXT.Process(target=join, args=(rank, port, str(log))) for rank in (1, 0, 2)}
    for rank, said in ((1, "waits for 0 to answer at 127.0.0.1:"), (0, "process 0 of 3 waits for 2;"), (2, "")):
        processes[rank].start()
        end = time.time() + 60
        while said not in (log.read_text() if log.exists() else "") and time.time() < end:
            time.sleep(0.05)
    for process in processes.values():
        process.join(60)
    assert [process.exitcode for process in processes.values()] == [0, 0, 0], log.read_text()
    lines = log.read_text().splitlines()
    assert {line.partition(";")[2] for line in lines} == {" with WORLD_SIZE unset it runs alone"}, lines
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        process = CONTEXT.Process(target=join, args=(0, other.getsockname()[1], str(tmp_path / "taken.txt")))
        process.start()
        process.join(60)
    assert "choose another MASTER_PORT" in (tmp_path / "taken.txt").read_text()


@pytest.mark.parametrize(
    ("error", "said", "status"), [(UserError("a: b; c"), "error: a: b; c\n", 2), (KeyError("x"), "KeyError", 1)]
)
def test_a_failed_process_does_not_wait_for_the_others(
    error: Exception, said: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with NCCL, where they hang in a collective and leaving the group waits for them."""
    steps: list[Any] = []

    def ends(status: int) -> None:
        steps.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(distributed, "_store", dist.HashStore())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "WAIT_FOR_FAILURES", 0.0)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: steps.append("left"))
    monkeypatch.setattr(os, "_exit", ends)
    with pytest.raises(SystemExit), distributed.process_group("cpu"):
        raise error
    assert steps == [status] and said in capsys.readouterr().err


def test_an_error_of_one_process_is_said_by_that_one(images: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data)
    # One image of 64, which the second process meets; the first, which serves the store, loses its connection.
    bad = data / "train" / "class2" / "004.png"
    bad.write_bytes(b"not a picture")
    status, text = run("pretrain", small("simsiam", data, folder, "monitor.knn_every=0"), folder, world=2)
    assert status == 2 and "Traceback" not in text, text
    assert text.count("error: ") == 1 and f"error: {bad}: not a readable image" in text, text


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_of_a_killed_process_end_with_one_line(victim: int, images: Path, tmp_path: Path) -> None:
    """Also where the killed one served the store by which they say it once."""
    folder = tmp_path / "run"
    command = Command("pretrain", small("simsiam", images, folder), tmp_path / "log.txt", world=2)
    assert command.until(lambda: steps_logged(folder) >= 2)
    os.kill(command.processes[victim].pid or 0, signal.SIGKILL)
    command.wait(seconds=60)
    text = command.log.read_text()
    assert command.processes[1 - victim].exitcode == 2 and "Traceback" not in text, text
    assert text.count("error: ") == 1 and f"error: process {1 - victim} of 2 on " in text, text
    assert "has lost another" in text
