"""Checkpoints in the official layout, whole or absent, and the newest whole one again."""

import contextlib
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from converters.tensor_digest import tensor_digest
from runs.errors import UserError, user_message
from runs.files import atomic_write, checkpoint_name
from runs.folder import check_present

NAME = re.compile(r"checkpoint_(\d{4,})(?:_(\d{8}))?\.pth\.tar")


def parse_name(path: Path) -> tuple[int, int | None]:
    """Epoch, counted from 0, and steps done (None at the epoch's end) of a checkpoint, by its name."""
    epoch, step = NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return int(epoch), int(step) if step else None


def write_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write what `torch.load(weights_only=True)` reads, whole or not at all.

    Raises:
        UserError: the operating system refuses, or the folder is no longer a run's: deleted, renamed or emptied.
    """
    check_present(path.parent)
    with atomic_write(path) as file:
        torch.save(state, file)


def read_tensors(path: Path) -> Any:
    """Read what `write_tensors` wrote, to the CPU.

    Raises:
        UserError: it is damaged.
        OSError: not the file's fault: no permission, a file system that is away.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise UserError(f"{damaged} differs from its CRC-32")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the damage provokes
        raise UserError(f"{path} is damaged ({(str(error) or type(error).__name__).splitlines()[0]})") from error


@contextlib.contextmanager
def restore_errors(path: Path, remedy: str) -> Iterator[None]:
    """Say in one line what a block raises that restores a state from a file: it is damaged or another version's.

    Raises:
        UserError: the block raised something. Out of memory is raised as it is.
    """
    try:
        yield
    except UserError as error:
        named = "" if str(path) in str(error) else f"{path}: "
        raise UserError(f"{named}{error}; {remedy}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if user_message(error) is not None:  # out of memory: not the file's fault
            raise
        what = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise UserError(f"{path}: another version's or damaged ({what}); {remedy}") from error


class Checkpoints:
    """The checkpoints of one run, kept as `CheckpointConfig` says.

    `checkpoint_0007.pth.tar` is written after the eighth epoch (the release counts from 0), and
    `checkpoint_0007_00001234.pth.tar` inside it, after step 1234.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int) -> None:
        self.folder, self.keep, self.keep_every = folder, keep, keep_every

    def paths(self) -> list[Path]:
        """All checkpoints, newest first."""

        def position(path: Path) -> tuple[int, int]:
            epoch, step = parse_name(path)
            # Inside an epoch comes before its end.
            return epoch, sys.maxsize if step is None else step

        return sorted((p for p in self.folder.iterdir() if NAME.fullmatch(p.name)), key=position, reverse=True)

    def save(self, state: dict[str, Any], epoch: int, step: int | None) -> Path:
        """Write a checkpoint, of the end of `epoch` or of `step` inside it, and delete those no longer kept."""
        suffix = "" if step is None else f"_{step:08d}"
        path = self.folder / checkpoint_name(epoch, suffix)
        write_tensors(path, state | {"digest": tensor_digest(state["state_dict"])})
        for old in self.paths()[self.keep :]:
            number, inside = parse_name(old)
            if inside is not None or not self.keep_every or (number + 1) % self.keep_every:
                old.unlink(missing_ok=True)
        return path

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the newest whole checkpoint, `None` if there is none.

        A damaged one is reported on stderr and renamed to `*.damaged`, so that it never counts as the newest.

        Raises:
            UserError: there are checkpoints and none is whole.
        """
        paths = self.paths()
        for number, path in enumerate(paths):
            try:
                state = self.load(path)
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

    def load(self, path: Path) -> dict[str, Any]:
        """Load one checkpoint; raises `UserError` where it is damaged."""
        state = read_tensors(path)
        entries = {"epoch", "arch", "state_dict", "optimizer", "resume"}
        whole = isinstance(state, dict) and set(state) >= entries and isinstance(state["resume"], dict)
        if not whole or "generators" not in state["resume"]:
            raise UserError(f"{path} is damaged (entries are missing)")
        if "digest" in state and state["digest"] != tensor_digest(state["state_dict"]):
            raise UserError(f"{path} is damaged (its tensors differ from its digest)")
        return state
