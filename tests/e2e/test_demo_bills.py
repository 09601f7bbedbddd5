"""`./afluente demo bills` on a stack of its own: what a stranger runs must be true, to the cent."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.ports import free_port
from tests.e2e.test_demo import afluente

PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER", "CONNECT", "WATCH")


@pytest.fixture
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home: Path = tmp_path_factory.mktemp("demo-bills")
    found = {"AFLUENTE_HOME": str(home), **{f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS}}
    yield found
    afluente(found, "clean", "--yes")


def test_the_bills_demo_ends_equal_to_the_cent(environ: dict[str, str]) -> None:
    """Three tenants by HTTP and psql by hand: every month and category is the same at both ends, and 0 says so."""
    done = afluente(environ, "demo", "bills", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["right"]
    assert found["converged_s"] > 0
    assert {line["tenant"] for line in found["months"]} == {"aurora", "birch", "cedar"}
    for line in (*found["months"], *found["categories"]):
        assert line["clickhouse"] == line["postgres"]
        assert line["postgres"]["occurrences"] > 0
    assert {"bill created", "occurrence paid", "bill edited", "bill cancelled", "bill deleted"} <= found["done"].keys()
    assert found["done"]["statement by psql"] >= 4
    assert any(line["category"] == "by hand" for line in found["categories"])
