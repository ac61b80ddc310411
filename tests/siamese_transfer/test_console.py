import importlib.util
import os
import subprocess
import sys

import pytest

from benchmarks.__main__ import parser
from runs import __version__
from siamese_transfer.__main__ import COMMANDS


def console(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys\n{before}\nsys.argv[1:] = {words!r}\nimport siamese_transfer.__main__ as m\nm.main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module(name: str) -> None:
    assert importlib.util.find_spec(COMMANDS[name].module)


def test_every_command_of_the_benchmarks_is_here() -> None:
    [commands] = [action.choices for action in parser()._subparsers._group_actions]
    assert {command.words[0] for command in COMMANDS.values() if command.module == "benchmarks"} == set(commands)


def test_an_unknown_command_is_one_line_with_the_nearest() -> None:
    done = console("gaet")
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: unknown command 'gaet', did you mean 'gate'?; siamese-transfer --help lists the commands\n"
    )


@pytest.mark.parametrize(
    ("module", "words", "remedy"),
    [
        ("hydra", ("pretrain", "--cfg", "job"), "pip install 'siamese-transfer[all]'"),
        ("jinja2", ("report", "."), "pip install 'siamese-transfer[all]'"),
        (
            "detectron2",
            ("transfer", "task=voc07", "data.root=.", "weights=scratch", "output=x"),
            'pip install "$(siamese-transfer detectron2)"',
        ),
    ],
)
def test_a_missing_package_is_one_line_with_the_remedy(module: str, words: tuple[str, ...], remedy: str) -> None:
    done = console(*words, before=f"sys.modules[{module!r}] = None")
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {module} is not installed; {remedy}\n",
    )


def test_a_command_keeps_its_own_status_and_words() -> None:
    done = console("show", "tabel5")
    assert done.returncode == 2
    assert done.stderr.startswith("error: tabel5: no such table") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", {command.module: name for name, command in COMMANDS.items()}.values())
def test_every_module_says_its_version(name: str) -> None:
    done = console(name, "--version")
    assert (done.returncode, done.stdout) == (0, f"siamese-transfer {__version__}\n"), done.stderr


def test_usage_names_what_the_user_typed() -> None:
    assert console("gate", "--help").stdout.startswith("usage: siamese-transfer gate ")
    assert console("convert", "detectron2", "--help").stdout.startswith("usage: siamese-transfer convert detectron2 ")
    assert "see siamese-transfer gate --help" in console("gate").stderr
