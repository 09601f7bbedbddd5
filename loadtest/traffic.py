"""What a business sends: clicks, pageviews, checkouts, batches and signed webhooks, some of them more than once.

Made here without any I/O; locust (loadtest/locustfile.py) and the demo send it. Persons are invented. The same seed
makes the same traffic but for the ids, which are new in every run.
"""

import base64
import hashlib
import hmac
import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from loadtest.history import Outcome, Stream

TRACKING = "tracking_events"
SALES = "gateway_events"
SINGLES = ("click", "pageview", "initiate_checkout")
GATEWAYS = ("hotmart", "kiwify", "generic", "standard")
BATCH_EVENTS = 100
RESENT_SHARE = 0.1  # of all requests: a client that lost an answer, a gateway that tries again
REMEMBERED_MAX = 2_000  # requests that may still be sent again
CAMPAIGNS = ("march", "launch", "remarketing", "brand")


@dataclass(frozen=True, slots=True)
class Sender:
    """One tenant as its pages and gateways know it. Without secrets it sends no webhooks."""

    tenant_id: str
    write_key: str = field(repr=False)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request and the events it carries. Signed when it is sent, since some signatures hold the time."""

    kind: str
    path: str
    body: bytes = field(repr=False)
    stream: Stream
    keys: tuple[str, ...]
    gateway: str = ""
    delivery: str = ""


class Traffic:
    """An endless supply of requests of one tenant."""

    def __init__(self, sender: Sender, seed: int, batch_share: float = 0.1, webhook_share: float = 0.2) -> None:
        self.sender = sender
        self._random = random.Random(seed)
        self._shares = (batch_share, webhook_share if sender.secrets else 0.0)
        self._remembered: list[Request] = []

    def next(self) -> Request:
        """The next request: mostly a new one, sometimes one that was sent before."""
        chance = self._random.random
        if self._remembered and chance() < RESENT_SHARE:
            return self._random.choice(self._remembered)
        batch_share, webhook_share = self._shares
        point = chance()
        if point < webhook_share:
            request = self.webhook(self._random.choice(GATEWAYS))
        elif point < webhook_share + batch_share:
            request = self.batch()
        else:
            request = self.single(self._random.choice(SINGLES))
        if len(self._remembered) < REMEMBERED_MAX:
            self._remembered.append(request)
        else:
            self._remembered[self._random.randrange(REMEMBERED_MAX)] = request
        return request

    def single(self, event_type: str) -> Request:
        """One event on its own path."""
        event = self._event()
        return self._tracking(event_type, f"/track/{event_type}", event, [event["event_id"]])

    def batch(self, events: int = BATCH_EVENTS) -> Request:
        """Many events of all types in one request, one of them twice."""
        found = [{**self._event(), "event_type": self._random.choice(SINGLES)} for _ in range(events - 1)]
        found.append(found[0])
        return self._tracking("batch", "/track/batch", found, [event["event_id"] for event in found])

    def webhook(self, gateway: str) -> Request:
        """One sale as that gateway tells it."""
        order, delivery = f"T{uuid.uuid4().hex}", str(uuid.uuid4())
        approved = self._random.random() < 0.9
        body = WEBHOOKS[gateway](order, delivery, approved, self._person())
        event_type = "order_approved" if approved else "order_refunded"
        return self._webhook(gateway, body, (f"{order}/{event_type}",), delivery)

    def poison(self) -> Request:
        """A webhook that is signed well and that nobody can normalise."""
        body = {"event_id": str(uuid.uuid4()), "event": "order_dreamt", "order_id": "1"}
        return self._webhook("generic", body, (), "")

    def headers(self, request: Request) -> dict[str, str]:
        """The headers to send it with now, credential and signature included."""
        found = {"Content-Type": "application/json"}
        if not request.gateway:
            return {**found, "Authorization": f"Bearer {self.sender.write_key}"}
        secret = self.sender.secrets[request.gateway]
        if request.gateway == "hotmart":
            return {**found, "X-HOTMART-HOTTOK": secret}
        if request.gateway == "generic":
            digest = hmac.new(secret.encode(), request.body, hashlib.sha256).hexdigest()
            return {**found, "X-Afluente-Signature": f"sha256={digest}"}
        if request.gateway == "standard":
            return {**found, **_standard_headers(secret, request)}
        return found

    def url(self, request: Request) -> str:
        """Path and query to send it to."""
        if not request.gateway:
            return request.path
        url = f"{request.path}?key={self.sender.write_key}"
        if request.gateway == "kiwify":
            secret = self.sender.secrets["kiwify"]
            # Kiwify's own scheme: nothing here is kept secret by SHA-1 alone.
            digest = hmac.new(secret.encode(), request.body, hashlib.sha1).hexdigest()
            return f"{url}&signature={digest}"
        return url

    def _tracking(self, kind: str, path: str, body: Any, keys: Sequence[str]) -> Request:
        stream = Stream(self.sender.tenant_id, TRACKING)
        return Request(kind, path, json.dumps(body).encode(), stream, tuple(keys))

    def _webhook(self, gateway: str, body: dict[str, Any], keys: tuple[str, ...], delivery: str) -> Request:
        stream = Stream(self.sender.tenant_id, SALES)
        raw = json.dumps(body).encode()
        return Request(gateway, f"/webhooks/{gateway}", raw, stream, keys, gateway, delivery)

    def _event(self) -> dict[str, Any]:
        number = self._random.randrange(1_000_000)
        return {
            "event_id": str(uuid.uuid4()),
            "occurred_at": datetime.now(UTC).isoformat(),
            "session_id": f"s-{number}",
            "click_id": f"afl_{uuid.uuid4().hex}",
            "url": f"https://shop.example/offer/{number % 97}?utm_source=social",
            "referrer": "https://social.example/",
            "utm_source": "social",
            "utm_medium": "cpc",
            "utm_campaign": self._random.choice(CAMPAIGNS),
            "email": f"person{number}@example.com",
            "value": f"{number % 900}.90",
            "currency": "BRL",
            "consent_ads": True,
            "properties": {"offer": number % 97, "variant": "b"},
        }

    def _person(self) -> dict[str, str]:
        number = self._random.randrange(10_000_000)
        return {"email": f"person{number}@example.com", "phone": f"+551198{number:07d}"}


def settle(request: Request, status: int | None, answer: bytes) -> list[tuple[Outcome, tuple[str, ...]]]:
    """What an answer says of the events of its request; status None is no answer at all."""
    if status is None or status >= 500 or status < 200:
        return [(Outcome.UNKNOWN, request.keys)]
    if status >= 300:
        return [(Outcome.REFUSED, request.keys)]
    if request.gateway:
        return [(Outcome.ACCEPTED, request.keys)]
    try:
        left = list(request.keys)
        accepted = [str(key) for key in json.loads(answer)["event_ids"]]
        for key in accepted:
            left.remove(key)
    except (ValueError, KeyError, TypeError):
        # A yes that does not say to what, or names an event that was not sent, promises nothing.
        return [(Outcome.UNKNOWN, request.keys)]
    return [(Outcome.ACCEPTED, tuple(accepted)), (Outcome.REFUSED, tuple(left))]


def _standard_headers(secret: str, request: Request) -> dict[str, str]:
    timestamp = str(int(time.time()))
    signed = f"{request.delivery}.{timestamp}.".encode() + request.body
    digest = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, "sha256")
    return {
        "webhook-id": request.delivery,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _hotmart(order: str, delivery: str, approved: bool, person: dict[str, str]) -> dict[str, Any]:
    return {
        "id": delivery,
        "creation_date": int(time.time() * 1000),
        "event": "PURCHASE_APPROVED" if approved else "PURCHASE_REFUNDED",
        "version": "2.0.0",
        "data": {
            "product": {"id": 990017, "name": "Curso Exemplo"},
            "buyer": {"email": person["email"], "checkout_phone": person["phone"]},
            "purchase": {
                "transaction": order,
                "status": "APPROVED" if approved else "REFUNDED",
                "price": {"value": 197.9, "currency_value": "BRL"},
                "payment": {"type": "PIX", "installments_number": 1},
                "origin": {"sck": f"load|afl_{order}"},
            },
        },
    }


def _kiwify(order: str, _delivery: str, approved: bool, person: dict[str, str]) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return {
        "order_id": order,
        "order_status": "paid" if approved else "refunded",
        "webhook_event_type": "order_approved" if approved else "order_refunded",
        "payment_method": "pix",
        "created_at": now,
        "updated_at": now,
        "Product": {"product_id": "p-1", "product_name": "Oficina Exemplo"},
        "Customer": {"email": person["email"], "mobile": person["phone"]},
        "Commissions": {"charge_amount": 5073, "currency": "BRL"},
        "TrackingParameters": {"sck": f"afl_{order}", "utm_source": "social"},
    }


def _sale(order: str, person: dict[str, str]) -> dict[str, Any]:
    return {
        "order_id": order,
        "amount": "149.90",
        "currency": "BRL",
        "product": {"id": "p-1", "name": "Vaso Exemplo"},
        "buyer": person,
        "tracking": {"click_id": f"afl_{order}", "utm_source": "email"},
        "payment": {"method": "pix", "installments": 1},
    }


def _generic(order: str, delivery: str, approved: bool, person: dict[str, str]) -> dict[str, Any]:
    event = "order_approved" if approved else "order_refunded"
    occurred_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"event_id": delivery, "event": event, "occurred_at": occurred_at, **_sale(order, person)}


def _standard(order: str, _delivery: str, approved: bool, person: dict[str, str]) -> dict[str, Any]:
    event = "order.approved" if approved else "order.refunded"
    timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"type": event, "timestamp": timestamp, "data": _sale(order, person)}


WEBHOOKS: dict[str, Callable[[str, str, bool, dict[str, str]], dict[str, Any]]] = {
    "hotmart": _hotmart,
    "kiwify": _kiwify,
    "generic": _generic,
    "standard": _standard,
}
