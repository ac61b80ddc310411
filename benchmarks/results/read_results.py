"""What has come of runs: a plan's tables filled with its records, and records that belong to no plan."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results.records import FoundRecords, find_records, read_plan_records
from benchmarks.results.table_results import TableResult, table_results
from benchmarks.workflow.plan import PLAN, Plan, read_plan
from benchmarks.workflow.run_status import Status, status_of
from runs.errors import UserError
from runs.record import Record


@dataclass(frozen=True)
class PlanResults:
    """What has come of a plan."""

    plan: Plan
    records: dict[str, Record]  # by run id
    refused: list[str]  # why other records are
    tables: list[TableResult]


def read_results_and_unplanned(paths: Sequence[str | Path]) -> tuple[list[PlanResults], FoundRecords]:
    """Read outputs of `run`, which have a plan, and any other folders or files of records.

    Returns:
        (the plans with their tables filled, what there is without a plan)

    Raises:
        UserError: a path does not exist, or there is nothing in any.
    """
    places = {os.path.abspath(path): Path(path) for path in paths}.values()
    planned = [place for place in places if (place / PLAN).exists()]
    plans = [read_plan(place) for place in planned]
    results = [read_plan_results(plan, status_of(plan)) for plan in plans]
    others = find_records(place for place in places if place not in planned)
    if not results and not others.records:
        reason = next(iter(others.refused.values()), "no plan.json and no result.json below the given folders")
        raise UserError(f"nothing to report: {reason}")
    return results, others


def read_plan_results(plan: Plan, status: Status) -> PlanResults:
    """Read a plan's records once and fill its tables; `status`: of its runs."""
    records, refused = read_plan_records(plan)
    return PlanResults(plan, records, refused, table_results(plan, records, status))
