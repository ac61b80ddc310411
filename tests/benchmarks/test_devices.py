"""Runs side by side get devices of their own, here, on a cluster and on several nodes."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.display import last_log_lines
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import Plan, Run
from benchmarks.workflow.run_plan import devices_to_share, run_plan, visible_devices
from benchmarks.workflow.run_process import job_name, sbatch_command
from runs.errors import UserError
from runs.folder import LOG

# Writes what it was shown, waits for a file of the other run or half a second, and leaves a result.
SHOWN = """
import os, sys, time
from runs.record import Dataset, Record, Subject, write_record
open("shown", "a").write(os.environ["CUDA_VISIBLE_DEVICES"] + "\\n")
time.sleep(0.5)
write_record(sys.argv[1], Record("knn", Subject("a", "b"), Dataset("d", "val", 1, "f"), {"top1": 1.0}, int(sys.argv[2]),
                                 {}, 1.0, 1.0))
"""


def paper(folder: Path, **changes: int) -> Plan:
    chosen = [tables.load(name).select(["simsiam"], ["ep100", "voc07"]) for name in ("table4", "table5")]
    return expand(chosen, dataclasses.replace(scales.load("paper"), **changes), folder)


def of(folder: Path, *runs: Run, jobs: int = 4) -> Plan:
    return Plan(str(folder), "paper", "", [], {run.id: run for run in runs}, [], jobs=jobs)


def test_no_two_runs_hold_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, GPU-5,2")
    monkeypatch.chdir(tmp_path)
    assert visible_devices() == ["0", "GPU-5", "2"]
    runs = [
        Run(f"knn/{i}", "knn", "knn", ("python", "-c", SHOWN, str(tmp_path / "knn" / str(i)), str(i)), (), {}, gpus=g)
        for i, g in enumerate((2, 1, 2))
    ]
    status = run_plan(of(tmp_path, *runs))
    assert len(status.done) == 3 and not status.failed
    shown = Path("shown").read_text().split()
    # The first two at once, on devices of their own; the third when one of them has ended.
    assert sorted(shown[:2]) == ["0,GPU-5", "2"] and len(shown[2].split(",")) == 2


def test_what_cannot_get_its_devices_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = paper(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="a run takes 8 devices, this machine shows 2; add --gpus 2"):
        devices_to_share(plan, "local", [])
    with pytest.raises(UserError, match="-- --mem=64G: options of sbatch; add --executor slurm"):
        devices_to_share(plan, "local", ["--mem=64G"])
    monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    with pytest.raises(UserError, match=r"--executor slurm: .* add -- --mem=64G"):
        devices_to_share(plan, "slurm", [])
    assert devices_to_share(plan, "slurm", ["--mem=64G"]) == []
    with pytest.raises(UserError, match=r"--nodes 2: one machine starts here; add --executor slurm"):
        devices_to_share(paper(tmp_path, nodes=2), "local", [])
    mini = expand([tables.load("table4")], scales.load("mini"), tmp_path)
    assert devices_to_share(mini, "local", []) == devices_to_share(mini, "slurm", []) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(8))))
    assert len(devices_to_share(plan, "local", [])) == 8


def test_a_job_asks_for_its_nodes_and_devices(tmp_path: Path) -> None:
    plan = paper(tmp_path, nodes=2)
    run = next(run for run in plan.runs.values() if run.kind == "linear")
    command = sbatch_command(plan, run, [*run.command], ["--mem=64G"])
    assert {"--wait", "--dependency=singleton", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--mem=64G",
            f"--job-name={job_name(plan, run.id)}"} <= set(command)  # fmt: skip
    script = command[-1].removeprefix("--wrap=")
    # The shell of the job fills in the first node, and nothing else of the command.
    words = shlex.split(script.partition("; ")[2])
    assert words[:2] == ["exec", "srun"] and tuple(words[5:]) == run.command
    assert '"--rdzv-endpoint=$HEAD"' in script and script.startswith('HEAD="$(scontrol show hostnames')
    elsewhere = paper(tmp_path / "other", nodes=2)
    assert job_name(elsewhere, run.id) != job_name(plan, run.id)


def test_the_reason_is_found_above_what_torchrun_says_of_it(tmp_path: Path) -> None:
    run = Run("pretrain/a-1", "pretrain", "pretrain", (), (), {})
    plan = of(tmp_path, run)
    log = plan.folder(run.id) / LOG
    log.parent.mkdir(parents=True)
    report = "\n".join(["Traceback (most recent call last):", *["  frame"] * 30, "ChildFailedError:", "=" * 60])
    first = f"$ torchrun\nerror: of an earlier start\n{report}\n"
    log.write_text(f"{first}$ torchrun\nstep 1\rstep 2\rstep 3\nerror: data.root=x: no such folder\n{report}\n")
    assert last_log_lines(plan, run.id, 2) == ["step 3", "error: data.root=x: no such folder"]
    log.write_text(f"{first}$ torchrun\nstep 1\nKilled\n")
    assert last_log_lines(plan, run.id, 2) == ["step 1", "Killed"]
