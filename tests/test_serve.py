"""ms-vit serve: the Predictor's answers, batches of what comes together, bounds, many clients, signals, the page."""

import base64
import contextlib
import http.client
import importlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import mindspore as ms
import numpy as np
import packing
import psutil
import pytest
from browser import WIDTHS, opened
from conftest import wait_for
from PIL import Image

import ms_vit
from ms_vit import cli, limits
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.inference.predictor import Predictor
from ms_vit.inference.recorder import Recorder
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.signals import Stop
from ms_vit.weights.files import ModelSpec, save_parameters
from ms_vit.weights.loading import load_model

pytest.importorskip("starlette", reason="pip install -e .[serve]")
from ms_vit.serving import batching
from ms_vit.serving.app import App
from ms_vit.serving.attention import Attention
from ms_vit.serving.server import Server, bound, hosts

BATCH = 8
NAMES = ["ant", '<img src="x" onerror="document.title=1">', "鯛", "שועל", "a name that is longer than a telephone"]
BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PNG = {"Content-Type": "image/png"}


class Answer:
    """What a server answered."""

    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers, self.content = response.status, response.headers, response.read()

    @property
    def json(self) -> dict:
        return json.loads(self.content)

    @property
    def error(self) -> str:
        assert set(self.json) == {"error"}
        return self.json["error"]


class Client:
    """Asks a server at a port of 127.0.0.1."""

    def __init__(self, port: int, process: subprocess.Popen | None = None):
        self.port, self.process = port, process

    def ask(self, method: str = "GET", path: str = "/health", body: bytes | Iterator[bytes] | None = None,
            headers: dict[str, str] = PNG) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())

    def predict(self, body: bytes | Iterator[bytes] | None, headers: dict[str, str] = PNG, query: str = "") -> Answer:
        return self.ask("POST", f"/predict{query}", body, headers)

    def connect(self, head: bytes = b"") -> socket.socket:
        """A connection on which this much of a request has been sent."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        found.sendall(head)
        return found


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """A form's body: names, file names and contents."""
    made = b""
    for name, file, content in parts:
        told = f'; filename="{file}"' if file is not None else ""
        made += (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode() + content
                 + b"\r\n")
    return made + f"--{BOUNDARY}--\r\n".encode()


def image_bytes(seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB", kind: str = "PNG") -> bytes:
    random = np.random.default_rng(seed)
    made = Image.fromarray(random.integers(0, 256, (*size[::-1], 3), np.uint8)) if size[0] < 1000 else Image.new(
        "RGB", size, (seed, 90, 200))
    file = io.BytesIO()
    (made if mode == "RGB" else made.convert(mode)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A random network's file, named as nobody who trusts a file names a class."""
    config = ViTConfig(image_size=16, patch_size=4, num_classes=len(NAMES), dim=24, depth=2, num_heads=3, mlp_dim=40)
    net, random = ViT(config), np.random.default_rng(0)
    for parameter in net.trainable_params():
        parameter.set_data(ms.Tensor(random.normal(0, 0.3, parameter.shape).astype(np.float32)))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_parameters(path, net.parameters_dict(), ModelSpec(
        config=config, labels=Labels(list("abcde"), NAMES), preprocessing=Preprocessing(image_size=16)))
    return path


@pytest.fixture(scope="module")
def predictor(weights) -> Predictor:
    return Predictor(weights, batch_size=BATCH, singly=True)


@pytest.fixture
def inside(predictor) -> Iterator[Client]:
    """A server in a thread of ours, whose limits a test may change, with the App as `app`."""
    stop, app = Stop(), App(predictor, name="tiny", top_k=5)
    with bound("127.0.0.1", 0) as listening, ThreadPoolExecutor(1) as pool:
        client = Client(listening.getsockname()[1])
        client.app = app
        server = Server(app.application(hosts(listening)), stop, "ready")
        running = pool.submit(server.run, [listening])
        wait_for(lambda: server.started or running.done())
        yield client
        stop.number = signal.SIGTERM
        running.result(60)


def start(weights: Path, *options: object) -> Client:
    """The command in a process of its own, once it listens."""
    process = subprocess.Popen([sys.executable, "-m", "ms_vit", "serve", weights, "--port", "0", *map(str, options)],
                               stderr=subprocess.PIPE, text=True)
    told = process.stderr.readline()
    found = re.fullmatch(r"tiny\.safetensors answers at http://127\.0\.0\.1:(\d+); Ctrl-C ends it\n", told)
    assert found, told + process.communicate(timeout=60)[1]
    return Client(int(found[1]), process)


@pytest.fixture(scope="module")
def server(weights) -> Iterator[Client]:
    client = start(weights)
    try:
        yield client
    finally:
        client.process.kill()
        client.process.wait()


# --- answers

def close_to(expected: list) -> list[dict]:
    """Predictions as JSON; a batch of another size sums in another order."""
    return [asdict(each) | {"probability": pytest.approx(each.probability, rel=1e-4)} for each in expected]


@pytest.mark.parametrize(("kind", "mode"), [
    ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("PNG", "I;16"), ("PNG", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
    ("WEBP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("BMP", "RGB"), ("PPM", "RGB")])
def test_a_picture_as_it_is_gets_the_predictors_answer(server, predictor, tmp_path, kind, mode):
    content = image_bytes(1, mode=mode, kind=kind)
    file = packing.put(tmp_path / "picture", content)
    answer = server.predict(content, {"Content-Type": f"image/{kind.lower()}"})
    assert answer.status == 200
    assert answer.json == {"answers": [{"image": "the picture", "predictions": close_to(predictor([file])[0])}]}


def test_a_form_of_several_pictures_gets_an_answer_each_in_their_order(server, predictor, tmp_path):
    contents = [image_bytes(seed, (30 + seed, 40)) for seed in range(BATCH + 3)]
    files = [packing.put(tmp_path / f"{at}.png", content) for at, content in enumerate(contents)]
    body = form(("note", None, b"hello"), *(("image", file.name, content) for file, content in zip(files, contents,
                                                                                                 strict=True)))
    answers = server.predict(body, FORM, "?top_k=2").json["answers"]
    assert [answer["image"] for answer in answers] == [file.name for file in files]
    assert [answer["predictions"] for answer in answers] == [close_to(each) for each in predictor(files, top_k=2)]
    assert len({answer["predictions"][0]["probability"] for answer in answers}) == len(files)     # no two are alike


def test_more_classes_than_there_are_means_all(server):
    found = server.predict(image_bytes(), PNG, "?top_k=1000").json["answers"][0]["predictions"]
    assert sorted(each["name"] for each in found) == sorted(NAMES)
    assert sum(each["probability"] for each in found) == pytest.approx(1)


def test_health_tells_what_is_asked(server):
    told = server.ask().json
    assert told | {"answered": 0} == {
        "status": "ok", "version": ms_vit.__version__, "model": "tiny.safetensors", "classes": 5,
        "image_size": [16, 16], "batch_size": 8, "top_k": 5, "types": list(batching.TYPES), "attention": True,
        "max_bytes": limits.MAX_BODY_BYTES, "max_images": limits.MAX_UPLOADS, "under_way": 0, "answered": 0}
    server.predict(image_bytes())
    assert server.ask().json["answered"] == told["answered"] + 1


def test_attention_is_the_recorders_over_what_the_network_saw(server, weights, predictor):
    drawn = server.predict(content := image_bytes(3), PNG, "?attention=1").json["answers"][0]["attention"]
    found = Image.open(io.BytesIO(base64.b64decode(drawn.removeprefix("data:image/png;base64,"))))
    prepared = predictor.prepare(Image.open(io.BytesIO(content)))
    logits = predictor.logits(prepared[None])[0]
    patches = Recorder(load_model(weights)[0])(prepared[None], [int(logits.argmax())]).gradient_rollout()[0]
    heat = np.ptp(np.asarray(found, float), axis=-1)        # what is looked at least is grey
    blocks = heat.reshape(4, found.height // 4, 4, found.width // 4).mean((1, 3))
    assert found.size == (192, 192) and np.corrcoef(blocks.ravel(), patches.ravel())[0, 1] > 0.7
    assert "attention" not in server.predict(content).json["answers"][0]


def test_attention_among_other_requests_disturbs_none(server, predictor):
    """It runs operation by operation, where a batch is a compiled graph."""
    contents = [image_bytes(seed) for seed in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda at: server.predict(contents[at], PNG, f"?attention={at % 2}"), range(20)))
    for content, answer in zip(contents, answers, strict=True):
        assert answer.json["answers"][0]["predictions"] == close_to(predictor([Image.open(io.BytesIO(content))])[0])
    assert ["attention" in answer.json["answers"][0] for answer in answers] == [False, True] * 10


def test_attention_that_cannot_be_drawn_is_refused_with_the_reason(inside, predictor, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ATTENTION_BYTES", 8 * 2 * 3 * 17**2 - 1)
    inside.app.attention = Attention(predictor, None)
    answer = inside.predict(image_bytes(), PNG, "?attention=1")
    assert (answer.status, answer.error) == (400, "the attention of 17 tokens takes too much memory")
    assert not inside.ask().json["attention"] and inside.predict(image_bytes()).status == 200
    monkeypatch.setattr(predictor, "weights", Path("tiny.xml"))
    assert "an export tells no attention" in Attention(predictor, None).missing


# --- batches

def test_what_comes_together_goes_through_the_network_together(inside, predictor, monkeypatch):
    """While one picture is in the network 2 * 8 come; they make two batches, and nobody gets another's answer."""
    sizes, go, logits = [], threading.Event(), predictor.logits

    def slow(images):
        sizes.append(len(images))
        assert go.wait(60)
        return logits(images)

    contents = [image_bytes(seed) for seed in range(1 + 2 * BATCH)]
    expected = [predictor.top(logits(predictor.prepare(Image.open(io.BytesIO(each)))[None])[0], 5) for each in contents]
    monkeypatch.setattr(predictor, "logits", slow)
    with ThreadPoolExecutor(len(contents)) as pool:
        first = pool.submit(inside.predict, contents[0])
        wait_for(lambda: sizes == [1])
        rest = [pool.submit(inside.predict, content) for content in contents[1:]]
        wait_for(lambda: len(inside.app.batches.ready) == 2 * BATCH)
        go.set()
        answers = [each.result().json["answers"][0]["predictions"] for each in (first, *rest)]
    assert sizes == [1, BATCH, BATCH]
    assert answers == [close_to(each) for each in expected]


def test_a_picture_that_is_alone_waits_for_nobody(inside, monkeypatch):
    monkeypatch.setattr(batching, "GATHER_SECONDS", 30)
    assert inside.predict(image_bytes()).status == 200


def test_an_engine_that_fails_is_told_and_the_next_picture_answered(inside, predictor, monkeypatch, caplog):
    def fails(images):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "logits", fails)
        answer = inside.predict(image_bytes())
    assert (answer.status, answer.error) == (500, "the server failed; its log says why")
    assert inside.predict(image_bytes()).status == 200
    assert "RuntimeError: no memory" in caplog.text


# --- what is refused

LARGE = limits.MAX_BODY_BYTES + 1
BOMB = packing.png(b"", width=60_000, height=60_000)
REFUSED = {
    "nothing": (b"", PNG, "", 400, "no image; send a form"),
    "a form of nothing": (form(), FORM, "", 400, ""),
    "a form without image": (form(("file", "a.png", image_bytes())), FORM, "", 400, "no image"),
    "no file chosen": (form(("image", "", b"")), FORM, "", 400, "no image"),
    "an image that is text": (form(("image", None, b"hello")), FORM, "", 400, "no image"),
    "a form without its boundary": (form(), {"Content-Type": "multipart/form-data"}, "", 400, "boundary"),
    "a form that is none": (b"hello", FORM, "", 400, ""),
    "a form of a character set that is none": (
        form(("\xff", None, b"xn--a")), {"Content-Type": FORM["Content-Type"] + "; charset=idna"}, "", 400, ""),
    "too many pictures": (form(*[("image", "a", b"x")] * (limits.MAX_UPLOADS + 1)), FORM, "", 400, "Too many files"),
    "too many fields": (form(*[("x", None, b"x")] * (limits.MAX_FIELDS + 1)), FORM, "", 400, "Too many fields"),
    "too large a field": (form(("x", None, b"x" * (limits.MAX_FIELD_BYTES + 1))), FORM, "", 400, "exceeded maximum"),
    "a part with too many headers": (
        f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * 1000 + b"\r\n\r\n", FORM, "", 400, ""),
    "no type": (image_bytes(), {}, "", 415, "send a form"),
    "another type": (b"image=1", {"Content-Type": "application/x-www-form-urlencoded"}, "", 415, "Type: image/jpeg"),
    "no picture": (b"hello", PNG, "", 415, "the picture is of none of these types: JPEG, PNG"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PNG, "", 415, "none of these types"),
    "a picture of a rare type": (image_bytes(kind="SGI"), PNG, "", 415, "none of these types"),
    "a damaged picture": (form(("image", "a.png", image_bytes()[:500])), FORM, "", 422,
                          "a.png can't be read as an image"),
    "one damaged of two": (form(("image", "a.png", image_bytes()), ("image", "b.png", image_bytes()[:500])), FORM, "",
                           422, "b.png can't be read as an image"),
    "a bomb": (BOMB, PNG, "", 422, "the picture has more than 178,956,970 pixels"),
    "a name of many lines": (form(("image", "a\x1b[2J.png", image_bytes()[:500])), FORM, "", 422, r"\x1b[2J.png can't"),
    "too large a body": (b"x" * LARGE, PNG, "", 413, "a request may have 32,000,000 bytes"),
    "too large a form": (form(("image", "a.png", b"x" * LARGE)), FORM, "", 413, "32,000,000 bytes"),
    "too large a body of unknown length": (iter([b"x" * (1 << 20)] * 40), PNG, "", 413, "32,000,000 bytes"),
    "no class": (image_bytes(), PNG, "?top_k=0", 400, "top_k must be a whole number from 1, not '0'"),
    "less than a class": (image_bytes(), PNG, "?top_k=-1", 400, "top_k must be"),
    "a number of classes that is none": (image_bytes(), PNG, "?top_k=" + "9" * 5000 + "x", 400, "top_k must be"),
    "another site's page": (image_bytes(), PNG | {"Sec-Fetch-Site": "cross-site"}, "", 403, "a page of another site"),
    "another port's page": (image_bytes(), PNG | {"Sec-Fetch-Site": "same-site"}, "", 403, "a page of another site"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_told_and_leaves_nothing(inside, what):
    body, headers, query, status, says = REFUSED[what]
    answer = inside.predict(body, headers, query)
    assert answer.status == status and says in answer.error, answer.content
    assert len(answer.content) < 3000
    wait_for(lambda: (inside.app.bodies.requests, inside.app.bodies.bytes) == (0, 0))
    assert inside.predict(image_bytes()).status == 200


def test_a_length_that_is_too_large_is_refused_before_it_comes(inside):
    with inside.connect(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                        b"Content-Length: 9999999999999999999\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/predict", 405), ("PUT", "/predict", 405), ("POST", "/", 405), ("GET", "/x", 404),
    ("GET", "/../setup.py", 404), ("GET", "/page.css/..", 404)])
def test_there_is_nothing_else(server, method, path, status):
    answer = server.ask(method, path)
    assert answer.status == status and answer.error


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:9", 200), ("[::1]:8000", 200), ("evil.example", 400),
    ("localhost.evil.example", 400), ("127.0.0.1.evil.example", 400), ("0.0.0.0", 400), ("", 400)])
def test_on_this_machine_it_answers_to_this_machines_names_alone(server, host, status):
    """Another site's name that leads here (DNS rebinding) would make its page one of ours."""
    for path in ("/", "/health"):
        answer = server.ask("GET", path, None, {"Host": host})
        assert answer.status == status and not [name for name in answer.headers if name.lower().startswith("access-")]


def test_it_listens_on_127_0_0_1_alone(server):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
    connections = psutil.Process(server.process.pid).net_connections()
    assert [each.laddr for each in connections if each.status == psutil.CONN_LISTEN] == [("127.0.0.1", server.port)]


def test_too_many_requests_are_asked_to_come_again(inside, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUESTS", 1)
    with inside.connect(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                        b"Content-Length: 100\r\n\r\n"):
        wait_for(lambda: inside.app.bodies.requests == 1)
        answer = inside.predict(image_bytes())
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1") and "come again" in answer.error
    wait_for(lambda: inside.app.bodies.requests == 0)      # the one that went away
    assert inside.predict(image_bytes()).status == 200


def test_bodies_are_bounded_together(inside, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BODIES_BYTES", 10_000)
    with inside.connect(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                        b"Content-Length: 9000\r\n\r\n" + bytes(8000)):
        wait_for(lambda: inside.app.bodies.bytes == 8000)
        assert inside.predict(image_bytes()).status == 503
    wait_for(lambda: inside.app.bodies.bytes == 0)
    assert inside.predict(image_bytes()).status == 200


def test_a_body_that_does_not_end_in_time_is_refused(inside, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUEST_SECONDS", 0.5)
    with inside.connect(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                        b"Content-Length: 100\r\n\r\nx") as connection:
        answer = connection.makefile("rb").read()      # it is closed, half a second later
    assert answer.startswith(b"HTTP/1.1 408 ") and b"didn't come within 0.5 s" in answer


@pytest.mark.parametrize("head", [
    b"", b"POST /predict HTTP/1.1\r\nHost: local", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /h"])
def test_a_head_that_does_not_end_in_time_closes_its_connection(inside, monkeypatch, head):
    monkeypatch.setattr(limits, "MAX_REQUEST_SECONDS", 0.5)
    began = time.monotonic()
    with inside.connect(head) as connection:
        while connection.recv(1000):
            pass
    assert 0.4 < time.monotonic() - began < 10


def test_a_body_without_an_end_is_cut_off(inside, monkeypatch):
    """It is refused at once; what comes after it is dropped, for a while."""
    monkeypatch.setattr(limits, "MAX_REQUEST_SECONDS", 1)
    with inside.connect(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                        b"Transfer-Encoding: chunked\r\n\r\n") as connection, pytest.raises(ConnectionError):
        sent = time.monotonic()
        while time.monotonic() < sent + 30:
            connection.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
    assert time.monotonic() < sent + 20
    assert (inside.app.bodies.requests, inside.app.bodies.bytes) == (0, 0)


def test_an_answer_that_nobody_takes_is_given_up(inside, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUEST_SECONDS", 1)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", inside.port))
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
                time.sleep(0.1)
        wait_for(lambda: not established(inside.port))


def established(port: int) -> list:
    """The server's ends of connections that are open."""
    return [each for each in psutil.Process().net_connections() if each.laddr == ("127.0.0.1", port)
            and each.status == psutil.CONN_ESTABLISHED]


def test_garbage_is_no_request(server):
    with server.connect(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    with server.connect(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


# --- many at once

def test_a_hundred_clients_lose_nothing_in_bounded_memory(server, predictor):
    """400 pictures of 20 kinds, one of them large: its 20 copies would take 1.4 GB at once."""
    contents = [image_bytes(seed, (28 + seed, 28)) for seed in range(19)] + [image_bytes(90, (6000, 4000), kind="JPEG")]
    expected = [close_to(predictor([Image.open(io.BytesIO(content))])[0]) for content in contents]
    process = psutil.Process(server.process.pid)
    before, most, done = process.memory_info().rss, [0], threading.Event()

    def watch():
        while not done.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    threading.Thread(target=watch, daemon=True).start()
    began = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda at: server.predict(contents[at % 20]), range(400)))
    took = time.monotonic() - began
    done.set()
    assert [answer.status for answer in answers] == [200] * 400
    for at, answer in enumerate(answers):
        assert answer.json["answers"][0]["predictions"] == expected[at % 20]
    print(f"400 requests of 100 clients in {took:.1f} s; memory from {before / 1e6:.0f} to {most[0] / 1e6:.0f} MB")
    assert most[0] - before < 500e6
    assert server.ask().json["under_way"] == 0


# --- the page

class Page:
    """The page in a browser's tab."""

    def __init__(self, browser, client: Client, **options):
        self.seen = opened(browser, f"http://127.0.0.1:{client.port}/", **options)
        self.tab = self.seen.page
        self.tab.get_by_text("5 classes").wait_for()

    def choose(self, *files: Path) -> list:
        """Chooses these; their cards, once they are answered."""
        self.tab.get_by_label("Choose pictures").set_input_files(files)
        return self.answered(len(files))

    def answered(self, count: int) -> list:
        cards = self.tab.locator("article:not([aria-busy])")
        cards.nth(count - 1).wait_for()
        assert cards.count() == count
        return cards.all()


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    return [packing.put(tmp_path / f"photo-{seed}.png", image_bytes(seed, (320, 240))) for seed in range(3)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_names_pictures_on_every_screen(server, browser, predictor, photos, scheme, width):
    page = Page(browser, server, width=width, scheme=scheme)
    assert page.seen.faults() == []
    page.tab.get_by_label("Show what speaks for the answer").check()
    cards = page.choose(*photos)
    for card, file, expected in zip(cards, photos, predictor(photos), strict=True):
        assert card.get_by_role("heading").inner_text() == file.name
        assert card.locator(".name").all_inner_texts() == [each.name for each in expected]
        shares = [float(text.strip("< %")) for text in card.locator(".percent").all_inner_texts()]
        assert shares == pytest.approx([100 * each.probability for each in expected], abs=0.11)
        assert card.get_by_alt_text("as the network saw it").evaluate("image => image.naturalWidth") == 192
    assert page.tab.get_by_role("status").inner_text() == "3 of 3 pictures done."
    assert page.tab.title() == "tiny.safetensors \u2013 ms-vit"       # what a class is called is no code
    assert page.seen.wider_than_the_window() == 0
    background = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 3 * 128) == (scheme == "dark")
    assert page.seen.faults() == [] and page.seen.console == []
    assert {re.sub(r"^(http://127\.0\.0\.1:\d+/|blob:|data:image/).*", r"\1", url) for url in page.seen.asked} <= {
        f"http://127.0.0.1:{server.port}/", "blob:", "data:image/"}
    page.tab.close()


def test_the_page_works_by_keyboard_and_tells_of_what_it_cannot_name(server, browser, photos, tmp_path):
    page = Page(browser, server)
    with page.tab.expect_file_chooser() as chooser:      # asked for ahead of the answer below, so that it is in time
        page.tab.keyboard.press("Tab")
        assert page.tab.evaluate("document.activeElement.id") == "image"
        page.tab.keyboard.press("Space")
    chooser.value.set_files(photos[0])
    page.answered(1)
    first = page.tab.get_by_role("listitem").first.inner_text().split()
    assert page.tab.get_by_role("status").inner_text() == ", ".join([" ".join(first[:-2]), " ".join(first[-2:])])
    page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Space")
    assert page.tab.get_by_label("Show what speaks for the answer").is_checked()
    page.tab.get_by_label("Choose pictures").set_input_files(packing.put(tmp_path / "notes.png", b"hello"))
    card = page.answered(2)[0]
    assert "notes.png is of none of these types: JPEG" in card.inner_text() and "failed" in card.get_attribute("class")
    assert page.seen.faults() == []
    page.tab.close()


def test_pictures_can_be_dropped_anywhere(server, browser, photos):
    page = Page(browser, server)
    dropped = page.tab.evaluate_handle("""async (content) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(content)], "dropped.png", {type: "image/png"}));
        return data;
    }""", list(photos[0].read_bytes()))
    page.tab.locator("h1").dispatch_event("drop", {"dataTransfer": dropped})
    assert page.answered(1)[0].get_by_role("heading").inner_text() == "dropped.png"
    assert page.seen.console == []
    page.tab.close()


# --- its end

def test_a_signal_has_requests_under_way_answered_and_new_ones_refused(weights):
    client, content = start(weights), image_bytes()
    with client.connect(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                        b"Content-Length: %d\r\n\r\n" % len(content) + content[:1000]) as connection:
        wait_for(lambda: client.ask().json["under_way"] == 1)
        client.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(client))
        connection.sendall(content[1000:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200 and len(json.loads(answer.read())["answers"]) == 1
    told = client.process.communicate(timeout=60)[1]
    assert client.process.returncode == 143
    assert told == "1 pictures named\nms-vit: interrupted\n"


def refused(client: Client) -> bool:
    try:
        client.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_second_signal_ends_it_at_once(weights):
    client = start(weights)
    with client.connect(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                        b"Content-Length: 100\r\n\r\nx"):
        wait_for(lambda: client.ask().json["under_way"] == 1)
        client.process.send_signal(signal.SIGINT)
        wait_for(lambda: refused(client))
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(10) == 130


# --- mistakes

def mistake(capfd, *options: object) -> str:
    """The one line that a wrong command gets."""
    assert cli.main(["serve", *map(str, options)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_a_library_that_is_missing_is_told_with_the_remedy_before_anything_is_read(capfd, monkeypatch):
    monkeypatch.setattr(importlib.import_module("ms_vit.serve"), "find_spec", lambda name: name == "starlette" or None)
    assert mistake(capfd, "no/such/run") == (
        'ms-vit: ms-vit serve needs uvicorn and python-multipart; run: pip install "ms-vit[serve]"')


def test_an_address_that_cannot_be_had_is_told_before_anything_is_read(capfd):
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert mistake(capfd, "no/such/run", "--port", port) == (
            f"ms-vit: can't listen on 127.0.0.1, port {port} (address already in use); --port 0 takes a free one")
    assert "--port must be from 0, which takes a free one, to 65535" in mistake(capfd, "no/such/run", "--port", 70000)
    assert "--host no.invalid is no address" in mistake(capfd, "no/such/run", "--host", "no.invalid")
    assert "can't listen on 192.0.2.1" in mistake(capfd, "no/such/run", "--host", "192.0.2.1")
    assert "--batch-size must be at least 1" in mistake(capfd, "no/such/run", "--batch-size", 0)


def test_on_all_addresses_it_answers_to_every_name():
    with bound("0.0.0.0", 0) as everywhere, bound("::1", 0) as six:
        assert hosts(everywhere) == ["*"]
        assert "[::1]" in hosts(six)
