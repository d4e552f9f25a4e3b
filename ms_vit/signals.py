"""Ctrl-C and SIGTERM while MindSpore works."""

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; its number is the argument."""


class Stop:
    """Whether a signal asks to stop: its `number`, else 0."""

    def __init__(self) -> None:
        self.number = 0

    def check(self) -> None:
        """Raises Interrupted once there is a signal."""
        if self.number:
            raise Interrupted(self.number)


@contextlib.contextmanager
def caught(*, at_once: bool = False) -> Iterator[Stop]:
    """The first signal is noted in what is yielded, so that work can stop where it likes; the second ends the process.

    With `at_once` already the first one ends what is inside, as usual in Python, by a KeyboardInterrupt.

    MindSpore puts handlers of its own in the place of Python's whenever an iterator over data is made, and they end the
    process as they please. So both signals are blocked in all threads, and a thread of ours waits for them. MindSpore's
    threads inherit that where they begin inside. Called in another thread than the main one, this does nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "sigwait"):
        yield stop
        return

    def arrived(number: int, frame: Any = None) -> None:
        if stop.number:
            os._exit(128 + number)      # whatever is being written lies beside its place and counts for nothing
        stop.number = number
        if at_once:
            _thread.interrupt_main(signal.Signals(number))

    def wait() -> None:
        while True:
            number = signal.sigwait(NUMBERS)
            if over.is_set():
                return
            arrived(number)

    over = threading.Event()
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    if not at_once:
        for number in NUMBERS:      # for threads that began before and take signals still
            signal.signal(number, arrived)
    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    try:
        yield stop
    finally:
        over.set()
        signal.pthread_kill(waiter.ident or 0, signal.SIGTERM)
        waiter.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
