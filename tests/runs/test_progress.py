"""The progress file tells a watcher what is done and how long is left."""

import json
import time
from pathlib import Path

import pytest

from runs.progress import PROGRESS, Progress


def test_the_file_counts_only_the_work_of_this_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "train", unit="step", initial=50, folder=tmp_path) as bar:
        for _ in range(25):
            time.sleep(0.004)
            bar.update(1, loss=-0.5)
    state = json.loads((tmp_path / PROGRESS).read_text())
    assert (state["done"], state["total"], state["description"]) == (75, 100, "train")
    # 25 steps took at least 0.1 s, so the remaining 25 take about as long; counting the 50 before would halve it.
    assert 0.08 < state["seconds_left"] < 2.0
    assert [p.name for p in tmp_path.iterdir()] == [PROGRESS]


def test_a_full_disk_does_not_stop_a_run(tmp_path: Path) -> None:
    with Progress(1, "train", folder=tmp_path / "gone") as bar:
        bar.update()
