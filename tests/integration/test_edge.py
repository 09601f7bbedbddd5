"""The edge over HTTP with real Kafka, Postgres and ClickHouse: what it answers is what is stored."""

import base64
import gzip
import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from app.codec import Codec
from tests.support.collector import Collector, collecting
from tests.support.edge_parts import Parts, new_tenant, problem, wait_for

CODEC = Codec.load()
STANDARD_SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    with collecting() as url:
        yield url


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, collector: str) -> Iterator[Parts]:
    environ = {
        "AFLUENTE_CREDENTIAL_CACHE_S": "0",
        "AFLUENTE_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    running = Parts(Path(tmp_path_factory.mktemp("edge")), **environ)
    with running.all_running():
        yield running


@pytest.fixture(scope="module")
def tenant(parts: Parts) -> dict[str, str]:
    return new_tenant(parts)


@pytest.fixture
def client(parts: Parts, tenant: dict[str, str]) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {tenant['write_key']}"}
    with httpx.Client(base_url=parts.edge_url, headers=headers, timeout=10) as opened:
        yield opened


def stored(parts: Parts, topic: str, subject: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for record in parts.records(topic):
        headers = dict(record.headers())
        value = CODEC.schema(subject).decode(record.value())
        assert headers["ce_id"].decode() == value["event_id"]
        assert headers["ce_tenant"].decode() == str(value["tenant_id"])
        assert record.key().decode().split("/")[0] == str(value["tenant_id"])
        found[str(value["tenant_id"]), value["event_id"]] = value | {"_headers": headers, "_key": record.key()}
    return found


def tracked(parts: Parts) -> dict[tuple[str, str], dict[str, Any]]:
    return stored(parts, "tracking.collected", "tracking-event")


def received(parts: Parts) -> dict[tuple[str, str], dict[str, Any]]:
    return stored(parts, "gateway.received", "gateway-webhook")


class TestTracking:
    """POST /track/..."""

    def test_every_accepted_field_is_in_kafka(self, parts: Parts, tenant: dict[str, str], client: httpx.Client) -> None:
        """A 202 means the event is in the topic with its tenant, id, type and every field it came with."""
        sent = {
            "event_id": "full-1",
            "occurred_at": "2026-11-01T10:00:00.123-03:00",
            "session_id": "s", "click_id": "c", "url": "https://x/é", "referrer": "r",
            "utm_source": "a", "utm_medium": "b", "utm_campaign": "c", "utm_term": "d", "utm_content": "e",
            "fbclid": "f", "gclid": "g", "fbp": "h", "fbc": "i", "user_id": "u",
            "email": " Ana@Example.COM ", "phone": "(11) 98765-4321",
            "value": "197.90", "currency": "brl", "consent_ads": False, "properties": {"a": {"b": [1, 2.5, None]}},
        }  # fmt: skip
        now = datetime.now(UTC)
        sent["occurred_at"] = (now - timedelta(days=3)).isoformat()
        answer = client.post("/track/initiate_checkout", json=sent)
        assert answer.status_code == 202, answer.text
        assert answer.json() == {"accepted": 1, "event_ids": ["full-1"], "rejected": []}
        event = tracked(parts)[tenant["tenant_id"], "full-1"]
        assert event["event_type"] == "initiate_checkout"
        assert event["_headers"]["ce_type"] == b"initiate_checkout"
        assert event["_headers"]["ce_dataschema"] == b"tracking-event/1"
        assert abs(event["occurred_at"] - (now - timedelta(days=3))) < timedelta(milliseconds=1)
        assert abs(event["received_at"] - now) < timedelta(minutes=1)
        same = ("session_id", "click_id", "url", "referrer", "utm_source", "utm_medium", "utm_campaign", "utm_term",
                "utm_content", "fbclid", "gclid", "fbp", "fbc", "user_id", "consent_ads")  # fmt: skip
        assert {name: event[name] for name in same} == {name: sent[name] for name in same}
        assert str(event["value"]) == "197.9000"
        assert event["currency"] == "BRL"
        assert json.loads(event["properties"]) == sent["properties"]
        assert len(event["email_hash"]) == len(event["phone_hash"]) == 64

    def test_people_never_reach_kafka(self, parts: Parts, client: httpx.Client) -> None:
        """E-mail and phone leave the edge as hashes only, the same for the same person however it is written."""
        client.post("/track/click", json={"event_id": "p1", "email": "who@secret.example", "phone": "11987654321"})
        client.post("/track/click", json={"event_id": "p2", "email": "WHO@secret.example ", "phone": "+5511987654321"})
        raw = b"".join(record.value() for record in parts.records("tracking.collected"))
        assert b"who@" not in raw.lower()
        assert b"987654321" not in raw
        events = {event_id: event for (_, event_id), event in tracked(parts).items()}
        assert events["p1"]["email_hash"] == events["p2"]["email_hash"] != ""
        assert events["p1"]["phone_hash"] == events["p2"]["phone_hash"] != ""

    @pytest.mark.parametrize("way", ["bearer", "header", "query"])
    def test_a_write_key_is_taken_in_three_ways(self, parts: Parts, tenant: dict[str, str], way: str) -> None:
        """Bearer, X-Write-Key and ?k= are the same key; the last takes text/plain, as a beacon sends it."""
        key = tenant["write_key"]
        headers = {"bearer": {"Authorization": f"Bearer {key}"}, "header": {"X-Write-Key": key}}.get(way, {})
        query = f"?k={key}" if way == "query" else ""
        headers["Content-Type"] = "text/plain;charset=UTF-8"
        body = json.dumps({"event_id": f"way-{way}"})
        answer = httpx.post(f"{parts.edge_url}/track/pageview{query}", content=body, headers=headers)
        assert answer.status_code == 202
        assert (tenant["tenant_id"], f"way-{way}") in tracked(parts)

    def test_a_batch_is_taken_in_part(self, parts: Parts, tenant: dict[str, str], client: httpx.Client) -> None:
        """The good events of a batch are stored, each bad one is named with its place; nothing else is stored."""
        events = [
            {"event_type": "click", "event_id": "b0"},
            {"event_type": "purchase", "event_id": "b1"},
            {"event_type": "pageview", "event_id": "b2", "occurred_at": "yesterday"},
            {"event_type": "pageview", "event_id": "b3"},
            "text",
            {"event_id": "b5"},
        ]
        answer = client.post("/track/batch", json=events)
        assert answer.status_code == 202
        found = answer.json()
        assert found["event_ids"] == ["b0", "b3"]
        assert [(r["index"], r["code"]) for r in found["rejected"]] == [
            (1, "literal_error"), (2, "value_error"), (4, "not_an_object"), (5, "missing"),
        ]  # fmt: skip
        ids = {event_id for tenant_id, event_id in tracked(parts) if tenant_id == tenant["tenant_id"]}
        assert {"b0", "b3"} <= ids
        assert not ids & {"b1", "b2", "b5"}

    def test_a_request_without_one_valid_event_is_422(self, client: httpx.Client) -> None:
        """Nothing valid is an error with a JSON pointer for each fault."""
        found = problem(client.post("/track/click", json=[{"value": 1}, {"url": 5}]), 422, "no_valid_event")
        assert [(e["pointer"], e["code"]) for e in found["errors"]] == [
            ("/0", "currency_required"), ("/1/url", "string_type"),
        ]  # fmt: skip

    def test_a_thousand_events_fit_and_one_more_does_not(
        self, parts: Parts, tenant: dict[str, str], client: httpx.Client
    ) -> None:
        """1,000 events are one request; 1,001 are refused whole."""
        events = [{"event_type": "click", "event_id": f"k{i}"} for i in range(1_000)]
        assert client.post("/track/batch", json={"events": events}).json()["accepted"] == 1_000
        ids = {event_id for tenant_id, event_id in tracked(parts) if tenant_id == tenant["tenant_id"]}
        assert {f"k{i}" for i in range(1_000)} <= ids
        problem(client.post("/track/batch", json=[*events, *events[:1]]), 422, "event_count")

    def test_gzip_is_known_by_its_bytes_and_a_bomb_is_refused(
        self, parts: Parts, tenant: dict[str, str], client: httpx.Client
    ) -> None:
        """Gzip needs no header, a bomb and a damaged stream are 4xx."""
        assert client.post("/track/click", content=gzip.compress(b'{"event_id":"z1"}')).status_code == 202
        assert (tenant["tenant_id"], "z1") in tracked(parts)
        bomb = gzip.compress(b'{"url":"' + b"x" * (200 << 20) + b'"}')
        problem(client.post("/track/click", content=bomb), 413, "too_large_inflated")
        problem(client.post("/track/click", content=gzip.compress(b"{}")[:-3]), 400, "not_gzip")
        problem(client.post("/track/click", content=b"{}", headers={"Content-Encoding": "br"}), 415, "content_encoding")

    def test_a_body_above_the_cap_is_refused(self, client: httpx.Client, parts: Parts, tenant: dict[str, str]) -> None:
        """1 MiB on the wire is the limit, announced or not."""
        problem(client.post("/track/click", content=b"x" * ((1 << 20) + 1)), 413, "too_large")

        def chunks() -> Iterator[bytes]:
            for _ in range(40):
                yield b" " * (64 << 10)

        try:
            answer = httpx.post(f"{parts.edge_url}/track/click?k={tenant['write_key']}", content=chunks())
        except httpx.HTTPError:
            pass  # the edge closes while we still send: an answer may not get through
        else:
            problem(answer, 413, "too_large")

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "empty_body"),
            (b"{", "not_json"),
            (b'{"value":NaN,"currency":"BRL"}', "not_json"),
            (b'{"url":"\\ud800"}', "not_json"),
            (b'{"url":"\xff"}', "not_json"),
            (b"[" * 100_000 + b"]" * 100_000, "not_json"),
            (b'{"properties":' * 900 + b"{}" + b"}" * 900, "too_deep"),
            (b'{"url":"a","url":"b"}', "repeated_name"),
            (b'{"url":"\\u003a","url":"b"}', "repeated_name"),
        ],
    )
    def test_hostile_json_is_400(self, client: httpx.Client, body: bytes, code: str) -> None:
        """What is not strict JSON is a client's error, never the server's."""
        problem(client.post("/track/click", content=body), 400, code)

    def test_clock_skew_is_corrected_and_wild_clocks_are_refused(
        self, parts: Parts, tenant: dict[str, str], client: httpx.Client
    ) -> None:
        """`sent_at` moves occurred_at to our clock; what is then beyond the limits is refused with its code."""
        now = datetime.now(UTC)
        wrong = now + timedelta(days=30)
        body = {
            "event_id": "skew",
            "occurred_at": (wrong - timedelta(minutes=5)).isoformat(),
            "sent_at": wrong.isoformat(),
        }
        assert client.post("/track/click", json=body).status_code == 202
        occurred = tracked(parts)[tenant["tenant_id"], "skew"]["occurred_at"]
        assert abs(occurred - (now - timedelta(minutes=5))) < timedelta(minutes=1)
        for delta, code in (
            (timedelta(hours=2), "occurred_at_in_future"),
            (timedelta(days=-401), "occurred_at_too_old"),
        ):
            answer = client.post("/track/click", json={"occurred_at": (now + delta).isoformat()})
            found = problem(answer, 422, "no_valid_event")
            assert found["errors"][0]["code"] == code

    def test_unknown_fields_cost_a_warning_not_the_event(self, client: httpx.Client) -> None:
        """A field nobody stores is named, and the event is taken."""
        found = client.post("/track/click", json={"event_id": "w", "colour": "red"}).json()
        assert found["accepted"] == 1
        assert [(w["pointer"], w["code"]) for w in found["warnings"]] == [("/colour", "unknown_field")]

    def test_shards_spread_a_tenant_by_event_id(self, parts: Parts) -> None:
        """A tenant with shards gets keys `tenant/shard`, and one event id always the same one."""
        tenant = new_tenant(parts)
        parts.cli("tenant", "set", tenant["tenant_id"], "--shards", "4", "--json")
        headers = {"X-Write-Key": tenant["write_key"]}
        events = [{"event_id": f"s{i}"} for i in range(50)]
        for _ in range(2):
            assert httpx.post(f"{parts.edge_url}/track/click", json=events, headers=headers).status_code == 202
        keys: dict[bytes, set[bytes]] = {}
        for record in parts.records("tracking.collected"):
            if record.key().startswith(tenant["tenant_id"].encode()):
                keys.setdefault(dict(record.headers())["ce_id"], set()).add(record.key())
        assert len(keys) == 50
        assert all(len(found) == 1 for found in keys.values())
        assert {key for found in keys.values() for key in found} == {
            f"{tenant['tenant_id']}/{n}".encode() for n in range(4)
        }


class TestKeys:
    """Who may do what."""

    def test_without_a_good_key_nothing_is_taken(self, parts: Parts, tenant: dict[str, str]) -> None:
        """Missing, malformed, unknown and revoked keys are 401, a key of the other kind 403; all say what is needed."""
        url = f"{parts.edge_url}/track/click"
        problem(httpx.post(url, json={}), 401, "key_missing")
        for key in ("x", "afw_" + "A" * 43, tenant["write_key"][:-1], tenant["write_key"] + "A", "afw_é"):
            answer = httpx.post(url, params={"k": key}, json={})
            problem(answer, 401, "key_unknown")
            assert answer.headers["www-authenticate"] == "Bearer"
        problem(httpx.post(url, json={}, headers={"X-Write-Key": tenant["read_key"]}), 403, "wrong_kind_of_key")
        reading = f"{parts.edge_url}/tracking/events"
        problem(httpx.get(reading, headers={"X-Read-Key": tenant["write_key"]}), 403, "wrong_kind_of_key")
        problem(httpx.get(reading, params={"k": tenant["read_key"]}), 401, "key_missing")

    def test_a_revoked_key_ends_and_a_new_one_works(self, parts: Parts) -> None:
        """After `key revoke` the key is refused; the tenant's other keys go on."""
        tenant = new_tenant(parts)
        made = parts.cli("key", "create", tenant["tenant_id"], "--kind", "write", "--json")
        url = f"{parts.edge_url}/track/click"
        assert httpx.post(url, json={}, headers={"X-Write-Key": made["key"]}).status_code == 202
        assert parts.cli("key", "revoke", made["key_id"], "--json")["was_revoked_before"] is False
        assert parts.cli("key", "revoke", made["key_id"], "--json")["was_revoked_before"] is True
        problem(httpx.post(url, json={}, headers={"X-Write-Key": made["key"]}), 401, "key_unknown")
        assert httpx.post(url, json={}, headers={"X-Write-Key": tenant["write_key"]}).status_code == 202
        listed = parts.cli("key", "list", tenant["tenant_id"], "--json")
        assert [bool(key["revoked_at"]) for key in listed] == [False, False, False, True]
        assert made["key"] not in json.dumps(listed)

    def test_the_rate_limit_answers_429_with_seconds(self, parts: Parts) -> None:
        """A tenant above its limit gets 429 with a whole number of seconds; another tenant does not notice."""
        tenant, other = new_tenant(parts), new_tenant(parts)
        parts.cli("tenant", "set", tenant["tenant_id"], "--rate-limit", "2", "--json")
        url = f"{parts.edge_url}/track/click"
        answers = [httpx.post(url, json={}, headers={"X-Write-Key": tenant["write_key"]}) for _ in range(20)]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert limited
        assert int(limited[0].headers["retry-after"]) >= 1
        problem(limited[0], 429, "rate_limited")
        assert httpx.post(url, json={}, headers={"X-Write-Key": other["write_key"]}).status_code == 202

    def test_origins_outside_the_list_are_refused(self, parts: Parts) -> None:
        """With a list, a page of another origin is refused and a listed one may read the answer; servers go on."""
        tenant = new_tenant(parts)
        url = f"{parts.edge_url}/track/click?k={tenant['write_key']}"
        open_ = httpx.post(url, json={}, headers={"Origin": "https://any.example"})
        assert open_.status_code == 202
        assert "access-control-allow-origin" not in open_.headers
        parts.cli("tenant", "set", tenant["tenant_id"], "--cors-origin", "https://shop.example", "--json")
        problem(httpx.post(url, json={}, headers={"Origin": "https://evil.example"}), 403, "origin_not_allowed")
        good = httpx.post(url, json={}, headers={"Origin": "https://shop.example"})
        assert good.headers["access-control-allow-origin"] == "https://shop.example"
        assert "Origin" in good.headers["vary"]
        assert httpx.post(url, json={}).status_code == 202
        preflight = httpx.options(
            url, headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        )
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]


@pytest.fixture(scope="module")
def seller(parts: Parts) -> dict[str, str]:
    tenant = new_tenant(parts)
    for gateway in ("hotmart", "kiwify", "generic"):
        parts.cli("webhook", "set-secret", tenant["tenant_id"], gateway, stdin=f"{gateway}-secret\n")
    parts.cli("webhook", "set-secret", tenant["tenant_id"], "standard", stdin=f"{STANDARD_SECRET}\n")
    return tenant


class TestWebhooks:
    """POST /webhooks/{gateway}."""

    def post(self, parts: Parts, seller: dict[str, str], gateway: str, body: bytes, **more: Any) -> httpx.Response:
        params = {"key": seller["write_key"], **more.pop("params", {})}
        return httpx.post(f"{parts.edge_url}/webhooks/{gateway}", params=params, content=body, **more)

    def signed(self, gateway: str, body: bytes, secret: str | None = None) -> dict[str, Any]:
        key = (secret or f"{gateway}-secret").encode()
        if gateway == "hotmart":
            return {"headers": {"X-HOTMART-HOTTOK": key.decode()}}
        if gateway == "kiwify":
            return {"params": {"signature": hmac.new(key, body, hashlib.sha1).hexdigest()}}
        if gateway == "generic":
            return {"headers": {"X-Afluente-Signature": "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()}}
        now = datetime.now(UTC).replace(tzinfo=None)
        proof = Webhook(secret or STANDARD_SECRET).sign("msg_1", now.replace(tzinfo=UTC), body.decode())
        stamp = str(int(now.replace(tzinfo=UTC).timestamp()))
        return {"headers": {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": f"v1,bad {proof}"}}

    @pytest.mark.parametrize(
        ("gateway", "body", "event_id"),
        [
            ("hotmart", b'{"id":"6d0b","event":"PURCHASE_APPROVED"}', "hotmart:6d0b"),
            (
                "kiwify",
                b'{"order_id":"o1","webhook_event_type":"order_approved","order_status":"paid"}',
                "kiwify:o1:order_approved:paid",
            ),
            ("generic", b'{"event_id":"g1"}', "generic:g1"),
            ("generic", b"not json \xff", f"generic:sha256:{hashlib.sha256(b'not json ' + bytes([255])).hexdigest()}"),
            ("standard", b'{"type":"sale"}', "standard:msg_1"),
        ],
    )
    def test_a_proved_delivery_is_stored_as_it_came(
        self, parts: Parts, seller: dict[str, str], gateway: str, body: bytes, event_id: str
    ) -> None:
        """200 means the very bytes are in Kafka under an id that the same delivery gets again."""
        for _ in range(2):
            answer = self.post(parts, seller, gateway, body, **self.signed(gateway, body))
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"accepted": 1, "event_id": event_id}
        found = received(parts)[seller["tenant_id"], event_id]
        assert found["body"] == body
        assert found["gateway"] == gateway
        assert found["_headers"]["ce_type"] == b"webhook"

    @pytest.mark.parametrize("gateway", ["hotmart", "kiwify", "generic", "standard"])
    def test_without_proof_nothing_is_stored(self, parts: Parts, seller: dict[str, str], gateway: str) -> None:
        """No proof, another secret's, an empty key's, and another body's are 401 and leave no record."""
        body = f'{{"id":"forged-{gateway}","order_id":"forged-{gateway}","order_status":"x"}}'.encode()
        problem(self.post(parts, seller, gateway, body), 401, "signature_missing")
        wrong = "whsec_" + base64.b64encode(b"z" * 32).decode() if gateway == "standard" else "other"
        problem(self.post(parts, seller, gateway, body, **self.signed(gateway, body, wrong)), 401, "bad_signature")
        if gateway in {"kiwify", "generic"}:
            empty = {
                "kiwify": {"params": {"signature": hmac.new(b"", body, hashlib.sha1).hexdigest()}},
                "generic": {"headers": {"X-Afluente-Signature": hmac.new(b"", body, hashlib.sha256).hexdigest()}},
            }[gateway]
            problem(self.post(parts, seller, gateway, body, **empty), 401, "bad_signature")
        if gateway != "hotmart":  # its token signs no body
            problem(self.post(parts, seller, gateway, body, **self.signed(gateway, body + b" ")), 401, "bad_signature")
        stranger = new_tenant(parts)
        problem(self.post(parts, stranger, gateway, body, **self.signed(gateway, body)), 401, "secret_not_set")
        assert not any("forged" in event_id for _, event_id in received(parts))

    def test_an_old_standard_delivery_is_refused(self, parts: Parts, seller: dict[str, str]) -> None:
        """A right signature over a timestamp beyond the tolerance is a replay."""
        then = datetime.now(UTC) - timedelta(minutes=6)
        proof = Webhook(STANDARD_SECRET).sign("old", then, "{}")
        headers = {"webhook-id": "old", "webhook-timestamp": str(int(then.timestamp())), "webhook-signature": proof}
        problem(self.post(parts, seller, "standard", b"{}", headers=headers), 401, "bad_timestamp")

    def test_a_secret_rotates_without_a_gap(self, parts: Parts) -> None:
        """With a next secret both prove; once it is the current one the old one no longer does."""
        tenant = new_tenant(parts)
        body = b'{"id":"r"}'

        def status(secret: str) -> int:
            return self.post(parts, tenant, "generic", body, **self.signed("generic", body, secret)).status_code

        parts.cli("webhook", "set-secret", tenant["tenant_id"], "generic", stdin="old\n")
        parts.cli("webhook", "set-secret", tenant["tenant_id"], "generic", "--next", stdin="new\n")
        assert (status("old"), status("new")) == (200, 200)
        parts.cli("webhook", "set-secret", tenant["tenant_id"], "generic", stdin="new\n")
        assert (status("old"), status("new")) == (401, 200)

    def test_an_unknown_gateway_is_named(self, parts: Parts, seller: dict[str, str]) -> None:
        """404 says which gateways there are."""
        found = problem(self.post(parts, seller, "paypal", b"{}"), 404, "unknown_gateway")
        assert "kiwify" in found["message"]


def test_a_trace_goes_on_through_the_headers(parts: Parts, tenant: dict[str, str], client: httpx.Client) -> None:
    """The caller's trace id is in the record's headers, with the edge's own span, and the collector hears of it."""
    trace_id = uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    assert client.post("/track/click", json={"event_id": "traced"}, headers=headers).status_code == 202
    carried = tracked(parts)[tenant["tenant_id"], "traced"]["_headers"]["traceparent"].decode().split("-")
    assert carried[1] == trace_id
    assert carried[2] != "00f067aa0ba902b7"
    wait_for(lambda: any(bytes.fromhex(trace_id) in sent for sent in Collector.received), "the span is exported")


class TestAround:
    """Health, metrics, documentation, the script, the unknown."""

    def test_ready_names_parts(self, parts: Parts) -> None:
        """Ready is true when Kafka and Postgres are, and says so for each part."""
        found = httpx.get(f"{parts.edge_url}/health/ready").json()
        assert found["ready"] is True
        assert found["missing"] == found["degraded"] == []
        assert set(found["parts"]) == {"kafka", "postgres", "clickhouse"}

    def test_metrics_count_what_was_accepted(self, parts: Parts, client: httpx.Client) -> None:
        """An accepted event is in the counters, and no key or id is in any label."""
        client.post("/track/click", json={"event_id": "metric-id"})
        text = httpx.get(f"{parts.edge_url}/metrics").text
        assert 'afluente_edge_events_accepted_total{event_type="click"}' in text
        assert 'afluente_http_requests_total{method="POST",route="/track/click",status="202"}' in text
        assert "metric-id" not in text
        assert "afw_" not in text

    def test_the_documentation_needs_no_other_host(self, parts: Parts) -> None:
        """/docs and everything it loads come from the edge itself."""
        page = httpx.get(f"{parts.edge_url}/docs")
        assert page.status_code == 200
        assert "https://" not in page.text
        assert httpx.get(f"{parts.edge_url}/static-offline-docs/swagger-ui-bundle.js").status_code == 200

    def test_paths_that_are_not_there_are_problems_too(self, parts: Parts) -> None:
        """404 and 405 have the one shape of every error."""
        problem(httpx.get(f"{parts.edge_url}/nothing"), 404, "not_found")
        problem(httpx.get(f"{parts.edge_url}/track/click"), 405, "method_not_allowed")

    def test_the_log_holds_no_key_and_no_person(
        self, parts: Parts, client: httpx.Client, tenant: dict[str, str]
    ) -> None:
        """Whatever happened in this file, the edge's log has neither keys nor people in it."""
        client.post("/track/click", json={"email": "logged@secret.example", "value": "x"})
        text = (parts.home.root / "edge.log").read_text()
        assert "afw_" not in text
        assert "afr_" not in text
        assert "secret.example" not in text
