"""What the files beside the code say agrees with the code, and the documentation site is built without a warning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runs import __version__


def test_the_version_is_the_same_everywhere(root: Path) -> None:
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    [version, date] = re.search(r"^## (\S+) \((\S+)\)$", changelog, re.M).groups()
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert [version, date] == [citation["version"], str(citation["date-released"])]
    assert version == __version__


def test_pre_commit_formats_with_the_pinned_ruff(root: Path) -> None:
    hooks = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    pinned = re.search(r"^ruff==(\S+)", (root / "requirements.txt").read_text(encoding="utf-8"), re.M)[1]
    assert {repo["repo"].rpartition("/")[2]: repo["rev"] for repo in hooks["repos"]}["ruff-pre-commit"] == f"v{pinned}"


def test_ci_runs_what_a_developer_runs(root: Path) -> None:
    jobs = yaml.safe_load((root / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    steps = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert (steps["test"], steps["docs"]) == ([".ci/run"], ["make docs"])
    # What `make test` skips where the extra is not installed.
    install, *_, pytest_command = steps["integrations"][1:]
    assert "--extra integrations" in install
    tests = [word for word in pytest_command.split() if word.startswith("tests/")]
    assert tests and all((root / test).is_file() for test in tests)
    assert os.access(root / ".ci/run", os.X_OK)
    for target in ("docs", "setup", "test"):
        done = subprocess.run(["make", "--dry-run", target], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "pretrain/index.html", "api/index.html"):
        assert (tmp_path / "site" / page).exists(), page


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs"])
def test_links_to_files_lead_somewhere(root: Path, page: str) -> None:
    pages = sorted((root / page).glob("*.md")) if (root / page).is_dir() else [root / page]
    broken = [
        f"{path.relative_to(root)}: {link}"
        for path in pages
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
        if not (path.parent / link).exists()
    ]
    assert not broken, "\n".join(broken)
