"""The edge's document says what is so: its examples work, and every route names its keys and errors.

Generated requests against it are in tests/security/test_generated_requests.py.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.main import create_app
from api.tracking import router
from app.settings import Settings
from schemas.tracking import EVENT_TYPES
from tests.support.edge_parts import Parts, new_tenant


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("contract")))
    with running.all_running():
        yield running


@pytest.fixture(scope="module")
def tenant(parts: Parts) -> dict[str, str]:
    made = new_tenant(parts)
    parts.cli("webhook", "set-secret", made["tenant_id"], "hotmart", stdin="token\n")
    return made


def document() -> dict[str, Any]:
    return create_app(Settings(master_key="A" * 43 + "=")).openapi()


def test_every_example_of_the_documentation_is_accepted(parts: Parts, tenant: dict[str, str]) -> None:
    """What /docs shows works when it is sent, once its times are of today."""
    for path, item in document()["paths"].items():
        if path.startswith(("/bills", "/occurrences")):
            continue
        body = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in body.get("examples", {}).values():
            text = re.sub(r'"(occurred_at|sent_at)": *"[^"]*",?', "", json.dumps(example["value"]))
            text = re.sub(r",\s*}", "}", text)
            answer = httpx.post(f"{parts.edge_url}{path}", content=text, headers={"X-Write-Key": tenant["write_key"]})
            assert answer.status_code == 202, answer.text
            assert "warnings" not in answer.json()


def test_every_example_of_bills_is_accepted(parts: Parts, tenant: dict[str, str]) -> None:
    """What /docs shows of bills works when it is sent, on a bill that was made with the first example."""
    paths = document()["paths"]
    with httpx.Client(base_url=parts.edge_url, headers={"X-App-Key": tenant["app_key"]}, timeout=20) as client:
        for example in examples(paths["/bills"]["post"]):
            assert client.post("/bills", json=example).status_code == 201
        for path in (path for path in paths if path.startswith(("/bills/", "/occurrences/"))):
            operations = [(name, paths[path].get(name, {})) for name in ("post", "patch", "delete")]
            for method, example in [(name, one) for name, operation in operations for one in examples(operation)]:
                made = client.post("/bills", json=examples(paths["/bills"]["post"])[0]).json()
                part = made["occurrences"][0]["id"]
                if path.endswith("/unpay"):
                    client.post(f"/occurrences/{part}/pay")
                where = path.format(bill_id=made["id"], occurrence_id=part)
                answer = client.request(method, where, json=example)
                assert answer.status_code == 200, (method, path, answer.text)


def examples(operation: dict[str, Any]) -> list[Any]:
    shown = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    return [example["value"] for example in shown.values()]


def test_every_route_says_who_may_and_what_can_go_wrong() -> None:
    """Each write and read route publishes its keys and its errors as problem+json."""
    for path, item in document()["paths"].items():
        for operation in item.values():
            if not path.startswith(("/track", "/webhooks", "/sales", "/bills", "/occurrences", "/analytics")):
                continue
            assert operation["security"], path
            for status in ("401", "403", "422" if "webhooks" not in path else "400", "503"):
                assert "application/problem+json" in operation["responses"][status]["content"], (path, status)


def test_every_event_type_has_its_path() -> None:
    """The types of the schema and the paths of the edge are the same list."""
    paths = {route.path.removeprefix("/track/") for route in router.routes}
    assert paths == {*EVENT_TYPES, "batch"}
