"""One contender in a process of its own: builds its network, then takes as many steps as it is told, and times them.

    python -m benchmarks.worker CONTENDER JOB       (JOB as JSON)

Answers are JSON objects, one a line on stdout: what is running, once the first step is done; then, for each line on
stdin (a number of steps), the seconds of one and the process's highest memory so far. Or {"error": "one line"}.
"""

import ctypes
import json
import signal
import sys
import time
from collections.abc import Iterator
from os import dup, dup2, fdopen
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import CONTENDERS, Running
from benchmarks.jobs import Job

PACKAGES = ("mindspore", "mindcv", "ms_vit", "numpy", "onnxruntime", "openvino", "timm", "torch")

PR_SET_PDEATHSIG = 1            # linux/prctl.h


def main(name: str, job: str) -> None:
    if sys.platform == "linux":     # while it is stopped, it would outlive a driver that is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = fdopen(dup(1), "w", buffering=1)
    dup2(2, 1)                                          # what libraries print is no answer
    for answer in run(name, Job.from_dict(json.loads(job))):
        answers.write(json.dumps(answer) + "\n")


def run(name: str, job: Job) -> Iterator[dict[str, Any]]:
    try:
        running = CONTENDERS[name](job)
        timed(running, 1)
        yield {"framework": running.framework, "versions": versions(), "parameters": running.parameters,
               "images": running.images, "flops": running.flops}
        for line in sys.stdin:
            yield {"seconds": timed(running, int(line)), "peak_bytes": peak_bytes()}
    except ModuleNotFoundError as error:
        yield {"error": f"it needs {error.name}, which is not installed"}
    except Exception as error:      # whatever a library raises, the others go on without it
        yield {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"}


def timed(running: Running, steps: int) -> float:
    """Seconds of one step, the mean of `steps`."""
    started = time.perf_counter()
    for _ in range(steps):
        value: Any = running.step()
    seconds = (time.perf_counter() - started) / steps
    if not np.isfinite(value).all():
        raise ArithmeticError("the step gave a number that is not finite")
    return seconds


def peak_bytes() -> int:
    """The most memory that this process ever had (VmHWM). getrusage() would start from the parent's."""
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def versions() -> dict[str, str]:
    found = {name: str(sys.modules[name].__version__) for name in PACKAGES if name in sys.modules}
    return {"python": sys.version.split()[0]} | found


if __name__ == "__main__":
    main(*sys.argv[1:])
