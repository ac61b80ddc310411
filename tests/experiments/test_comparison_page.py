"""docs/comparison.md says what docs/features.yaml says, and each cell of it has a source."""

import re
from typing import Any

import pytest
import yaml

from experiments.comparison_page import DATA, GRADES, PAGE, ROOT, render_page

FEATURES = yaml.safe_load(DATA.read_text(encoding="utf-8"))
CELLS = [(f["name"], key, f.get(key)) for f in FEATURES["features"] for key in FEATURES["projects"]]


def test_the_page_is_what_the_data_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(FEATURES)


@pytest.mark.parametrize(("feature", "key", "cell"), CELLS, ids=[f"{feature}-{key}" for feature, key, _ in CELLS])
def test_the_cell_has_one_grade_and_its_source(feature: str, key: str, cell: dict[str, Any]) -> None:
    (grade,) = cell.keys() & GRADES.keys()
    assert cell.keys() <= {grade, "note", "searched"}
    path, _, line = cell[grade].partition("#")
    if key == "ours":
        assert (ROOT / path).is_file()
    elif "searched" in cell:
        assert grade == "none" and re.compile(cell[grade])
    else:
        assert re.fullmatch(r"[\w./-]+", path) and re.fullmatch(r"(L\d+)?", line)


def test_there_are_seven_other_projects_at_a_commit() -> None:
    others = [project for project in FEATURES["projects"].values() if "repository" in project]
    assert len(others) == 7 and all(re.fullmatch("[0-9a-f]{40}", project["commit"]) for project in others)


def test_what_we_lack_is_said() -> None:
    ours = [next(iter(cell)) for _, key, cell in CELLS if key == "ours"]
    assert "none" in ours and "partly" in ours
