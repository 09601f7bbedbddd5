"""Many at once on the same bills: one wins, the others are told, and nothing adds up wrong afterwards."""

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from schemas.days import today
from tests.support.bills import PLAIN, as_owner, made, opened, parts_of
from tests.support.edge_parts import Parts, new_tenant, problem

AT_ONCE = 12


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("bills")))
    try:
        running.start_postgres()
        running.start_edge()
        yield running
    finally:
        running.stop_all()


@pytest.fixture
def client(parts: Parts) -> Iterator[httpx.Client]:
    with opened(parts, new_tenant(parts)) as found:
        yield found


def at_once(ask: Callable[[int], httpx.Response], count: int = AT_ONCE) -> list[httpx.Response]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def insisting(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask as a client does: again when told to come back."""
    for _ in range(200):
        answer = ask()
        if answer.status_code != 503 and answer.json().get("code") != "request_in_progress":
            return answer
    raise AssertionError(answer.text)


def test_one_of_many_payments_wins(client: httpx.Client) -> None:
    """Whoever pays at the same moment: one is told so, the others that it is paid already."""
    part = made(client)["occurrences"][0]["id"]
    answers = at_once(lambda _: insisting(lambda: client.post(f"/occurrences/{part}/pay")))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * (AT_ONCE - 1)
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"already_paid"}


def test_one_of_many_edits_of_a_version_wins(client: httpx.Client) -> None:
    """Two edits made from the same version never both happen; the loser learns the version that is there now."""
    bill = made(client, installments=4)

    def edit(number: int) -> httpx.Response:
        change = {"amount": f"{101 + number}.00", "version": 1}
        return insisting(lambda: client.patch(f"/bills/{bill['id']}", json=change))

    answers = at_once(edit)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * (AT_ONCE - 1)
    assert {answer.json()["current_version"] for answer in answers if answer.status_code == 409} == {2}
    amount = next(answer.json()["amount"] for answer in answers if answer.status_code == 200)
    assert sum(Decimal(part["amount"]) for part in parts_of(client, bill["id"])) == Decimal(amount)


def test_a_request_that_is_repeated_at_once_happens_once(client: httpx.Client) -> None:
    """The same key from many connections at once: one bill, and everybody ends with the same answer."""
    for _ in range(3):
        key = {"Idempotency-Key": str(uuid.uuid4())}
        body = {**PLAIN, "category": key["Idempotency-Key"], "installments": 12}
        answers = at_once(
            lambda _, key=key, body=body: insisting(lambda: client.post("/bills", json=body, headers=key))
        )  # type: ignore[misc]
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
        found = client.get("/bills", params={"category": key["Idempotency-Key"]}).json()["items"]
        assert [bill["id"] for bill in found] == [answers[0].json()["id"]]


def test_a_running_request_holds_its_key(parts: Parts, client: httpx.Client) -> None:
    """While a request waits for a lock, the same key is 409 at once; when it failed, the key is free again."""
    bill = made(client)
    part, key = bill["occurrences"][0]["id"], {"Idempotency-Key": str(uuid.uuid4())}

    def race() -> list[httpx.Response]:
        answers = at_once(lambda _: client.post(f"/occurrences/{part}/pay", headers=key), 2)
        return sorted(answers, key=lambda answer: answer.status_code)

    async def hold(connection: Any) -> list[httpx.Response]:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM bills WHERE id = $1 FOR UPDATE", uuid.UUID(bill["id"]))
            return await asyncio.to_thread(race)

    second, first = as_owner(parts, hold)
    problem(first, 503, "contended")
    problem(second, 409, "request_in_progress")
    assert first.headers["retry-after"] == second.headers["retry-after"] == "1"
    assert client.post(f"/occurrences/{part}/pay", headers=key).status_code == 200


def test_everything_at_once_adds_up(client: httpx.Client) -> None:
    """Payments, edits and cancellations of the same bills from many sides: no deadlock, no 5xx but 503."""
    bills = [made(client, installments=4, amount="1000.00") for _ in range(3)]

    def meddle(seed: int) -> list[int]:
        chance, seen = random.Random(seed), []
        for _ in range(15):
            bill = chance.choice(bills)
            part = chance.choice(bill["occurrences"])["id"]
            path, body = chance.choice([
                (f"POST /occurrences/{part}/pay", None), (f"POST /occurrences/{part}/unpay", None),
                (f"PATCH /occurrences/{part}", {"amount": f"{chance.randint(1, 900)}.00"}),
                (f"PATCH /occurrences/{part}", {"status": chance.choice(["open", "cancelled"])}),
                (f"PATCH /bills/{bill['id']}", {"amount": f"{chance.randint(1000, 9000)}.00"}),
                (f"PATCH /bills/{bill['id']}", {"due_date": f"2090-0{chance.randint(1, 9)}-30"}),
            ])  # fmt: skip
            method, where = path.split(" ")
            seen.append(client.request(method, where, json=body, headers={"If-Match": "*"}).status_code)
        return seen

    with ThreadPoolExecutor(8) as pool:
        statuses = {status for found in pool.map(meddle, range(8)) for status in found}
    assert 200 in statuses
    assert statuses <= {200, 409, 422, 503}
    for bill in bills:
        now, found = client.get(f"/bills/{bill['id']}").json(), parts_of(client, bill["id"])
        assert sum(Decimal(part["amount"]) for part in found) == Decimal(now["amount"])
        live = {part["status"] for part in found} - {"cancelled"}
        assert now["status"] == ("cancelled" if not live else "paid" if live == {"paid"} else "open")


@pytest.mark.parametrize("sort", ["due_date", "-due_date", "created_at", "-created_at"])
def test_pages_hold_each_row_once_while_rows_come_and_go(client: httpx.Client, sort: str) -> None:
    """Following next_cursor gives every row that was there all along once, in order, whatever is added or deleted."""
    chance = random.Random(sort)

    def add() -> dict[str, Any]:
        return made(client, due_date=f"2090-0{chance.randint(1, 3)}-0{chance.randint(1, 9)}")

    bills = [add() for _ in range(30)]
    staying, going = {bill["id"] for bill in bills[:20]}, bills[20:]
    seen: list[dict[str, Any]] = []
    params: dict[str, Any] = {"sort": sort, "limit": 4}
    while True:
        found = client.get("/bills", params=params).json()
        assert len(found["items"]) <= 4
        seen += found["items"]
        if found["next_cursor"] is None:
            break
        params["cursor"] = found["next_cursor"]
        if len(seen) < 60:
            add()
        if going:
            client.delete(f"/bills/{going.pop()['id']}", headers={"If-Match": "*"})
    ids = [bill["id"] for bill in seen]
    assert len(ids) == len(set(ids))
    assert staying <= set(ids)
    keys = [(bill[sort.removeprefix("-")], bill["id"]) for bill in seen]
    assert keys == sorted(keys, reverse=sort.startswith("-"))


def test_lists_are_filtered_and_bounded(parts: Parts, client: httpx.Client) -> None:
    """Each filter holds, an unknown one is refused, and a cursor is good for its own list and tenant only."""
    late, rui = today() - timedelta(days=3), {"user_id": "rui", "category": "home", "currency": "EUR"}
    made(client, due_date=str(late))
    made(client, **rui)
    paid = made(client, installments=3)
    client.post(f"/occurrences/{paid['occurrences'][0]['id']}/pay")

    def count(path: str, **params: Any) -> int:
        answer = client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    assert [count("/bills", **f) for f in ({}, {"status": "overdue"}, {"user_id": "rui"}, {"currency": "EUR"})] == [
        3,
        1,
        1,
        1,
    ]
    assert count("/bills", category="home", user_id="ana") == 0
    assert count("/bills", due_from=str(late), due_to=str(late)) == 1
    assert [count("/occurrences", **f) for f in ({}, {"status": "paid"}, {"due_from": "2090-02-01"})] == [5, 1, 2]
    assert [count(f"/bills/{paid['id']}/occurrences", **f) for f in ({}, {"status": "open"})] == [3, 2]
    for params, pointer in (
        ({"stauts": "open"}, "/query/stauts"), ({"limit": 501}, "/query/limit"), ({"limit": 0}, "/query/limit"),
        ({"status": "late"}, "/query/status"), ({"due_from": "0000-00-00"}, "/query/due_from"),
        ({"category": "a\x00"}, "/query/category"), ({"sort": "amount"}, "/query/sort"),
        ({"due_from": "2026-02-01", "due_to": "2026-01-01"}, "/query"), ({"cursor": "x"}, "/query/cursor"),
    ):  # fmt: skip
        answer = client.get("/bills", params=params)
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    cursor = client.get("/bills", params={"limit": 1}).json()["next_cursor"]
    with opened(parts, new_tenant(parts)) as stranger:
        problem(stranger.get("/bills", params={"limit": 1, "cursor": cursor}), 422, "invalid_cursor")
    for path, params in (("/occurrences", {}), ("/bills", {"sort": "-due_date"}), ("/bills", {"currency": "EUR"})):
        problem(client.get(path, params={**params, "cursor": cursor}), 422, "invalid_cursor")


def test_what_is_past_its_day_turns_overdue_once(parts: Parts, client: httpx.Client) -> None:
    """A sweep turns open parts past their day and their bills, leaves all others, and finds nothing the second time."""
    bills = [made(client, installments=2) for _ in range(3)]
    paid = bills[1]["occurrences"][0]["id"]
    client.post(f"/occurrences/{paid}/pay")

    async def age(connection: Any) -> None:
        ids = [uuid.UUID(bill["id"]) for bill in bills[:2]]
        await connection.execute(
            "UPDATE bill_occurrences SET due_date = current_date - 40 WHERE number = 1 AND bill_id = ANY($1)", ids
        )

    as_owner(parts, age)
    swept = parts.cli("bills", "overdue", "--json")
    assert swept["bills_turned_overdue"] in {0, 1}  # the edge sweeps too
    assert parts.cli("bills", "overdue", "--json") == {"bills_turned_overdue": 0}
    assert [client.get(f"/bills/{bill['id']}").json()["status"] for bill in bills] == ["overdue", "open", "open"]
    assert [part["status"] for part in parts_of(client, bills[0]["id"])] == ["overdue", "open"]
    assert [part["status"] for part in parts_of(client, bills[1]["id"])] == ["paid", "open"]
    late = parts_of(client, bills[0]["id"])[0]
    assert late["actor"] == "sweep:overdue"
    assert client.post(f"/occurrences/{late['id']}/pay").json()["bill"]["status"] == "open"
    assert client.post(f"/occurrences/{late['id']}/unpay").json()["bill"]["status"] == "overdue"


def test_row_security_holds_whatever_the_query(parts: Parts, client: httpx.Client) -> None:
    """The application's role sees, changes and writes nothing without a tenant, nor anything of another one."""
    bill, tables = made(client), ("bills", "bill_occurrences", "idempotency_keys")
    client.post("/bills", json=PLAIN, headers={"Idempotency-Key": "k"})
    mine = new_tenant(parts)["tenant_id"]

    async def look(url: str) -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            found: list[Any] = [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables]
            async with connection.transaction():
                await connection.execute("SELECT set_config('afluente.tenant_id', $1, true)", mine)
                found += [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables]
                found += [await connection.execute(f"DELETE FROM {table}") for table in tables]
                found.append(await connection.execute("UPDATE bills SET category = 'stolen'"))
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("INSERT INTO bills (tenant_id, user_id, amount, currency, due_date)"
                                         " SELECT $1, 'x', 1, 'BRL', '2090-01-01'", uuid.UUID(mine))  # fmt: skip
        finally:
            await connection.close()
        return found

    assert asyncio.run(look(parts.settings.postgres_url.get_secret_value())) == [0] * 6 + ["DELETE 0"] * 3 + [
        "UPDATE 0"
    ]
    assert client.get(f"/bills/{bill['id']}").json()["category"] == ""
