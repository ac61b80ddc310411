"""The folder of one run: claimed by one process, bound to one configuration."""

import fcntl
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import yaml

from runs.errors import UserError, from_os_error
from runs.files import atomic_write

RECORD = "result.json"
CONFIG = "config.yaml"
# What a starter may put into a run's folder before the run itself begins: where its output goes.
LOG = "log.txt"


class RunFolder:
    """An output folder, locked while its process lives and tied to the configuration that made it.

    Starting the same command again finds the same folder and continues; another configuration is refused, so two runs
    can never mix their files.

    Args:
        path: the folder; made if it is missing.
        config: the resolved configuration, plain values only.
        kind: one of `runs.record.KINDS`, or another command's name where it writes no record.
        free: dotted keys that may differ between two starts of one run because they do not touch its result
            (number of data workers, device, the folder's own path).

    Raises:
        UserError: the folder belongs to another run, or cannot be made or written.
    """

    def __init__(
        self, path: str | os.PathLike[str], config: dict[str, Any], kind: str, free: Iterable[str] = ()
    ) -> None:
        self.path = Path(path)
        self.config = config
        self.kind = kind
        self._free = frozenset(free) | {"output"}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"output={self.path}: is a file; choose a folder") from error
        except OSError as error:
            raise from_os_error(error) from error
        self._lock = self._claim()
        self._bind()

    @property
    def record(self) -> Path:
        """Where the run record goes."""
        return self.path / RECORD

    @property
    def done(self) -> bool:
        """Whether the run is complete: its record is written last, so it exists exactly then."""
        return self.record.exists()

    def _claim(self) -> IO[str]:
        """Take the folder's lock, waiting for another live process (it may be finishing this very run)."""
        try:
            lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115  held for the process's life
        except OSError as error:
            raise from_os_error(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"{self.path}: waiting for process {lock.read().strip() or '?'}, which runs here", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _bind(self) -> None:
        """Write the configuration, or compare it with the one that is there."""
        file = self.path / CONFIG
        document = {"kind": self.kind, **self.config}
        if file.exists():
            try:
                before = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: unreadable; delete the folder or choose another output=") from error
            differing = _differing(before, document, self._free)
            if differing:
                raise UserError(
                    f"output={self.path} belongs to another run ({'; '.join(differing[:3])}"
                    f"{'; …' if len(differing) > 3 else ''}); choose another output= or delete that folder"
                )
        elif self.done or any(
            p.name not in (".lock", LOG) and not p.name.endswith(".partial") for p in self.path.iterdir()
        ):
            raise UserError(f"output={self.path} holds files of something else; choose another output=")
        with atomic_write(file, "w") as handle:
            yaml.safe_dump(document, handle, sort_keys=False)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested dictionaries into one with dotted keys; lists stay values."""
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _differing(before: Any, now: Any, free: frozenset[str]) -> list[str]:
    old, new = flatten(before), flatten(now)
    keys = [k for k in {**old, **new} if not any(k == f or k.startswith(f + ".") for f in free)]
    absent = "absent"
    return [
        f"{k}: {old.get(k, absent)} there, {new.get(k, absent)} here"
        for k in keys
        if old.get(k, absent) != new.get(k, absent)
    ]
