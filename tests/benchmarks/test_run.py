import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from benchmarks.results.records import read_plan_records
from benchmarks.results.table_results import table_results
from benchmarks.workflow.plan import read_plan
from benchmarks.workflow.run_plan import run_plan
from benchmarks.workflow.run_status import last_attempts, status_of
from benchmarks.workflow.time_left import expected_durations, run_seconds_left
from runs.errors import UserError
from runs.record import write_record
from runs.signals import INTERRUPTED
from tests.benchmarks.conftest import report

ROOT = Path(__file__).parents[2]
WORK = """
import sys
from benchmarks.workflow.run_plan import run_plan
from benchmarks.workflow.plan import read_plan
from runs.app import cli
@cli
def main():
    run_plan(read_plan(sys.argv[1]))
main()
"""


def starts(folder: Path, name: str) -> int:
    return len((folder / "out" / "knn" / name / "starts").read_text().split())


def test_runs_in_order_once_and_a_failure_stops_only_what_needs_it(
    tmp_path: Path, make: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make.knn(tmp_path, "first-00000000", 10.0)
    runs = [
        first,
        make.knn(tmp_path, "bad-00000000", -1.0),
        make.knn(tmp_path, "second-00000000", 30.0, needs=(first.id,)),
    ]
    runs.append(make.knn(tmp_path, "behind-00000000", 40.0, needs=(runs[1].id,)))
    plan = make.plan_of(tmp_path, runs)
    status = run_plan(plan)
    assert sorted(status.done) == ["knn/first-00000000", "knn/second-00000000"]
    assert status.failed == {"knn/bad-00000000": 1}
    assert status.blocked == ["knn/behind-00000000"]
    assert "    it went wrong on purpose" in capsys.readouterr().err.splitlines()
    first_end = (tmp_path / "out/knn/first-00000000/result.json").stat().st_mtime
    assert (tmp_path / "out/knn/second-00000000/starts").stat().st_mtime >= first_end

    [table] = table_results(plan, read_plan_records(plan)[0], status)
    [[entry]] = table.entries
    assert entry.ours is not None and entry.ours.values == (10.0, 30.0)
    assert entry.remark == "2 of 4 trials failed"

    # A second start tries the failed one again and leaves the others alone, even with their times turned round.
    os.utime(tmp_path / "out/knn/second-00000000/result.json", (1, 1))
    run_plan(plan)
    assert [starts(tmp_path, f"{n}-00000000") for n in ("first", "second", "bad")] == [1, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_sigkill_leaves_no_orphan_and_a_second_start_finishes(
    tmp_path: Path, make: SimpleNamespace, whole_group: bool
) -> None:
    runs = [make.knn(tmp_path, f"n{i}-00000000", 10.0 + i, seconds=1.5) for i in range(4)]
    plan = make.plan_of(tmp_path, runs)
    plan_file = plan.write()
    process = subprocess.Popen([sys.executable, "-c", WORK, str(plan_file)], cwd=ROOT, start_new_session=True)
    deadline = time.time() + 60
    while sum((tmp_path / f"out/knn/n{i}-00000000/starts").exists() for i in range(4)) < 2:
        assert time.time() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    status = run_plan(read_plan(plan_file))
    assert len(status.done) == 4 and not status.failed
    assert sum(starts(tmp_path, f"n{i}-00000000") for i in range(4)) <= 6  # only what was cut short ran again


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, make: SimpleNamespace) -> None:
    plan = make.plan_of(tmp_path, [make.knn(tmp_path, "n-00000000", 10.0)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"holds files of something else \(thesis.txt\)"):
        run_plan(plan)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    # What the commands of `plan --commands`, `report` and a scheduler leave is not foreign; a page of another's is.
    (tmp_path / "out" / "thesis.txt").rename(tmp_path / "out" / "slurm-7.out")
    (tmp_path / "out" / "report.html").write_text("theirs")
    with pytest.raises(UserError, match=r"holds files of something else \(report.html\)"):
        run_plan(plan)
    (tmp_path / "out" / "report.html").unlink()
    write_record(tmp_path / "out" / "knn" / "by-hand", make.record())
    report([tmp_path / "out"], tmp_path / "out")
    assert run_plan(plan).done


def test_a_result_that_is_there_is_not_made_again(tmp_path: Path, make: SimpleNamespace) -> None:
    run = make.knn(tmp_path, "n-00000000", 10.0)
    other = make.knn(tmp_path, "m-00000000", 10.0)
    run_plan(make.plan_of(tmp_path, [run]))
    run_plan(make.plan_of(tmp_path, [run, other]))
    assert starts(tmp_path, "n-00000000") == 1


def test_a_failed_run_is_tried_again_as_often_as_asked(tmp_path: Path, make: SimpleNamespace) -> None:
    plan = make.plan_of(tmp_path, [make.knn(tmp_path, "bad-00000000", -1.0)])
    assert run_plan(plan, retries=2).failed == {"knn/bad-00000000": 1}
    assert starts(tmp_path, "bad-00000000") == 3 and last_attempts(plan)["knn/bad-00000000"].status == 1


@pytest.mark.parametrize("text", ["", "[]", '{"time": "now"}', '{"time": 9e9, "done": "x"}', '{"seconds_left": NaN}'])
def test_damaged_notes_of_a_run_do_not_end_the_others(tmp_path: Path, make: SimpleNamespace, text: str) -> None:
    plan = make.plan_of(tmp_path, [make.knn(tmp_path, "n-00000000", 10.0)])
    (folder := plan.folder("knn/n-00000000")).mkdir(parents=True)
    (folder / "progress.json").write_text(text)
    running = status_of(plan, {"knn/n-00000000": time.time()}).running["knn/n-00000000"]
    assert run_seconds_left(running, 60.0) == pytest.approx(60.0, abs=5)
    # The clock was set back while it ran.
    (tmp_path / "out/runs.jsonl").write_text(
        '{"run": "knn/n-00000000", "started": 9.0, "seconds": -3600.0, "status": 0}'
    )
    assert expected_durations(plan, last_attempts(plan)).seconds == {"knn/n-00000000": 1.0}


@pytest.mark.slow
def test_a_second_start_waits_and_finds_all_done(tmp_path: Path, make: SimpleNamespace) -> None:
    plan_file = make.plan_of(tmp_path, [make.knn(tmp_path, "n-00000000", 10.0, seconds=2.0)]).write()
    command = [sys.executable, "-c", WORK, str(plan_file)]
    first, second = (subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2))
    said = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert sum("waiting for process" in text for text in said) == 1 and starts(tmp_path, "n-00000000") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted; run the same command again to continue"),
        (signal.SIGTERM, INTERRUPTED, "stopped by SIGTERM; run the same command again to continue"),
        (signal.SIGHUP, INTERRUPTED, "stopped by SIGHUP; run the same command again to continue"),
    ],
)
def test_a_signal_ends_the_runs_and_a_second_start_finishes(
    tmp_path: Path, make: SimpleNamespace, kind: signal.Signals, code: int, said: str
) -> None:
    plan_file = make.plan_of(tmp_path, [make.knn(tmp_path, "n-00000000", 10.0, seconds=4.0)]).write()
    # A job that a shell started in the background ignores SIGINT, one of nohup SIGHUP, and so would their children.
    heard = functools.partial(signal.signal, kind, signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(plan_file)], cwd=ROOT, start_new_session=True, preexec_fn=heard,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 60
    while not (tmp_path / "out/knn/n-00000000/starts").exists():
        assert time.time() < deadline
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(kind)
    assert process.communicate(timeout=60)[1].splitlines()[-1] == said and process.returncode == code
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert not (tmp_path / "out/knn/n-00000000/result.json").exists()
    assert len(run_plan(read_plan(plan_file)).done) == 1


def test_a_hangup_that_is_ignored_stays_so(tmp_path: Path, make: SimpleNamespace) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hangup = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP))
    hangup.start()
    try:
        assert len(run_plan(make.plan_of(tmp_path, [make.knn(tmp_path, "n-00000000", 10.0)])).done) == 1
        hangup.join()
    finally:
        signal.signal(signal.SIGHUP, before)
