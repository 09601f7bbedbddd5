"""Webhooks for the tests of the normaliser: fixtures of invented persons as the agent gets them."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[3] / "fixtures" / "webhooks"
RECEIVED_AT = datetime(2026, 3, 1, 12, 0, 6, tzinfo=UTC)
TENANT = "3f0c7a86-5d1e-4c7b-9a53-5c5a1a2b3c4d"
NAMES = sorted(f"{path.parent.name}/{path.stem}" for path in FIXTURES.glob("*/*.json"))


def fixture(name: str) -> dict[str, Any]:
    """A fresh copy of a fixture, named gateway/file."""
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return found


def webhook(gateway: str, body: bytes | dict[str, Any], received_at: datetime = RECEIVED_AT) -> dict[str, Any]:
    """A decoded gateway-webhook record."""
    return {
        "tenant_id": TENANT,
        "event_id": f"{gateway}:delivery-1",
        "gateway": gateway,
        "received_at": received_at,
        "content_type": "application/json",
        "body": body if isinstance(body, bytes) else json.dumps(body).encode(),
    }


def changed(body: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    """A copy of the body with the value at that JSON pointer; None takes the field away."""
    result = copy.deepcopy(body)
    *way, last = pointer.strip("/").split("/")
    place = result
    for name in way:
        place = place[name]
    if value is None:
        place.pop(last)
    else:
        place[last] = value
    return result
