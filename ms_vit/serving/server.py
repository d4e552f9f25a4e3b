"""The server around the application: its socket, connections that come to an end, signals."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ms_vit import limits
from ms_vit.errors import UsageError
from ms_vit.progress import say
from ms_vit.signals import Stop


def bound(host: str, port: int) -> socket.socket:
    """A socket at this address, which doesn't listen yet; port 0 is a free one. Raises UsageError."""
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port must be from 0, which takes a free one, to 65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host} is no address ({reason(error)}); leave it out to serve this machine alone, or "
                         "give 0.0.0.0 to serve all that reach it") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)     # after a server that has just ended
        found.bind(address)
    except OSError as error:
        found.close()
        raise UsageError(f"can't listen on {host}, port {port} ({reason(error)}); --port 0 takes a free one") from error
    return found


def reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def address(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def hosts(listening: socket.socket) -> list[str]:
    """What requests may call us: on this machine alone its own names, else whatever others call it."""
    host = listening.getsockname()[0]
    if not ipaddress.ip_address(host).is_loopback:
        return ["*"]
    # Of "[::1]:8000" Starlette before 1.8 sees "[" alone, with which no name begins that others could give us.
    return ["localhost", "127.0.0.1", "[::1]", "[", f"[{host}]" if ":" in host else host]


class Connection(H11Protocol):
    """A connection on which neither a request nor its answer may take for ever; bodies.py sees to bodies."""

    patience: asyncio.TimerHandle | None = None     # for the head of a request, or the rest of one that is answered
    taking: asyncio.TimerHandle | None = None       # for the other side to take what we send

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.expect_request()

    def expect_request(self) -> None:
        self.forget()
        self.patience = self.loop.call_later(limits.MAX_REQUEST_SECONDS, self.give_up)

    def give_up(self) -> None:
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.taking = self.loop.call_later(limits.MAX_REQUEST_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.taking:
            self.taking.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.forget()

    def forget(self) -> None:
        if self.patience:
            self.patience.cancel()


class Server(uvicorn.Server):
    """Serves until there is a signal; then requests under way are answered, and new ones refused.

    Once it listens, it says `ready`.
    """

    def __init__(self, application: ASGIApp, stop: Stop, ready: str):
        self.stop = stop
        self.ready = ready
        super().__init__(uvicorn.Config(
            application, http=Connection, loop="asyncio", ws="none", lifespan="on", log_config=None, log_level="error",
            access_log=False, proxy_headers=False, server_header=False, limit_concurrency=limits.MAX_CONNECTIONS,
            timeout_graceful_shutdown=limits.MAX_REQUEST_SECONDS))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own handlers stay away: see signals.py."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say(self.ready)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or bool(self.stop.number)
        return await super().on_tick(counter)
