"""The speed command: what a row says, and that a fall behind a peer is found. Nothing here is timed."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments.speed import __main__ as speed
from experiments.speed.growth import CURVES, Growth, slope, steeper, table
from experiments.speed.page import BEGIN, END, cells, markdown_page
from experiments.speed.rows import Result, Row, alternate


def row(name: str, times: float, higher: bool = False) -> Row:
    """Ours `times` times better than a peer that drifts by half over three rounds."""
    peer = [100.0, 125.0, 150.0]
    ours = [p * times if higher else p / times for p in peer]
    return Row(name, "made up", "images/s" if higher else "s", higher, ours, peer, "peer 1.0", limit=10.0)


def result(file: Path, rows: list[Row]) -> Path:
    file.write_text(json.dumps({"schema": 1, "rows": [asdict(r) for r in rows], "skipped": []}))
    return file


def run(*words: object, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.speed", *map(str, words)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize("higher", [True, False])
def test_the_ratio_is_how_many_times_better_ours_is(higher: bool) -> None:
    found = row("a/b", 2.5, higher)
    assert found.ratio == pytest.approx(2.5) and found.ratios == pytest.approx([2.5] * 3)


def test_the_share_of_the_limit_is_below_one_both_ways() -> None:
    rate = Row("a/b", "", "images/s", True, [50.0], [20.0], "p", limit=200.0)
    time = Row("a/b", "", "s", False, [2.0], [5.0], "p", limit=0.5)
    assert rate.share == time.share == pytest.approx(0.25)
    assert cells(rate)[-1] == "25 %"


def test_a_row_needs_as_many_rounds_of_the_peer() -> None:
    with pytest.raises(ValueError, match="same number of rounds"):
        Row("a/b", "", "s", False, [1.0, 2.0], [1.0], "p")


def test_sides_alternate_and_lead_in_turn() -> None:
    calls: list[str] = []
    ours, peer = alternate(lambda: calls.append("o"), lambda: calls.append("p"), 3)
    assert "".join(calls) == "op" + "oppoop" and len(ours) == len(peer) == 3


@pytest.mark.parametrize(("share", "status"), [(0.75, 1), (0.9, 0), (1.5, 0)])
def test_a_fall_of_a_quarter_is_found_and_one_of_a_tenth_is_not(
    tmp_path: Path, root: Path, share: float, status: int
) -> None:
    before = result(tmp_path / "a.json", [row("knn/cpu", 2.0), row("views/cpu", 3.0, higher=True)])
    after = result(tmp_path / "b.json", [row("knn/cpu", 2.0), row("views/cpu", 3.0 * share, higher=True)])
    done = run("compare", before, after, root=root)
    assert done.returncode == status, done.stderr
    named = [line for line in done.stdout.splitlines() if line.startswith("REGRESSION")]
    assert ["views/cpu" in line for line in named] == [True] * status


def test_a_slower_machine_alone_is_no_regression(tmp_path: Path, root: Path) -> None:
    slow = row("knn/cpu", 2.0)
    slow.ours, slow.peer = [3 * v for v in slow.ours], [3 * v for v in slow.peer]
    done = run(
        "compare", result(tmp_path / "a.json", [row("knn/cpu", 2.0)]), result(tmp_path / "b.json", [slow]), root=root
    )
    assert done.returncode == 0, done.stdout


def test_rows_that_are_gone_are_named(tmp_path: Path, root: Path) -> None:
    before = result(tmp_path / "a.json", [row("knn/cpu", 2.0), row("views/cpu", 3.0)])
    done = run("compare", before, result(tmp_path / "b.json", [row("knn/cpu", 2.0)]), root=root)
    assert "missing    views/cpu" in done.stdout


@pytest.mark.parametrize(
    "content", ["{}", "no JSON", '{"schema": 2, "rows": []}', '{"schema": 1, "rows": [{"name": 1}]}']
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, root: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    done = run("compare", tmp_path / "a.json", tmp_path / "a.json", root=root)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "a.json" in done.stderr


ENVIRONMENT = {
    "processor": "a processor", "cores": 2, "cpu_capability": "AVX2", "bf16": False, "device": "cpu", "python": "3.11",
    "packages": {"torch": "2", "torchvision": "0", "numpy": "2", "pillow": "12"},
}  # fmt: skip


def test_an_unknown_name_is_refused_in_one_line(root: Path) -> None:
    done = run("evaluator", root=root)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "evaluators" in done.stderr


def test_the_page_says_what_was_left_out_and_where_it_was_measured(tmp_path: Path) -> None:
    document = {
        "parts": {"knn": {"date": "2026-11-21T08:00:00+00:00", "command": "a", "seconds": 5, "load": [0.1, 0.2]}},
        "quick": False, "environment": ENVIRONMENT, "rows": [asdict(row("knn/cpu", 2.0))],
        "skipped": [{"name": "step/gpu", "reason": "no CUDA device"}],
    }  # fmt: skip
    text = markdown_page(document)
    assert (
        "a processor, 2 cores, AVX2, device cpu" in text
        and "2.00 (2.00 to 2.00, 3)" in text
        and "`step/gpu`: no CUDA device" in text
    )


def test_every_script_is_in_the_list(root: Path) -> None:
    done = run("--help", root=root)
    names = [line.split()[0] for line in done.stdout.splitlines() if ": " in line or line.startswith("  ")]
    scripts = {p.stem for p in (root / "experiments/speed").glob("*.py") if "    run_script(measure, " in p.read_text()}
    assert scripts and scripts <= set(names), scripts - set(names)


def test_the_table_goes_between_the_marks_of_a_page(tmp_path: Path, root: Path) -> None:
    document = {"schema": 1, "parts": {}, "quick": False, "environment": ENVIRONMENT, "skipped": []}
    file, page = tmp_path / "speed.json", tmp_path / "speed.md"
    file.write_text(json.dumps(document | {"rows": [asdict(row("knn/cpu", 2.0))]}))
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert run("page", file, page, root=root).returncode == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and "2.00 (2.00 to 2.00, 3)" in text
    page.write_text("no marks\n")
    done = run("page", file, page, root=root)
    assert done.returncode == 2 and BEGIN in done.stderr and page.read_text() == "no marks\n"


def test_what_is_measured_again_replaces_its_rows_and_leaves_the_others(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, file = ["startup", "--quick", "--output", str(tmp_path)], tmp_path / "speed.json"
    done = run(*words, root=root)
    assert done.returncode == 0, done.stderr
    first = json.loads(file.read_text())
    names = [r["name"] for r in first["rows"]]
    assert names
    # From here on with rows that are given.
    monkeypatch.setattr(speed, "run", lambda name, words: Result([row(name, 3.0) for name in names]))
    monkeypatch.setattr(speed, "describe_machine", lambda: first["environment"])
    monkeypatch.setattr(sys, "argv", ["speed", *words])

    def commands() -> dict[str, object]:
        with pytest.raises(SystemExit) as stop:
            speed.main()
        assert stop.value.code == 0
        return json.loads(file.read_text())

    kept = asdict(row("knn/cpu", 2.0))
    file.write_text(json.dumps(first | {"rows": [*first["rows"], kept]}))
    second = commands()
    assert [r["name"] for r in second["rows"]] == ["knn/cpu", *names]
    assert second["rows"][0] == kept and second["rows"][1:] != first["rows"]
    # On another machine nothing is kept.
    elsewhere = second | {"environment": second["environment"] | {"processor": "another"}}
    file.write_text(json.dumps(elsewhere))
    assert [r["name"] for r in commands()["rows"]] == names


@pytest.mark.parametrize(("make", "size"), [(make, sizes[0]) for name, _, sizes, make, _ in CURVES if name != "views"])
def test_the_work_of_a_curve_can_be_done(make: Callable[[int], Callable[[], object]], size: int) -> None:
    make(size)()


def test_a_slope_that_is_too_steep_is_named() -> None:
    sizes = [100, 200, 400, 800]
    even, square = ([float(n**power) for n in sizes] for power in (1, 2))
    assert slope(sizes, even) == pytest.approx(1) and slope(sizes, square) == pytest.approx(2)
    fine = Growth("a", "images", sizes, even, even, 1.0, 1, 1.0)
    slow = Growth("b", "images", sizes, square, even, 2.0, 1, 1.0)
    large = Growth("c", "images", sizes, even, square, 1.0, 1, 2.0)
    assert [line[:1] for line in steeper([fine, slow, large])] == ["b", "c"]
    assert "| b | images | 100 to 800 |" in table([slow])
