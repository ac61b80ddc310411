"""What more devices change: the share of each run, the simulated time, and where the batch rule breaks."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torchvision

from benchmarks.__main__ import main
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.device_scaling import device_scaling_table
from benchmarks.workflow.expand_tables import expand, gpus_and_nodes

CHOSEN = [tables.load(name).select(["scratch", "simsiam"], None) for name in ("table4", "table5")]


@pytest.mark.parametrize(
    ("gpus", "nodes", "kind", "batch", "expected"),
    [(8, 1, "pretrain", 256, (8, 1)), (8, 8, "pretrain", 256, (8, 1)), (8, 64, "pretrain", 4096, (8, 16)),
     (8, 3, "pretrain", 1024, (8, 2)), (8, 1, "pretrain", 128, (4, 1)), (8, 8, "transfer", 16, (8, 2)),
     (8, 8, "knn", None, (8, 8)), (8, 8, "convert", 256, (0, 1)), (0, 2, "pretrain", 64, (0, 2)),
     (0, 4, "pretrain", 64, (0, 2)), (3, 1, "transfer", 16, (2, 1))],
)  # fmt: skip
def test_a_run_takes_the_devices_that_its_batch_can_be_shared_out_to(
    gpus: int, nodes: int, kind: str, batch: int | None, expected: tuple[int, int]
) -> None:
    scale = dataclasses.replace(scales.load("paper"), gpus=gpus, nodes=nodes)
    assert gpus_and_nodes(scale, kind, batch) == expected


def test_the_work_is_the_same_and_the_longest_chain_bounds_the_time() -> None:
    table = device_scaling_table(CHOSEN, scales.load("paper"), [1, 8, 64, 512])
    points = [
        SimpleNamespace(seconds=time.value, gpu_hours=hours.value, chain=chain.value, limit=limit.text)
        for time, hours, chain, _, limit in (line.cells for line in table.lines)
    ]
    one, eight, *_, most = points
    # Alone on a device, the runs come one after the other; eight are eight times as fast.
    assert one.seconds / 3600 == pytest.approx(one.gpu_hours, rel=0.01)
    assert one.seconds == pytest.approx(8 * eight.seconds, rel=0.01)
    assert [p.gpu_hours for p in points] == pytest.approx([one.gpu_hours] * 4, rel=0.01)
    assert all(p.seconds >= p.chain * 0.999 for p in points)
    # 256 images on 8 devices, 800 epochs of 954 s: no number of devices makes SimSiam's own chain shorter.
    assert most.chain >= 800 * 954 and most.seconds == pytest.approx(most.chain, rel=0.01)
    assert "simsiam-800ep" in most.limit and "for its batch" in most.limit
    # Said at the first number of devices that is too many, once.
    [said] = [words for words in table.notes if "a batch of 256 (simsiam)" in words]
    assert "over 64 devices is 4 images each, so such a run takes 8 of them, 32 each" in said
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in torchvision.models.resnet50().modules())
    assert any(f"waits for the network {4 * norms} times a step" in words for words in table.notes)


def test_the_hours_of_linear_runs_fall_by_the_number_of_devices() -> None:
    def seconds(**changes: int) -> float:
        scale = dataclasses.replace(scales.load("paper"), **changes)
        from benchmarks.workflow.time_left import expected_durations

        plan = expand(CHOSEN, scale, "outputs/nowhere")
        found = expected_durations(plan, {}).seconds
        return max(found[run.id] for run in plan.runs.values() if run.kind == "linear")

    assert seconds(gpus=1) == pytest.approx(8 * seconds(gpus=8)) == pytest.approx(64 * seconds(gpus=8, nodes=8))


def test_the_command_says_what_was_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["plan", "table5", "--scale", "paper", "--rows", "simsiam", "--devices", "8,64"])
    text = " ".join(capsys.readouterr().out.split())
    assert "limited by" in text and "published for 8 V100" in text and "a batch of 16" in text
