"""A run of the command that was killed ends bit for bit where one that was not ends."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pretrain.augment.views import FastViews, build_views
from pretrain.config import METHODS, AugmentConfig, DataConfig
from pretrain.data import open_images
from pretrain.evaluation import extract_features
from pretrain.loader import StepSampler, iterate_batches
from runs.errors import UserError
from tests.pretrain.processes import CONTEXT, Command, _main, assert_same_run, lines, newest, run, small, steps_logged

EVERY = sorted(METHODS)
Whole = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Whole:
    """Runs that nothing interrupts, each made when it is first asked for."""
    made: dict[tuple[str, int], Path] = {}

    def get(method: str, world: int = 1) -> Path:
        if (method, world) not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            status, text = run("pretrain", small(method, images, folder), folder, world)
            assert status == 0, text
            made[method, world] = folder
        return made[method, world]

    return get


def start_until(arguments: list[str], folder: Path, step: int, world: int = 1) -> Command:
    """Start a run and return it, still running, when its log has reached a step."""
    command = Command("pretrain", arguments, folder.with_name(f"from-{time.monotonic_ns()}.txt"), world)
    assert command.until(lambda: steps_logged(folder) >= step), command.log.read_text()
    return command


def kill_and_resume(arguments: list[str], folder: Path, kills: int, seed: int, world: int = 1) -> None:
    """Kill a run at random moments, then let it end."""
    chance = random.Random(seed)
    for _ in range(kills):
        command = start_until(arguments, folder, steps_logged(folder) + chance.randint(1, 3), world)
        # Not at the very moment at which a line was written, but anywhere between two.
        time.sleep(chance.uniform(0.0, 0.05))
        command.signal(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    status, text = run("pretrain", arguments, folder, world)
    assert status == 0, text


def killed(images: Path, folder: Path, step: int) -> list[str]:
    """Kill a run of SimSiam when its log has reached a step; returns its arguments."""
    arguments = small("simsiam", images, folder)
    command = start_until(arguments, folder, step)
    command.signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    return arguments


@pytest.mark.parametrize("method", EVERY)
def test_killed_at_random_steps(method: str, whole: Whole, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_and_resume(small(method, images, folder), folder, kills=2, seed=EVERY.index(method))
    assert_same_run(folder, whole(method))


def test_killed_with_loading_processes(whole: Whole, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_and_resume(small("simsiam", images, folder, "data.workers=1"), folder, kills=2, seed=7)
    assert_same_run(folder, whole("simsiam"))


@pytest.mark.slow
@pytest.mark.parametrize("method", EVERY)
def test_killed_in_two_processes(method: str, whole: Whole, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_and_resume(small(method, images, folder), folder, kills=1, seed=EVERY.index(method), world=2)
    assert_same_run(folder, whole(method, 2))


@pytest.mark.slow
def test_a_process_killed_under_torchrun_ends_the_others_and_resumes(
    whole: Whole, images: Path, tmp_path: Path, untraced: None
) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "pretrain",
        *small("simsiam", images, folder),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and steps_logged(folder) < 5:
        time.sleep(0.01)
    os.kill(int((folder / ".lock").read_text()), signal.SIGKILL)
    assert process.wait(timeout=100) != 0
    status, text = run("pretrain", small("simsiam", images, folder), folder, world=2)
    assert status == 0 and "continuing after step" in text, text
    assert_same_run(folder, whole("simsiam", 2))


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_next_start_continues(world: int, whole: Whole, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # No other checkpoint in time: what the next start continues from is what the signal saved.
    rare = small("simsiam", images, folder, "checkpoint.every_steps=0", "checkpoint.every_epochs=100")
    number = signal.SIGTERM if world == 1 else signal.SIGUSR1
    for step in (2, 7):
        command = start_until(rare, folder, step, world)
        # To the first process alone: the others have to hear of it.
        os.kill(command.processes[0].pid or 0, number)
        assert command.wait() == 75
        text = command.log.read_text()
        done = newest(folder)["resume"]["step"]
        assert step <= done < 12 and f"stopped by {number.name} after step {done}, saved" in text, text
        assert "Traceback" not in text
    status, text = run("pretrain", rare, folder, world)
    assert status == 0 and f"continuing after step {done}" in text, text
    assert_same_run(folder, whole("simsiam", world))


def test_a_signal_to_every_process_leaves_the_loading_ones_alone(whole: Whole, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = small("simsiam", images, folder, "data.workers=1")
    command = [sys.executable, "-m", "pretrain", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and steps_logged(folder) < 2:
        time.sleep(0.01)
    # As a cluster's scheduler does it.
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75 and "Traceback" not in errors, errors
    # Neither where the folder lies nor who loads the images belongs to the run's identity.
    moved = folder.rename(tmp_path / "moved")
    status, text = run("pretrain", small("simsiam", images, moved, "data.workers=0"), moved)
    assert status == 0 and "continuing after step" in text, text
    assert_same_run(moved, whole("simsiam"))


def wait_for_images(arguments: list[str], log: str) -> None:
    """A run whose images stop coming after the first epoch, as those of a file server that is gone."""
    sample = FastViews.sample

    def stuck(self: FastViews, place: int, key: tuple[int, int]) -> Any:
        if key[0]:
            time.sleep(1000)
        return sample(self, place, key)

    FastViews.sample = stuck  # type: ignore[method-assign]
    # Under nohup it is ignored, and stays so.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _main("pretrain", arguments, {}, log)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGHUP, 0)])
def test_a_signal_ends_the_waiting_for_images(
    number: signal.Signals, workers: int, whole: Whole, images: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    arguments = small("simsiam", images, folder, f"data.workers={workers}", "checkpoint.every_epochs=100")
    process = CONTEXT.Process(target=wait_for_images, args=([*arguments, "checkpoint.every_steps=0"], str(log)))
    process.start()
    end = time.time() + 60
    while steps_logged(folder) < 4 and time.time() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid or 0, number)
    process.join(20)
    text = log.read_text()
    assert process.exitcode == 75 and "Traceback" not in text, text
    assert f"stopped by {number.name} after step 4, saved; run the same command again" in text
    status, text = run("pretrain", arguments, folder)
    assert status == 0 and "continuing after step 4" in text, text
    assert_same_run(folder, whole("simsiam"))


def test_a_lost_loading_process_is_one_line(images: Path, tmp_path: Path) -> None:
    command = start_until(
        small("simsiam", images, tmp_path / "run", "data.workers=1", "epochs=50"), tmp_path / "run", 2
    )
    [worker] = psutil.Process(command.processes[0].pid).children()
    worker.kill()
    assert command.wait(30) == 2
    text = command.log.read_text()
    assert text.count("error: ") == 1 and "error: a loading process was killed, as the kernel does" in text, text
    assert "Traceback" not in text and text.endswith("run the same command again\n"), text


def test_too_little_shared_memory_is_one_line(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    data = DataConfig("test", "folder", str(images), workers=1)
    train, recipe = open_images(data, "train"), AugmentConfig(name="test", size=16)
    views = build_views(train, recipe.for_views(2), 0, False)
    with pytest.raises(UserError, match=r"^/dev/shm is too small for the batches of the loading processes"):
        next(iterate_batches(views, StepSampler(len(train), 16, 0, steps=range(4)), 1))
    with pytest.raises(UserError, match="docker run --shm-size 8g"):
        extract_features(lambda x: x.flatten(1), train, recipe, data, torch.device("cpu"))
    data.workers = 0
    assert len(extract_features(lambda x: x.flatten(1), train, recipe, data, torch.device("cpu")).values) == 64


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_newest_checkpoint_is_reported_and_passed_over(
    damage: str, whole: Whole, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = killed(images, folder, 9)
    older, last = sorted(folder.glob("checkpoint_*"), key=lambda p: p.stat().st_mtime)
    content = last.read_bytes()
    last.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": os.urandom(5000)}[damage])
    status, text = run("pretrain", arguments, folder)
    assert status == 0, text
    assert f"WARNING: {last} is damaged" in text and f"from {older.name}" in text, text
    assert_same_run(folder, whole("simsiam"))


def test_no_whole_checkpoint_is_an_error_and_not_a_new_start(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = killed(images, folder, 4)
    for path in folder.glob("checkpoint_*"):
        path.write_bytes(b"")
    for _ in range(2):
        status, text = run("pretrain", arguments, folder)
        assert status == 2 and "checkpoints is readable; delete the folder to start again" in text, text


def test_a_finished_run_says_so_once_its_data_have_been_compared(whole: Whole, images: Path) -> None:
    folder = whole("simsiam")
    before = lines(folder)
    status, text = run("pretrain", small("simsiam", images, folder), folder)
    assert (status, lines(folder)) == (0, before) and f"{folder / 'result.json'}: done already" in text
    status, text = run("pretrain", small("simsiam", images, folder, "data.root=gone"), folder)
    assert (status, lines(folder)) == (2, before) and "data.root=gone" in text


def test_another_number_of_processes_is_refused(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = killed(images, folder, 4)
    status, text = run("pretrain", arguments, folder, world=2)
    assert status == 2 and "written by 1 processes; continue with as many" in text, text


def test_the_newest_checkpoints_stay_and_every_second_epochs(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = ("epochs=5", "checkpoint.keep=1", "checkpoint.keep_every=2", "monitor.knn_every=0")
    status, text = run("pretrain", small("simsiam", images, folder, *more), folder)
    assert status == 0, text
    kept = sorted(path.name for path in folder.glob("checkpoint_*"))
    assert kept == [f"checkpoint_{epoch:04d}.pth.tar" for epoch in (1, 3, 4)]
