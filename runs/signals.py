"""The signals by which a cluster ends a run: heard between two steps, and agreed on by all processes."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from runs.distributed import all_gather_object, rank, world_size

# sysexits.h EX_TEMPFAIL: "come again", for a cluster that requeues what it interrupted.
INTERRUPTED = 75
# Seconds that an item which is on its way when a signal comes has to arrive. Cut off, a loading process would fail too.
GRACE = 1.0
# Seconds that a run has for the end of its step and for saving, which otherwise the scheduler's SIGKILL ends.
DEADLINE = 300.0

T = TypeVar("T")


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
        """Hear the signals in the block; one that is ignored stays so, as `nohup` asks for."""
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
        before = {n: signal.signal(n, self._hear) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._stop_waiting)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def interruptible(self, items: Iterable[T]) -> Iterator[T]:
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

    def agreed(self) -> str:
        """The signal that any process has heard, empty for none; every process has to call it."""
        found = next((name for name in all_gather_object(self.name) if name), "")
        if found and self._timer:
            self._timer.cancel()
        return found

    def leave(self, name: str, where: str) -> NoReturn:
        """End the run with status 75, which the first process says; every process has to call it."""
        if rank() == 0:
            print(f"stopped by {name} {where}; run the same command again to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)

    def _hear(self, number: int, _: Any) -> None:
        self.name = signal.Signals(number).name
        if self._waiting and world_size() == 1:
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        if self.deadline and self._timer is None:
            self._timer = threading.Timer(self.deadline, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _stop_waiting(self, *_: Any) -> None:
        if self._waiting:
            # Once: a loader that is closed for it takes its time, too.
            self._waiting = False
            raise _Heard

    def _end(self) -> None:
        ago = f"{self.deadline:g} s ago"
        print(f"stopped by {self.name}, {ago}, and not saved since the last checkpoint", file=sys.stderr)
        os._exit(INTERRUPTED)
