"""Every command in the README exists and takes the settings that it is shown with."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.pages import BLOCK

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    if not language
    for line in block.splitlines()
    if line.strip()
]
# Commands that do nothing cover nothing.
pytestmark = pytest.mark.usefixtures("untraced")
HYDRA = ("pretrain", "pretrain.linear", "pretrain.knn", "transfer", "transfer.check_data")


def dry(command: str) -> list[str]:
    """The command with its arguments, changed so that it parses them and does nothing."""
    words = shlex.split(command)
    module = words[words.index("-m") + 1]
    arguments = words[words.index("-m") + 2 :]
    start = [sys.executable, "-m", module]
    if module in HYDRA:
        return [*start, *arguments, "--cfg", "job"]
    # argparse reads the words before --help and stops there: a wrong subcommand or option fails first.
    return [*start, *arguments, "--help"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if " -m " in c])
def test_the_command_parses(command: str) -> None:
    result = subprocess.run(dry(command), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_the_target_exists(command: str) -> None:
    result = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_readme_shows_commands_of_all_three_users() -> None:
    for word in ("make demo", "benchmarks run table5", "converters inspect", "benchmarks gate --baseline"):
        assert any(word in command for command in COMMANDS), word


def test_a_wrong_command_would_be_noticed() -> None:
    for wrong in ("python -m pretrain methode=simsiam", "python -m benchmarks rum table5"):
        assert subprocess.run(dry(wrong), cwd=ROOT, capture_output=True).returncode != 0


@pytest.mark.parametrize("page", re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT))
def test_linked_pages_exist(page: str) -> None:
    assert (ROOT / page).exists(), page


def test_the_readme_has_numbers_with_their_origin() -> None:
    blocks = {(m[2], m[3]): m[4] for m in BLOCK.finditer(TEXT)}
    assert re.search(
        r"\d+ runs, \d+ minutes all together \(.+ cores, PyTorch .+; commit .+\)", blocks["facts", "from results/mini"]
    )
    for name in ("table4", "table5"):
        assert "| SimSiam" in blocks["table", f"{name} ours from results/mini"]
