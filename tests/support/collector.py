"""A collector of traces: takes OTLP spans over HTTP and keeps their bytes."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class Collector(http.server.BaseHTTPRequestHandler):
    """Receives OTLP spans over HTTP, as any collector does."""

    received: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_request(self, *_: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[str]:
    """Its address, while it listens."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
