"""The log of a resumed run reads as if the run had never stopped."""

import json
import os
from pathlib import Path

import pytest

from runs.errors import UserError
from runs.metrics_log import MetricsLog, read_log


def test_resume_drops_the_torn_line_and_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(5):
        log.write(step, loss=-0.1 * step)
    log.close()
    with open(path, "a") as file:
        file.write('{"step": 5, "los')

    resumed = MetricsLog(path, resume_step=3)
    for step in range(3, 6):
        resumed.write(step, loss=-0.1 * step)
    resumed.close()

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert all(line["loss"] == -0.1 * line["step"] for line in lines)


def test_lines_that_no_run_wrote_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = '"a"', "null", "[1]", "NaN", "1e999", "true"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in steps) + '{"step": 2, "name": "a\u2028b"}\n', "utf-8")
    MetricsLog(path, resume_step=9).close()
    assert list(read_log(path)) == [{"step": 2, "name": "a\u2028b"}]


def test_nan_is_written_as_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(0, loss=float("nan"), std=0.5)
    log.close()
    assert list(read_log(tmp_path / "metrics.jsonl")) == [{"step": 0, "loss": None, "std": 0.5}]


def test_a_resume_that_fails_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(3):
        log.write(step, loss=0.5)
    log.close()
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        MetricsLog(path, resume_step=2)
    assert path.read_text() == before
