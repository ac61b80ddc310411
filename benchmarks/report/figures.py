"""Curves as inline SVG that takes its colours from the page, so that one picture serves light, dark and paper."""

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Colours that stand for CSS variables until the SVG is inside the page. Matplotlib writes them out in lower case.
INK = "#010203"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06", "#0a0b07", "#0a0b08")
# Letters of a legend's longest entry, and entries, that leave room for the curves beside it.
ENTRY, ENTRIES = 24, 4
# Told apart without colour, too.
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))


@dataclass(frozen=True)
class Line:
    """One curve. `group` decides colour and style, so that the seeds of a method look alike.

    `spread` is what `y` may be off by, at every point: a band around the curve.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    group: int = 0
    spread: Sequence[float] = ()


def curves(
    lines: Sequence[Line],
    title: str,
    across: str,
    up: str,
    level: tuple[float, str] | None = None,
    markers: bool = False,
    from_zero: bool = False,
) -> str:
    """Draw curves.

    Args:
        lines: at least one; lines of one group share the legend's entry.
        title: above the picture.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        level: a horizontal line with its name, e.g. the value that theory expects.
        markers: mark the single points.
        from_zero: let the vertical axis begin at 0.

    Returns:
        An `<svg>` element.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text (searchable, in the page's font), and equal data give an equal file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10}):
        entries = len({line.group for line in lines}) + (level is not None)
        long = max(len(line.label) for line in lines) > ENTRY
        below = entries > 1 and (long or entries > ENTRIES)
        columns = 1 if long else 2
        figure = Figure(figsize=(4.2, 2.9 + (0.18 * -(-entries // columns) if below else 0)), layout="constrained")
        axes = figure.add_subplot()
        plot(axes, lines, title, across, up, level, markers, from_zero, SERIES, INK, not below)
        if below:
            figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK)
        return _inline(figure, title)


def plot(
    axes: Any,
    lines: Sequence[Line],
    title: str,
    across: str,
    up: str,
    level: tuple[float, str] | None,
    markers: bool,
    from_zero: bool,
    colours: Sequence[str],
    ink: str,
    legend: bool = True,
) -> None:
    """Draw what `curves` describes on Matplotlib's axes.

    `colours` are the groups', used again from the start behind the last; `ink` is the colour of everything else;
    `legend` names the groups.
    """
    named: set[int] = set()
    for line in lines:
        label = line.label if line.group not in named else None
        named.add(line.group)
        axes.plot(
            line.x, line.y, color=colours[line.group % 8], linestyle=STYLES[line.group % 8], label=label,
            linewidth=1.6, alpha=0.85, marker="o" if markers else None, markersize=3,
        )  # fmt: skip
        if line.spread:
            low, high = zip(*((y - s, y + s) for y, s in zip(line.y, line.spread, strict=True)), strict=True)
            axes.fill_between(line.x, low, high, color=colours[line.group % 8], alpha=0.14, linewidth=0)
    if level is not None:
        axes.axhline(level[0], color=ink, linewidth=0.8, linestyle=(0, (2, 3)), label=level[1])
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.set_title(title, color=ink, fontsize=10.5, loc="left")
    axes.set_xlabel(across, color=ink)
    axes.set_ylabel(up, color=ink)
    axes.tick_params(colors=ink, length=3)
    axes.grid(color=ink, alpha=0.12, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    if legend and (len(named) > 1 or level is not None):
        axes.legend(frameon=False, fontsize=8.5, labelcolor=ink)


def _inline(figure: object, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})  # type: ignore[attr-defined]
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    for number, colour in enumerate(SERIES, start=1):
        svg = svg.replace(colour, f"var(--series-{number})")
    # The view box scales it; fixed points would not fit a phone.
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    # Several pictures on a page must not share the ids that their clip paths are found by.
    mark = f"f{zlib.crc32(svg.encode()):08x}"
    svg = re.sub(r'id="([^"]+)"', rf'id="{mark}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{mark}-\1"', svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
