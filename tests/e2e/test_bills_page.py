"""The page of bills in a browser: sign in, look, switch, stay up to date; by keyboard, on a phone, both tongues."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from schemas.days import today
from tests.support.bill_changes import Household, Mirror
from tests.support.browser import DESKTOP, PHONE, Page, browsing
from tests.support.edge_parts import Parts, new_tenant, problem, wait_for

ENDING_S = 8.0  # uvicorn itself would wait for 10 s
FETCHED = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("page")))
    try:
        running.start_postgres()
        running.start_clickhouse()
        running.start_edge(AFLUENTE_CREDENTIAL_CACHE_S="0")
        yield running
    finally:
        running.stop_all()


@pytest.fixture
def tenant(parts: Parts) -> dict[str, str]:
    return new_tenant(parts)


class House:
    """A household, its mirror, and the connection both are written over."""

    def __init__(self, parts: Parts, tenant: dict[str, str], connection: Any) -> None:
        self.connection = connection
        self.mirror = Mirror(parts)
        self.household = Household(connection, self.mirror, tenant["tenant_id"], seed=7, today=today())

    async def bill(self, **fields: Any) -> uuid.UUID:
        made = await self.household.bill(**fields)
        await asyncio.to_thread(self.mirror.flush)
        return made

    async def row(self, bill: uuid.UUID) -> Any:
        return await self.connection.fetchrow("SELECT * FROM bill_occurrences WHERE bill_id = $1", bill)


@pytest.fixture
async def house(parts: Parts, tenant: dict[str, str]) -> AsyncIterator[House]:
    connection = await asyncpg.connect(parts.settings.postgres_owner_url.get_secret_value())
    yield House(parts, tenant, connection)
    await connection.close()


async def signed_in(page: Page, parts: Parts, tenant: dict[str, str]) -> None:
    await page.open(f"{parts.edge_url}/app/bills")
    await page.run("document.getElementById('key').focus()")
    await page.type(tenant["app_key"])
    await page.press("Enter")
    await page.until("document.getElementById('board')")


@contextmanager
def session(parts: Parts, tenant: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=parts.edge_url, timeout=20) as client:
        answer = client.post("/app/session", data={"key": tenant["app_key"]}, headers=FETCHED)
        assert answer.status_code == 303, answer.text
        yield client


async def test_a_switch_is_thrown_by_keyboard_and_the_figures_follow(
    parts: Parts, tenant: dict[str, str], house: House, tmp_path: Path
) -> None:
    """Space on the focused switch pays in Postgres at once, keeps the focus, and shows the figures once they arrive."""
    bill = await house.bill(installments=1, due=today() + timedelta(days=1), category="rent", currency="BRL")
    before = await house.row(bill)
    async with browsing(tmp_path / "profile") as page:
        await signed_in(page, parts, tenant)
        switch = f"document.getElementById('switch-{before['id']}')"
        await page.until(f"{switch}.getAttribute('aria-checked') === 'false'")
        for _ in range(60):
            await page.press("Tab")
            if await page.run(f"document.activeElement === {switch}"):
                break
        assert await page.run(f"document.activeElement === {switch}"), "the switch is not reached by Tab"
        await page.press(" ")
        await page.until(f"{switch}.getAttribute('aria-checked') === 'true' && !{switch}.hasAttribute('aria-busy')")
        after = await house.row(bill)
        assert after["status"] == "paid"
        assert after["actor"].startswith("key:")
        house.mirror.change("bill_occurrences", before, after)
        await asyncio.to_thread(house.mirror.flush)
        await page.until("document.querySelector('.total.unpaid').classList.contains('zero')")
        await page.until(f"document.activeElement === {switch}")
        await page.press(" ")
        await page.until(f"{switch}.getAttribute('aria-checked') === 'false' && !{switch}.hasAttribute('aria-busy')")
        assert (await house.row(bill))["status"] == "open"
        assert page.console == []


async def test_a_change_made_elsewhere_appears_by_itself(
    parts: Parts, tenant: dict[str, str], house: House, tmp_path: Path
) -> None:
    """An open page shows a bill that arrives in ClickHouse without being loaded again; the empty one fills."""
    async with browsing(tmp_path / "profile") as page:
        await signed_in(page, parts, tenant)
        await page.until("document.querySelector('.empty')")
        await page.run("window.same = true")
        await house.bill(installments=2, due=today(), category="<b>loud</b>", currency="BRL")
        await page.until("document.querySelectorAll('.installments li').length === 2")
        assert await page.run("window.same"), "the page was loaded anew"
        await page.until("document.querySelector('.categories .name')?.textContent.includes('<b>loud</b>')")
        assert await page.run("document.querySelector('.categories b')") is None


@pytest.mark.parametrize(("screen", "language", "words"), [
    (PHONE, "pt-BR,pt;q=0.9,en;q=0.5", ("Contas", "A pagar", "R$")), (DESKTOP, "en", ("Bills", "To pay", "R$")),
])  # fmt: skip
async def test_it_fits_the_screen_and_speaks_the_language(
    parts: Parts, tenant: dict[str, str], house: House, tmp_path: Path, screen: dict[str, Any], language: str,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    """Nothing sticks out sideways, what is touched is large enough, and everything that acts has a name."""
    for category in ("rent", "a-category-with-a-very-long-name-that-nobody-would-choose-but-somebody-will", "food"):
        await house.bill(installments=12, due=today(), category=category, currency="BRL")
    async with browsing(tmp_path / "profile", language) as page:
        await page.size(screen)
        await signed_in(page, parts, tenant)
        await page.until("document.querySelectorAll('.months li').length === 12")
        assert await page.run("document.documentElement.scrollWidth <= window.innerWidth")
        text = await page.run("document.body.innerText")
        assert all(word in text for word in words)
        assert await page.run("document.documentElement.lang") == language.split(",", maxsplit=1)[0]
        nameless = (
            "[...document.querySelectorAll('a, button, input')]"
            ".filter(one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length)).length"
        )
        assert await page.run(nameless) == 0
        low = "[...document.querySelectorAll('button')].filter(one => one.getBoundingClientRect().height < 40).length"
        assert await page.run(low) == 0
        await page.run("document.querySelector('.months li:nth-child(8) a').click()")
        await page.until("location.search.includes('month=')")
        assert page.console == []


def test_it_works_without_a_script(parts: Parts, tenant: dict[str, str]) -> None:
    """Forms and links alone: sign in, pay by POST and redirect, sign out."""
    headers = {"X-App-Key": tenant["app_key"]}
    body = {"user_id": "ana", "amount": "10.00", "currency": "BRL", "due_date": str(today()), "description": "Water"}
    made = httpx.post(f"{parts.edge_url}/bills", json=body, headers=headers).json()["occurrences"][0]
    with session(parts, tenant) as client:
        assert "Water" in client.get("/app/bills").text
        answer = client.post(f"/app/occurrences/{made['id']}/pay?month=2026-11", headers=FETCHED)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/app/bills?month=2026-11&at_least=")
        assert 'aria-checked="true"' in client.get(answer.headers["location"]).text
        again = client.post(f"/app/occurrences/{made['id']}/pay", headers={**FETCHED, "Accept": "application/json"})
        assert again.json()["paid"] is True
        assert client.post("/app/session/end", headers=FETCHED).status_code == 303
        assert 'name="key"' in client.get("/app/bills").text


def test_a_foreign_page_can_neither_pay_nor_sign_in(parts: Parts, tenant: dict[str, str]) -> None:
    """A POST that another site sends, or that does not say who sends it, is 403 and changes nothing."""
    with session(parts, tenant) as client:
        path = f"/app/occurrences/{uuid.uuid4()}/pay"
        for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                        {"Origin": "https://evil.example"}, {"Origin": "null"}):  # fmt: skip
            for target in (path, "/app/session", "/app/session/end"):
                problem(client.post(target, headers=headers), 403, "foreign_page")
        problem(client.post(path, headers=FETCHED), 404, "not_found")
        problem(client.post(path, headers={"Origin": parts.edge_url}), 404, "not_found")


def test_another_tenants_occurrence_is_not_there(parts: Parts, tenant: dict[str, str]) -> None:
    """404, in the same shape as for an id that nobody has."""
    body = {"user_id": "ana", "amount": "10.00", "currency": "BRL", "due_date": str(today())}
    headers = {"X-App-Key": new_tenant(parts)["app_key"]}
    made = httpx.post(f"{parts.edge_url}/bills", json=body, headers=headers).json()["occurrences"][0]
    with session(parts, tenant) as client:
        theirs = client.post(f"/app/occurrences/{made['id']}/pay", headers=FETCHED)
        nobodys = client.post(f"/app/occurrences/{uuid.uuid4()}/pay", headers=FETCHED)
    assert (theirs.status_code, theirs.content) == (nobodys.status_code, nobodys.content) == (404, nobodys.content)


def test_the_cookie_is_sealed_and_opens_the_page_alone(parts: Parts, tenant: dict[str, str]) -> None:
    """HttpOnly, SameSite=Strict, without the key in it, bound to /app; changed or on the API it is worth nothing."""
    with session(parts, tenant) as client:
        cookie = client.cookies["afluente_app"]
    answer = httpx.post(f"{parts.edge_url}/app/session", data={"key": tenant["app_key"]}, headers=FETCHED)
    set_cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in set_cookie
    assert "samesite=strict" in set_cookie
    assert "path=/app" in set_cookie
    assert tenant["app_key"] not in set_cookie
    with httpx.Client(base_url=parts.edge_url, cookies={"afluente_app": cookie}) as client:
        problem(client.get("/analytics/cashflow"), 401, "key_missing")
        problem(client.get("/bills"), 401, "key_missing")
    for forged in (cookie[:-4] + "AAAA", "x", "é" * 10, "A" * 300, ""):
        headers = {"Cookie": f"afluente_app={forged}".encode()}
        problem(httpx.get(f"{parts.edge_url}/app/bills/board", headers=headers), 401, "signed_out")


def test_only_an_app_key_signs_in(parts: Parts, tenant: dict[str, str]) -> None:
    """Keys of tracking, garbage and too much of it are told so on the page; no cookie is set."""
    for key in (tenant["write_key"], tenant["read_key"], "", "afa_" + "x" * 43, "<script>"):
        answer = httpx.post(f"{parts.edge_url}/app/session", data={"key": key}, headers=FETCHED)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert 'role="alert"' in answer.text
    problem(
        httpx.post(f"{parts.edge_url}/app/session", data={"key": "x" * 5_000}, headers=FETCHED), 413, "form_too_large"
    )


def test_a_revoked_key_ends_its_sessions(parts: Parts, tenant: dict[str, str]) -> None:
    """The cookie holds the key, not a right of its own: once it is revoked, the page asks for a key again."""
    with session(parts, tenant) as client:
        assert 'id="board"' in client.get("/app/bills").text
        for key in parts.cli("key", "list", tenant["tenant_id"], "--json"):
            if key["kind"] == "app":
                parts.cli("key", "revoke", key["key_id"])
        assert 'id="board"' not in client.get("/app/bills").text


def test_every_answer_of_the_page_forbids_what_it_does_not_need(parts: Parts, tenant: dict[str, str]) -> None:
    """A strict content policy without inline script or style, no framing, no sniffing, nothing kept in caches."""
    with session(parts, tenant) as client:
        for path in ("/app/bills", "/app/bills/board"):
            answer = client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            for inline in ("<style", " style=", "onclick=", "javascript:"):
                assert inline not in answer.text


def test_more_pages_than_one_tenant_may_have_open_are_refused(parts: Parts, tenant: dict[str, str]) -> None:
    """The 21st stream of a tenant is 503 with Retry-After; once one is closed, there is room again."""
    with session(parts, tenant) as client, ExitStack() as streams:
        for _ in range(20):
            answer = streams.enter_context(client.stream("GET", "/app/bills/changes"))
            assert answer.status_code == 200
        problem(client.get("/app/bills/changes"), 503, "too_many_pages")
        streams.close()

        def opens() -> bool:
            with client.stream("GET", "/app/bills/changes") as answer:
                return answer.status_code == 200

        wait_for(opens, "a closed page makes room", 10)


def test_an_open_stream_does_not_hold_up_the_end_of_the_edge(parts: Parts, tenant: dict[str, str]) -> None:
    """SIGTERM with a page open: the stream ends by itself, and the process soon after, long before it would be cut."""
    with session(parts, tenant) as client, client.stream("GET", "/app/bills/changes") as answer:
        assert next(answer.iter_lines()).startswith("retry:")
        edge = parts.processes["edge"]
        edge.send_signal(signal.SIGTERM)
        assert edge.wait(ENDING_S) == 0
    parts.stop("edge")
    parts.start_edge(AFLUENTE_CREDENTIAL_CACHE_S="0")


def test_with_clickhouse_away_a_person_reads_words_and_the_page_tries_again(
    parts: Parts, tenant: dict[str, str]
) -> None:
    """503 as a page that loads itself anew; paying goes on, since it needs Postgres alone."""
    headers = {"X-App-Key": tenant["app_key"]}
    body = {"user_id": "ana", "amount": "10.00", "currency": "BRL", "due_date": str(today())}
    made = httpx.post(f"{parts.edge_url}/bills", json=body, headers=headers).json()["occurrences"][0]
    with session(parts, tenant) as client:
        parts.stop("clickhouse")
        try:
            answer = client.get("/app/bills")
            assert answer.status_code == 503
            assert 'role="alert"' in answer.text
            assert int(answer.headers["refresh"]) >= 1
            paid = client.post(f"/app/occurrences/{made['id']}/pay", headers={**FETCHED, "Accept": "application/json"})
            assert paid.json()["paid"] is True
        finally:
            parts.start_clickhouse()
        assert client.get("/app/bills").status_code == 200
