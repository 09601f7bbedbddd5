"""The edge: requests a second, of one event and of a hundred, all confirmed by Kafka, on kept-alive connections.

The client is as thin as Python allows (raw bytes on asyncio streams, a process of its own), so that it is not what is
measured; the CPU time of the edge's process is reported beside the rate, since client and server share the cores.
"""

import asyncio
import multiprocessing
import time
import uuid
from typing import Any

import orjson
import psutil

from infra.local.stack import Stack
from loadtest.tenants import dismiss, hire

CONNECTIONS = 32
SECONDS = 6.0
BATCH_EVENTS = 100


def measure(stack: Stack, rounds: int) -> dict[str, Any]:
    """Requests and events a second of one edge process, single and in batches of 100."""
    settings = stack.settings
    hired = hire(settings, "bench-edge", 1)
    key = hired[0].sender.write_key
    edge = psutil.Process(stack.records()["edge"].pid)
    found: dict[str, Any] = {"connections": CONNECTIONS, "seconds": SECONDS}
    try:
        for name, events in (("single", 1), ("batch_100", BATCH_EVENTS)):
            rates, shares = [], []
            for _ in range(rounds):
                began, cpu = time.monotonic(), sum(edge.cpu_times()[:2])
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    answered = pool.apply(_client, (settings.edge_port, key, events))
                shares.append((sum(edge.cpu_times()[:2]) - cpu) / (time.monotonic() - began))
                rates.append(answered / SECONDS)
            found[f"{name}_requests_per_s"] = [round(rate) for rate in rates]
            found[f"{name}_events_per_s"] = [round(rate * events) for rate in rates]
            found[f"{name}_edge_cores"] = [round(share, 2) for share in shares]
    finally:
        dismiss(settings, hired)
    return found


def _client(port: int, key: str, events: int) -> int:
    return asyncio.run(_run(port, key, events))


async def _run(port: int, key: str, events: int) -> int:
    stop = time.monotonic() + SECONDS
    return sum(await asyncio.gather(*(_connection(port, key, events, stop) for _ in range(CONNECTIONS))))


async def _connection(port: int, key: str, events: int, stop: float) -> int:
    """How many requests were answered with 202 on one connection. Anything else ends the benchmark."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = "/track/click" if events == 1 else "/track/batch"
    answered = 0
    try:
        while time.monotonic() < stop:
            body = _body(events)
            head = (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            content = await reader.readexactly(length)
            if b" 202 " not in answer.split(b"\r\n")[0]:
                raise RuntimeError(f"the edge answered {answer.splitlines()[0]!r}: {content[:500]!r}")
            answered += 1
    finally:
        writer.close()
    return answered


def _body(events: int) -> bytes:
    made = [
        {
            "event_type": "click",
            "event_id": str(uuid.uuid4()),
            "url": "https://shop.example/p/1?utm_source=meta",
            "session_id": "s1",
            "utm_source": "meta",
            "properties": {"position": 3},
        }
        for _ in range(events)
    ]
    if events == 1:
        del made[0]["event_type"]
        return orjson.dumps(made[0])
    return orjson.dumps(made)
