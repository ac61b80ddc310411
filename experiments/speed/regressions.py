"""Which rows of the speed table fell behind their peers between two runs."""

import statistics
from pathlib import Path

from experiments.speed.rows import Row
from runs.errors import UserError
from runs.files import read_json


def read_rows(file: Path) -> dict[str, Row]:
    """The rows of a result file by name.

    Raises:
        UserError: absent, no JSON, or no result of this command.
    """
    document = read_json(file)
    try:
        if document["schema"] != 1:
            raise UserError(f"{file}: of schema {document['schema']}, this program reads 1; measure again")
        return {row["name"]: Row(**row) for row in document["rows"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: no result of python -m experiments.speed ({error}); give its speed.json") from error


def compare(before: Path, after: Path, tolerance: float) -> tuple[list[str], bool]:
    """Find rows whose ratio to the peer fell by more than a share.

    Ours and the peer ran side by side each time, so another machine or a busier one moves a ratio less than a time.

    Args:
        before: the older result file.
        after: the newer one.
        tolerance: the largest fall that is not reported, 0.2 for 20 %.

    Returns:
        (a line a row; whether any fell)

    Raises:
        UserError: a file is not a result, or the two have no row in common.
    """
    old, new = read_rows(before), read_rows(after)
    common = [name for name in old if name in new]
    if not common:
        raise UserError(f"{before}, {after}: no row in common; measure the same names in both")
    lines, fallen = [], False
    for name in common:
        change = new[name].ratio / old[name].ratio - 1
        worse = change < -tolerance
        fallen |= worse
        lines.append(
            f"{'REGRESSION' if worse else 'ok':10} {name}: {_ratio(old[name])} -> {_ratio(new[name])} "
            f"times {new[name].peer_name} ({100 * change:+.0f} %)"
        )
    lines += [f"{'missing':10} {name}: not in {after}" for name in old if name not in new]
    lines += [f"{'new':10} {name}: not in {before}" for name in new if name not in old]
    count = sum(line.startswith("REGRESSION") for line in lines)
    lines.append(f"{count} of {len(common)} rows fell by more than {100 * tolerance:.0f} % relative to their peers")
    return lines, fallen


def _ratio(row: Row) -> str:
    return f"{statistics.median(row.ratios):.2f}"
