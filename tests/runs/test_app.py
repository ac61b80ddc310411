"""Commands end with one line and status 2 for whatever the user can put right."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runs.errors import user_message

APPLICATION = '''"""`python -m application data.root=DIR`: train something."""
import sys
from dataclasses import dataclass, field
from typing import Any
from runs.app import hydra_app
from runs.errors import UserError
from runs.settings import choice, path

@dataclass
class Optimizer:
    """How weights move."""
    lr: float = 0.05
    def check_consistency(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optimizer.lr: {self.lr} is not positive; give a number above 0")

@dataclass
class Data:
    """Where the images are."""
    root: str = path()
    """Its folder."""

@dataclass
class Config:
    optimizer: Optimizer = field(default_factory=Optimizer)
    data: Data = field(default_factory=Data)
    epochs: int = 100
    """Passes over the
    images."""
    device: str = choice("auto", "cpu")

def train(config: Config) -> float:
    if config.data.root == "full":
        raise OSError(28, "No space left on device")
    if config.data.root == "defect":
        raise AssertionError("a defect of the program")
    print(config.optimizer.lr, config.data.root, config.epochs)
    if config.data.root == "later":
        sys.exit(75)
    return config.optimizer.lr

main = hydra_app("application", "config", Config, train)

if __name__ == "__main__":
    main()
'''
CONFIG = """
defaults: [schema_config, _self_]
"""


def write_application(root: Path, text: str = APPLICATION) -> Path:
    (root / "application").mkdir()
    (root / "application" / "__init__.py").touch()
    (root / "application" / "__main__.py").write_text(text)
    (root / "application" / "config.yaml").write_text(CONFIG)
    return root


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_application(tmp_path_factory.mktemp("app"))


def start(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{here}", **more}
    command = [sys.executable, "-m", "application", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "data.root: is required; add data.root=… to the command"),
        (["data.root="], "data.root=: is empty; give a path, `.` for the present folder"),
        (["data.root=x", "epoch=3"], "unknown key 'epoch', did you mean 'epochs'?"),
        (["data.root=x", "lr=3"], "unknown key 'lr', did you mean 'optimizer.lr'?"),
        (["data.root=x", "optimizer=sgd"], "optimizer: is a group of settings; give those in it, optimizer.…=…"),
        (["data.root=x", "optimizer.lrr=3"], "unknown key 'optimizer.lrr', did you mean 'optimizer.lr'?"),
        (["data.root=x", "+optimizer.momentum=3"], "unknown key 'optimizer.momentum'"),
        (["data.root=x", "epochs=many"], "epochs: Value 'many' of type 'str' could not be converted to Integer"),
        (["data.root=x", "optimizer.lr=-1"], "optimizer.lr: -1.0 is not positive"),
        (["data.root=x", "nothing"], "nothing"),
        (["data.root=x", "-m", "optimizer.lr=-1", "hydra.sweep.dir=application"], "optimizer.lr: -1.0 is not positive"),
        (["data.root=full"], "no space left on the device"),
        (["data.root=x", "device=tpu"], "device=tpu: choose one of auto, cpu"),
        (["--epochs", "3"], "--epochs: settings are given as key=value; write epochs=3"),
        (["data.root=x", "~epochs", "optimizer.lr=${epochs}"], "~epochs: other settings need it; leave ~epochs out"),
        (["--optimizer.lr=0.1"], "write optimizer.lr=0.1"),
        (
            ["-m", "data.root=x", "optimizer.lr=0.1,-1", "hydra.sweep.dir=application"],
            "optimizer.lr: -1.0 is not positive",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(application: Path, arguments: list[str], said: str) -> None:
    result = start(application, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert said in result.stderr
    assert result.stdout == "" or "-m" in arguments


@pytest.mark.parametrize(
    ("variable", "status", "printed", "said"),
    [
        ({"PYTHONIOENCODING": "ascii"}, 0, "0.5 \\xfc 100\n", ""), ({"PYTHONOPTIMIZE": "1"}, 0, "0.5 ü 100\n", ""),
        ({"PYTHONOPTIMIZE": "2"}, 2, "", "error: PYTHONOPTIMIZE=2: takes docstrings away"),
        ({"RUNS_PARENT_PID": "x"}, 2, "", "error: RUNS_PARENT_PID=x: must be the number of a process; unset it"),
        ({"RUNS_PARENT_PID": "9" * 30}, 2, "", f"error: RUNS_PARENT_PID={'9' * 30}: must be the number of a process"),
        ({"WORLD_SIZE": "x", "RANK": "3"}, 0, "0.5 ü 100\n", ""),
    ],
)  # fmt: skip
def test_an_environment_that_is_not_as_usual(
    application: Path, variable: dict[str, str], status: int, printed: str, said: str
) -> None:
    result = start(application, "data.root=ü", "optimizer.lr=0.5", **variable)
    assert (result.returncode, result.stdout) == (status, printed), result.stderr
    assert result.stderr.startswith(said) and result.stderr.count("\n") == bool(said)


def test_a_package_that_a_function_given_by_name_needs_is_named(tmp_path: Path) -> None:
    write_application(tmp_path, APPLICATION.replace("Config, train)", 'Config, "application.trainer:train")'))
    (tmp_path / "application" / "trainer.py").write_text("import no_such_package\n")
    result = start(tmp_path, "data.root=x")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert result.stderr.startswith("error: no_such_package is not installed; ")


def test_right_settings_run(application: Path) -> None:
    result = start(application, "data.root=x", "", "optimizer.lr=0.5", " ")
    assert (result.returncode, result.stdout, result.stderr) == (0, "0.5 x 100\n", "")
    assert {p.name for p in application.iterdir()} == {"application"}, "Hydra must leave no folders of its own"


@pytest.mark.parametrize(
    "name",
    [
        "epoch=3-step=400.ckpt",
        "net (1).pth",
        "Größe/网.pth",
        "${epochs}",
        "a,b",
        "it's",
        "end\\",
        "\\'",
        "[x]{y}: z",
        " s ",
    ],
)
def test_a_path_is_the_rest_of_its_argument(application: Path, name: str) -> None:
    result = start(application, f"data.root={name}")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"0.05 {name} 100\n", "")


def test_a_path_may_begin_with_the_users_own_folder(application: Path) -> None:
    assert start(application, "data.root=~/a b", HOME="/folder/me").stdout == "0.05 /folder/me/a b 100\n"


def test_a_path_in_hydras_own_quotes_is_read_as_before(application: Path) -> None:
    assert start(application, "data.root='a=b'").stdout == "0.05 a=b 100\n"


def test_several_runs_at_once(application: Path) -> None:
    result = start(application, "-m", "data.root=x,y", "epochs=1,2", "hydra.sweep.dir=application")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"0.05 {root} {epochs}" for root in "xy" for epochs in (1, 2)]


def test_help_is_made_of_the_settings(application: Path) -> None:
    result = start(application, "word", "--help", "optimizer.lr=0.5")
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        result.stdout
        == """\
Train something.

  python -m application data.root=DIR

Settings:
  epochs=100                      Passes over the images.
  device=auto                     auto, cpu.

optimizer: How weights move.
  optimizer.lr=0.5

data: Where the images are.
  data.root=                      Required. Its folder.

--cfg job prints the settings instead of running, -m key=1,2 runs once for each value (hydra.cc).
"""
    )


def test_the_status_that_the_command_returns_is_its_exit_status(application: Path) -> None:
    assert start(application, "data.root=later").returncode == 75


def test_a_defect_of_the_program_keeps_its_traceback(application: Path) -> None:
    result = start(application, "data.root=defect")
    assert result.returncode == 70 and "AssertionError: a defect of the program" in result.stderr


def exhausted(ask: Callable[[], object]) -> Exception:
    """What is raised for more than any machine has."""
    with pytest.raises((MemoryError, RuntimeError)) as found:
        ask()
    return found.value


def test_out_of_memory_is_one_line() -> None:
    remedy = ": take a smaller batch or smaller images, precision=bf16, or a device with more"
    # As a GPU says it (PyTorch 2.11), and as this machine does.
    said = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of …")
    assert user_message(said) == f"out of memory for 20.00 GiB more{remedy}"
    assert user_message(exhausted(lambda: torch.empty(2**50))) == f"out of memory for {2**52} bytes more{remedy}"
    assert user_message(exhausted(lambda: bytearray(2**50))) == f"out of memory{remedy}"
    assert user_message(RuntimeError("shapes cannot be multiplied")) is None


def test_a_child_ends_with_the_process_it_follows(tmp_path: Path) -> None:
    leader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child_code = (
        "import time\nfrom runs.app import cli\n@cli\ndef main(): print('up', flush=True); time.sleep(60)\nmain()"
    )
    environment = {**os.environ, "RUNS_PARENT_PID": str(leader.pid)}
    child = subprocess.Popen([sys.executable, "-c", child_code], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "up\n"
        leader.kill()
        leader.wait()
        started = time.time()
        assert child.wait(timeout=20) == 143
        assert time.time() - started < 20
    finally:
        child.kill()
        leader.kill()
