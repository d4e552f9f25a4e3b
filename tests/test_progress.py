"""What people see while something runs: on a terminal as pyte emulates it, in a log file, and with --quiet."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pyte
import pytest
from test_resume import root  # noqa: F401

from ms_vit.training import callbacks

WORK = """
import sys, time
from ms_vit import progress

pace = float(sys.argv[1])       # seconds of a step
progress.EVERY = 2 * pace
with progress.hush("quiet" in sys.argv):
    display = progress.Display("training", 1000, 40, "epoch 1 of 2, step 40", "8 images/s")
    for done in range(41, 51):
        time.sleep(pace)
        display.show(done, f"epoch 1 of 2, step {done}", f"loss {done / 10}, {done} images/s")
        if done == 45:
            progress.say("said between")
    for item in progress.track(range(24), "scoring", "batches"):
        time.sleep(pace)
    progress.say("epoch 1 is done")
    progress.warn("and one thing went wrong")
    time.sleep(pace)
    display.close()
progress.say("the end")
"""
TINY = ("--model.depth=1", "--model.dim=8", "--model.mlp_dim=8", "--model.num_heads=1", "--train.batch_size=16")


def shown(*arguments: object, columns: int = 80, **environment: str) -> tuple[list[list[str]], int]:
    """What python shows on a terminal of so many columns: its lines at each moment at which it wrote, and its code."""
    terminal, its = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # By no fork of ours: MindSpore has a forked process begin its threads anew, which is no affair of this one.
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdin=its, stdout=its, stderr=its,
                               start_new_session=True, env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment})
    os.close(its)
    screen = pyte.Screen(columns, 24)
    stream, moments = pyte.ByteStream(screen), []
    while True:
        try:
            written = os.read(terminal, 1 << 16)
        except OSError:         # it has ended
            break
        stream.feed(written)
        moments.append([line.rstrip() for line in screen.display if line.strip()])
    os.close(terminal)
    return moments, process.wait()


def test_on_a_terminal_two_lines_are_drawn_anew_below_what_is_said():
    moments, code = shown("-c", WORK, 0.11, PYTHONIOENCODING="utf-8")
    assert code == 0, moments[-1:]
    bar = re.compile(r"epoch 1 of 2, step (\d+) \|[█▏▎▍▌▋▊▉]+ +\|")
    drawn = [lines for lines in moments if len(lines) > 1 and bar.fullmatch(lines[-2])]
    steps = [int(bar.fullmatch(lines[-2])[1]) for lines in drawn]
    assert steps == sorted(steps) and len(set(steps)) > 5
    assert all(len(lines[-2]) == 79 for lines in drawn)
    for lines, step in zip(drawn, steps, strict=True):      # the second line is drawn after the first
        assert step < 42 or lines[-1] in [f"loss {drawn / 10}, {drawn} images/s" for drawn in (step - 1, step)]
    assert ["said between"] in [lines[:-2] for lines in drawn]
    # A second bar comes below the two, and goes.
    assert any(bar.fullmatch(lines[-3]) and lines[-2].startswith("loss") and lines[-1].startswith("scoring:  ")
               for lines in moments if len(lines) > 2)
    assert ["said between", "epoch 1 is done", "and one thing went wrong"] in [lines[:-2] for lines in drawn]
    assert moments[-1] == ["said between", "epoch 1 is done", "and one thing went wrong", "the end"]


def test_on_a_narrow_terminal_the_lines_are_cut_and_leave_nothing_behind():
    moments, code = shown("-c", WORK, 0.11, columns=20)
    assert code == 0, moments[-1:]
    assert any(lines[0] == "epoch 1 of 2, step" and re.fullmatch(r"loss (4.\d, 4\d|5.0, 50) images", lines[1])
               for lines in moments if len(lines) == 2)
    assert moments[-1] == ["said between", "epoch 1 is done", "and one thing went w", "rong", "the end"]


@pytest.mark.parametrize("where", ["a log file", "a terminal that can't draw"])
def test_elsewhere_there_is_a_line_now_and_then(where):
    if where == "a log file":
        ran = subprocess.run([sys.executable, "-c", WORK, "0.05"], capture_output=True, text=True)
        assert ran.returncode == 0 and ran.stdout == ""
        lines = ran.stderr.splitlines()
    else:
        moments, code = shown("-c", WORK, 0.05, TERM="dumb")
        assert code == 0, moments[-1:]
        lines = moments[-1]
    told = [line for line in lines if line.startswith("training: ")]
    assert 3 <= len(told) <= 6
    for line in told:
        found = re.fullmatch(r"training: epoch 1 of 2, step (\d+), loss (.+), (\d+) images/s", line)
        assert int(found[1]) == 10 * float(found[2]) == int(found[3])
    assert any(re.fullmatch(r"scoring: \d+ of 24 batches, +\d+\.\d\d batches/s, 00:0\d left", line) for line in lines)
    assert [line for line in lines if not line.startswith(("training: ", "scoring: "))] == [
        "said between", "epoch 1 is done", "and one thing went wrong", "the end"]


@pytest.mark.parametrize("on_terminal", [True, False])
def test_hushed_nothing_is_told_but_what_goes_wrong(on_terminal):
    if on_terminal:
        told = shown("-c", WORK, 0.11, "quiet")[0][-1]
    else:
        ran = subprocess.run([sys.executable, "-c", WORK, "0.05", "quiet"], capture_output=True, text=True)
        told = ran.stderr.splitlines()
    assert told == ["and one thing went wrong", "the end"]      # the end is beyond


# --- training

def train(root, run, *more: object) -> list[object]:       # noqa: F811
    return ["-m", "ms_vit.train", "--recipe", "digits", f"--data.root={root}", "--run", run, *TINY, *more]


def test_training_shows_all_that_is_to_be_known(root, tmp_path):        # noqa: F811
    moments, code = shown(*train(root, tmp_path / "run", "--train.epochs=40", "--train.log_every=2"))
    assert code == 0, moments[-1:]
    far = re.compile(r"epoch (\d+) of 40, step (\d+) of 240, [\d hmins]+ left \|[^|]+\|")
    how = re.compile(r"loss \d\.\d{3}, lr [\d.e-]+, [\d,]+ images/s, \d+ % of the time waiting for data")
    seen = [found for lines in moments if len(lines) > 1 and how.fullmatch(lines[-1]) and
            (found := far.fullmatch(lines[-2]))]
    assert len(seen) > 3
    for epoch, step in (map(int, found.groups()) for found in seen):
        assert 6 * (epoch - 1) < step <= 6 * epoch
    said = moments[-1]
    assert not any("left |" in line or how.fullmatch(line) for line in said)
    assert [line[:14] for line in said if line.startswith("epoch ")][-2:] == ["epoch 39 of 40", "epoch 40 of 40"]


def test_a_quiet_run_says_nothing_and_a_quiet_failure_says_why(root, tmp_path):         # noqa: F811
    moments, code = shown(*train(root, tmp_path / "run", "--train.epochs=1", "--quiet", "--json"))
    assert code == 0 and moments and {lines[0][:8] for lines in moments} == {'{"run": '}
    assert moments[-1][-1].endswith("}")        # the result, and no line more
    moments, code = shown(*train(root, tmp_path / "run", "--train.epochs=1", "--quiet", "--optimizer.lr=7"))
    assert code == 2 and "trained with another recipe (optimizer.lr was " in "".join(moments[-1])


def test_time_left_follows_the_last_steps_and_counts_validation(monkeypatch):
    clock = 0.0
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock)
    throughput = callbacks.Throughput(0, steps=100, epochs=3, validation=30, batch_size=8, device="CPU")

    def take(steps: int, seconds: float) -> None:
        nonlocal clock
        for _ in range(steps):
            clock += seconds
            throughput.taken(1)

    throughput.on_train_begin(None)
    throughput.on_train_epoch_begin(None)
    take(1, 60)         # compiles
    assert throughput.far() == "epoch 1 of 3, step 1 of 300" and throughput.recently == 0
    take(10, 2)
    throughput.log(0.25, 3e-4, 0.031)
    # 289 steps of 2 s, and three times 30 batches, forward only
    assert throughput.far() == f"epoch 1 of 3, step 11 of 300, {callbacks.duration(289 * 2 + 3 * 30 * 2 / 3)} left"
    assert throughput.how() == "loss 0.250, lr 0.0003, 4 images/s, 3 % of the time waiting for data"
    take(89, 2)
    assert throughput.far().startswith("epoch 1 of 3, step 100 of 300, ")
    clock += 50         # validation
    throughput.on_train_begin(None)
    throughput.on_train_epoch_begin(None)
    take(80, 4)         # another job has begun
    assert throughput.far() == f"epoch 2 of 3, step 180 of 300, {callbacks.duration(120 * 4 + 2 * 50)} left"
    assert throughput.images_per_second == pytest.approx(8 * 179 / (99 * 2 + 80 * 4))
    assert throughput.recently == pytest.approx(2, rel=0.01)
    throughput.go_back(100)
    take(1, 4)
    assert throughput.far().startswith("epoch 2 of 3, step 101 of 300, ")
    throughput.close()
