"""Two processes are one: same losses and same weights for one total batch, or a refusal."""

import copy
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from runs.distributed import process_group
from runs.files import sha256, write_json
from tests.pretrain.processes import free_port, run
from tests.transfer.conftest import CLASSES, TINY, overrides
from transfer.detectron2_config import build_cfg, set_classes_and_mask_format
from transfer.evaluate_detector import FILES, evaluate_and_save
from transfer.loader import GroupedBatchSampler, build_test_loader
from transfer.read_splits import read_train_and_test
from transfer.settings import TransferConfig
from transfer.subsets import take_subsets

# Where nothing is left to chance and each process has as many regions as the other, the two computations are the same
# sums: all images of one size with two objects each, every anchor sampled, every anchor's
# box a proposal and every proposal sampled, no augmentation. The official layout: convolutions in channels-last round
# differently for two images than for four.
SETTINGS = {
    **TINY,
    # Few and small steps: later, a box at IoU .5 falls to the other side by a rounding error that training enlarged.
    "SOLVER": {**TINY["SOLVER"], "BASE_LR": 0.002, "MAX_ITER": 3, "STEPS": [2]},
    "INPUT": {"MIN_SIZE_TRAIN": [96], "MIN_SIZE_TEST": 96, "RANDOM_FLIP": "none"},
    "MODEL": {
        **TINY["MODEL"],
        "RPN": {
            "BATCH_SIZE_PER_IMAGE": 10000, "POSITIVE_FRACTION": 1.0, "PRE_NMS_TOPK_TRAIN": 1000, "NMS_THRESH": 1.0,
            "POST_NMS_TOPK_TRAIN": 1000, "PRE_NMS_TOPK_TEST": 60, "POST_NMS_TOPK_TEST": 8,
        },
        "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 1000, "POSITIVE_FRACTION": 1.0},
    },
}  # fmt: skip


def write_scenes(root: Path) -> None:
    """Eight images of one size to train on and eight to test on, with two objects each."""
    rng = np.random.default_rng(0)
    voc = root / "VOC2007"
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / sub).mkdir(parents=True)
    for number in range(16):
        pixels = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        objects = ""
        for x, y in ((4, 10), (50, 40)):
            category = rng.integers(0, 8)
            pixels[y : y + 40, x : x + 40] = category * 30
            objects += (
                f"<object><name>{CLASSES[category]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>"
                f"<ymin>{y + 1}</ymin><xmax>{x + 40}</xmax><ymax>{y + 40}</ymax></bndbox></object>"
            )
        Image.fromarray(pixels).save(voc / f"JPEGImages/{number}.jpg", "PNG")
        size = "<size><width>96</width><height>96</height></size>"
        (voc / f"Annotations/{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for split, numbers in (("trainval", range(8)), ("test", range(8, 16))):
        (voc / f"ImageSets/Main/{split}.txt").write_text("\n".join(map(str, numbers)))


def arguments(root: Path, weights: Path, output: Path) -> list[str]:
    return [
        "task=voc07", f"weights={weights}", f"data.root={root}", f"data.classes=[{','.join(CLASSES)}]", "device=cpu",
        "data.workers=0", "log_every=1", f"output={output}", "pictures=0", "official=true", *overrides(SETTINGS),
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_compute_what_one_does(backbone: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path)
    logs = []
    for processes in (1, 2):
        output = tmp_path / f"out{processes}"
        status, text = run("transfer", arguments(tmp_path, backbone, output), output, processes)
        assert status == 0, text
        logs.append([json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()])
        assert json.loads((output / "result.json").read_text())["metrics"].keys() == {
            "bbox/AP",
            "bbox/AP50",
            "bbox/AP75",
        }
    assert len(logs[0]) == len(logs[1]) == 3
    for one, two in zip(*logs, strict=True):
        losses = [k for k in one if "loss" in k]
        assert len(losses) == 5
        assert {k: two[k] for k in losses} == pytest.approx({k: one[k] for k in losses}, rel=2e-5, abs=1e-6)
    # Gradients agree to 1e-12 in double precision; in single precision rounding is amplified to a percent through the
    # fifty norms, so weights are not compared, and the losses of the later iterations stand for them.


@pytest.mark.slow
def test_the_process_that_fails_says_why(backbone: Path, tmp_path: Path) -> None:
    """An image that only the second process decodes: its line is on standard error, once."""
    write_scenes(tmp_path)
    np.random.seed(0)
    first = next(iter(GroupedBatchSampler([False] * 8, 4, seed=np.random.randint(2**31))))
    file = tmp_path / f"VOC2007/JPEGImages/{first[1][0]}.jpg"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "transfer"]
    command = [*torchrun, *arguments(tmp_path, backbone, tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    # The first process may be ended before or after it has opened the log; no step was taken in either case.
    log = tmp_path / "out/metrics.jsonl"
    assert done.returncode != 0 and not (log.exists() and log.read_text())
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and str(file) in told[0] and "cannot be read" in told[0]


def infer(rank: int, world: int, port: int, config: TransferConfig) -> None:
    """Test a detector of chance's weights in one of several processes; the first writes."""
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {})
    torch.set_num_threads(1)
    with process_group("cpu"):
        cfg = build_cfg(config, None, "cpu")
        train, split = take_subsets(config.data, *read_train_and_test(config.data, cfg))
        set_classes_and_mask_format(cfg, train)
        torch.manual_seed(0)
        found = evaluate_and_save(cfg, build_model(cfg), split, build_test_loader(cfg, split, workers=0))
        if found:
            evaluation, detections = found
            files = {name: sha256(Path(config.output) / name) for name in FILES}
            counts = {"images": len(split.images), "detections": len(detections)}
            write_json(Path(config.output) / "found.json", {**evaluation.metrics, **files, **counts})


@pytest.mark.parametrize("task", ["voc07", "coco"])
def test_inference_is_the_same_in_any_number_of_processes(task: str, tiny: TransferConfig, tmp_path: Path) -> None:
    """To the last bit, since an image is tested alone: boxes, scores, masks and AP."""
    settings = copy.deepcopy(tiny.detectron2)
    settings["MODEL"]["ROI_HEADS"]["SCORE_THRESH_TEST"] = 0.0
    data = replace(tiny.data, classes=tiny.data.classes if task == "voc07" else None)
    found = []
    for world in (1, 2, 4):
        config = replace(
            tiny, task=task, weights="scratch", arch="resnet50x0.125", data=data, detectron2=settings,
            output=str(tmp_path / str(world)),
        )  # fmt: skip
        os.makedirs(config.output)
        port = free_port()
        # Not forked from here: a child would wait for ever for the threads of COCO's evaluation, if another test has
        # started them in this process.
        processes = [
            multiprocessing.get_context("forkserver").Process(target=infer, args=(rank, world, port, config))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * world
        found.append(json.loads((tmp_path / str(world) / "found.json").read_text()))
    assert found[0] == found[1] == found[2] and found[0]["detections"] > found[0]["images"]


def test_statistics_of_bfloat16_features_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same features, whose mean is far from 0: against float64."""
    import torch
    from detectron2.layers import batch_norm

    from transfer import model as ours

    monkeypatch.setattr(ours, "world_size", lambda: 2)
    monkeypatch.setattr(batch_norm.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(batch_norm.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(batch_norm, "differentiable_all_reduce", lambda vector: vector * 2)
    detector = torch.nn.Sequential(batch_norm.NaiveSyncBatchNorm(4))
    torch.manual_seed(0)
    features = (torch.randn(8, 4, 6, 6) + 5).bfloat16()  # (N, C, H, W)
    exact = features.double()
    mean, var = exact.mean((0, 2, 3)), exact.var((0, 2, 3), correction=0)
    expected = (exact - mean.view(1, 4, 1, 1)) / (var.view(1, 4, 1, 1) + 1e-5).sqrt()
    names = list(detector.state_dict())
    ours.use_float32_statistics(detector)
    found = detector(features)
    assert found.dtype == torch.bfloat16 and list(detector.state_dict()) == names
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.02)
    torch.testing.assert_close(detector[0].running_var.double(), 0.9 + 0.1 * var, rtol=1e-5, atol=1e-5)


def test_a_split_that_is_not_equivalent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from runs.errors import UserError
    from transfer import detectron2_config
    from transfer.settings import TransferConfig

    def build(processes: int, **settings: Any) -> Any:
        monkeypatch.setattr(detectron2_config, "world_size", lambda: processes)
        return detectron2_config.build_cfg(
            TransferConfig(task="voc07", weights="scratch", detectron2=settings), None, "cpu"
        )

    for processes in (1, 2, 4, 8, 16):
        build(processes)
    with pytest.raises(UserError, match="16 does not divide by 3"):
        build(3)
    with pytest.raises(UserError, match="2 images a process instead of 16"):
        build(8, MODEL={"RESNETS": {"NORM": "BN"}})
