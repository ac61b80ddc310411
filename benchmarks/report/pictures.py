"""The curves of a table's pre-trainings as PNG, for a page that is no report; with what the paper prints.

The runs of a row are one curve, their mean, in a band of one standard deviation to either side.
"""

import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from benchmarks.report import content
from benchmarks.report.figures import Line, plot
from benchmarks.results.trials import summarize
from benchmarks.tables.table import Table
from runs.colours import COLOURS
from runs.errors import UserError

PAPER = (0, (1, 2))
INK = "#222222"
# Panels in a line; more would be too small to read at a page's width.
ACROSS = 3


def png(logs: content.Logs, table: Table) -> bytes:
    """Draw a table's quantities side by side, the legend below them all; a paper's number is a thin line of its row.

    Raises:
        UserError: not one run of the table is there.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = {
        key: ends(logs, table, key) if table.across else averaged(content.lines_of(logs, key)) for key in table.curves
    }
    keys = [key for key, lines in found.items() if lines]
    if not keys:
        raise UserError(f"{table.name}: no run of it has curves; run it first (python -m benchmarks run {table.name})")
    wide = 2 if len(keys) == 4 else min(len(keys), ACROSS)
    high = -(-len(keys) // wide)
    figure = Figure(figsize=(3.6 * wide, 2.5 * high + 0.4), layout="constrained", dpi=110)
    panels = list(figure.subplots(high, wide, squeeze=False).flat)
    axes, rest = panels[: len(keys)], panels[len(keys) :]
    said = [_panel(axis, logs, table, key, found[key]) for axis, key in zip(axes, keys, strict=True)]
    legend = by_name(axes)
    if any(said):
        legend["paper"] = Line2D([], [], color=INK, linewidth=0.9, linestyle=PAPER)
    for axis in rest:
        axis.set_axis_off()
    if rest:
        rest[0].legend(legend.values(), legend, loc="center", frameon=False, fontsize=9)
    elif len(legend) > 1:
        figure.legend(
            legend.values(), legend, loc="outside lower center", ncols=min(len(legend), 5), frameon=False, fontsize=8.5
        )
    buffer, small = io.BytesIO(), io.BytesIO()
    # No version of Matplotlib in the file: equal data give an equal file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    # Lines of a few colours: a palette takes a third of the bytes, and the pictures stand in a repository.
    Image.open(buffer).convert("RGB").quantize(128).save(small, "png", optimize=True)
    return small.getvalue()


def _panel(axis: Any, logs: content.Logs, table: Table, key: str, lines: Sequence[Line]) -> bool:
    """Draw one quantity; returns whether the paper has numbers of it."""
    title, up, markers, from_zero = content.QUANTITIES[key]
    level = content.level(logs) if key == "std" else None
    across = table.across.rpartition(".")[2] or "epoch"
    plot(axis, lines, title, across, up, level, markers or bool(table.across), from_zero, COLOURS, INK, False)
    axis.set_title(title, loc="left", fontsize=8.5, color=INK)
    if from_zero:
        # A curve that stays at the top is not to lie on the edge.
        axis.set_ylim(top=1.04 * axis.get_ylim()[1])
    if table.across:
        axis.set_xscale("log")
        axis.set_xticks(lines[0].x, [f"{x:g}" for x in lines[0].x])
        axis.minorticks_off()
    colours = {label: COLOURS[i % 8] for i, label in enumerate(dict.fromkeys(label for label, _ in logs))}
    numbers = [(colours[row], value) for row, value in published(table, key) if row in colours]
    for colour, value in numbers:
        axis.axhline(value, color=colour, linewidth=0.9, linestyle=PAPER)
    return bool(numbers)


def averaged(lines: Sequence[Line]) -> list[Line]:
    """One curve a row: the mean of its runs, and their standard deviation where there are several.

    Runs that were looked at in different steps stay apart.
    """
    groups: dict[tuple[int, tuple[float, ...]], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.group, tuple(line.x)), []).append(line)
    return [_mean(runs[0], zip(*(run.y for run in runs), strict=True)) for runs in groups.values()]


def ends(logs: content.Logs, table: Table, key: str) -> list[Line]:
    """One curve of the last values of a quantity over the setting in which a table's rows differ."""
    places = {row.label: float(row.pretrain[table.across]) for row in table.rows}
    last: dict[float, list[float]] = {}
    for line in content.lines_of(logs, key):
        last.setdefault(places[line.label], []).append(line.y[-1])
    if not last:
        return []
    order = sorted(last)
    return [_mean(Line(table.label, order, ()), [last[x] for x in order])]


def _mean(line: Line, points: Iterable[Sequence[float]]) -> Line:
    """The line with the mean of each point's values, and their deviation if every point has several."""
    found = [summarize(values) for values in points]
    spread = [s.std for s in found if s.std is not None]
    return dataclasses.replace(line, y=[s.mean for s in found], spread=spread if len(spread) == len(found) else ())


def published(table: Table, key: str) -> list[tuple[str, float]]:
    """The paper's numbers of a pre-training's quantity, by the row's label."""
    places = [i for i, column in enumerate(table.columns) if (column.task, column.metric) == ("pretrain", key)]
    return [(row.label, v) for i in places for row in table.rows if isinstance(v := row.values[i], int | float)]


def by_name(axes: Any) -> dict[str, Any]:
    """Handles of the legend by name, of all panels: a row need not have every quantity."""
    return {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
