import shutil
import subprocess
from pathlib import Path

import pytest

from siamese_transfer import completion

# What stands for the commands' own words, which takes seconds to read.
FOUND = {name: [] for name in completion.COMMANDS} | {
    "pretrain": ["--help", "method=byol", "method=simsiam", "epochs=", "data.root="],
    "show": ["--format", "table4", "table5"],
}
# Word typed -> completions. bash splits at "=" and wants what stands behind it.
CASES = [
    ("siamese-transfer pre", ["pretrain"]),
    ("siamese-transfer pretrain epo", ["epochs="]),
    ("siamese-transfer pretrain method=si", ["method=simsiam"]),
    ("siamese-transfer pretrain epochs=3 method=b", ["method=byol"]),
    ("siamese-transfer show table", ["table4", "table5"]),
    ("siamese-transfer inspect chec", ["checkpoint.pth"]),
    ("siamese-transfer pretrain data.root=ima", ["data.root=images"]),
]

ASK = {
    # bash's own splitting, as readline does it with "=" among the word breaks.
    "bash": """
source {script}
COMP_WORDBREAKS=' ='; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_siamese_transfer
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
compadd() {{
    local -a given; while [[ $1 != -- ]]; do shift; done; shift
    for given in $@; do [[ $given == $words[-1]* ]] && print -r -- $given; done
}}
compset() {{ }}
_files() {{ local f; for f in ${{words[-1]##*=}}*(N); do print -r -- ${{(M)words[-1]#*=}}$f; done }}
words=({line}); CURRENT=$#words
source {script}
""",
    "fish": "source {script}; complete -C '{line}' | string split -f 1 \\t",
}


@pytest.mark.parametrize("shell", ASK)
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_the_shell_completes(shell: str, line: str, expected: list[str], tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = tmp_path / "script"
    script.write_text(getattr(completion, shell)(FOUND))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("checkpoint.pth", "images"):
        (folder / name).touch()
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    ask = ASK[shell].format(script=script, line=line)
    done = subprocess.run([shell, *options, "-c", ask], cwd=folder, capture_output=True, text=True)
    if shell == "bash":
        expected = [word.rpartition("=")[2] if "=" in line.split()[-1] else word for word in expected]
    assert sorted(done.stdout.split()) == expected, done.stderr


def test_the_words_are_the_commands_own() -> None:
    """One Hydra command (its settings are printed by a child) and two of argparse."""
    settings = set(completion.settings("transfer", "transfer"))
    assert {"task=", "data.root="} <= settings
    assert {"table5", "--scale", "mini"} <= set(completion._words("plan", completion.COMMANDS["plan"]))
    assert {"detectron2", "torchvision", "--json"} <= set(completion._words("convert", completion.COMMANDS["convert"]))


def test_choices_come_from_the_groups() -> None:
    assert {"method=simsiam", "data=imagenet", "epochs="} <= set(completion.settings("pretrain", "pretrain"))
