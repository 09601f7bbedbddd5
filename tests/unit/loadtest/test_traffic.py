"""The traffic of the demo and the load: what it sends is valid, signed as the gateways sign, and settled honestly."""

import json
from datetime import UTC, datetime

import pytest

from agents.tracking.sale import sale_event
from api.signatures import BadSignature, Delivery, verify
from app.credentials import WebhookSecrets
from app.errors import Poison
from app.pseudonym import Pseudonymiser
from loadtest.history import Outcome
from loadtest.rows import NotLoopback, require_loopback
from loadtest.tenants import new_secret
from loadtest.traffic import GATEWAYS, Request, Sender, Traffic, settle

TENANT = "3f0c7a86-5d1e-4c7b-9a53-5c5a1a2b3c4d"
SENDER = Sender(TENANT, "afw_key", {gateway: new_secret(gateway) for gateway in GATEWAYS})
PSEUDONYMISER = Pseudonymiser(bytes(32))


def event_of(request: Request) -> dict[str, object]:
    """The sale event of a webhook request."""
    record = {
        "tenant_id": TENANT,
        "event_id": "x",
        "gateway": request.gateway,
        "received_at": datetime.now(UTC),
        "content_type": "application/json",
        "body": request.body,
    }
    return sale_event(record, PSEUDONYMISER)


def delivery_of(traffic: Traffic, request: Request) -> Delivery:
    """The request as the edge's signature check sees it."""
    _, _, query = traffic.url(request).partition("?")
    headers = {name.lower(): value for name, value in traffic.headers(request).items()}
    return Delivery(request.body, headers, dict(part.split("=", 1) for part in query.split("&")))


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_webhook_becomes_the_row_its_key_names(gateway: str) -> None:
    """The checker looks for order and type, so the normaliser must make exactly those of what is sent."""
    traffic = Traffic(SENDER, seed=1)
    for _ in range(50):
        request = traffic.webhook(gateway)
        event = event_of(request)
        assert request.keys == (f"{event['order_id']}/{event['event_type']}",)
        assert event["amount"] is not None
        assert str(event["click_id"]).startswith("afl_")


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_webhook_is_signed_as_its_gateway_signs(gateway: str) -> None:
    """The edge's own check takes it, and refuses it with another secret."""
    traffic = Traffic(SENDER, seed=1)
    delivery = delivery_of(traffic, traffic.webhook(gateway))
    verify(gateway, delivery, WebhookSecrets((SENDER.secrets[gateway].encode(),)))
    with pytest.raises(BadSignature):
        verify(gateway, delivery, WebhookSecrets((new_secret(gateway).encode(),)))


def test_the_poison_is_signed_well_and_cannot_be_read() -> None:
    """It must pass the edge and stop at the normaliser, or the demo would prove nothing."""
    traffic = Traffic(SENDER, seed=1)
    request = traffic.poison()
    verify("generic", delivery_of(traffic, request), WebhookSecrets((SENDER.secrets["generic"].encode(),)))
    with pytest.raises(Poison) as caught:
        event_of(request)
    assert caught.value.reason == "unknown_event"


def test_a_share_of_the_requests_is_sent_again() -> None:
    """Without duplicates in the traffic their absence in the tables says nothing."""
    traffic = Traffic(SENDER, seed=1)
    sent = [traffic.next() for _ in range(500)]
    again = len(sent) - len(set(map(id, sent)))
    assert 20 < again < 100
    assert any(len(set(request.keys)) < len(request.keys) for request in sent if request.kind == "batch")


def test_no_repr_shows_a_credential() -> None:
    """A sender in a log line or a traceback shows no key and no secret."""
    traffic = Traffic(SENDER, seed=1)
    shown = repr(SENDER) + repr(traffic.webhook("kiwify"))
    assert not [secret for secret in ("afw_key", *SENDER.secrets.values()) if secret in shown]


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (None, b"", [(Outcome.UNKNOWN, ("a", "b"))]),
        (503, b"{}", [(Outcome.UNKNOWN, ("a", "b"))]),
        (500, b"", [(Outcome.UNKNOWN, ("a", "b"))]),
        (422, b"{}", [(Outcome.REFUSED, ("a", "b"))]),
        (401, b"{}", [(Outcome.REFUSED, ("a", "b"))]),
        (202, b'{"event_ids": ["a", "b"]}', [(Outcome.ACCEPTED, ("a", "b")), (Outcome.REFUSED, ())]),
        (202, b'{"event_ids": ["b"]}', [(Outcome.ACCEPTED, ("b",)), (Outcome.REFUSED, ("a",))]),
        (202, b'{"event_ids": ["a", "z"]}', [(Outcome.UNKNOWN, ("a", "b"))]),
        (202, b"not json", [(Outcome.UNKNOWN, ("a", "b"))]),
        (202, b"[]", [(Outcome.UNKNOWN, ("a", "b"))]),
    ],
)
def test_only_a_yes_is_a_promise(
    status: int | None, answer: bytes, expected: list[tuple[Outcome, tuple[str, ...]]]
) -> None:
    """A 5xx or silence leaves it open, since the record may be in Kafka; a 4xx is a no."""
    request = Traffic(SENDER, seed=1).batch(3)
    named = Request(request.kind, request.path, request.body, request.stream, ("a", "b"))
    assert settle(named, status, answer) == expected


def test_tracking_events_are_json_the_edge_takes() -> None:
    """Singles are an object and batches an array of 100, each event with an id of its sender's."""
    traffic = Traffic(SENDER, seed=1)
    assert json.loads(traffic.single("click").body)["event_id"]
    assert len(json.loads(traffic.batch().body)) == 100


@pytest.mark.parametrize("url", ["http://192.0.2.1:8000", "http://shop.example", "kafka://10.0.0.1:9092", "http://"])
def test_load_goes_to_loopback_alone(url: str) -> None:
    """A mistyped address never turns the load on somebody else."""
    with pytest.raises(NotLoopback):
        require_loopback(url)
    assert require_loopback("http://127.0.0.1:8000")
    assert require_loopback("http://[::1]:8000")
