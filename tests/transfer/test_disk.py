"""A disk that fills up in the middle of a run: one line, nothing half-written, and the same command goes on."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_no_space_left(command: Command, backbone: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # Room for the settings and the log; none for a checkpoint of 1.5 million numbers and their momentum.
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    line = ["task=voc07", f"weights={backbone}", f"output={disk / 'run'}", "pictures=0", "save_seconds=0"]
    try:
        done = command(*line)
        assert done.returncode == 2, done.stderr
        last = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
        assert len(last) == 1 and "checkpoint.pth: no space left on the device" in last[0], done.stderr
        assert "Traceback" not in done.stderr
        names = {path.name for path in (disk / "run").iterdir()}
        assert not names & {"result.json", "checkpoint.pth", "model_final.pth"}
        assert not [name for name in names if name.endswith(".partial")]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        done = command(*line)
        assert done.returncode == 0, done.stderr
        assert torch.load(disk / "run" / "model_final.pth", weights_only=True)["model"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
