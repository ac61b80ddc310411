"""Where the numbers of a run go: `metrics.jsonl` always, TensorBoard and Weights & Biases where asked."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.config import PretrainConfig
from runs.errors import UserError
from runs.log import MetricsLog


class Logs:
    """All sinks of one run.

    Args:
        folder: the run's folder.
        step: steps done before this start; lines from there on are written again.
        config: says which sinks.

    Raises:
        UserError: `wandb=true` without the package.
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
            self.wandb = wandb.init(
                project="siamese-transfer", dir=str(folder), config=asdict(config), resume="allow", id=folder.name
            )

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
