"""Charts of pre-trainings, from their logs, and any chart as inline SVG that takes its colours from the page around it.

One curve is a row of a table: the mean of its runs, in a band of one standard deviation.
"""

import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results.read_results import PlanResults
from benchmarks.results.table_results import pretrainings
from benchmarks.results.trial_statistics import summarize
from benchmarks.tables.table import Table
from benchmarks.workflow.plan import DETECTION, Plan
from runs.errors import UserError
from runs.metrics_log import METRICS_LOG, read_log
from runs.palette import PALETTE

INK = "#222222"
# A legend with more letters in an entry, or more entries, leaves no space for the curves beside it.
ENTRY, ENTRIES = 24, 4
# Told apart without colour, too.
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))
PAPER = (0, (1, 2))
# What is drawn of a pre-training: title, vertical axis, whether single points are marked and zero is shown.
METRICS = {
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
RECALLS = [i / 50 for i in range(51)]
# Hundreds of points say no more than these at a few hundred pixels, and the page stays light.
POINTS = 200
# The lines of a log under the label of a table's row, for each run of it.
Logs = list[tuple[str, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Curve:
    """One curve."""

    label: str  # in the legend
    x: Sequence[float]
    y: Sequence[float]
    number: int = 0  # which colour and style; lines of one number share the legend's entry
    std: Sequence[float] = ()  # what `y` may be off by, at every point: a band around the curve


@dataclass(frozen=True)
class Chart:
    """One chart."""

    title: str  # above it
    x: str  # label of the horizontal axis
    y: str  # label of the vertical axis
    curves: Sequence[Curve]  # at least one
    level: tuple[float, str] | None = None  # a horizontal line with its name, e.g. the value that theory expects
    published: Sequence[tuple[float, int]] = ()  # the paper's values with the numbers of the curves they belong to
    markers: bool = False  # mark the single points
    from_zero: bool = False  # let the vertical axis begin at 0
    log: bool = False  # a logarithmic horizontal axis with ticks at the points


def draw_chart(axes: Any, chart: Chart) -> None:
    """Draw a chart on Matplotlib's axes."""
    named: set[int] = set()
    for line in chart.curves:
        colour = PALETTE[line.number % 8]
        axes.plot(
            line.x, line.y, color=colour, linestyle=STYLES[line.number % 8],
            label=line.label if line.number not in named else None,
            linewidth=1.6, alpha=0.85, marker="o" if chart.markers else None, markersize=3,
        )  # fmt: skip
        named.add(line.number)
        if line.std:
            low, high = zip(*((y - s, y + s) for y, s in zip(line.y, line.std, strict=True)), strict=True)
            axes.fill_between(line.x, low, high, color=colour, alpha=0.14, linewidth=0)
    if chart.level is not None:
        axes.axhline(chart.level[0], color=INK, linewidth=0.8, linestyle=(0, (2, 3)), label=chart.level[1])
    for value, number in chart.published:
        label = "paper" if value == chart.published[0][0] else None
        axes.axhline(value, color=PALETTE[number % 8], linewidth=0.9, linestyle=PAPER, label=label)
    if chart.from_zero:
        # A curve that stays at the top should not lie on the edge.
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    if chart.log:
        axes.set_xscale("log")
        axes.set_xticks(chart.curves[0].x, [f"{x:g}" for x in chart.curves[0].x])
        axes.minorticks_off()
    axes.set_title(chart.title, color=INK, fontsize=10.5, loc="left")
    axes.set_xlabel(chart.x, color=INK)
    axes.set_ylabel(chart.y, color=INK)
    axes.tick_params(colors=INK, length=3)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def chart_svg(chart: Chart) -> str:
    """A chart as an `<svg>` element whose colours are the page's: `currentColor` and `--series-1` to `--series-8`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text (searchable, in the page's font), and equal data give an equal file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10}):
        figure = Figure(figsize=(4.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        draw_chart(axes, chart)
        labels = list(legend_entries([axes]))
        style = {"frameon": False, "fontsize": 8.5, "labelcolor": INK}
        long = max(map(len, labels)) > ENTRY
        if len(labels) > 1 and (long or len(labels) > ENTRIES):
            columns = 1 if long else 2
            figure.set_figheight(2.9 + 0.18 * -(-len(labels) // columns))
            figure.legend(loc="outside lower left", ncols=columns, **style)
        elif len(labels) > 1:
            axes.legend(**style)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date")))
    text = buffer.getvalue().replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for number, colour in enumerate(PALETTE, start=1):
        text = text.replace(colour, f"var(--series-{number})")
    # The view box scales it; fixed points would not fit a phone.
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # Several charts on a page must not share the ids that their clip paths are found by.
    mark = f"f{zlib.crc32(text.encode()):08x}"
    text = re.sub(r'( id="|url\(#|href="#)', rf"\1{mark}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{chart.title}"', 1)


def legend_entries(axes: Sequence[Any]) -> dict[str, Any]:
    """The entries of a legend by name, of all charts: a row need not have every metric."""
    return {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}


def row_logs(plan: Plan, table: Table) -> Logs:
    """The logs of the pre-trainings behind each row of a table, without metrics that have no meaning for the row."""
    logs = []
    for row in table.rows:
        hidden = set(table.curves) - set(row.curves or table.curves)
        for run in pretrainings(plan, table.name, row.id):
            if log := _log(plan, run):
                logs.append((row.label, [{k: v for k, v in line.items() if k not in hidden} for line in log]))
    return logs


def pretraining_logs(results: PlanResults, label_prefix: str) -> Logs:
    """The logs of all pre-trainings of a plan, each under the prefix and the label of the first row that it serves."""
    plan = results.plan
    ids = [run.id for run in plan.runs.values() if run.kind == "pretrain"]
    return [(label_prefix + plan.first_row_label_by_run[run], log) for run in ids if (log := _log(plan, run))]


def _log(plan: Plan, run: str) -> list[dict[str, Any]]:
    try:
        return list(read_log(plan.folder(run) / METRICS_LOG))
    except UserError:
        return []


def metric_charts(logs: Logs, metrics: Iterable[str], table: Table | None = None) -> list[Chart]:
    """A chart of each metric that the logs have; `table`: whose published numbers are drawn with it."""
    drawn = (_chart(logs, metric, table) for metric in metrics)
    return [chart for chart in drawn if chart.curves]


def _chart(logs: Logs, metric: str, table: Table | None) -> Chart:
    healthy = {line["std_healthy"] for _, log in logs for line in log if line.get("std_healthy")}
    level = None
    if metric == "std" and len(healthy) == 1:
        level = (healthy.pop(), "1/√d")
    elif metric == "std" and healthy:
        # Outputs of several lengths compare by their std · √d.
        metric, level = "std_share", (1.0, "spread evenly")
        logs = [
            (label, [{**r, metric: r["std"] / r["std_healthy"]} for r in log if r.get("std_healthy") and "std" in r])
            for label, log in logs
        ]
    title, y, markers, from_zero = METRICS.get(metric, (metric, metric, False, False))
    labels = list(dict.fromkeys(label for label, _ in logs))
    x = "epoch" if any("epoch" in line for _, log in logs for line in log[:1]) else "step"
    published = [(value, labels.index(row)) for row, value in published_values(table, metric) if row in labels]
    if table and table.across:
        x, curve = table.across.rpartition(".")[2], final_value_curve(logs, table, metric)
        return Chart(title, x, y, [curve] if curve else [], level, published, markers, from_zero, log=True)
    return Chart(title, x, y, row_mean_curves(logs, metric), level, published, markers, from_zero)


def row_mean_curves(logs: Logs, metric: str) -> list[Curve]:
    """One curve a row; runs that were measured at different steps stay apart."""
    groups: dict[tuple[str, tuple[float, ...]], list[list[float]]] = {}
    for label, log in logs:
        x, y = _points(log, metric)
        if y:
            groups.setdefault((label, tuple(x)), []).append(y)
    labels = list(dict.fromkeys(label for label, _ in logs))
    return [
        _mean_curve(label, x, list(zip(*runs, strict=True)), labels.index(label)) for (label, x), runs in groups.items()
    ]


def final_value_curve(logs: Logs, table: Table, metric: str) -> Curve | None:
    """The last values of a metric over the setting in which a table's rows differ; None without any."""
    places = {row.label: float(row.pretrain[table.across]) for row in table.rows}
    last: dict[float, list[float]] = {}
    for label, log in logs:
        if y := _points(log, metric)[1]:
            last.setdefault(places[label], []).append(y[-1])
    order = sorted(last)
    return _mean_curve(table.label, order, [last[x] for x in order], 0) if order else None


def published_values(table: Table | None, metric: str) -> list[tuple[str, float]]:
    """The paper's numbers of a metric of pre-training, by the row's label."""
    places = [i for i, c in enumerate(table.columns if table else ()) if (c.task, c.metric) == ("pretrain", metric)]
    rows = table.rows if table else ()
    return [(row.label, v) for i in places for row in rows if isinstance(v := row.values[i], int | float)]


def _mean_curve(label: str, x: Sequence[float], values: Sequence[Sequence[float]], number: int) -> Curve:
    """The mean of several values at each x, and their standard deviation if there are several at every x."""
    found = [summarize(v) for v in values]
    std = [s.std for s in found if s.std is not None]
    return Curve(label, x, [s.mean for s in found], number, std if len(std) == len(found) else ())


def _points(log: list[dict[str, Any]], metric: str) -> tuple[list[float], list[float]]:
    given = [(line.get("epoch", line["step"]), line.get(metric)) for line in log]
    pairs = [(float(x), float(y)) for x, y in given if isinstance(x, int | float) and isinstance(y, int | float)]
    pairs = pairs[:: max(1, len(pairs) // POINTS)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def precision_recall_charts(found: Sequence[PlanResults]) -> list[Chart]:
    """Precision over recall at IoU .50, averaged over the classes, a chart a task."""
    by_task: dict[str, list[Curve]] = {}
    numbers: dict[str, int] = {}
    for results in found:
        named = results.plan.first_row_label_by_run
        for run in results.plan.runs.values():
            record = results.records.get(run.id)
            if run.kind == "transfer" and record and (mean := _mean_precision(record.details.get("curves"))):
                number = numbers.setdefault(named[run.id], len(numbers))
                by_task.setdefault(run.task, []).append(Curve(named[run.id], RECALLS, mean, number))
    return [Chart(f"{DETECTION[task]}: precision over recall, IoU .50", "recall", "precision", lines)
            for task, lines in by_task.items()]  # fmt: skip


def _mean_precision(by_class: Any) -> list[float]:
    """Mean over classes of the best precision at each of `RECALLS` or beyond; empty if it is no such table."""
    total = [0.0] * len(RECALLS)
    try:
        for recall, precision in by_class.values():
            for i, level in enumerate(RECALLS):
                total[i] += max((float(p) for r, p in zip(recall, precision, strict=True) if r >= level), default=0.0)
        return [value / len(by_class) for value in total]
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return []
