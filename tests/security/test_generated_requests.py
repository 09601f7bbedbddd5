"""The edge keeps the contract it publishes: generated requests, good and bad, with real keys, against the running edge.

The same requests in every run: what fails here fails again.
"""

import itertools

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from api.tracking import router as tracking
from tests.security.test_tenants import document
from tests.support.belongings import Belongings, bill_of, owned
from tests.support.edge_parts import Parts
from tests.support.foreign import ANSWER_S

EXAMPLES = 12  # per route and phase: the suite runs on two cores
KIND_OF = {
    "track": "write", "webhooks": "write", "tracking": "read", "sales": "read", "analytics": "app", "bills": "app",
    "occurrences": "app",
}  # fmt: skip
IDS = ("bill_id", "occurrence_id")

schema = schemathesis.openapi.from_dict(document())
CHECKS = schemathesis.checks.CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)
real = itertools.cycle((True, False))  # every other id is one that exists


@pytest.fixture(scope="module")
def sender(parts: Parts) -> Belongings:
    return owned(parts, foreign=False)


def a_bill(parts: Parts, sender: Belongings) -> dict[str, str]:
    """Ids that exist, of a bill that nothing has been done to yet."""
    url = f"{parts.edge_url}/bills"
    answer = httpx.post(url, json=bill_of(sender), headers=sender.header("app"), timeout=ANSWER_S, trust_env=False)
    assert answer.status_code == 201, answer.text
    bill = answer.json()
    return {"bill_id": bill["id"], "occurrence_id": bill["occurrences"][0]["id"]}


@schema.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_no_request_breaks_the_edge_or_its_contract(case: schemathesis.Case, parts: Parts, sender: Belongings) -> None:
    """No generated request gives a 5xx; every answer has a published status, type and shape."""
    first = case.path.split("/")[1]
    headers = sender.header(KIND_OF.get(first, ""))
    if first == "webhooks":
        headers["X-HOTMART-HOTTOK"] = sender.values["hottok"]
    if set(IDS) & set(case.path_parameters) and next(real):
        ids = a_bill(parts, sender)
        case.path_parameters.update({name: ids[name] for name in IDS if name in case.path_parameters})
    answer = case.call(base_url=parts.edge_url, headers=headers)
    assert answer.status_code < 500, answer.text
    case.validate_response(answer, checks=CHECKS)


def test_every_route_is_generated() -> None:
    """The routes of the edge, those that go past FastAPI's layers too, are all in the document that is read here."""
    found = {operation.ok().path for operation in schema.get_all_operations()}
    assert found == set(document()["paths"])
    assert {route.path for route in tracking.routes} <= found
