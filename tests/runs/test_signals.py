"""Signals end a run between two steps, or its waiting for data, or after a while the process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from runs.signals import INTERRUPTED, StopSignals


def test_a_signal_is_heard_in_the_block_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    signals = StopSignals()
    with signals.listen():
        assert signals.agreed_signal() == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.agreed_signal() == signals.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_command_without_anything_to_save_ends_at_once_and_says_so() -> None:
    """Whatever it is doing; a process that it has forked ends as it would without."""
    code = "import os, sys, time; from runs.app import cli\ndef main():\n"
    code += "    begun, begin = os.pipe()\n    child = os.fork()\n    if not child: os.write(begin, b'.')\n"
    # Not one long sleep: a signal that comes just before it begins is heard when it ends.
    code += "    while not child: time.sleep(0.1)\n"
    code += "    os.read(begun, 1); os.kill(child, 15)\n"
    code += "    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True); os.kill(os.getpid(), 1); time.sleep(60)\n"
    done = subprocess.run([sys.executable, "-c", f"{code}cli(main)()"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (INTERRUPTED, "-15\n")
    assert done.stderr == "stopped by SIGHUP; run the same command again to continue\n"


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = StopSignals()
        with signals.listen():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.name == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_waiting_for_the_next_item_ends_and_nothing_else() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        os.kill(os.getpid(), signal.SIGUSR1)
        yield 3  # it was on its way
        raise AssertionError("this item is not waited for")

    def items_that_stop() -> Iterator[int]:
        yield 1
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGUSR1)  # a second one, while the loader is closed
            time.sleep(1.2)
            closed.append(True)

    signals, closed = StopSignals(), list[bool]()
    with signals.listen():
        assert list(signals.interruptible_if_single_process(items())) == [1, 2, 3] and signals.name == "SIGUSR1"
    signals = StopSignals()
    with signals.listen():
        assert list(signals.interruptible_if_single_process(items_that_stop())) == [1] and closed
    signals = StopSignals()
    with signals.listen():
        seen = []
        for item in signals.interruptible_if_single_process([4, 5]):
            os.kill(os.getpid(), signal.SIGUSR1)
            seen.append(item)
        assert seen == [4], "work on an item is not cut off, and no other one is waited for"


def test_a_process_that_cannot_save_ends_after_the_deadline() -> None:
    code = "import os, time; from runs.signals import StopSignals\n"
    code += "with StopSignals(0.1).listen(): os.kill(os.getpid(), 15); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == INTERRUPTED
    assert done.stderr == "stopped by SIGTERM, 0.1 s ago, and not saved since the last checkpoint\n"


ORPHAN = """
import multiprocessing, os, signal, time
from runs.signals import shield_worker

def worker(parent):
    while os.getppid() == parent:
        time.sleep(0.01)
    shield_worker()  # too late to learn from the system who the parent was
    time.sleep(60)

multiprocessing.get_context("fork").Process(target=worker, args=(os.getpid(),)).start()
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_loading_process_ends_with_a_parent_that_was_killed_while_it_began() -> None:
    """It would hold the lock of the run's folder: the next start would wait for it for ever."""
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.wait(10) == -signal.SIGKILL and parent.stdout
        began = time.monotonic()
        parent.stdout.read()  # until the worker, too, is gone
        assert time.monotonic() - began < 30
