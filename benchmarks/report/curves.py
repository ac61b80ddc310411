"""Charts of pre-trainings, from their logs: one curve a row of a table, the mean of its runs in a band of one std."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.report.figures import Line, Panel
from benchmarks.results.entries import pretrainings, row_labels
from benchmarks.results.summary import summarize
from benchmarks.tables.table import Table
from benchmarks.workflow.plan import Plan
from runs.errors import UserError
from runs.log import METRICS_LOG, read_log

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
# Hundreds of points say no more than these at a few hundred pixels, and the page stays light.
POINTS = 200
# The lines of a log under the label of a table's row, for each run of it.
Logs = list[tuple[str, list[dict[str, Any]]]]


def row_logs(plan: Plan, table: Table) -> Logs:
    """The logs of the pre-trainings behind each row of a table, without quantities that have no meaning for the row."""
    logs = []
    for row in table.rows:
        hidden = set(table.curves) - set(row.curves or table.curves)
        for run in pretrainings(plan, table.name, row.id):
            if log := _log(plan, run):
                logs.append((row.label, [{k: v for k, v in line.items() if k not in hidden} for line in log]))
    return logs


def run_logs(plan: Plan, prefix: str) -> Logs:
    """The logs of all pre-trainings of a plan, each under the prefix and the label of the first row that it serves."""
    labels, ids = row_labels(plan), [run.id for run in plan.runs.values() if run.kind == "pretrain"]
    return [(prefix + labels[run], log) for run in ids if (log := _log(plan, run))]


def _log(plan: Plan, run: str) -> list[dict[str, Any]]:
    try:
        return list(read_log(plan.folder(run) / METRICS_LOG))
    except UserError:
        return []


def panels(logs: Logs, quantities: Iterable[str], table: Table | None = None) -> list[Panel]:
    """A chart of each quantity that the logs have; `table`: whose published numbers are drawn with it."""
    charts = (_panel(logs, key, table) for key in quantities)
    return [chart for chart in charts if chart.lines]


def _panel(logs: Logs, key: str, table: Table | None) -> Panel:
    healthy = {line["std_healthy"] for _, log in logs for line in log if line.get("std_healthy")}
    level = None
    if key == "std" and len(healthy) == 1:
        level = (healthy.pop(), "1/√d")
    elif key == "std" and healthy:
        # Outputs of several lengths compare by their std · √d.
        key, level = "std_share", (1.0, "spread evenly")
        logs = [(label, [{**r, key: r["std"] / r["std_healthy"]} for r in log if r.get("std_healthy") and "std" in r])
                for label, log in logs]  # fmt: skip
    title, y, markers, from_zero = QUANTITIES[key]
    labels = list(dict.fromkeys(label for label, _ in logs))
    x = "epoch" if any("epoch" in line for _, log in logs for line in log[:1]) else "step"
    published = [(value, labels.index(row)) for row, value in published_values(table, key) if row in labels]
    if table and table.across:
        x, lines = table.across.rpartition(".")[2], ends(logs, table, key)
        return Panel(title, x, y, lines, level, published, markers, from_zero, log=True)
    return Panel(title, x, y, averaged(logs, key), level, published, markers, from_zero)


def averaged(logs: Logs, key: str) -> list[Line]:
    """One curve a row; runs that were measured at different steps stay apart."""
    groups: dict[tuple[str, tuple[float, ...]], list[list[float]]] = {}
    for label, log in logs:
        x, y = _points(log, key)
        if y:
            groups.setdefault((label, tuple(x)), []).append(y)
    labels = list(dict.fromkeys(label for label, _ in logs))
    return [_mean(label, x, list(zip(*runs, strict=True)), labels.index(label)) for (label, x), runs in groups.items()]


def ends(logs: Logs, table: Table, key: str) -> list[Line]:
    """One curve of the last values of a quantity over the setting in which a table's rows differ."""
    places = {row.label: float(row.pretrain[table.across]) for row in table.rows}
    last: dict[float, list[float]] = {}
    for label, log in logs:
        if y := _points(log, key)[1]:
            last.setdefault(places[label], []).append(y[-1])
    order = sorted(last)
    return [_mean(table.label, order, [last[x] for x in order], 0)] if order else []


def published_values(table: Table | None, key: str) -> list[tuple[str, float]]:
    """The paper's numbers of a quantity of pre-training, by the row's label."""
    columns = table.columns if table else ()
    places = [i for i, column in enumerate(columns) if (column.task, column.metric) == ("pretrain", key)]
    rows = table.rows if table else ()
    return [(row.label, v) for i in places for row in rows if isinstance(v := row.values[i], int | float)]


def _mean(label: str, x: Sequence[float], values: Sequence[Sequence[float]], number: int) -> Line:
    """The mean of several values at each x, and their standard deviation if there are several at every x."""
    found = [summarize(v) for v in values]
    std = [s.std for s in found if s.std is not None]
    return Line(label, x, [s.mean for s in found], number, std if len(std) == len(found) else ())


def _points(log: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [
        (float(x), float(y))
        for line in log
        if isinstance(x := line.get("epoch", line["step"]), int | float) and isinstance(y := line.get(key), int | float)
    ]
    pairs = pairs[:: max(1, len(pairs) // POINTS)]
    return [x for x, _ in pairs], [y for _, y in pairs]
