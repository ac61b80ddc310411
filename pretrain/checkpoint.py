"""Checkpoints in the official layout, whole or absent, and the newest whole one again."""

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.tensor_digest import tensor_digest
from runs.distributed import all_gather_object, rank, world_size
from runs.errors import UserError
from runs.files import checkpoint_name
from runs.folder import Run
from runs.tensor_files import load_torch_file, restore_errors, save_torch_file

if TYPE_CHECKING:  # half a second
    from torch.distributed.checkpoint.stateful import Stateful

NAME = re.compile(r"checkpoint_(\d{4,})(?:_(\d{8}))?\.pth\.tar")


def epoch_and_step(path: Path) -> tuple[int, float]:
    """Epoch, counted from 0, and steps done (infinity at the epoch's end) of a checkpoint, by its name; they sort."""
    epoch, step = NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return int(epoch), int(step) if step else math.inf


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load one checkpoint of ours, whole.

    Raises:
        UserError: it is damaged.
    """
    state = load_torch_file(path)
    entries = {"epoch", "arch", "state_dict", "optimizer", "resume"}
    whole = isinstance(state, dict) and set(state) >= entries and isinstance(state["resume"], dict)
    if not whole or "generators" not in state["resume"]:
        raise UserError(f"{path} is damaged (entries are missing)")
    if "digest" in state and state["digest"] != tensor_digest(state["state_dict"]):
        raise UserError(f"{path} is damaged (its tensors differ from its digest)")
    return state


class Checkpoints:
    """The checkpoints of one run, kept as `CheckpointConfig` says.

    `checkpoint_0007.pth.tar` is written after the eighth epoch (the release counts from 0), and
    `checkpoint_0007_00001234.pth.tar` inside it, after step 1234.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int) -> None:
        self.folder, self.keep, self.keep_every = folder, keep, keep_every

    def _newest_first(self) -> list[Path]:
        """All checkpoints, newest first."""
        return sorted((p for p in self.folder.iterdir() if NAME.fullmatch(p.name)), key=epoch_and_step, reverse=True)

    def save(self, state: dict[str, Any], step: int | None = None) -> Path:
        """Write a checkpoint, of the end of the state's `epoch` or of `step` inside it; delete those no longer kept."""
        path = self.folder / checkpoint_name(state["epoch"] - 1, step)
        save_torch_file(path, state | {"digest": tensor_digest(state["state_dict"])})
        for old in self._newest_first()[self.keep :]:
            number, step_of_old = epoch_and_step(old)
            if step_of_old < math.inf or not self.keep_every or (number + 1) % self.keep_every:
                old.unlink(missing_ok=True)
        return path

    def load_newest_undamaged(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the newest whole checkpoint, `None` if there is none.

        A damaged one is reported on stderr and renamed to `*.damaged`, so that it never counts as the newest.

        Raises:
            UserError: there are checkpoints and none is whole.
        """
        paths = self._newest_first()
        for number, path in enumerate(paths):
            try:
                state = load_checkpoint(path)
            except UserError as error:
                print(f"WARNING: {error}; falling back to the checkpoint before it", file=sys.stderr)
                continue
            for damaged in paths[:number]:
                damaged.rename(f"{damaged}.damaged")
            return path, state
        if paths:
            raise UserError(
                f"{self.folder}: none of its {len(paths)} checkpoints is readable; delete the folder to start again"
            )
        return None

    def resume(self, run: Run, training: "Stateful") -> Path | None:
        """Load the newest whole checkpoint, if there is one, into `training`; every process has to call it.

        Raises:
            UserError: there are checkpoints and none is whole, or another run or number of processes wrote it.
        """
        # Every process reads the same file; the first one chooses it.
        found = self.load_newest_undamaged() if rank() == 0 else None
        path = all_gather_object(found[0] if found else None)[0]
        if path is None:
            return None
        state = found[1] if found else load_checkpoint(path)
        run.check_identity(state["resume"].get("run"), path)
        written_by = len(state["resume"]["generators"])
        if written_by != world_size():
            raise UserError(
                f"{path}: written by {written_by} processes; continue with as many (torchrun --nproc_per_node)"
            )
        again = f"finish the run with the version that began it, or delete {path.parent} to start again"
        with restore_errors(path, again):
            training.load_state_dict(state)
        return path
