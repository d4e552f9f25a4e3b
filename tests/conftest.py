"""What tests share: the real data beside the repository, verbs as they are typed, a server that misbehaves as told."""

import gc
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from browser import browser as browser

REPOSITORY = Path(__file__).parents[1]


# A slow machine is no fault: how long an example takes is no matter of tests.
hypothesis.settings.register_profile("ms-vit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ms-vit")


def pytest_configure(config: pytest.Config) -> None:
    """Compiled kernels and graphs are kept beside pytest's own cache, not among the user's. Runs are not shown."""
    os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("ms-vit"))
    os.environ["MS_VIT_REPORT"] = "off"     # seconds of each of many runs; tests of reports ask for them
    # What a shell starts in the background ignores SIGINT, and so would what tests start and send it to.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[0] == "-c":     # so xdist starts its workers, and MindSpore keeps no graphs of such a program
        sys.argv[0] = __file__


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, help="file for the table of -m nodes or -m device, as Markdown")
    parser.addoption("--device", help="of -m device, as for ms-vit: Ascend, GPU, Ascend:3")


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """What was imported so far is no garbage. MindSpore looks for that ahead of each compile: 0.3 s without this."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10, MNIST, an ImageNet subset and a pretrained ViT as their publishers serve them."""
    unpack = REPOSITORY.parent / "shared" / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("the real data (../shared/data) is not on this machine")
    target = tmp_path_factory.mktemp("shared_data")
    subprocess.run([sys.executable, str(unpack), str(target)], check=True)
    return target


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict, str]]:
    """run("eval", ...) -> exit code, the result as JSON, and what was told on stderr."""
    def run(*argv: object) -> tuple[int, dict, str]:
        from ms_vit import cli  # not before the caches have their place

        code = cli.main([*map(str, argv), "--json"])
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        assert out.count("\n") == (code == 0), out      # the result, and nothing of other libraries'
        return code, json.loads(out) if code == 0 else {}, err
    return run


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on 127.0.0.1.

    Its attributes can be changed at any time: `ranges` (whether it knows Range), `lengths` (whether it tells
    Content-Length), `drop_at` (the connection breaks before this byte of a file), `stall_at` (nothing more comes from
    this byte on), `status` (an error for every request). `asked` lists each request's path and Range.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.ranges = True
        self.lengths = True
        self.drop_at: int | None = None
        self.stall_at: int | None = None
        self.status: int | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        path = server.folder / self.path.lstrip("/")
        if server.status or not path.is_file():
            self.send_error(server.status or 404)
            return
        content = path.read_bytes()
        start = 0
        if server.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = min(at for at in (len(content), server.drop_at, server.stall_at) if at is not None)
        try:
            self.wfile.write(content[start:stop])
            self.wfile.flush()
        except ConnectionError:
            return  # the package opens an address and closes it again before it reads
        if server.stall_at is not None and stop < len(content):
            server.closing.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        """Tests' output is for tests."""


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """serve(folder) -> a running Server."""
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        server = Server(folder)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Returns once `condition` holds; fails the test if it doesn't in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't happen in time"
        time.sleep(0.02)
