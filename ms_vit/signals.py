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
    """Whether a signal asks to stop: its `number`, else 0.

    patient: the work looks at this by itself, and isn't interrupted elsewhere.
    """

    def __init__(self) -> None:
        self.number = 0
        self.patient = False

    def check(self) -> None:
        """Raises Interrupted once there is a signal."""
        if self.number:
            raise Interrupted(self.number)


@contextlib.contextmanager
def caught() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM raise Interrupted inside, or, while what is yielded is patient, are only noted there.

    A second one ends the process. MindSpore puts handlers of its own in the place of Python's whenever an iterator over
    data is made, and they end the process as they please. So both signals are blocked in all threads, and a thread of
    ours waits for them. MindSpore's threads inherit that where they begin inside. Called in another thread than the
    main one, this does nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "sigwait"):
        yield stop
        return

    def note(number: int) -> None:
        if stop.number:
            os._exit(128 + number)      # whatever is being written lies beside its place and counts for nothing
        stop.number = number

    def wait() -> None:
        while True:
            number = signal.sigwait(NUMBERS)
            if over.is_set():
                return
            note(number)
            if not stop.patient:
                noted.set()
                _thread.interrupt_main(signal.Signals(number))

    def handle(number: int, frame: Any) -> None:
        """In the main thread: on the waiting thread's word, or for a thread that began before and took the signal."""
        if not noted.is_set():
            note(number)
        noted.clear()
        if not stop.patient:
            raise Interrupted(number)

    over, noted = threading.Event(), threading.Event()
    handlers = {number: signal.signal(number, handle) for number in NUMBERS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
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
