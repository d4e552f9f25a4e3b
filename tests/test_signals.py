"""Signals reach us although MindSpore puts its own handlers in the place of Python's with every iterator over data."""

import signal
import subprocess
import sys
import threading

import pytest

from ms_vit import signals

WORK = """
import os, signal, sys, time
from ms_vit import signals

before = [signal.getsignal(number) for number in signals.NUMBERS]
try:
    with signals.caught() as stop:
        stop.patient = sys.argv[1] == "noted"
        import mindspore.dataset as ds

        rows = ds.NumpySlicesDataset(list(range(100000)), shuffle=False).create_tuple_iterator(num_epochs=1)
        print("ready", flush=True)
        for row in rows:
            time.sleep(0.005)
            if stop.number:
                print("noted")
                stop.check()
except signals.Interrupted as interrupt:
    print(interrupt.args[0])
print([signal.getsignal(number) for number in signals.NUMBERS] == before,
      not set(signals.NUMBERS) & signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
os.kill(os.getpid(), signal.SIGINT)         # and afterwards they are Python's as before
time.sleep(9)
"""


def start(how: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", WORK, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("how", "number", "says"), [
    ("noted", signal.SIGINT, ["noted", "2"]), ("noted", signal.SIGTERM, ["noted", "15"]),
    ("at once", signal.SIGINT, ["2"]), ("at once", signal.SIGTERM, ["15"])])
def test_a_signal_ends_work_as_is_asked_and_leaves_pythons_handlers(how, number, says):
    process = start(how)
    process.send_signal(number)
    told, error = process.communicate(timeout=60)
    assert told.splitlines() == [*says, "True True"], error
    assert process.returncode == -signal.SIGINT and error.splitlines()[-1] == "KeyboardInterrupt"


def test_in_another_thread_nothing_changes():
    found = []

    def work():
        before, running = signal.getsignal(signal.SIGINT), set(threading.enumerate())
        with signals.caught() as stop:
            found.append((stop.number, signal.getsignal(signal.SIGINT) == before, set(threading.enumerate()) - running))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, True, set())]
