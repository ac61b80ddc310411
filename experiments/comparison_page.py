"""`python -m experiments.comparison_page`: write docs/comparison.md from features.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runs.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "docs/features.yaml", ROOT / "docs/comparison.md"
GRADES = {"full": "yes", "partly": "partly", "none": "no", "other": "–"}
HEAD = """\
# Beside other projects

<!-- Generated from docs/features.yaml by `python -m experiments.comparison_page`; a test keeps it current. -->

What this suite has and what it lacks, compared with seven projects that its users know, as of the commits below. A dash
marks a feature outside a project's purpose. The source of each cell is under the feature's heading. "No" means that the
words were found in no file at that commit, or that the file says so.

"""


def render_page(data: Mapping[str, Any]) -> str:
    """The text of docs/comparison.md.

    Args:
        data: `projects` and `features` of docs/features.yaml.

    Raises:
        KeyError: a feature has no cell for a project, or a cell has no grade.
    """
    projects, features = data["projects"], data["features"]
    lines = ["| feature |", "| --- |"]
    for project in projects.values():
        lines = [lines[0] + f" {project['name']} |", lines[1] + " :-: |"]
    for feature in features:
        grades = (GRADES[_grade(feature[key])] for key in projects)
        lines.append(f"| [{feature['name']}](#{_anchor(feature['name'])}) | {' | '.join(grades)} |")
    lines += ["", "| project | commit | of |", "| --- | --- | --- |"]
    for project in projects.values():
        if "repository" in project:
            link = f"https://github.com/{project['repository']}/tree/{project['commit']}"
            lines.append(f"| {project['name']} | [{project['commit'][:10]}]({link}) | {project['date']} |")
    for feature in features:
        lines += ["", f"## {feature['name']}", f"Counts: {feature['counts']}.", ""]
        lines += [f"- {project['name']}: {_evidence(feature[key], project)}" for key, project in projects.items()]
    return HEAD + "\n".join(lines) + "\n"


def _grade(cell: Mapping[str, str]) -> str:
    return next(grade for grade in GRADES if grade in cell)


def _evidence(cell: Mapping[str, str], project: Mapping[str, str]) -> str:
    """A cell as text: the grade, its source and the note."""
    grade = _grade(cell)
    source, note = cell[grade], f"; {cell['note']}" if "note" in cell else ""
    if "searched" in cell:
        return f"{GRADES[grade]}, `{source}` not found in {cell['searched']}{note}"
    path = source.partition("#")[0]
    if "repository" not in project:
        link = f"../{path}" if not path.startswith("docs/") else path.removeprefix("docs/")
    else:
        link = f"https://github.com/{project['repository']}/blob/{project['commit']}/{source}"
    return f"{GRADES[grade]}, [{path}]({link}){note}"


def _anchor(heading: str) -> str:
    """As GitHub and MkDocs make it."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return "-".join(kept.split())


if __name__ == "__main__":
    with atomic_write(PAGE, "w") as file:
        file.write(render_page(yaml.safe_load(DATA.read_text(encoding="utf-8"))))
