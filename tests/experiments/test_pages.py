"""The tables of docs/collapse.md come from records, and its links and commands hold."""

import re
from pathlib import Path

import pytest

from benchmarks.tables import table as tables
from experiments.pages import BLOCK, METRICS, fill_page
from runs.errors import UserError
from runs.files import read_yaml
from tests.benchmarks.test_collapse_tables import finish, plan

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "collapse.md").read_text(encoding="utf-8")


def test_blocks_are_filled_from_records(tmp_path: Path) -> None:
    p = plan(tmp_path, "figure2")
    for run in p.runs:
        p.folder(run).mkdir(parents=True)
    finish(p, "stop", [False, False, True])
    finish(p, "no_stop", [True] * 3)
    text = "before\n<!-- table: figure2 knn_top1 m_o -->\nold\n<!-- end -->\nx\n<!-- facts -->\n<!-- end -->\nafter\n"
    page = fill_page(text, tmp_path, tmp_path, "lab")
    assert "old" not in page and page.startswith("before\n") and page.endswith("after\n")
    lines = [line for line in page.splitlines() if line.startswith("| w/")]
    assert lines[0].endswith("| 67.7 | × | **1/3** | 3 | 12.5 ± 0.0 | 0.333 ± 0.577 |")
    assert lines[1].endswith("| 0.1 | ✓ | ✓ 3/3 | 3 | 12.5 ± 0.0 | 1.000 ± 0.000 |")
    assert "6 runs, 0 minutes" in page
    # Written once more, nothing changes.
    assert fill_page(page, tmp_path, tmp_path, "lab") == page
    # The same from another folder, which has a plan of its own.
    p.write()
    text = f"<!-- table: figure2 ours from {tmp_path.name} -->\n<!-- end -->\n"
    page = fill_page(text, tmp_path / "none", tmp_path.parent)
    assert "| w/" in page and "paper" not in page


def test_a_figure_that_prints_no_accuracy_has_no_column_for_it(tmp_path: Path) -> None:
    page = fill_page("<!-- table: collapse/figure8 covariance -->\n<!-- end -->\n", tmp_path, tmp_path, "lab")
    assert "|  | preset | n | covariance |" in page
    assert "| τ = 0.1 | `method=simclr method.temperature=0.1` | 0 | – |" in page


def test_a_page_without_blocks_and_an_unknown_metric_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no block"):
        fill_page("nothing", tmp_path, tmp_path, "lab")
    with pytest.raises(UserError, match="colour: no such metric"):
        fill_page("<!-- table: figure2 colour -->\n<!-- end -->\n", tmp_path, tmp_path, "lab")


def test_the_page_shows_the_tables_that_say_who_collapses() -> None:
    found = {m[3].split()[0]: m[3].split()[1:] for m in BLOCK.finditer(PAGE) if m[2] == "table"}
    assert set(tables.groups()["collapse"]) <= set(found)
    assert all(metric in METRICS for metrics in found.values() for metric in metrics)


def test_the_pages_pictures_presets_and_commands_exist() -> None:
    for picture in re.findall(r"\]\((images/[^)]+)\)", PAGE):
        file = ROOT / "docs" / picture
        assert file.stat().st_size < 150_000, picture
    variants = read_yaml(ROOT / "pretrain" / "variants.yaml")
    assert set(re.findall(r"variant=([a-z_0-9]+)", PAGE)) <= set(variants)
    for module in re.findall(r"python -m ([a-z.]+)", PAGE):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
