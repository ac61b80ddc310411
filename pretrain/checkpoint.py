"""Checkpoints in the official layout, whole or absent, and the newest whole one again."""

import re
import sys
from pathlib import Path
from typing import Any

import torch

from runs.errors import UserError
from runs.files import atomic_write

NAME = re.compile(r"checkpoint_(\d{4,})(?:_(\d{8}))?\.pth\.tar")


class Checkpoints:
    """The checkpoints of one run.

    `checkpoint_0007.pth.tar` is written after the eighth epoch (the release counts from 0), and
    `checkpoint_0007_00001234.pth.tar` inside it, after step 1234.

    Args:
        folder: the run's folder.
        keep: newest checkpoints to keep.
        keep_every: keep those after every so many epochs as well; 0 for none.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int) -> None:
        self.folder, self.keep, self.keep_every = folder, keep, keep_every

    def paths(self) -> list[Path]:
        """All checkpoints, newest first."""

        def age(path: Path) -> tuple[int, int]:
            epoch, step = NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
            # Inside an epoch comes before its end.
            return int(epoch), int(step) if step else sys.maxsize

        return sorted((p for p in self.folder.iterdir() if NAME.fullmatch(p.name)), key=age, reverse=True)

    def save(self, state: dict[str, Any], epoch: int, step: int | None) -> Path:
        """Write a checkpoint and delete those that are no longer kept.

        Args:
            state: the official entries and `resume`.
            epoch: the epoch it ends, or is inside of, counted from 0.
            step: steps done, for one inside an epoch.
        """
        suffix = "" if step is None else f"_{step:08d}"
        path = self.folder / f"checkpoint_{epoch:04d}{suffix}.pth.tar"
        with atomic_write(path) as file:
            torch.save(state, file)
        for old in self.paths()[self.keep :]:
            number, inside = NAME.fullmatch(old.name).groups()  # type: ignore[union-attr]
            if inside or not self.keep_every or (int(number) + 1) % self.keep_every:
                old.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the newest whole checkpoint, `None` if there is none; a damaged newer one is reported on stderr.

        Raises:
            UserError: there are checkpoints and none is whole.
        """
        paths = self.paths()
        for path in paths:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                if {"epoch", "arch", "state_dict", "optimizer", "resume"} <= set(state):
                    return path, state
                reason = "entries are missing"
            except Exception as error:  # torch.load raises whatever the damage provokes
                reason = str(error).splitlines()[0]
            print(f"WARNING: {path} is damaged ({reason}); falling back to the checkpoint before it", file=sys.stderr)
        if paths:
            raise UserError(
                f"{self.folder}: none of its {len(paths)} checkpoints is readable; delete the folder to start again"
            )
        return None
