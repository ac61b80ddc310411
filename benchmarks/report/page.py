"""The report: one HTML page that needs no other file, and the tables as Markdown, LaTeX and CSV beside it."""

import base64
import io
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.formatted_table import Cell, FormattedTable, Line, to_cells
from benchmarks.report import table_formats
from benchmarks.report.charts import chart_svg, metric_charts, precision_recall_charts, pretraining_logs, row_logs
from benchmarks.report.result_tables import result_table, results_csv
from benchmarks.results.read_results import PlanResults
from benchmarks.results.records import FoundRecords
from benchmarks.results.table_results import TableResult, join_with_and
from benchmarks.workflow.plan import DETECTION, GENERATOR, PAGE, PLAN, TABLES, has_report
from benchmarks.workflow.run_status import last_attempts
from benchmarks.workflow.time_left import clock
from runs.errors import UserError
from runs.files import DETECTIONS, VIEWS, atomic_write, read_bytes
from runs.record import Record

HERE = Path(__file__).parent
# More methods than this in one chart cannot be told apart.
MOST = 8
# A page that can be mailed: pictures wider than this are made smaller, and photographs are stored as JPEG.
WIDTH = 1400
# The largest picture that a run draws, in bytes and pixels.
BYTES, PIXELS = 2**24, 40_000_000
NOTHING = FoundRecords({}, {})
DRIVERS = {"GPU driver": "driver", "CUDA": "cuda", "cuDNN": "cudnn"}


def write_report(results: Sequence[PlanResults], folder: Path, unplanned: FoundRecords = NOTHING) -> Path:
    """Write `report.html`, `tables.md`, `tables.tex` and `tables.csv` into a folder; returns the page's path.

    `unplanned` are records without a plan, which are listed below the tables, and why some are refused.

    Raises:
        UserError: the folder has a file of such a name that is no report's, or the disk refuses.
    """
    page = folder / PAGE
    there = [name for name in (PAGE, *TABLES) if (folder / name).exists()]
    if there and not (folder / PLAN).exists() and not has_report(folder):
        raise UserError(f"{folder / there[0]}: is there already, and not written by `report`; choose another --output")
    text = _page(results, *unplanned)
    with atomic_write(page, "w") as file:
        file.write(text)
    # After the page: its mark covers the tables too.
    write_tables([table for result in results for table in result.tables], folder)
    return page


def write_tables(results: Sequence[TableResult], folder: Path) -> None:
    """Write `tables.md`, `tables.tex` and `tables.csv`."""
    tables = [result_table(result, properties=True) for result in results]
    markdown = "\n".join(map(table_formats.markdown, tables))
    latex = "\n".join(table_formats.render_template("table.tex.j2", table=table) for table in tables)
    for name, text in zip(TABLES, (markdown, latex, results_csv(results)), strict=True):
        with atomic_write(folder / name, "w") as file:
            file.write(text)


def _page(found: Sequence[PlanResults], unplanned: dict[Path, Record], refused: dict[Path, str]) -> str:
    plans = [f.plan for f in found]
    recorded = [record for f in found for record in f.records.values()]
    training = [log for f in found for log in pretraining_logs(f, f"{f.plan.output}: " if len(found) > 1 else "")]
    training = training if len({label for label, _ in training}) <= MOST else []
    results = [result for f in found for result in f.tables]
    charts = [metric_charts(row_logs(f.plan, r.table), r.table.curves, r.table) for f in found for r in f.tables]
    return table_formats.render_template(
        "page.html.j2",
        title=_report_title(results) if results else "Run records",
        generator=GENERATOR,
        gains=[result.gain for result in results if result.gain],
        papers=list(dict.fromkeys(result.table.paper for result in results)),
        about=list(dict.fromkeys(f"{p.scale} scale: {p.about}" for p in plans)),
        made=time.strftime("%Y-%m-%d %H:%M"),
        views=_picture_sources(found, "pretrain", VIEWS),
        detections=_picture_sources(found, "transfer", DETECTIONS),
        environments=distinct_environments([*recorded, *unplanned.values()]),
        others=_records_table(unplanned),
        costs=_runs_table(found),
        commands=[plan.runs[run].shell_command for plan in plans for run in plan.order],
        ended=len(recorded),
        total=clock(sum(r.seconds for r in recorded)),
        starts=list(dict.fromkeys(p.command for p in plans if p.command)),
        refused=[*(reason for f in found for reason in f.refused), *refused.values()],
        tables=[(result, result_table(result, properties=True, notes=False), [*map(chart_svg, drawn)])
                for result, drawn in zip(results, charts, strict=True)],
        training=[*map(chart_svg, metric_charts(training, ("loss", "std", "knn_top1")))],
        recall=[*map(chart_svg, precision_recall_charts(found))],
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=(HERE / "sort.js").read_text(encoding="utf-8"),
    )  # fmt: skip


def _report_title(results: Sequence[TableResult]) -> str:
    """`Tables 4 and 5, measured`."""
    labels = list(dict.fromkeys(r.table.label for r in results))
    if len(labels) > 1 and all(label.startswith("Table ") for label in labels):
        labels = ["Tables " + labels[0].removeprefix("Table "), *(label.removeprefix("Table ") for label in labels[1:])]
    return f"{join_with_and(labels)}, measured"


def _picture_sources(results: Sequence[PlanResults], kind: str, file: str) -> list[dict[str, str]]:
    """The picture that each run of a kind has written, as data for `<img>`; one trial of each is enough."""
    found: dict[str, str] = {}
    for one in results:
        for run in one.plan.runs.values():
            title = ", ".join(filter(None, (one.plan.first_row_label_by_run.get(run.id), DETECTION.get(run.task))))
            if run.kind == kind and title not in found and (source := data_uri(one.plan.folder(run.id) / file)):
                found[title] = source
    # Methods that see the same views share one picture.
    return [{"title": "; ".join(title for title, same in found.items() if same == source), "source": source}
            for source in dict.fromkeys(found.values())]  # fmt: skip


def data_uri(path: Path) -> str:
    """A PNG file as a `data:` address, made smaller where it is large; empty if there is no such file."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(read_bytes(path, BYTES)), formats=("PNG",)) as file:
            warnings.simplefilter("ignore")
            if file.width * file.height > PIXELS:
                return ""
            image = file.convert("RGB")
    except (UserError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    image.thumbnail((WIDTH, image.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _runs_table(found: Sequence[PlanResults]) -> FormattedTable:
    """One line a run: how it went, its time, memory and verdict."""
    lines = []
    for results in found:
        plan, named, attempts = results.plan, results.plan.name_by_run, last_attempts(results.plan)
        for run in plan.order:
            attempt, record = attempts.get(run), results.records.get(run)
            took = attempt.seconds if attempt else record.seconds if record else None
            # In `results/`, conversions and data sets have left no file, only how their command ended.
            done = plan.target(run).exists() or (attempt is not None and attempt.status == 0)
            lines.append(Line(named[run], (
                Cell("done" if done else "failed" if attempt else "not run"),
                Cell(clock(took) if took is not None else "", value=took),
                *to_cells([f"{record.peak_memory_mb:.0f}", record.verdict] if record else ["", ""]),
            )))  # fmt: skip
    heads = (("", "state"), ("", "time"), ("", "memory (MB)"), ("", "verdict"))
    return FormattedTable(heads, tuple(lines), corner="run")


def _records_table(records: dict[Path, Record]) -> FormattedTable:
    """One line a record that belongs to no plan."""
    lines = []
    for path, record in records.items():
        data = f"{record.dataset.name} {record.dataset.split}" if record.dataset else ""
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
        what = f"{record.kind}: {record.subject.method}, {record.subject.arch}, seed {record.seed}"
        lines.append(Line(what, (Cell(data, title=str(path)), *to_cells([metrics, record.verdict]))))
    return FormattedTable((("", "data"), ("", "metrics"), ("", "verdict")), tuple(lines), corner="run")


def distinct_environments(records: Iterable[Record]) -> list[dict[str, str]]:
    """The different environments that made the records, in words."""
    found: list[dict[str, str]] = []
    for record in records:
        e = record.environment
        given = e.get("packages")
        packages = given if isinstance(given, dict) else {}
        versions = "".join(f", {name} {version}" for name, version in packages.items() if version)
        drivers = [f"{name} {e[key]}" for name, key in DRIVERS.items() if e.get(key)]
        words = {
            "Processor": f"{e.get('processor')}, {e.get('cores')} cores; device {e.get('device')}",
            "System": ", ".join([str(e.get("platform")), *drivers]),
            "Versions": f"Python {e.get('python')}{versions}",
            "Commit": str(e.get("commit") or "unknown"),
        }
        if words not in found:
            found.append(words)
    return found
