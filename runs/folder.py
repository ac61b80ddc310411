"""The folder of one run: claimed by one process group, bound to one configuration, done when it holds a record."""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from runs.distributed import all_gather_object, rank
from runs.environment import command_line, peak_memory_mb
from runs.errors import UserError, from_os_error
from runs.files import atomic_write, read_yaml
from runs.printable import printable, without_credentials
from runs.record import RECORD as RECORD
from runs.record import Dataset, Record, Subject, read_record, write_record
from runs.settings import flatten

CONFIG = "config.yaml"
LOCK = ".lock"
# Where `benchmarks run` writes a run's output; it may be there before the run begins.
LOG = "log.txt"


class Run:
    """One run in its folder; made by `claimed_run`.

    Attributes:
        path: the folder.
        config: the settings, plain values; addresses in them without what gives access.
        done: the record of a run that was finished before, else None.
        identity: hexadecimal digits of all that may not change between two starts; see `check_identity`.
    """

    def __init__(
        self, kind: str, path: Path, config: dict[str, Any], may_differ: Iterable[str],
        fingerprint: dict[str, str] | None,
    ) -> None:  # fmt: skip
        self.kind, self.path, self.may_differ = kind, path, {*may_differ, "output"}
        self.config: dict[str, Any] = {
            k: without_credentials(v) if isinstance(v, str) else v for k, v in config.items()
        }
        self.document = {"kind": kind, **self.config} | ({"fingerprint": fingerprint} if fingerprint else {})
        bound = json.dumps(self._bound(self.document), sort_keys=True, default=str)
        self.identity = hashlib.sha256(bound.encode()).hexdigest()
        self.done: Record | None = None
        self._started = time.monotonic()

    def check_identity(self, identity: Any, stated_in: Path) -> None:
        """Check that the identity stated in a file is this run's, which may then go on from the file.

        Raises:
            UserError: it is another's.
        """
        if identity != self.identity:
            raise UserError(
                f"{stated_in}: of another run, or of an earlier version; move it away, or choose another output="
            )

    def _describe_differences(self, earlier: dict[str, Any]) -> list[str]:
        """What an earlier start's kind, settings and fingerprint have otherwise, in a few words each."""
        old, new = self._bound(earlier), self._bound(self.document)
        pairs = [(k, old.get(k, "absent"), new.get(k, "absent")) for k in {**old, **new}]
        return [f"{k:.60}: {there!s:.60} there, {here!s:.60} here" for k, there, here in pairs if there != here]

    def _bound(self, document: dict[str, Any]) -> dict[str, Any]:
        flat = flatten(document)
        return {k: v for k, v in flat.items() if not any(k == f or k.startswith(f + ".") for f in self.may_differ)}

    def finish(
        self, subject: Subject, dataset: Dataset | None, metrics: dict[str, float], *, verdict: str = "",
        details: dict[str, Any] | None = None, seconds: float | None = None,
    ) -> Record:  # fmt: skip
        """Write `result.json`, after which the run is done; for the first process only.

        The arguments are those of `Record`; `seconds` are by default those since the run was claimed.

        Raises:
            UserError: a metric is not a finite number, the folder was deleted or renamed, or the disk refuses.
        """
        check_run_folder(self.path)
        record = Record(
            kind=self.kind, subject=subject, dataset=dataset, metrics=metrics, seed=self.config["seed"],
            config=self.config, seconds=time.monotonic() - self._started if seconds is None else seconds,
            peak_memory_mb=peak_memory_mb(), command=command_line(), verdict=verdict, details=details or {},
        )  # fmt: skip
        write_record(self.path, record)
        return record


def check_run_folder(folder: Path) -> None:
    """Refuse to go on with a run whose folder was deleted or renamed; before it writes into the path again."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: was deleted or renamed while the run was on; run it again, output= elsewhere")


@contextlib.contextmanager
def claimed_run(
    kind: str, output: str | os.PathLike[str], config: dict[str, Any], may_differ: Iterable[str] = (),
    fingerprint: dict[str, str] | None = None,
) -> Iterator[Run]:  # fmt: skip
    """Hold an output folder for one run: locked while the block runs, and tied to the configuration that made it.

    Starting the same command again finds the same folder and continues, or finds that it is done; another configuration
    is refused, so two runs can never mix their files. Of several processes the first one holds the lock, and all learn
    what it finds. A block that fails before it has written a file leaves no folder behind.

    Args:
        kind: one of `runs.record.KINDS`, or another command's name where it writes no record.
        output: the folder; made if it is missing.
        config: the resolved configuration, plain values only, with its `seed`.
        may_differ: dotted keys that two starts of one run may have otherwise, because they do not touch its result;
            `output` is one in any case.
        fingerprint: of the data, by split: a folder of the same settings with other data belongs to another run.

    Yields:
        The `Run`. Where its `done` is a record, that has been said and nothing is left to do.

    Raises:
        UserError: the folder belongs to another run, holds a damaged record, or cannot be made or written.
    """
    run = Run(kind, Path(output), config, may_differ, fingerprint)
    if rank() > 0:
        run.done = all_gather_object(None)[0]
        yield run
        return
    _check_own(run.path)
    bound = True
    with wait_for_folder_lock(run.path):
        try:
            bound = (run.path / CONFIG).exists()
            _bind_config(run)
            # What a killed start was writing.
            for partial in run.path.glob(".*.partial"):
                partial.unlink(missing_ok=True)
            found = _own_record(run) if (run.path / RECORD).exists() else None
            run.done = all_gather_object(found)[0]
            if run.done:
                print(printable(f"{run.path / RECORD}: done already"))
            run._started = time.monotonic()
            yield run
        except BaseException:
            if not bound:
                _undo(run.path)
            raise


@contextlib.contextmanager
def wait_for_folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; waits for another live process, which may be finishing the run."""
    # Here, so that `--help` does not wait for it.
    from filelock import FileLock, Timeout

    if len(folder.resolve().parts) == 1:
        raise UserError(f"output={folder}: is the root of all folders; choose one for this run alone")
    file, waits = folder / LOCK, False
    lock = FileLock(file)
    while not lock.is_locked:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if file.exists() and not file.is_file():
                raise UserError(f"{file}: not an ordinary file; delete it, or choose another output=")
            # A symbolic link is refused: the process's number would go into the file that it points to.
            lock.acquire(blocking=waits)
        except Timeout:
            if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
                raise UserError(
                    f"output={folder}: another task of this srun runs here; several share a run through torchrun: srun "
                    "--ntasks-per-node=1 torchrun --nnodes=N --nproc_per_node=GPUS --rdzv-backend=c10d "
                    "--rdzv-endpoint=FIRST_NODE:22742 -m … (docs/benchmarks.md)"
                ) from None
            text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
            holder = printable(text[:20].strip() or "?")
            print(f"{printable(folder)}: waiting for process {holder}, which runs here", file=sys.stderr)
            waits = True
        except FileExistsError as error:
            raise UserError(f"output={folder}: is a file; choose a folder") from error
        except OSError as error:
            # The process before failed at its start and has taken the folder away.
            if not (waits and isinstance(error, FileNotFoundError)):
                raise from_os_error(error) from error
    try:
        file.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()


def _undo(folder: Path) -> None:
    """Remove what a claim has made where nothing else was written."""
    others = {path.name for path in folder.iterdir()} - {LOCK, CONFIG} if folder.is_dir() else {"gone"}
    if others - {LOG}:
        return
    for name in (CONFIG, LOCK):
        (folder / name).unlink(missing_ok=True)
    if not others:
        folder.rmdir()


def _check_own(folder: Path) -> None:
    """Refuse a folder of something else, before anything is written into it."""
    found = set[str]()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = {p.name for p in folder.iterdir()}
    if CONFIG not in found and any(name not in (LOCK, LOG) and not name.endswith(".partial") for name in found):
        raise UserError(f"output={folder} holds files of something else; choose another output=")


def _bind_config(run: Run) -> None:
    """Write the configuration and the data's fingerprint, or compare them with those that are there."""
    file = run.path / CONFIG
    if file.exists():
        try:
            differing = run._describe_differences(read_yaml(file))
        except UserError as error:
            raise UserError(f"{error}; delete the folder or choose another output=") from error
        if differing:
            raise UserError(
                f"output={run.path} belongs to another run ({'; '.join(differing[:3])}"
                f"{'; …' if len(differing) > 3 else ''}); choose another output= or delete that folder"
            )
    with atomic_write(file, "w") as handle:
        yaml.safe_dump(run.document, handle, sort_keys=False)


def _own_record(run: Run) -> Record:
    """The folder's record, which has to be of this run."""
    record = read_record(run.path)
    data = {"fingerprint": run.document["fingerprint"]} if "fingerprint" in run.document else {}
    if differing := run._describe_differences({"kind": record.kind, **record.config, **data}):
        raise UserError(
            f"{run.path / RECORD}: of another run than {CONFIG} beside it ({differing[0]}); delete it, or choose "
            "another output="
        )
    return record
