"""A bar for the person at the terminal and a small file for whoever watches several runs at once."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PROGRESS = "progress.json"


class Progress:
    """A bar on standard error for work of `total` units; a context manager.

    Args:
        total: units of the whole work.
        description: what runs, in a few words.
        unit: the unit's name.
        initial: units done before this start (a resumed run).
        folder: a run's folder; its `progress.json` then follows twice a second.
        disable: show nothing, as in all processes of a run but the first.
    """

    def __init__(
        self, total: int, description: str, unit: str = "it", initial: int = 0, folder: Path | None = None,
        disable: bool = False,
    ) -> None:  # fmt: skip
        from tqdm import tqdm

        self._written = 0.0
        self._file = folder / PROGRESS if folder is not None and not disable else None
        # Without a terminal a bar is noise in a log file: one line a minute is enough to see that the run lives.
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=description, unit=unit, initial=initial, file=sys.stderr, dynamic_ncols=True,
            mininterval=60.0 if quiet else 0.2, maxinterval=60.0 if quiet else 10.0, leave=not quiet or None,
            disable=disable,
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._write_file()

    def update(self, n: int = 1, **shown: Any) -> None:
        """Count `n` more units; `shown` are numbers printed behind the bar, e.g. `loss=-0.91`."""
        if shown:
            self._bar.set_postfix(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in shown.items()}, refresh=False
            )
        self._bar.update(n)
        if time.time() - self._written > 0.5:
            self._write_file()

    def _write_file(self) -> None:
        if self._file is None:
            return
        bar, self._written = self._bar.format_dict, time.time()
        rate = (bar["n"] - bar["initial"]) / max(bar["elapsed"], 1e-9)
        state = {
            "description": bar["prefix"], "done": bar["n"], "total": bar["total"],
            "seconds_left": (bar["total"] - bar["n"]) / rate if rate > 0 else None, "time": self._written,
        }  # fmt: skip
        # A hint for a display, twice a second: replaced whole, not synced to the disk, and never worth a failed run.
        temporary = self._file.with_name(f".{PROGRESS}.{os.getpid()}.partial")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(state))
            os.replace(temporary, self._file)
