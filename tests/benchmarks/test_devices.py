"""Runs side by side get devices of their own, here and on a cluster."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks import scales, tables
from benchmarks.devices import claimed, visible
from benchmarks.engine import check, options
from benchmarks.expansion import expand
from benchmarks.job import execute, last_lines
from benchmarks.plan import Plan, Run
from runs.app import PARENT
from runs.errors import UserError
from runs.folder import LOG

ROOT = Path(__file__).parents[2]


def paper(folder: Path) -> Plan:
    chosen = [tables.load(name).select(["simsiam"], ["ep100", "voc07"]) for name in ("table4", "table5")]
    return expand(chosen, scales.load("paper"), folder)


def test_no_two_runs_hold_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, GPU-5,2")
    assert visible() == ["0", "GPU-5", "2"]
    later: list[dict[str, str]] = []

    def third() -> None:
        with claimed(tmp_path, 2) as given:
            later.append(given)

    with claimed(tmp_path, 2) as first:
        assert first == {"CUDA_VISIBLE_DEVICES": "0,GPU-5"}
        with claimed(tmp_path, 1) as second:
            assert second == {"CUDA_VISIBLE_DEVICES": "2"}
        waiting = threading.Thread(target=third)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and later == []
    waiting.join(10)
    assert later == [first]
    with claimed(tmp_path, 0) as none:
        assert none == {}
    with pytest.raises(UserError, match="a run takes 4 devices, this machine shows 3"), claimed(tmp_path, 4):
        pass


def test_a_command_sees_its_devices_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    code = "import os; print('shown', os.environ['CUDA_VISIBLE_DEVICES']); open('result.json', 'w')"
    run = Run("knn/a-1", "knn", "knn", ("python", "-c", code), "result.json", (), {}, gpus=1)
    plan = Plan(str(tmp_path), "paper", "", [], {run.id: run}, [])
    monkeypatch.chdir(plan.folder(run).parent.parent)
    plan.folder(run).mkdir(parents=True)
    for parent, seen in ((True, "shown 4"), (False, "shown 4,5")):
        monkeypatch.setenv(PARENT, "1") if parent else monkeypatch.delenv(PARENT)
        execute(plan, run)
        assert [line for line in last_lines(plan, run.id) if line.startswith("shown")][-1] == seen


def test_what_cannot_get_its_devices_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = paper(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="a run takes 8 devices, this machine shows 2; add --gpus 2"):
        check(plan, "local", [])
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    with pytest.raises(UserError, match=r"--executor slurm: .* add -- --default-resources"):
        check(plan, "slurm", ["--latency-wait", "30"])
    check(plan, "slurm", ["--default-resources", "mem_mb=64000"])
    mini = expand([tables.load("table4")], scales.load("mini"), tmp_path)
    for executor in ("local", "slurm"):
        check(mini, executor, [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(8))))
    check(plan, "local", [])
    assert "gpu=8" in options(plan, tmp_path / "plan.json", "local", [])


@pytest.mark.slow
def test_snakemake_asks_for_one_task_on_one_node(tmp_path: Path) -> None:
    plan = paper(tmp_path)
    command = [sys.executable, "-m", "benchmarks.engine", *options(plan, plan.write(), "local", ["--dry-run"])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked = {
        part.strip()
        for line in (done.stdout + done.stderr).splitlines()
        if line.strip().startswith("resources:")
        for part in line.partition(":")[2].split(",")
    }
    assert {"gpu=8", "gpu=1", "nodes=1", "tasks_per_gpu=0"} <= asked


def test_the_reason_is_found_above_what_torchrun_says_of_it(tmp_path: Path) -> None:
    run = Run("pretrain/a-1", "pretrain", "pretrain", (), "result.json", (), {})
    plan = Plan(str(tmp_path), "paper", "", [], {run.id: run}, [])
    log = plan.folder(run) / LOG
    log.parent.mkdir(parents=True)
    report = "\n".join(["Traceback (most recent call last):", *["  frame"] * 30, "ChildFailedError:", "=" * 60])
    first = f"$ torchrun\nerror: of an earlier start\n{report}\n"
    log.write_text(f"{first}$ torchrun\nstep 1\rstep 2\rstep 3\nerror: data.root=x: no such folder\n{report}\n")
    assert last_lines(plan, run.id, 2) == ["step 3", "error: data.root=x: no such folder"]
    log.write_text(f"{first}$ torchrun\nstep 1\nKilled\n")
    assert last_lines(plan, run.id, 2) == ["step 1", "Killed"]
