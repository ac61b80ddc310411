"""Where the numbers of a run go: `metrics.jsonl` always, TensorBoard and Weights & Biases where asked."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs.errors import UserError, from_os_error
from runs.files import atomic_write, read_bytes

METRICS_LOG = "metrics.jsonl"

WANDB_ID = "wandb_id"


class MetricsLog:
    """Append-only log of numbers, one JSON object a line, each with its `step`.

    Args:
        path: the `metrics.jsonl`; made if it is missing.
        resume_step: keep only lines with `step` below this and drop a torn last line, so that a resumed run's log reads
            as if the run had never stopped. 0 starts afresh.
        tensorboard: the folder of TensorBoard's events; None writes none.
        wandb: the settings to log to Weights & Biases as well; None does not.

    Raises:
        UserError: the disk refuses; `wandb` without the package, or its service refuses.
    """

    def __init__(
        self, path: str | os.PathLike[str], resume_step: int = 0, tensorboard: Path | None = None,
        wandb: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.path = Path(path)
        self._events: Any = None
        self._wandb: Any = None
        kept = [line for line in read_log(self.path) if line["step"] < resume_step] if self.path.exists() else []
        with atomic_write(self.path, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed in close()
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Events at and after this step, from a start that was cut off, are hidden by TensorBoard.
            self._events = SummaryWriter(str(tensorboard), purge_step=resume_step)
        if wandb is not None:
            self._wandb = _wandb_run(self.path.parent, wandb)

    def write(self, step: int, **values: Any) -> None:
        """Append one line; a NaN or an infinity is written as `null`, because JSON has neither.

        A list of numbers goes to `metrics.jsonl` alone.

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
        scalars = {name: value for name, value in values.items() if not isinstance(value, list)}
        if self._events:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(scalars, step=step)

    def close(self) -> None:
        """Flush to the disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._events:
            self._events.close()
        if self._wandb:
            self._wandb.finish()


def read_log(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a `metrics.jsonl` in order; a torn last line is passed over."""
    for line in read_bytes(path).decode("utf-8", "replace").split("\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and type(value.get("step")) is int:
            yield value


def _wandb_run(folder: Path, settings: dict[str, Any]) -> Any:
    """Start the run at Weights & Biases, or continue it."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("wandb=true: the package is missing; pip install wandb, or leave it out") from error
    # Kept in the folder: its name alone may be that of another run elsewhere.
    file = folder / WANDB_ID
    known = file.read_text(encoding="utf-8") if file.exists() else None
    try:
        run = wandb.init(
            project="siamese-transfer", name=folder.name, dir=str(folder), config=settings, id=known, resume="allow"
        )
    except wandb.Error as error:
        raise UserError(f"wandb=true: {error}; use wandb login or WANDB_MODE=offline") from error
    if known is None:
        with atomic_write(file, "w") as handle:
            handle.write(run.id)
    return run
