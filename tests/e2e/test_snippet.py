"""The page script in a real browser: what it sends by itself arrives in Kafka as events of the tenant."""

import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.codec import Codec
from tests.support.edge_parts import Parts, new_tenant, wait_for

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VIRTUAL_MS = 5_000  # the page's own clock: the browser fast-forwards through it
BROWSER_S = 60
SCHEMA = Codec.load().schema("tracking-event")

PAGE = """<!doctype html><title>t</title>
<a id="out" href="https://elsewhere.example/buy?x=1" data-afluente="buy">buy</a>
<a id="in" href="/inside">inside</a>
<script src="{edge}/afluente.js" data-key="{key}" data-consent-ads="true"></script>
<script>
document.addEventListener("click", function (ev) {{ ev.preventDefault(); }});
document.getElementById("out").click();
document.getElementById("in").click();
var id = afluente.track("initiate_checkout", {{value: 97.5, currency: "BRL", email: "Ana@Example.com"}});
document.title = "checkout " + id;
</script>"""


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, "no Chromium here: install the Debian package `chromium`; this test is not skipped without it"
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("snippet")))
    try:
        running.start_kafka()
        running.start_postgres()
        running.start_edge()
        running.wait_ready()
        yield running
    finally:
        running.stop_all()


@pytest.fixture
def site(parts: Parts) -> Iterator[tuple[str, dict[str, str]]]:
    """A page of a shop on another origin than the edge, with the tenant's script in it."""
    tenant = new_tenant(parts)
    page = PAGE.format(edge=parts.edge_url, key=tenant["write_key"]).encode()

    class Shop(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page)

        def log_request(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tenant
    server.shutdown()


def visit(url: str, profile: Path) -> str:
    done = subprocess.run(
        [
            browser(), "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            f"--user-data-dir={profile}", f"--virtual-time-budget={VIRTUAL_MS}", "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=BROWSER_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def events_of(parts: Parts, tenant: dict[str, str]) -> list[dict[str, Any]]:
    mine = [r for r in parts.records("tracking.collected") if r.key().decode() == tenant["tenant_id"]]
    return [SCHEMA.decode(record.value()) for record in mine]


def test_a_page_sends_its_pageview_its_clicks_and_its_checkout(
    parts: Parts, site: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """One visit gives a pageview, the click that leaves the site and the checkout, in one session, with campaign."""
    shop, tenant = site
    url = f"{shop}/offer?utm_source=meta&utm_campaign=launch&fbclid=IwAR0&click_id=c-1"
    dom = visit(url, tmp_path / "profile")
    events = wait_for(lambda: found if len(found := events_of(parts, tenant)) >= 3 else None, "three events", 20)
    by_type = {event["event_type"]: event for event in events}
    assert sorted(event["event_type"] for event in events) == ["click", "initiate_checkout", "pageview"]
    for event in events:
        assert event["url"] == url
        assert (event["utm_source"], event["utm_campaign"]) == ("meta", "launch")
        assert (event["fbclid"], event["click_id"]) == ("IwAR0", "c-1")
        assert event["consent_ads"] is True
    assert len({event["session_id"] for event in events}) == 1
    assert by_type["click"]["session_id"]
    assert "elsewhere.example" in by_type["click"]["properties"]
    checkout = by_type["initiate_checkout"]
    assert (str(checkout["value"]), checkout["currency"]) == ("97.5000", "BRL")
    assert len(checkout["email_hash"]) == 64
    assert f"checkout {checkout['event_id']}" in dom


def test_the_script_stays_small_and_is_cached(parts: Parts) -> None:
    """About 3 kB (unminified, comments included), with a validator that saves sending it again."""
    answer = httpx.get(f"{parts.edge_url}/afluente.js")
    assert len(answer.content) <= 3_300
    assert answer.headers["content-type"].startswith("text/javascript")
    again = httpx.get(f"{parts.edge_url}/afluente.js", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
