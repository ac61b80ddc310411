"""A folder belongs to one run and to one process at a time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs.environment import command_line
from runs.errors import UserError
from runs.folder import CONFIG as SETTINGS
from runs.folder import LOCK, LOG, RECORD, claimed_run, wait_for_folder_lock
from runs.record import Subject, read_record

CONFIG = {"optimizer": {"lr": 0.05}, "workers": 2, "output": "somewhere", "seed": 3}


SUBJECT = Subject("simsiam", "resnet50")


def begin(folder: Path, config: dict = CONFIG, kind: str = "pretrain") -> None:
    """A run that was interrupted."""
    with claimed_run(kind, folder, config):
        (folder / "metrics.jsonl").touch()


def test_the_same_settings_come_back_to_the_same_folder_until_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed_run("pretrain", tmp_path / "run", CONFIG) as run:
        assert run.done is None
    others = {**CONFIG, "output": "elsewhere", "workers": 8}
    with claimed_run("pretrain", tmp_path / "run", others, may_differ=["workers"]) as run:
        assert run.done is None
        record = run.finish(SUBJECT, None, {"loss": -0.9}, verdict="healthy", details={"steps": 7})
    assert (record.kind, record.seed, record.config) == ("pretrain", 3, others)
    assert 0 <= record.seconds < 60 and record.peak_memory_mb > 1 and record.command == command_line()
    assert record == read_record(tmp_path / "run")
    with claimed_run("pretrain", tmp_path / "run", CONFIG, may_differ=["workers"]) as run:
        assert run.done == record
    assert capsys.readouterr().out == f"{tmp_path / 'run' / RECORD}: done already\n"


def test_what_a_killed_start_was_writing_goes(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    for name in (".checkpoint_0001.pth.tar.x1y2.partial", "notes.partial"):
        (tmp_path / "run" / name).touch()
    begin(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("*partial")] == ["notes.partial"]


def test_an_empty_or_foreign_record_is_not_a_finished_run(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    for text in ("", "{}", '{"schema": 1, "metrics": {}}'):
        (tmp_path / "run" / RECORD).write_text(text)
        with pytest.raises(UserError, match=RECORD), claimed_run("pretrain", tmp_path / "run", CONFIG):
            pass


def test_a_record_of_another_run_is_not_believed(tmp_path: Path) -> None:
    other = {**CONFIG, "optimizer": {"lr": 0.03}}
    with claimed_run("pretrain", tmp_path / "other", other) as run:
        run.finish(SUBJECT, None, {"loss": -0.9})
    begin(tmp_path / "run")
    (tmp_path / "run" / RECORD).write_bytes((tmp_path / "other" / RECORD).read_bytes())
    with (
        pytest.raises(UserError, match=r"result\.json: of another run .*optimizer\.lr: 0\.03 there, 0\.05 here"),
        claimed_run("pretrain", tmp_path / "run", CONFIG),
    ):
        pass


def test_a_folder_that_is_deleted_during_the_run_ends_it(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="was deleted or renamed while the run was on"),
        claimed_run("pretrain", tmp_path / "run", CONFIG) as run,
    ):
        shutil.rmtree(tmp_path / "run")
        run.finish(SUBJECT, None, {"loss": -0.9})


ALIASES = "".join(f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping"),
        ("- 1", "must be a mapping"),
        ("{a: " * 900 + "1" + "}" * 900, "not YAML"),
        ("a0: &a0 {x: 1}\n" + ALIASES, "more than 10000 values"),
        ("seed: " + "x" * 30_000, "belongs to another run"),
    ],
)
def test_settings_that_nobody_wrote_are_one_short_line(tmp_path: Path, text: str, said: str) -> None:
    begin(tmp_path / "run")
    (tmp_path / "run" / SETTINGS).write_text(text)
    with pytest.raises(UserError, match=said) as refused, claimed_run("pretrain", tmp_path / "run", CONFIG):
        pass
    assert len(str(refused.value)) < 800


@pytest.mark.parametrize("name", [LOCK, SETTINGS, RECORD])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    begin(tmp_path / "run")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(UserError, match="not an ordinary file"), claimed_run("pretrain", tmp_path / "run", CONFIG):
        pass


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        ({**CONFIG, "optimizer": {"lr": 0.03}}, "pretrain", r"optimizer\.lr: 0\.05 there, 0\.03 here"),
        (CONFIG, "linear", "kind: pretrain there, linear here"),
        ({**CONFIG, "momentum": 1}, "pretrain", "momentum: absent there, 1 here"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, config: dict, kind: str, said: str) -> None:
    begin(tmp_path / "run")
    with pytest.raises(UserError, match=said), claimed_run(kind, tmp_path / "run", config):
        pass
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_same_settings_on_other_data_are_another_run(tmp_path: Path) -> None:
    """Also where the run is done, and where its folder names no data."""
    with claimed_run("pretrain", tmp_path / "run", CONFIG, fingerprint={"train": "a"}) as run:
        run.finish(SUBJECT, None, {"loss": -0.9})
    said = r"fingerprint\.train: a there, b here"
    with (
        pytest.raises(UserError, match=said),
        claimed_run("pretrain", tmp_path / "run", CONFIG, fingerprint={"train": "b"}),
    ):
        pass
    with claimed_run("pretrain", tmp_path / "run", CONFIG, fingerprint={"train": "a"}) as run:
        assert run.done and "fingerprint" not in run.done.config
    begin(tmp_path / "without")
    with (
        pytest.raises(UserError, match=r"fingerprint\.train: absent there, a here"),
        claimed_run("pretrain", tmp_path / "without", CONFIG, fingerprint={"train": "a"}),
    ):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="something else"), claimed_run("pretrain", tmp_path, CONFIG):
        pass
    with pytest.raises(UserError, match="is a file"), claimed_run("pretrain", tmp_path / "thesis.tex", CONFIG):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "precious" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="output=/: is the root"), wait_for_folder_lock(Path("/")):
        pass


def test_a_run_that_fails_at_its_start_leaves_nothing(tmp_path: Path) -> None:
    for before, after in (((), None), ((LOG,), {LOG})):
        for name in before:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / name).touch()
        with pytest.raises(KeyError), claimed_run("pretrain", tmp_path / "run", CONFIG):
            raise KeyError
        found = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else None
        assert found == after
    begin(tmp_path / "begun")
    with pytest.raises(KeyError), claimed_run("pretrain", tmp_path / "begun", CONFIG):
        raise KeyError
    assert {path.name for path in (tmp_path / "begun").iterdir()} == {LOCK, SETTINGS, "metrics.jsonl"}


def test_a_lock_that_is_a_symbolic_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="symbolic link"), claimed_run("pretrain", tmp_path / "run", CONFIG):
        pass
    assert (tmp_path / "precious").read_text() == "text"


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_process_waits_for_the_first(tmp_path: Path, fails: bool) -> None:
    """And finds its result, or the folder free where the first one failed."""
    code = """
import sys
from runs.folder import claimed_run
from runs.record import Subject
with claimed_run("knn", sys.argv[1], {"seed": 0}) as run:
    print("in", run.done is not None, flush=True)
    if not run.done:
        if sys.stdin.read() == "fail":
            sys.exit(2)
        run.finish(Subject("simsiam", "resnet50"), None, {"top1": 1.0})
"""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "run")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    first = start()
    assert first.stdout is not None and first.stdout.readline() == "in False\n"
    second = start()
    assert second.stderr is not None and f"waiting for process {first.pid}" in second.stderr.readline()
    first.communicate("fail" if fails else "")
    output = second.communicate("")[0]
    if fails:
        assert output == "in False\n"
    else:
        assert output.startswith("in True\n") or output.endswith("in True\n"), output
    assert read_record(tmp_path / "run").metrics == {"top1": 1.0}


def test_tasks_of_srun_that_share_a_folder_are_told_how_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    first, second = (claimed_run("knn", tmp_path / "run", {"seed": 0}) for _ in range(2))
    said = pytest.raises(UserError, match=r"another task of this srun runs here; .* torchrun --nnodes=N")
    with first, said, second:
        pass
    with claimed_run("knn", tmp_path / "other", {"seed": 0}):
        pass
