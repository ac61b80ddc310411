"""`metrics.jsonl`: a line per step or epoch that survives any kill."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs.errors import from_os_error
from runs.files import atomic_write, read_bytes

METRICS_LOG = "metrics.jsonl"


class MetricsLog:
    """Append-only log of numbers, one JSON object a line, each with its `step`.

    Args:
        path: the `metrics.jsonl`; made if it is missing.
        resume_step: keep only lines with `step` below this and drop a torn last line, so that a resumed run's log reads
            as if the run had never stopped. 0 starts afresh.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int = 0) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_log(self.path) if line["step"] < resume_step] if self.path.exists() else []
            with atomic_write(self.path, "w") as file:
                file.writelines(json.dumps(line) + "\n" for line in kept)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed in close()
        except OSError as error:
            raise from_os_error(error) from error

    def write(self, step: int, **values: Any) -> None:
        """Append one line; a NaN or an infinity is written as `null`, because JSON has neither.

        Raises:
            UserError: the disk refuses.
        """
        safe = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **safe}) + "\n")
            self._file.flush()
        except OSError as error:
            error.filename = str(self.path)
            raise from_os_error(error) from error

    def close(self) -> None:
        """Flush to the disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read_log(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a `metrics.jsonl` in order; a torn last line is passed over."""
    for line in read_bytes(path).decode("utf-8", "replace").splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "step" in value:
            yield value
