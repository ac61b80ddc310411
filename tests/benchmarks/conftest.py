"""Plans and records made by hand, so that the machinery can be tested without training anything."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.report.page import write_report
from benchmarks.results.read_results import read_results_and_unplanned
from benchmarks.workflow.plan import Plan, PlannedCell, Run, Selection
from runs.record import Dataset, Record, Subject

# What a run's command does here: wait, then write the record that the test wants, as the real commands do. One that is
# started again does not wait.
SCRIPT = """
import os, sys, time
from pathlib import Path
from runs.app import cli
from runs.progress import Progress
from runs.record import Dataset, Record, Subject, write_record

@cli
def main():
    folder, seconds, value = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    with open(folder / "starts", "a") as file:
        again = file.tell() > 0
        file.write(f"{os.getpid()}\\n")
    with Progress(10, "steps", folder=folder) as bar:
        for _ in range(10):
            time.sleep(0 if again else seconds / 10)
            bar.update()
    print("working", flush=True)
    if value < 0:
        raise SystemExit("it went wrong on purpose")
    write_record(folder, Record("knn", Subject("simsiam", "resnet50x0.25", 20), Dataset("shapes", "val", 8, "f"),
                                {"top1": value}, 0, {}, seconds, 1.0))
main()
"""


def report(folders: Sequence[str | Path], output: Path) -> str:
    """What `python -m benchmarks report` writes: the page's text."""
    results, others = read_results_and_unplanned(folders)
    return write_report(results, output, others).read_text()


def script(folder: Path) -> Path:
    path = folder / "command.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def knn(plan_folder: Path, name: str, value: float, seconds: float = 0.1, needs: tuple[str, ...] = ()) -> Run:
    command = ("python", str(script(plan_folder)), str(plan_folder / "out" / "knn" / name), str(seconds), str(value))
    return Run(f"knn/{name}", "knn", "knn", command, needs, {"seed": 0})


def plan_of(plan_folder: Path, runs: list[Run], jobs: int = 2) -> Plan:
    """A plan for Table 4's kNN column in which every run is a trial of the row `simsiam`."""
    table = Selection("table4", ("simsiam",), ("knn200",))
    cell = PlannedCell("table4", "simsiam", "knn200", tuple(r.id for r in runs))
    return Plan(
        str(plan_folder / "out"), "mini", "a test", [table], {r.id: r for r in runs}, [cell], jobs=jobs, threads=1,
        seconds={"knn": 1.0},
    )  # fmt: skip


def record(kind: str = "linear", method: str = "simsiam", value: float = 50.0, seed: int = 0, **changes: Any) -> Record:
    metrics = (
        {"top1": value}
        if kind in ("linear", "knn")
        else {"bbox/AP": value, "bbox/AP50": value + 20, "bbox/AP75": value}
    )
    given: dict[str, Any] = {
        "kind": kind, "subject": Subject(method, "resnet50x0.25", 20), "dataset": Dataset("shapes", "val", 640, "abc"),
        "metrics": metrics, "seed": seed, "config": {"task": "voc07"} if kind == "transfer" else {},
        "seconds": 1.0 + seed, "peak_memory_mb": 100.0,
    }  # fmt: skip
    return Record(**{**given, **changes})


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(knn=knn, plan_of=plan_of, record=record)
