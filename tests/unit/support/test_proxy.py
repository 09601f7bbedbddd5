"""Laws of the fault proxy: each fault is what it says, on lines that are open and on new ones, and ends when told."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Fault, Proxy

WAIT_S = 0.3


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while chunk := self.request.recv(1 << 16):
            self.server.seen += chunk  # type: ignore[attr-defined]
            self.request.sendall(chunk)


@pytest.fixture
def server() -> Iterator[socketserver.ThreadingTCPServer]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as found:
        found.daemon_threads = True
        found.seen = b""  # type: ignore[attr-defined]
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def proxy(server: socketserver.ThreadingTCPServer) -> Iterator[Proxy]:
    found = Proxy(server.server_address[1])
    yield found
    found.close()


def ask(sock: socket.socket, text: bytes) -> bytes:
    """Send and read as much back; b"" when nothing comes in time."""
    sock.settimeout(WAIT_S)
    sock.sendall(text)
    found = b""
    try:
        while len(found) < len(text):
            chunk = sock.recv(1 << 16)
            if not chunk:
                break
            found += chunk
    except TimeoutError:
        pass
    return found


def ask_twice(sock: socket.socket) -> None:
    """A reset may be seen by the second packet only."""
    with sock:
        ask(sock, b"once")
        ask(sock, b"twice")


def line(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port))


def test_a_line_that_works_and_one_in_crumbs(proxy: Proxy) -> None:
    """Bytes arrive whole and in order, also in packets of one byte."""
    with line(proxy) as sock:
        assert ask(sock, b"hello" * 1000) == b"hello" * 1000
        proxy.set(Fault(slice_bytes=1))
        assert ask(sock, b"crumbs") == b"crumbs"


def test_a_blackhole_holds_everything_and_lets_it_go(proxy: Proxy) -> None:
    """Nothing moves while it is there; what was sent arrives when it has gone."""
    with line(proxy) as sock:
        with proxy.broken(Fault(blackhole=True)):
            assert ask(sock, b"held") == b""
        sock.settimeout(5)
        assert sock.recv(100) == b"held"


def test_half_open_is_heard_and_not_answered(proxy: Proxy, server: socketserver.ThreadingTCPServer) -> None:
    """The server gets what was sent; the client hears nothing."""
    with line(proxy) as sock, proxy.broken(Fault(half_open=True)):
        assert ask(sock, b"one way") == b""
        assert server.seen == b"one way"  # type: ignore[attr-defined]


def test_an_answer_is_dropped_after_it_was_done(proxy: Proxy, server: socketserver.ThreadingTCPServer) -> None:
    """Done, and the client sees a reset: the case that makes a retry dangerous."""
    with line(proxy) as sock, proxy.broken(Fault(drop_answers=True)):
        with pytest.raises(ConnectionResetError):
            ask(sock, b"done?")
        assert server.seen == b"done?"  # type: ignore[attr-defined]
    assert proxy.answers_dropped == 1


def test_cut_refused_and_reset(proxy: Proxy) -> None:
    """A line is cut after its bytes, a new one refused, an open one reset."""
    with line(proxy) as sock, proxy.broken(Fault(cut_after_bytes=10)):
        assert ask(sock, b"short") == b"short"
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask(sock, b"too long by now")
    with proxy.broken(Fault(refuse=True)), pytest.raises(ConnectionError):
        ask_twice(line(proxy))
    with line(proxy) as sock:
        assert ask(sock, b"open") == b"open"
        assert proxy.reset_all() == 1
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask_twice(sock)


def test_slow_lines_are_slow(proxy: Proxy) -> None:
    """Latency is waited for each way, bandwidth for the bytes."""
    with line(proxy) as sock:
        sock.settimeout(5)
        began = time.monotonic()
        with proxy.broken(Fault(latency_s=0.1)):
            sock.sendall(b"late")
            assert sock.recv(100) == b"late"
        assert time.monotonic() - began >= 0.2
