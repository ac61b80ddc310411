"""The sinks of a run's numbers: TensorBoard's events are those of the log, Weights & Biases continues one run."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runs.errors import UserError
from runs.metrics_log import MetricsLog, read_log


class Run:
    """The part of wandb.Run that is used, by its own signatures (wandb 0.31)."""

    def __init__(self, id: str) -> None:
        self.id, self.lines, self.finished = id, {}, False

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        assert step is not None and not self.finished
        # The service takes steps in order; numbers of one step are merged.
        assert not self.lines or step >= max(self.lines)
        self.lines.setdefault(step, {}).update(data)

    def finish(self, exit_code: int | None = None) -> None:
        self.finished = True


class Service(ModuleType):
    """A stand-in for the module: remembers how runs were started."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[dict[str, Any]] = []
        self.runs: list[Run] = []
        self.refuses = False

    def init(self, entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None,
             config_exclude_keys=None, config_include_keys=None, allow_val_change=None, group=None, job_type=None,
             mode=None, force=None, reinit=None, resume=None, resume_from=None) -> Run:  # fmt: skip
        if self.refuses:
            raise self.Error("No API key configured.\nUse `wandb login` to log in.")
        self.calls.append({"project": project, "dir": dir, "id": id, "name": name, "config": config, "resume": resume})
        self.runs.append(Run(id or f"made{len(self.runs)}"))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    return service


def log(folder: Path, first: int, last: int, tensorboard: bool = True, wandb: bool = False) -> None:
    events, settings = (folder / "tensorboard" if tensorboard else None), {"batch_size": 256} if wandb else None
    logs = MetricsLog(folder / "metrics.jsonl", first, events, settings)
    for step in range(first, last):
        logs.write(step, loss=-0.1 * step, spectrum=[1.0, 0.5])
        logs.write(step, knn_top1=50.0 + step)
    logs.close()


def test_a_continued_run_keeps_its_id_and_another_folder_of_the_name_has_its_own(
    wandb: Service, tmp_path: Path
) -> None:
    log(tmp_path / "a" / "run", 0, 3, tensorboard=False, wandb=True)
    log(tmp_path / "a" / "run", 2, 5, tensorboard=False, wandb=True)
    log(tmp_path / "b" / "run", 0, 1, tensorboard=False, wandb=True)
    assert [call["id"] for call in wandb.calls] == [None, "made0", None]
    assert [run.id for run in wandb.runs] == ["made0", "made0", "made2"]
    assert {call["resume"] for call in wandb.calls} == {"allow"} and {call["name"] for call in wandb.calls} == {"run"}
    assert wandb.calls[0]["project"] == "siamese-transfer" and wandb.calls[0]["dir"] == str(tmp_path / "a" / "run")
    assert wandb.calls[0]["config"]["batch_size"] == 256
    assert wandb.runs[1].lines == {step: {"loss": -0.1 * step, "knn_top1": 50.0 + step} for step in (2, 3, 4)}
    assert all(run.finished for run in wandb.runs)


def test_without_the_package_or_an_account_it_is_one_line(
    wandb: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.refuses = True
    with pytest.raises(UserError, match=r"wandb=true: No API key configured.*; use wandb login or WANDB_MODE=offline"):
        log(tmp_path, 0, 1, tensorboard=False, wandb=True)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb=true: the package is missing; pip install wandb, or leave it out"):
        log(tmp_path, 0, 1, tensorboard=False, wandb=True)


def test_tensorboard_reads_what_the_log_says_of_a_run_that_was_continued(tmp_path: Path) -> None:
    log(tmp_path, 0, 4)
    log(tmp_path, 2, 5)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("loss", "knn_top1"):
        ours = [(line["step"], line[name]) for line in read_log(tmp_path / "metrics.jsonl") if name in line]
        theirs = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in ours] == [step for step, _ in theirs] == [0, 1, 2, 3, 4]
        assert [value for _, value in theirs] == pytest.approx([value for _, value in ours])
