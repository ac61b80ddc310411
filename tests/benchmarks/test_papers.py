"""The papers' values, checked against sources typed independently of the data files."""

import re
from pathlib import Path

import pytest

from benchmarks.tables import table as tables
from benchmarks.tables.table import Table
from runs.errors import UserError

# Every table and figure that has to be there, with the number of its rows.
WANTED = {
    "figure2": 2, "table1": 4, "table2": 7, "table3": 4, "similarity": 2, "symmetrization": 3, "alternation": 4,
    "moving_average": 2, "dimension": 4, "simclr_ablation": 3, "swav_ablation": 3, "table4": 8, "table5": 9,
    "tableC1": 2, "figureD1": 2, "collapse/table1": 3, "collapse/table2": 4, "collapse/table3": 3, "collapse/table4": 4,
    "collapse/table5": 4, "collapse/table6": 2, "collapse/figure3": 2, "collapse/figure4": 4,
    "collapse/figure5a": 2, "collapse/figure5b": 1, "collapse/figure5c": 1,
    "collapse/figure6": 3, "collapse/figure7": 5, "collapse/figure8": 5,
}  # fmt: skip


def test_every_table_and_figure_is_there_and_valid() -> None:
    assert {name: len(tables.load(name).rows) for name in tables.names()} == WANTED


def values(name: str) -> list[object]:
    return [row.values[0] for row in tables.load(name).rows]


def test_values_of_the_first_paper() -> None:
    assert values("table1") == [67.7, 0.1, 1.5, 68.1]
    assert values("table2") == [66.1, 67.3, 68.1, 68.1, 68.0, 67.0, 64.0]
    assert values("table3") == [34.6, 67.4, 68.1, "unstable"]
    assert values("similarity") == [68.1, 63.2]
    assert values("symmetrization") == [68.1, 64.8, 67.3]
    assert values("alternation") == [68.1, 68.7, 68.9, 67.0]
    assert values("moving_average")[0] == 55.0
    assert values("dimension") == [65.3, 67.2, 67.5, 68.1]
    assert values("simclr_ablation") == [66.5, 66.4, 66.0]
    assert values("swav_ablation") == [66.5, 65.2, "NaN"]
    assert values("figureD1") == [91.8, 91.1]
    assert values("figure2") == [67.7, 0.1]


def test_values_of_the_second_paper() -> None:
    assert [r.values for r in tables.load("collapse/table1").rows] == [(0.0108, 46.57), (0, 1), (0, 1)]
    assert values("collapse/table2") == [66.62, 1, 1, 1]
    expected = [(0.020, 0.026, 0.99, 36.21), (0.02005, 0.026, 0.99, 47.41), (0, 1, 0, 1)]
    assert [r.values for r in tables.load("collapse/table3").rows] == expected
    assert values("collapse/table4") == [66.62, 48.08, 66.15, 1]
    assert values("collapse/table5") == [66.9, 66.7, 64.82, 49.82]
    assert values("collapse/table6") == [0.99, 0.89]


def rows_of(text: str, start: str) -> list[list[str]]:
    """The cells of the Markdown table that begins at `start`."""
    lines = text[text.index(start) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.shared
def test_tables_4_and_5_equal_the_collected_facts(shared: Path) -> None:
    recipes = rows_of((shared / "recipes.md").read_text(), "| row | change vs original")
    table4 = {r.label: r.values[:4] for r in tables.load("table4").rows}
    assert len(recipes) == 5
    for label, *_, numbers in recipes:
        assert table4[label] == tuple(float(n) for n in numbers.split("/")), label
    peers = rows_of((shared / "peers.md").read_text(), "| Table 5 (200-ep")
    table5 = {r.label: r.values for r in tables.load("table5").rows if set(r.values) != {None}}
    assert len(peers) == len(table5) == 8
    for label, *groups in peers:
        assert table5[label] == tuple(float(n) for group in groups for n in re.split("/", group)), label


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("label: x", "field 'title' is missing"),
        ("- a", "must be a mapping"),
        ("label: [", "not YAML"),
        ("{good}\nsurprise: 1", "unknown field 'surprise'"),
        ("{good}", ""),
        ("{good}".replace("good", "short"), "2 values for 1 columns"),
        ("{task}", "columns[0]: task='dancing': choose one of pretrain, linear"),
        ("{method}", "pretrain.method is missing"),
        ("{twice}", "row 'a' is there twice"),
        ("{list}", "pretrain.method must be a name"),
        ("{good}\nbold: {wihtin: 1}", "bold: unknown field 'wihtin'"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, text: str, complaint: str) -> None:
    head = (
        "label: T\ntitle: t\nquantity: q\ncolumns:\n  - {id: c, label: c, task: %s, metric: top1, epochs: 1}\nrows:\n"
    )
    row = "  - {id: a, label: a, pretrain: {%s}, values: [%s]}\n"
    parts = {
        "{good}": head % "linear" + row % ("method: simsiam", "1.0"),
        "{short}": head % "linear" + row % ("method: simsiam", "1.0, 2.0"),
        "{task}": head % "dancing" + row % ("method: simsiam", "1.0"),
        "{method}": head % "linear" + row % ("", "1.0"),
        "{list}": head % "linear" + row % ("method: [simsiam]", "1.0"),
        "{twice}": head % "linear" + 2 * (row % ("method: simsiam", "1.0")),
    }
    for key, part in parts.items():
        text = text.replace(key, part)
    path = tmp_path / "t.yaml"
    path.write_text(text)
    if not complaint:
        assert isinstance(tables.load(str(path)), Table)
        return
    with pytest.raises(UserError, match=re.escape(complaint)):
        tables.load(str(path))


def test_bold_entries_of_table_5_are_the_papers_rule() -> None:
    from benchmarks.results.table_results import table_results
    from benchmarks.tables.scale import load
    from benchmarks.workflow.expand_tables import expand
    from benchmarks.workflow.run_status import Status

    [filled] = table_results(expand([tables.load("table5")], load("mini"), "nowhere"), {}, Status())
    bold = {(r.id, c.id) for r, line in zip(filled.table.rows, filled.entries, strict=True)
            for c, e in zip(filled.table.columns, line, strict=True) if e.paper_bold}  # fmt: skip
    # VOC 07 AP: 48.5, 48.5 and nothing else within 0.5 (47.0 is not); COCO mask AP: 34.4 and 34.3.
    assert {r for r, c in bold if c == "voc07_ap"} == {"moco", "simsiam_optimal"}
    assert {r for r, c in bold if c == "mask_ap"} == {"moco", "simsiam_optimal"}
    # 82.4 - 81.9 is within, so 82.0 and 82.3 are and 81.8 is not.
    assert {r for r, c in bold if c == "voc0712_ap50"} == {"moco", "simsiam", "simsiam_optimal"}


def test_names_are_looked_for_in_all_tables() -> None:
    chosen = tables.choose(["table4", "table5"], ["simsiam", "supervised"], ["ep200", "coco"])
    assert [(t.name, [r.id for r in t.rows], len(t.columns)) for t in chosen] == [
        ("table4", ["simsiam"], 1),
        ("table5", ["supervised", "simsiam"], 6),
    ]
    assert [t.name for t in tables.choose(["table4", "table5"], None, ["voc07"])] == ["table5"]
    with pytest.raises(UserError, match="vo07: no column of table4, table5"):
        tables.choose(["table4", "table5"], None, ["vo07"])
    with pytest.raises(UserError, match="no such table"):
        tables.choose(["table6"], None, None)
