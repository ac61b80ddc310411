"""Where the numbers of a run go: `metrics.jsonl` always, TensorBoard and Weights & Biases where asked."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.config import PretrainConfig
from runs.errors import UserError
from runs.files import atomic_write
from runs.log import MetricsLog

WANDB_ID = "wandb_id"


class Logs:
    """All sinks of one run.

    Args:
        folder: the run's folder.
        step: steps done before this start; lines from there on are written again.
        config: says which sinks.

    Raises:
        UserError: `wandb=true` without the package, or its service refuses.
    """

    def __init__(self, folder: Path, step: int, config: PretrainConfig) -> None:
        self.lines = MetricsLog(folder / "metrics.jsonl", step)
        self.events: Any = None
        self.wandb: Any = None
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Events at and after this step, from a start that was cut off, are hidden by TensorBoard.
            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        if config.wandb:
            try:
                import wandb
            except ImportError as error:
                raise UserError("wandb=true: the package is missing; pip install wandb, or leave it out") from error
            # Kept in the folder: its name alone may be that of another run elsewhere.
            file = folder / WANDB_ID
            known = file.read_text(encoding="utf-8") if file.exists() else None
            try:
                self.wandb = wandb.init(
                    project="siamese-transfer", name=folder.name, dir=str(folder), config=asdict(config),
                    id=known, resume="allow",
                )  # fmt: skip
            except wandb.Error as error:
                raise UserError(f"wandb=true: {error}; use wandb login or WANDB_MODE=offline") from error
            if known is None:
                with atomic_write(file, "w") as handle:
                    handle.write(self.wandb.id)

    def write(self, step: int, **values: Any) -> None:
        """Write one line of numbers under `step`, counted from 0; a list of numbers goes to `metrics.jsonl` alone."""
        self.lines.write(step, **values)
        values = {name: value for name, value in values.items() if not isinstance(value, list)}
        if self.events is not None:
            for name, value in values.items():
                self.events.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def close(self) -> None:
        """Flush and close every sink."""
        self.lines.close()
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.finish()
