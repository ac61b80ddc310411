"""The signals by which a cluster ends a run: at once, or between two steps where all processes agree on it and save."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from runs.distributed import all_gather_object, world_size

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# sysexits.h EX_TEMPFAIL: "come again", for a cluster that requeues what it interrupted.
INTERRUPTED = 75
# Seconds that an item which is on its way when a signal comes has to arrive. Cut off, a loading process would fail too.
GRACE = 1.0
# Seconds from a signal to the end of a run that cannot save before: what it waits for may never come.
DEADLINE = 300.0

T = TypeVar("T")


class Stopped(SystemExit):
    """A signal ends the run, with status 75; `runs.app.cli` says so.

    Args:
        what: the signal's name, and where the run was.
    """

    def __init__(self, what: str) -> None:
        super().__init__(INTERRUPTED)
        self.what = what


@contextlib.contextmanager
def raise_signals() -> Iterator[None]:
    """Raise `Stopped` wherever the block is when a signal comes: for work without anything to save."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(signal.Signals(number).name)

    with _handled(stop):
        yield


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Hear the signals in the block; one that is ignored stays so, as `nohup` asks for."""
    owner = os.getpid()

    def hear(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        else:  # a forked process has the handler, too, and ends as it would without
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def shield_worker(_: int = 0) -> None:
    """For a loading process: the signals that a cluster sends to all processes do not end it, only its parent does.

    If they did, the training process could not finish its step and save. PyTorch's own watch begins later than the
    process: a parent killed in between would leave it behind for ever, with the lock of the run's folder.
    """
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Only Linux and its like tell who sent a signal.
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid
    while os.getppid() == parent.pid:
        heard = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if heard and heard.si_pid == parent.pid:
            break
    os._exit(0)


class _Heard(BaseException):
    """A signal came while the run waited for data."""


class StopSignals:
    """Hears SIGTERM, SIGUSR1 and SIGHUP while `listen` lasts.

    Args:
        deadline: seconds from a signal to the end of the process, whatever it waits for; None for no such end.

    Attributes:
        name: the last one that this process has heard; empty before.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.name, self.deadline = "", deadline
        self._waiting = False
        self._timer: threading.Timer | None = None

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Hear the signals in the block."""
        alarm = signal.signal(signal.SIGALRM, self._stop_waiting)
        try:
            with _handled(self._hear):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)

    def interruptible_if_single_process(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; to a single process a signal ends the waiting for the next one, which may never come."""
        iterator = iter(items)
        while True:
            try:
                self._waiting = True
                if self.name and world_size() == 1:
                    return  # it came before the waiting began
                item = next(iterator)
            except (StopIteration, _Heard):
                return
            finally:
                self._waiting = False
            yield item

    def agreed_signal(self) -> str:
        """The signal that any process has heard, empty for none; every process has to call it."""
        found = next((name for name in all_gather_object(self.name) if name), "")
        if found and self._timer:
            self._timer.cancel()
        return found

    def _hear(self, number: int, _: Any) -> None:
        self.name = signal.Signals(number).name
        if self._waiting and world_size() == 1:
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        if self.deadline and self._timer is None:
            self._timer = threading.Timer(self.deadline, self._exit_at_deadline)
            self._timer.daemon = True
            self._timer.start()

    def _stop_waiting(self, *_: Any) -> None:
        if self._waiting:
            # Once: a loader that is closed for it takes its time, too.
            self._waiting = False
            raise _Heard

    def _exit_at_deadline(self) -> None:
        ago = f"{self.deadline:g} s ago"
        print(f"stopped by {self.name}, {ago}, and not saved since the last checkpoint", file=sys.stderr)
        os._exit(INTERRUPTED)
