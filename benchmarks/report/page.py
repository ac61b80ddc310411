"""The page itself: everything that it shows, handed to the template."""

import time
from collections.abc import Sequence
from pathlib import Path

import jinja2

from benchmarks.report import content
from benchmarks.report.tables import result_grid, title_of
from benchmarks.results.entries import Results, gain
from benchmarks.results.records import Found
from benchmarks.tables import table as tables
from benchmarks.workflow.estimate import clock

HERE = Path(__file__).parent


def page(found: Sequence[Results], others: Found) -> str:
    """Return the HTML text.

    Args:
        found: the plans whose tables are shown, with their records.
        others: records without a plan.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    plans = [f.plan for f in found]
    recorded = [record for f in found for record in f.records.values()]
    results = [(f.plan, table) for f in found for table in f.tables]
    costs, commands = content.costs(found)
    return environment.get_template("page.html.j2").render(
        title=title_of([result for _, result in results]) if results else "Run records",
        gains=[sentence for _, result in results if (sentence := gain(result))],
        papers=[tables.paper(p) for p in dict.fromkeys(result.table.paper for _, result in results)],
        about=list(dict.fromkeys(f"{p.scale} scale: {p.about}" for p in plans)),
        made=time.strftime("%Y-%m-%d %H:%M"),
        tables=[(result, result_grid(result, properties=True, notes=False), content.drawings(plan, result.table))
                for plan, result in results],
        training=content.training(plans),
        recall=content.precision_recall(found),
        views=content.pictures(plans, "pretrain", "views.png"),
        detections=content.pictures(plans, "transfer", "detections.png"),
        costs=costs,
        commands=commands,
        ended=len(recorded),
        total=clock(sum(r.seconds for r in recorded)),
        environments=content.environments([*recorded, *others.records.values()]),
        starts=list(dict.fromkeys(p.command for p in plans if p.command)),
        others=content.loose(others.records),
        refused=[*(reason for f in found for reason in f.refused), *others.refused.values()],
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=(HERE / "sort.js").read_text(encoding="utf-8"),
    )  # fmt: skip
