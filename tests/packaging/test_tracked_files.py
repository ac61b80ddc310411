"""No tracked file names a path of the machine it was written on, or a package index."""

import re
import subprocess
from pathlib import Path

import pytest

# Written in pieces, so that this file does not contain what it looks for.
FOLDERS = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/[a-z]", "/Us" + "ers/[a-z]", r"/t" + r"mp/", "/var/fol" + "ders/"]
HOSTS = [
    r"py" + r"pi\.org",
    r"pythonhos" + r"ted\.org",
    r"download\.pyto" + r"rch\.org",
    r"conda\.ana" + r"conda\.org",
    r"reg" + r"istry\.npmjs",
    r"extra-ind" + r"ex-url ",
]
# A path begins where a word does not go on: a folder of ours that has such a name inside another is no machine path.
FORBIDDEN = re.compile("|".join([rf"(?<![\w.~-])(?:{folder})" for folder in FOLDERS] + HOSTS))


def tracked(root: Path) -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a Git checkout")
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def test_no_machine_path_and_no_index_host(root: Path) -> None:
    found = []
    for path in tracked(root):
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {match.group()}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["see /wo" + "rk/x", '"/t' + 'mp/a"', "https://py" + "pi.org/simple"])
def test_the_pattern_finds_them(line: str) -> None:
    assert FORBIDDEN.search(line)


def test_the_pattern_leaves_our_own_paths() -> None:
    assert not FORBIDDEN.search("outputs/wo" + "rk/a and ~/t" + "mp/b")


def test_no_tracked_file_is_large(root: Path) -> None:
    large = {str(path.relative_to(root)): path.stat().st_size for path in tracked(root) if path.stat().st_size > 2**20}
    assert not large, "results and data are not tracked; pictures of the documentation stay below 1 MiB"
