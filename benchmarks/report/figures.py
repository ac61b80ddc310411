"""Line charts, and as inline SVG that takes its colours from the page around it."""

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runs.colours import COLOURS

INK = "#222222"
# A legend with more letters in an entry, or more entries, leaves no space for the curves beside it.
ENTRY, ENTRIES = 24, 4
# Told apart without colour, too.
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))
PAPER = (0, (1, 2))


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: in the legend.
        x: horizontal positions.
        y: values.
        number: which colour and style; lines of one number share the legend's entry.
        std: what `y` may be off by, at every point: a band around the curve.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    number: int = 0
    std: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: above it.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        lines: at least one.
        level: a horizontal line with its name, e.g. the value that theory expects.
        published: the paper's values with the numbers of the lines that they belong to.
        markers: mark the single points.
        from_zero: let the vertical axis begin at 0.
        log: a logarithmic horizontal axis with ticks at the points.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    level: tuple[float, str] | None = None
    published: Sequence[tuple[float, int]] = field(default=())
    markers: bool = False
    from_zero: bool = False
    log: bool = False


def draw(axes: Any, panel: Panel) -> None:
    """Draw a chart on Matplotlib's axes."""
    named: set[int] = set()
    for line in panel.lines:
        colour = COLOURS[line.number % 8]
        axes.plot(
            line.x, line.y, color=colour, linestyle=STYLES[line.number % 8],
            label=line.label if line.number not in named else None,
            linewidth=1.6, alpha=0.85, marker="o" if panel.markers else None, markersize=3,
        )  # fmt: skip
        named.add(line.number)
        if line.std:
            low, high = zip(*((y - s, y + s) for y, s in zip(line.y, line.std, strict=True)), strict=True)
            axes.fill_between(line.x, low, high, color=colour, alpha=0.14, linewidth=0)
    if panel.level is not None:
        axes.axhline(panel.level[0], color=INK, linewidth=0.8, linestyle=(0, (2, 3)), label=panel.level[1])
    for value, number in panel.published:
        label = "paper" if value == panel.published[0][0] else None
        axes.axhline(value, color=COLOURS[number % 8], linewidth=0.9, linestyle=PAPER, label=label)
    if panel.from_zero:
        # A curve that stays at the top should not lie on the edge.
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    if panel.log:
        axes.set_xscale("log")
        axes.set_xticks(panel.lines[0].x, [f"{x:g}" for x in panel.lines[0].x])
        axes.minorticks_off()
    axes.set_title(panel.title, color=INK, fontsize=10.5, loc="left")
    axes.set_xlabel(panel.x, color=INK)
    axes.set_ylabel(panel.y, color=INK)
    axes.tick_params(colors=INK, length=3)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def svg(panel: Panel) -> str:
    """A chart as an `<svg>` element whose colours are the page's: `currentColor` and `--series-1` to `--series-8`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text (searchable, in the page's font), and equal data give an equal file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10}):
        figure = Figure(figsize=(4.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        draw(axes, panel)
        labels = list(legend([axes]))
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
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL).replace(
        INK, "currentColor"
    )
    for number, colour in enumerate(COLOURS, start=1):
        text = text.replace(colour, f"var(--series-{number})")
    # The view box scales it; fixed points would not fit a phone.
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # Several charts on a page must not share the ids that their clip paths are found by.
    mark = f"f{zlib.crc32(text.encode()):08x}"
    text = re.sub(r'( id="|url\(#|href="#)', rf"\1{mark}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{panel.title}"', 1)


def legend(axes: Sequence[Any]) -> dict[str, Any]:
    """The entries of a legend by name, of all panels: a row need not have every quantity."""
    return {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
