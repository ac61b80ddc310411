"""What the page shows besides the tables: curves, pictures, costs, commands, read from the runs' folders."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.estimate import clock
from benchmarks.job import state
from benchmarks.plan import Plan, names, order, serves
from benchmarks.report.figures import Line, curves
from benchmarks.tables import load
from runs.log import read_log
from runs.record import Record

# A page that is to be mailed: pictures wider than this are made smaller, and photographs are stored as JPEG.
WIDTH = 1400
GRID = [i / 50 for i in range(51)]
TASKS = {"voc07": "VOC 07", "voc0712": "VOC 07+12", "coco": "COCO"}


def training(plans: Sequence[Plan]) -> list[str]:
    """Loss, std and kNN of every pre-training over its length, one picture a quantity."""
    logs: list[tuple[str, int, list[dict[str, Any]]]] = []
    methods: dict[str, int] = {}
    for plan in plans:
        served = labels(plan)
        for run in plan.runs.values():
            log = plan.folder(run) / "metrics.jsonl"
            if run.kind == "pretrain" and log.exists():
                method = served[run.id]
                group = methods.setdefault(method, len(methods))
                logs.append((method, group, list(read_log(log))))
    healthy = {row["std_healthy"] for _, _, log in logs for row in log if row.get("std_healthy")}
    level = (healthy.pop(), "1/√d") if len(healthy) == 1 else None
    pictures = []
    for key, title, up, line, markers in (
        ("loss", "Training loss", "loss", None, False),
        ("std", "Std of the normalized output (collapse: 0)", "std", level, False),
        ("knn_top1", "kNN accuracy during training", "top-1 (%)", None, True),
    ):
        lines = [Line(m, *_points(log, key), g) for m, g, log in logs]
        lines = [entry for entry in lines if entry.y]
        if lines:
            across = "epoch" if any("epoch" in row for _, _, log in logs for row in log[:1]) else "step"
            pictures.append(curves(lines, title, across, up, line, markers, from_zero=key == "std"))
    return pictures


def _points(log: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    rows = [row for row in log if isinstance(row.get(key), int | float)]
    # Hundreds of points say no more than these at a few hundred pixels, and the page stays light.
    rows = rows[:: max(1, len(rows) // 200)]
    return [float(row.get("epoch", row["step"])) for row in rows], [float(row[key]) for row in rows]


def precision_recall(plans: Sequence[Plan], records: dict[str, dict[str, Record]]) -> list[str]:
    """Precision over recall at IoU .50, averaged over the classes, a picture a task."""
    by_task: dict[str, list[tuple[str, list[float]]]] = {}
    for plan in plans:
        served = labels(plan)
        for run in plan.runs.values():
            record = records[plan.output].get(run.id)
            curves_of = record.details.get("curves") if record is not None else None
            if run.kind == "transfer" and curves_of:
                by_task.setdefault(run.task, []).append((served[run.id], _mean_precision(curves_of)))
    pictures = []
    for task, found in by_task.items():
        groups = {label: i for i, label in enumerate(dict.fromkeys(label for label, _ in found))}
        lines = [Line(label, GRID, precision, groups[label]) for label, precision in found]
        pictures.append(curves(lines, f"{TASKS[task]}: precision over recall, IoU .50", "recall", "precision"))
    return pictures


def _mean_precision(by_class: dict[str, list[list[float]]]) -> list[float]:
    """Mean over classes of the best precision at each recall of `GRID` or beyond."""
    total = [0.0] * len(GRID)
    for recall, precision in by_class.values():
        for i, level in enumerate(GRID):
            total[i] += max((p for r, p in zip(recall, precision, strict=True) if r >= level), default=0.0)
    return [value / max(len(by_class), 1) for value in total]


def pictures(plans: Sequence[Plan], kind: str, file: str) -> list[dict[str, str]]:
    """The picture that each run of a kind has written, as data for `<img>`; one trial of each is enough."""
    found: dict[str, dict[str, str]] = {}
    for plan in plans:
        served = labels(plan)
        for run in plan.runs.values():
            path = plan.folder(run) / file
            if run.kind == kind and path.exists():
                title = served[run.id] if kind == "pretrain" else f"{served[run.id]}, {TASKS[run.task]}"
                found.setdefault(title, {"title": title, "source": embedded(path)})
    return list(found.values())


def labels(plan: Plan) -> dict[str, str]:
    """For every run the label of the table row that it serves, the first one if there are several."""
    chosen = {t["name"]: {r.id: r.label for r in load(t["name"]).rows} for t in plan.tables}
    return {run: chosen[cell.table][cell.row] for run, cell in serves(plan).items()}


def embedded(path: Path) -> str:
    """An image file as a `data:` address, made smaller where it is large."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
        if image.width > WIDTH:
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def costs(plans: Sequence[Plan], records: dict[str, dict[str, Record]]) -> list[dict[str, Any]]:
    """One line a run: how it went, its time, memory and verdict, its command."""
    lines = []
    for plan in plans:
        called = names(plan)
        for run_id in order(plan.runs):
            run, note = plan.runs[run_id], state(plan, run_id)
            record = records[plan.output].get(run_id)
            took = note["ended"] - note["started"] if "ended" in note else record.seconds if record else None
            done = plan.target(run_id).exists()
            lines.append({
                "name": called[run_id],
                "state": "done" if done else "failed" if note.get("status") else "not run",
                "seconds": took,
                "time": clock(took) if took is not None else "–",
                "memory": round(record.peak_memory_mb) if record else None,
                "verdict": record.verdict if record else "",
                "command": " ".join(run.command),
            })  # fmt: skip
    return lines


def environments(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The different environments that made the records."""
    found: list[dict[str, Any]] = []
    for record in records:
        if record.environment not in found:
            found.append(record.environment)
    return found
