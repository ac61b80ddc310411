"""The curves of a folder of runs as PNG files, one a table, for a page that is no report; with what the paper prints.

    python -m benchmarks.pictures outputs/lab docs/images/collapse figure2 collapse/figure7

writes `docs/images/collapse-figure2.png` and `docs/images/collapse-collapse-figure7.png`.
"""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import scales
from benchmarks.expansion import expand
from benchmarks.report import content
from benchmarks.report.figures import plot
from benchmarks.tables import Table, load
from runs.app import Parser, cli
from runs.errors import UserError
from runs.files import atomic_write

# Okabe, Ito: Color Universal Design (2008), without the yellow, which white paper hides, and with a grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#777777")

PAPER = (0, (1, 2))


def png(logs: content.Logs, table: Table) -> bytes:
    """Draw a table's quantities side by side, the legend below them all; a paper's number is a thin line of its row.

    Raises:
        UserError: not one run of the table is there.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    keys = [key for key in table.curves if content.lines_of(logs, key)]
    if not keys:
        raise UserError(f"{table.name}: no run of it has curves; run it first (python -m benchmarks run {table.name})")
    figure = Figure(figsize=(3.6 * len(keys), 2.9), layout="constrained", dpi=110)
    axes = figure.subplots(1, len(keys), squeeze=False)[0]
    rows = dict.fromkeys(label for label, _ in logs)
    colours, said = {label: COLOURS[i % 8] for i, label in enumerate(rows)}, False
    for axis, key in zip(axes, keys, strict=True):
        title, up, markers, from_zero = content.QUANTITIES[key]
        level = content.level(logs) if key == "std" else None
        plot(
            axis, content.lines_of(logs, key), title, "epoch", up, level, markers, from_zero, COLOURS, "#222222", False
        )
        axis.title.set_fontsize(8)
        if from_zero:
            # A curve that stays at the top is not to lie on the edge.
            axis.set_ylim(top=1.04 * axis.get_ylim()[1])
        for row, value in published(table, key):
            if row in colours:
                axis.axhline(value, color=colours[row], linewidth=0.9, linestyle=PAPER)
                said = True
    names, handles = zip(*by_name(axes).items(), strict=True)
    if said:
        handles, names = (*handles, Line2D([], [], color="#222222", linewidth=0.9, linestyle=PAPER)), (*names, "paper")
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False, fontsize=9)
    buffer, small = io.BytesIO(), io.BytesIO()
    # No version of Matplotlib in the file: equal data give an equal file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    # Lines of a few colours: a palette takes a third of the bytes, and the pictures stand in a repository.
    Image.open(buffer).convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()


def published(table: Table, key: str) -> list[tuple[str, float]]:
    """The paper's numbers of a pre-training's quantity, by the row's label."""
    places = [i for i, column in enumerate(table.columns) if (column.task, column.metric) == ("pretrain", key)]
    return [(row.label, v) for i in places for row in table.rows if isinstance(v := row.values[i], int | float)]


def by_name(axes: Any) -> dict[str, Any]:
    """Handles of the legend by name, of all panels: a row need not have every quantity."""
    return {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}


@cli
def main(argv: list[str] | None = None) -> int:
    """Draw the named tables."""
    parser = Parser(prog="python -m benchmarks.pictures", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help="output of `python -m benchmarks run`")
    parser.add_argument("prefix", metavar="PREFIX", help="what the files' names begin with")
    parser.add_argument("tables", nargs="+", metavar="TABLE")
    parser.add_argument("--scale", default="lab", help="that they were run at (default: lab)")
    arguments = parser.parse_args(argv)
    scale = scales.load(arguments.scale)
    for name in arguments.tables:
        # Not as the scale measures it, where the paper's accuracy stands beside another quantity.
        table = load(name)
        plan = expand([scale.fit(table)], scale, arguments.folder)
        path = Path(f"{arguments.prefix}-{name.replace('/', '-')}.png")
        with atomic_write(path) as file:
            file.write(png(content.table_logs(plan, table), table))
        print(path)
    return 0


if __name__ == "__main__":
    main()
