"""`python -m experiments.pages FOLDER PAGE.md`: the generated parts of a page of this repository, from run records.

A page has blocks between a comment that says what belongs there and `<!-- end -->`:

    <!-- facts -->                         how much was computed, and where
    <!-- table: table5 -->                 a table as measured
    <!-- table: table5 ours -->            the same without the paper's values
    <!-- table: figure2 knn_top1 m_o -->   metrics of its rows' pre-trainings
    <!-- curves: figure2 -->               the picture that the block shows is drawn again

A block whose words end with `from FOLDER` takes the records of that folder, named from the page's own.
"""

import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.formatted_table import ABSENT, Cell, FormattedTable, Line, to_cells
from benchmarks.report.charts import Chart, draw_chart, legend_entries, metric_charts, row_logs
from benchmarks.report.page import distinct_environments
from benchmarks.report.result_tables import format_mean_std, result_table
from benchmarks.report.table_formats import markdown
from benchmarks.results.read_results import read_plan_results
from benchmarks.results.table_results import TableResult, pretrainings
from benchmarks.results.trial_statistics import summarize
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.tables.table import Row
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import Plan, read_plan
from benchmarks.workflow.run_status import status_of
from runs.app import Parser, cli
from runs.errors import UserError
from runs.files import atomic_write, read_bytes
from runs.record import Record

BLOCK = re.compile(r"(<!-- (table|facts|curves)(?:: ([^\n]*?))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
# Panels in a line of a picture; more would be too small to read at a page's width.
ACROSS = 3
# Head and digits of the metrics of a pre-training's record.
METRICS = {
    "knn_top1": ("kNN (%)", 1), "knn_top1_start": ("kNN before", 1), "loss": ("loss", 2), "std": ("std", 4),
    "m_o": ("m_o", 3), "m_r": ("m_r", 3), "covariance": ("covariance", 3), "effective_rank": ("rank", 1),
    "eta_p": ("η_p", 2), "eta_z": ("η_z", 2), "p_m_o": ("m_o of p", 3), "bias_set_cosine": ("cos(bias, o_z)", 2),
    "r_e_cosine": ("cos(r_e, de-corr.)", 2),
}  # fmt: skip


def fill_page(text: str, folder: Path, beside: Path, scale: str | None = None) -> str:
    """Return the page with its blocks rewritten; draws the pictures that it shows.

    Args:
        text: the page.
        folder: output of `python -m benchmarks run`.
        beside: the page's folder, from which it names its pictures.
        scale: at which the tables were run, where several `run` have filled the folder; None reads its plan.

    Raises:
        UserError: the page has no block, or a block names no table or no metric.
    """
    asked = [(m[2], *_source(m[3] or "", folder, beside)) for m in BLOCK.finditer(text)]
    if not any(words for _, words, _ in asked):
        raise UserError("the page has no block `<!-- table: NAME METRIC … -->` … `<!-- end -->`")
    found = {}
    for place in {place for *_, place in asked}:
        names = [words[0] for kind, words, at in asked if kind == "table" and at == place]
        plan = _plan(place, scale if place == folder else None, dict.fromkeys(names))
        found[place] = plan, read_plan_results(plan, status_of(plan))
        if found[place][1].refused:
            raise UserError(found[place][1].refused[0])

    def write(match: re.Match[str]) -> str:
        begin, kind, text, inside, end = match.groups()
        words, place = _source(text or "", folder, beside)
        plan, results = found[place]
        if kind == "facts":
            inside = run_facts(results.records.values()) + "\n"
        elif kind == "curves":
            _draw(plan, words[0], inside, beside)
        else:
            result = next((result for result in results.tables if result.table.name == words[0]), None)
            if result is None:
                raise UserError(f"{words[0]}: {place} has no such table; name the --scale that it was run at")
            ours, metrics = words[1:] == ["ours"], words[1:]
            if metrics and not ours:
                shown = pretraining_table(result, plan, results.records, metrics)
            else:
                shown = result_table(measured_columns(result), notes=False, paper=not ours)
            inside = markdown(shown)
        return f"{begin}{inside}{end}"

    return BLOCK.sub(write, text)


def _source(text: str, folder: Path, beside: Path) -> tuple[list[str], Path]:
    """A block's words, and the folder that they are about."""
    words = text.split()
    return (words[:-2], beside / words[-1]) if "from" in words[-2:-1] else (words, folder)


def measured_columns(result: TableResult) -> TableResult:
    """The table without the columns of which nothing was measured; whole if nothing was measured at all."""
    kept = [i for i in range(len(result.table.columns)) if any(line[i].ours for line in result.entries)]
    if not kept:
        return result
    table = result.table.select(None, [result.table.columns[i].id for i in kept])
    return dataclasses.replace(
        result, table=table, entries=tuple(tuple(line[i] for i in kept) for line in result.entries)
    )


def run_facts(records: Iterable[Record]) -> str:
    """How much was computed, on what."""
    records = list(records)
    if not records:
        return "Nothing has run yet."
    places = sorted({_place(record) for record in records})
    commits = sorted({environment["Commit"][:10] for environment in distinct_environments(records)})
    minutes = sum(r.seconds for r in records) / 60
    return (
        f"{len(records)} runs, {minutes:.0f} minutes all together ({'; '.join(places)}; commit {', '.join(commits)})."
    )


def _place(record: Record) -> str:
    e = record.environment
    return f"{e.get('processor')}, {e.get('cores')} cores, PyTorch {(e.get('packages') or {}).get('torch')}"


def _plan(folder: Path, scale: str | None, names: Iterable[str]) -> Plan:
    if scale is None:
        return read_plan(folder)
    size = scales.load(scale)
    return expand(tables.choose(list(names), None, None, size.replace, size.add), size, folder)


def _draw(plan: Plan, name: str, inside: str, beside: Path) -> None:
    shown = PICTURE.search(inside)
    if not shown:
        raise UserError(f"the block of {name} shows no picture; put ![{name}](images/FILE.png) into it")
    # As published, not as the scale measures it, where the paper's accuracy stands beside another quantity.
    table = tables.load(name)
    charts = metric_charts(row_logs(plan, table), table.curves, table)
    if not charts:
        raise UserError(f"{name}: no run of it has curves; run it first (python -m benchmarks run {name})")
    with atomic_write(beside / shown[1]) as file:
        file.write(draw_charts(charts))


def draw_charts(charts: Sequence[Chart]) -> bytes:
    """Charts side by side as a PNG file, with one legend for them all."""
    from matplotlib.figure import Figure
    from PIL import Image

    wide = 2 if len(charts) == 4 else min(len(charts), ACROSS)
    high = -(-len(charts) // wide)
    figure = Figure(figsize=(3.6 * wide, 2.5 * high + 0.4), layout="constrained", dpi=110)
    axes = list(figure.subplots(high, wide, squeeze=False).flat)
    axes, rest = axes[: len(charts)], axes[len(charts) :]
    for axis, chart in zip(axes, charts, strict=True):
        draw_chart(axis, chart)
    for axis in rest:
        axis.set_axis_off()
    names = legend_entries(axes)
    if rest:
        rest[0].legend(names.values(), names, loc="center", frameon=False, fontsize=9)
    elif len(names) > 1:
        figure.legend(
            names.values(), names, loc="outside lower center", ncols=min(len(names), 5), frameon=False, fontsize=8.5
        )
    buffer, small = io.BytesIO(), io.BytesIO()
    # No version of Matplotlib in the file: equal data give an equal file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    # Lines of a few colours: a palette takes a third of the bytes, and the pictures are committed.
    Image.open(buffer).convert("RGB").quantize(128).save(small, "png", optimize=True)
    return small.getvalue()


def pretraining_table(
    result: TableResult, plan: Plan, records: Mapping[str, Record], metrics: Sequence[str]
) -> FormattedTable:
    """Metrics of a table's pre-trainings: the paper's word and number, our trials, the monitors' verdicts.

    Raises:
        UserError: a metric has no name here.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"{metric}: no such metric; there are {', '.join(METRICS)}")
    published = tables.load(result.table.name)
    # A figure need not print its accuracies.
    printed = [i for i in range(len(published.columns)) if any(row.values[i] is not None for row in published.rows)]
    accuracy = next((i for i in printed if published.columns[i].task in ("linear", "knn")), None)
    asked = "collapse" in published.properties
    lines = []
    for i, row in enumerate(published.rows):
        runs = [records[r] for r in pretrainings(plan, result.table.name, row.id) if r in records]
        said = result.verdicts[i] if result.verdicts else None
        verdict = str(said or ABSENT) + (" in p" if any("prediction" in run.verdict for run in runs) else "")
        cells = [Cell(preset_arguments(row))]
        if accuracy is not None:
            cells += to_cells([row.values[accuracy]])
        if asked:
            cells.append(Cell(str(row.properties.get("collapse", ABSENT))))
            cells.append(Cell(verdict, bold=said is not None and not said.agrees_with_paper))
        cells.append(Cell(str(len(runs))))
        for metric in metrics:
            values = [run.metrics[metric] for run in runs if metric in run.metrics]
            cells.append(Cell(format_mean_std(summarize(values), METRICS[metric][1]) if values else ABSENT))
        lines.append(Line(row.label, tuple(cells)))
    heads = ["preset", *(["paper: top-1 (%)"] if accuracy is not None else [])]
    heads += ["paper: collapse", "ours: collapsed"] if asked else []
    heads += ["n", *(METRICS[m][0] for m in metrics)]
    return FormattedTable(tuple(("", head) for head in heads), tuple(lines), facts=len(heads) - len(metrics))


def preset_arguments(row: Row) -> str:
    """The arguments of a command that make the row."""
    settings = row.pretrain
    if "variant" in settings:
        return f"`variant={settings['variant']}`"
    own = [f"{k}={str(v).lower()}" for k, v in settings.items() if k.startswith("method")]
    return f"`{' '.join(own)}`" if own else ABSENT


@cli
def main(argv: list[str] | None = None) -> int:
    """Rewrite a page's generated parts."""
    parser = Parser(prog="python -m experiments.pages", description="write the generated parts of a Markdown page")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of `python -m benchmarks run`")
    parser.add_argument("page", type=Path, metavar="PAGE.md", help="with blocks <!-- table: NAME --> … <!-- end -->")
    parser.add_argument("--scale", help="of the runs, where several `run` have filled the folder (default: its plan)")
    given = parser.parse_args(argv)
    text = fill_page(read_bytes(given.page).decode("utf-8"), given.folder, given.page.parent, given.scale)
    with atomic_write(given.page, "w") as file:
        file.write(text)
    print(given.page)
    return 0


if __name__ == "__main__":
    main()
