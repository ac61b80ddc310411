"""A folder belongs to one run and to one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from runs.errors import UserError
from runs.folder import RunFolder

CONFIG = {"optimizer": {"lr": 0.05}, "workers": 2, "output": "somewhere"}


def test_the_same_settings_come_back_to_the_same_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", CONFIG, "pretrain")
    assert not first.done
    del first
    again = RunFolder(tmp_path / "run", {**CONFIG, "output": "elsewhere", "workers": 8}, "pretrain", free=["workers"])
    again.record.write_text("{}")
    assert again.done


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        ({**CONFIG, "optimizer": {"lr": 0.03}}, "pretrain", r"optimizer\.lr: 0\.05 there, 0\.03 here"),
        (CONFIG, "linear", "kind: pretrain there, linear here"),
        ({**CONFIG, "seed": 1}, "pretrain", "seed: absent there, 1 here"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, config: dict, kind: str, said: str) -> None:
    RunFolder(tmp_path / "run", CONFIG, "pretrain")
    with pytest.raises(UserError, match=said):
        RunFolder(tmp_path / "run", config, kind)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="something else"):
        RunFolder(tmp_path, CONFIG, "pretrain")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex", CONFIG, "pretrain")


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    code = (
        "import sys; from runs.folder import RunFolder; f = RunFolder(sys.argv[1], {}, 'knn');"
        "print('in', f.done, flush=True); sys.stdin.read(); f.record.write_text('{}')"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "run")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    first = start()
    assert first.stdout is not None and first.stdout.readline() == "in False\n"
    second = start()
    assert second.stderr is not None and f"waiting for process {first.pid}" in second.stderr.readline()
    first.communicate("")
    assert second.communicate("")[0] == "in True\n", "the second process has to find the first one's result"
