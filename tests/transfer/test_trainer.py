"""A run that is stopped anywhere ends with the same bits; a run that cannot go on says why."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model

from runs.errors import UserError
from runs.record import read_record
from runs.signals import INTERRUPTED, Stopped
from tests.transfer.conftest import CLASSES
from transfer import fine_tune, trainer
from transfer.detectron2_config import build_cfg, recipe_path
from transfer.evaluate_detector import detect
from transfer.read_splits import Split
from transfer.settings import TransferConfig
from transfer.trainer import Trainer

ITERATIONS = 12


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / fine_tune.MODEL, weights_only=True)["model"]
    return state


def log(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "data_time", "memory_mb")} for line in lines]


def in_child(config: TransferConfig) -> Any:
    """A process that shares what is imported, so that starting one costs nothing."""
    child = multiprocessing.get_context("fork").Process(target=fine_tune.run_trials, args=(config,))
    child.start()
    return child


def wait_for(ready: Callable[[], bool], child: Any) -> None:
    limit = time.monotonic() + 100
    while not ready() and child.is_alive():
        assert time.monotonic() < limit
        time.sleep(0.005)


def iterations_done(folder: Path) -> int:
    try:
        text = (folder / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] + 1 for line in text.splitlines() if line.endswith("}")), default=0)


def test_killed_at_five_random_iterations(tiny: TransferConfig, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tiny.detectron2["SOLVER"] |= {"MAX_ITER": ITERATIONS, "STEPS": [8]}
    tiny.log_every, tiny.save_seconds = 1, 0.0
    fine_tune.run_trials(tiny)
    whole = Path(tiny.output)
    tiny.output, broken = str(tmp_path / "broken"), tmp_path / "broken"
    places = sorted(random.Random(3).sample(range(1, ITERATIONS), 5))
    for place in places:
        child = in_child(tiny)
        wait_for(lambda place=place: iterations_done(broken) >= place, child)  # type: ignore[misc]
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL and not (broken / "result.json").exists()
    child = in_child(tiny)
    child.join()
    assert child.exitcode == 0
    one, other = weights(whole), weights(broken)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert log(whole) == log(broken) and len(log(whole)) == ITERATIONS
    assert read_record(whole).metrics == read_record(broken).metrics
    assert not (broken / "checkpoint.pth").exists() and list(broken.glob(".*.partial")) == []


def test_workers_do_not_change_the_result(tiny: TransferConfig, tmp_path: Path) -> None:
    """Augmentation included: a run may be resumed on a machine with other cores."""
    fine_tune.run_trials(tiny)
    one = weights(Path(tiny.output))
    tiny.data.workers, tiny.output = 2, str(tmp_path / "workers")
    fine_tune.run_trials(tiny)
    other = weights(Path(tiny.output))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_and_stops(tiny: TransferConfig, number: int) -> None:
    tiny.detectron2["SOLVER"] |= {"MAX_ITER": 10_000}
    tiny.log_every = 1
    folder = Path(tiny.output)
    child = in_child(tiny)
    wait_for(lambda: iterations_done(folder) >= 2, child)
    os.kill(child.pid, number)
    child.join(60)
    assert child.exitcode == INTERRUPTED
    state = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert state["iteration"] == iterations_done(folder) < 10_000


def test_a_signal_ends_the_measuring_and_the_next_start_makes_it(
    tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        original(self)

    original = Trainer.precise_bn
    with monkeypatch.context() as patched, pytest.raises(Stopped) as left:
        patched.setattr(Trainer, "precise_bn", stopped)
        fine_tune.run_trials(tiny)
    assert (left.value.code, left.value.what) == (INTERRUPTED, "SIGUSR1")
    lines = log(Path(tiny.output))
    assert fine_tune.run_trials(tiny) == read_record(tiny.output).metrics and log(Path(tiny.output)) == lines


def test_other_images_and_another_recipe_of_the_same_name_are_another_run(tiny: TransferConfig, tmp_path: Path) -> None:
    """Whatever the path is: the data set may move, but not change."""
    tiny.detectron2["SOLVER"] |= {"MAX_ITER": 2, "STEPS": [1]}
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"_BASE_: {recipe_path('voc07_R50_C4_9k')}")
    tiny.recipe = str(recipe)
    metrics = fine_tune.run_trials(tiny)
    moved = shutil.copytree(tiny.data.root, tmp_path / "moved")
    tiny.data.root = str(moved)
    assert fine_tune.run_trials(tiny) == metrics
    listing = moved / "VOC2007/ImageSets/Main/test.txt"
    listing.write_text("\n".join(listing.read_text().split()[:-1]))
    with pytest.raises(UserError, match=r"belongs to another run \(fingerprint\.test: "):
        fine_tune.run_trials(tiny)
    recipe.write_text(f"{recipe.read_text()}\nSOLVER: {{GAMMA: 0.2}}")
    with pytest.raises(UserError, match=r"fingerprint\.recipe: "):
        fine_tune.run_trials(tiny)


def test_a_checkpoint_of_other_processes_or_another_run_or_a_damaged_one_is_refused(tiny: TransferConfig) -> None:
    tiny.detectron2["SOLVER"] |= {"MAX_ITER": 10_000}
    tiny.log_every, tiny.save_seconds = 1, 0.0
    file = Path(tiny.output) / "checkpoint.pth"
    child = in_child(tiny)
    wait_for(file.exists, child)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    state = torch.load(file, weights_only=True)
    torch.save({**state, "generators": state["generators"] * 2}, file)
    with pytest.raises(UserError, match=r"checkpoint\.pth: of 2 processes, not 1"):
        fine_tune.run_trials(tiny)
    # Version 0.2.0 stated no run, and its generators had another form.
    for other in ({**state, "run": "0" * 64}, {k: v for k, v in state.items() if k != "run"} | {"generators": [{}]}):
        torch.save(other, file)
        with pytest.raises(UserError, match=r"checkpoint\.pth: of another run, or of an earlier version"):
            fine_tune.run_trials(tiny)
    for iteration in (-1, 10_001, "3"):
        torch.save({**state, "iteration": iteration}, file)
        with pytest.raises(UserError, match=r"checkpoint\.pth.* damaged .*; delete "):
            fine_tune.run_trials(tiny)
    for content in (b"", b"no archive", b"\x80\x02]."):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"checkpoint\.pth.* damaged .*; delete "):
            fine_tune.run_trials(tiny)


def test_a_loss_that_is_not_finite_stops_the_run(tiny: TransferConfig) -> None:
    tiny.detectron2["SOLVER"] |= {"BASE_LR": 1e30, "WARMUP_ITERS": 0}
    with pytest.raises(UserError, match=r"(loss is|proposals are) .* at iteration \d.*BASE_LR"):
        fine_tune.run_trials(tiny)
    saved = json.loads((Path(tiny.output) / "not_finite.json").read_text())
    assert len(saved["image_ids"]) == 4 and saved["iteration"] >= 1
    assert not (Path(tiny.output) / "result.json").exists()


def test_a_setting_that_fails_in_testing_is_one_line(tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that fails in building or in the first step."""
    tiny.weights, tiny.arch = "scratch", "resnet50x0.125"
    cfg = build_cfg(tiny, None, "cpu")
    image = {"image": torch.zeros(3, 96, 96, dtype=torch.uint8), "height": 96, "width": 96}
    monkeypatch.setattr(GeneralizedRCNN, "_postprocess", None)
    with pytest.raises(UserError, match=r"cannot test this detector \('NoneType' object is not callable\)"):
        detect(cfg, build_model(cfg), Split("one", [image], CLASSES, "voc_2007"), [[image]])


def test_out_of_memory_names_what_to_lower(tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "_mean_over_processes", exhausted)
    with pytest.raises(UserError, match=r"4 images of up to \d+ x \d+: .*bf16"):
        fine_tune.run_trials(tiny)


def test_a_folder_that_is_deleted_ends_the_run_at_the_next_checkpoint(
    tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after all the training; and no checkpoint is written where it was."""
    original = Trainer._step

    def delete(self: Trainer, *arguments: Any) -> Any:
        shutil.rmtree(self.folder, ignore_errors=True)
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", delete)
    tiny.detectron2["SOLVER"] |= {"MAX_ITER": 10_000}
    tiny.save_seconds = 0.0
    with pytest.raises(UserError, match=r"run: was deleted or renamed while the run was on"):
        fine_tune.run_trials(tiny)
    assert not (Path(tiny.output) / "checkpoint.pth").exists()


def test_the_record_is_written_before_the_pictures(tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fine_tune, "draw_overview_and_best_worst_sheets", fail)
    tiny.pictures = 2
    tiny.detectron2["SOLVER"] |= {"MAX_ITER": 2, "STEPS": [1]}
    with pytest.raises(ZeroDivisionError):
        fine_tune.run_trials(tiny)
    assert read_record(tiny.output).metrics == fine_tune.run_trials(tiny)
    assert not (Path(tiny.output) / "checkpoint.pth").exists()


def test_evaluates_on_the_way_with_precise_statistics(tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a signal, which saves first."""

    def signalled(self: Trainer, *arguments: Any) -> Any:
        if self.iteration == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, *arguments)

    tiny.detectron2["TEST"]["EVAL_PERIOD"] = 2
    original = Trainer._step
    with monkeypatch.context() as patched, pytest.raises(Stopped) as left:
        patched.setattr(Trainer, "_step", signalled)
        fine_tune.run_trials(tiny)
    assert left.value.what == "SIGUSR1 after iteration 2, saved"
    fine_tune.run_trials(tiny)
    lines = log(Path(tiny.output))
    assert [line["step"] for line in lines if "bbox/AP50" in line] == [3]
    # The way there does not change where it goes: statistics play no part in training.
    record = read_record(tiny.output)
    assert record.kind == "transfer" and record.details["weights"]["tensors"] == 265


def test_precise_statistics_are_means_over_batches(tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against NumPy: pooled mean and variance of what the stem's norm is given in each batch."""
    seen: list[torch.Tensor] = []
    original = Trainer.precise_bn
    found: dict[str, torch.Tensor] = {}

    def spy(self: Trainer) -> None:
        norm = self.detector.get_submodule("backbone.stem.conv1.norm")
        handle = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double()))
        original(self)
        handle.remove()
        found.update(mean=norm.running_mean.double(), var=norm.running_var.double())  # type: ignore[operator, union-attr]

    monkeypatch.setattr(Trainer, "precise_bn", spy)
    fine_tune.run_trials(tiny)
    assert len(seen) == 2
    flat = torch.cat([x.transpose(0, 1).flatten(1) for x in seen], dim=1)  # (channels, pixels of all batches)
    torch.testing.assert_close(found["mean"], flat.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["var"], flat.var(1), rtol=1e-3, atol=1e-5)
