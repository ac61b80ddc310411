"""What the page shows besides the tables: curves, pictures, costs, commands, read from the runs' folders."""

import base64
import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.figures import Line, curves
from benchmarks.report.grid import Cell, Grid
from benchmarks.report.grid import Line as Row
from benchmarks.results.entries import Results, pretrainings
from benchmarks.tables.table import Table, load
from benchmarks.workflow.estimate import clock
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.status import last_attempts
from runs.errors import UserError
from runs.files import read_bytes
from runs.log import METRICS_LOG, read_log
from runs.record import Record

# A page that is to be mailed: pictures wider than this are made smaller, and photographs are stored as JPEG.
WIDTH = 1400
# Of a picture that a run has drawn: more is none of ours.
BYTES, PIXELS = 2**24, 40_000_000
GRID = [i / 50 for i in range(51)]
DRIVERS = {"GPU driver": "driver", "CUDA": "cuda", "cuDNN": "cudnn"}
TASKS = {"voc07": "VOC 07", "voc0712": "VOC 07+12", "coco": "COCO"}

# What is drawn of a pre-training: title, vertical axis, whether single points are marked and zero is shown.
QUANTITIES = {
    "loss": ("Training loss", "loss", False, False),
    "std": ("Std of the normalized output (collapse: 0)", "std", False, True),
    "std_share": ("Std of the output, times √d (collapse: 0)", "std · √d", False, True),
    "knn_top1": ("kNN accuracy during training", "top-1 (%)", True, False),
    "online_top1": ("Accuracy of the online classifier", "top-1 (%)", True, False),
    "m_o": ("Share of the center, m_o (collapse: 1)", "m_o", False, True),
    "m_r": ("Share of the residual, m_r (collapse: 0)", "m_r", False, True),
    "p_m_o": ("m_o of the prediction (collapse: 1)", "m_o of p", False, True),
    "covariance": ("Covariance of the channels", "covariance", False, True),
    "eta_p": ("Amount of o_p in o_z − o_p", "η_p", False, False),
    "eta_z": ("Amount of o_z in o_p − o_z", "η_z", False, False),
    "r_e_cosine": ("Cosine of r_e and de-correlation, τ = 0.1", "cosine", False, False),
}
# More methods than this in one picture cannot be told apart.
MOST = 8
Logs = list[tuple[str, list[dict[str, Any]]]]


def training(plans: Sequence[Plan]) -> list[str]:
    """Loss, std and kNN of every pre-training, one picture a quantity; none where there are too many methods for it."""
    found: Logs = []
    for plan in plans:
        named = labels(plan)
        found += [(named[run.id], log) for run in plan.runs.values()
                  if run.kind == "pretrain" and (log := _log(plan, run.id))]  # fmt: skip
    if len({label for label, _ in found}) > MOST:
        return []
    return [picture for key in ("loss", "std", "knn_top1") for picture in drawn(found, key)]


def drawings(plan: Plan, table: Table) -> list[str]:
    """What a table's file asks to be drawn of its rows' pre-trainings."""
    found = table_logs(plan, table)
    return [picture for key in table.curves for picture in drawn(found, key)]


def table_logs(plan: Plan, table: Table) -> Logs:
    """The logs of the pre-trainings behind each row, under the row's label; without curves that are not the row's."""
    not_drawn = {row.label: set(table.curves) - set(row.curves or table.curves) for row in table.rows}
    return [
        (row.label, [{k: v for k, v in line.items() if k not in not_drawn[row.label]} for line in log])
        for row in table.rows
        for run in pretrainings(plan, table.name, row.id)
        if (log := _log(plan, run))
    ]


def drawn(logs: Logs, key: str) -> list[str]:
    """One picture of a quantity, none if no log has it; outputs of several lengths are compared by their std · √d."""
    if key == "std" and len(_healthy(logs)) > 1:
        key, logs = "std_share", [(label, [_shared(row) for row in log]) for label, log in logs]
    title, up, markers, from_zero = QUANTITIES[key]
    lines = lines_of(logs, key)
    if not lines:
        return []
    across = "epoch" if any("epoch" in row for _, log in logs for row in log[:1]) else "step"
    even = {"std": level(logs), "std_share": (1.0, "spread evenly")}.get(key)
    return [curves(lines, title, across, up, even, markers, from_zero)]


def lines_of(logs: Logs, key: str) -> list[Line]:
    """The curves of a quantity; the seeds of a row look alike."""
    groups = {label: i for i, label in enumerate(dict.fromkeys(label for label, _ in logs))}
    lines = [Line(label, *_points(log, key), groups[label]) for label, log in logs]
    return [line for line in lines if line.y]


def level(logs: Logs) -> tuple[float, str] | None:
    """The std of an output spread evenly, if it is the same for all."""
    healthy = _healthy(logs)
    return (healthy.pop(), "1/√d") if len(healthy) == 1 else None


def _healthy(logs: Logs) -> set[float]:
    return {row["std_healthy"] for _, log in logs for row in log if row.get("std_healthy")}


def _shared(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"std_share": row["std"] / row["std_healthy"]} if "std" in row and row.get("std_healthy") else row


def _log(plan: Plan, run: str) -> list[dict[str, Any]]:
    try:
        return list(read_log(plan.folder(run) / METRICS_LOG))
    except UserError:
        return []


def _points(log: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    rows = [
        row
        for row in log
        if isinstance(row.get(key), int | float) and isinstance(row.get("epoch", row["step"]), int | float)
    ]
    # Hundreds of points say no more than these at a few hundred pixels, and the page stays light.
    rows = rows[:: max(1, len(rows) // 200)]
    return [float(row.get("epoch", row["step"])) for row in rows], [float(row[key]) for row in rows]


def precision_recall(found: Sequence[Results]) -> list[str]:
    """Precision over recall at IoU .50, averaged over the classes, a picture a task."""
    by_task: dict[str, list[tuple[str, list[float]]]] = {}
    for plan, records in ((f.plan, f.records) for f in found):
        named = labels(plan)
        for run in plan.runs.values():
            if run.kind == "transfer" and run.id in records:
                mean = _mean_precision(records[run.id].details.get("curves"))
                if mean:
                    by_task.setdefault(run.task, []).append((named[run.id], mean))
    pictures = []
    for task, drawn in by_task.items():
        groups = {label: i for i, label in enumerate(dict.fromkeys(label for label, _ in drawn))}
        lines = [Line(label, GRID, precision, groups[label]) for label, precision in drawn]
        pictures.append(curves(lines, f"{TASKS[task]}: precision over recall, IoU .50", "recall", "precision"))
    return pictures


def _mean_precision(by_class: Any) -> list[float]:
    """Mean over classes of the best precision at each recall of `GRID` or beyond; none of what is no such table."""
    total = [0.0] * len(GRID)
    try:
        for recall, precision in by_class.values():
            for i, level in enumerate(GRID):
                total[i] += max((float(p) for r, p in zip(recall, precision, strict=True) if r >= level), default=0.0)
        return [value / len(by_class) for value in total]
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return []


def pictures(plans: Sequence[Plan], kind: str, file: str) -> list[dict[str, str]]:
    """The picture that each run of a kind has written, as data for `<img>`; one trial of each is enough."""
    found: dict[str, str] = {}
    for plan in plans:
        named = labels(plan)
        for run in plan.runs.values():
            title = named.get(run.id, "") if kind == "pretrain" else f"{named.get(run.id)}, {TASKS.get(run.task)}"
            if run.kind == kind and title not in found and (source := embedded(plan.folder(run.id) / file)):
                found[title] = source
    # Methods that see the same views share one picture.
    titles: dict[str, list[str]] = {}
    for title, source in found.items():
        titles.setdefault(source, []).append(title)
    return [{"title": "; ".join(shared), "source": source} for source, shared in titles.items()]


def labels(plan: Plan) -> dict[str, str]:
    """For every run the label of the table row that it serves, the first one if there are several."""
    if plan.checkpoint:
        return dict.fromkeys(plan.runs, plan.checkpoint.name)
    chosen = {t.name: {r.id: r.label for r in load(t.name).rows} for t in plan.tables}
    return {run: chosen[cell.table][cell.row] for run, cell in plan.cell_of().items()}


def embedded(path: Path) -> str:
    """A PNG file as a `data:` address, made smaller where it is large; empty where there is none or it is no such."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(read_bytes(path, BYTES)), formats=("PNG",)) as file:
            warnings.simplefilter("ignore")
            if file.width * file.height > PIXELS:
                return ""
            image = file.convert("RGB")
    except (UserError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def costs(found: Sequence[Results]) -> tuple[Grid, list[str]]:
    """One line a run: how it went, its time, memory and verdict.

    Returns:
        (the table, the commands of all runs in the order in which they can be typed)
    """
    lines, commands = [], []
    for plan, records in ((f.plan, f.records) for f in found):
        named, attempts = plan.names(), last_attempts(plan)
        for run in plan.order():
            attempt, record = attempts.get(run), records.get(run)
            took = attempt.seconds if attempt else record.seconds if record else None
            # Of a conversion or a data set the note of its end may be all that was kept.
            done = plan.target(run).exists() or (attempt is not None and attempt.status == 0)
            lines.append(Row(named[run], (
                Cell("done" if done else "failed" if attempt else "not run"),
                Cell(clock(took) if took is not None else "", value=took),
                Cell(f"{record.peak_memory_mb:.0f}" if record else ""),
                Cell(record.verdict if record else ""),
            )))  # fmt: skip
            commands.append(plan.runs[run].line)
    heads = (("", "state"), ("", "time"), ("", "memory (MB)"), ("", "verdict"))
    return Grid(heads, tuple(lines), corner="run"), commands


def loose(records: dict[Path, Record]) -> Grid:
    """One line a record that belongs to no plan."""
    lines = []
    for path, record in records.items():
        data = f"{record.dataset.name} {record.dataset.split}" if record.dataset else ""
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
        what = f"{record.kind}: {record.subject.method}, {record.subject.arch}, seed {record.seed}"
        lines.append(Row(what, (Cell(data, title=str(path)), Cell(metrics), Cell(record.verdict))))
    return Grid((("", "data"), ("", "metrics"), ("", "verdict")), tuple(lines), corner="run")


def environments(records: Iterable[Record]) -> list[dict[str, str]]:
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
