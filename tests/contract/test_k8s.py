"""The Kubernetes manifests: valid by the API's own schemas, hardened, and in step with the settings and the images."""

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from api.draining import LETTING_GO_S
from api.server import DRAIN_S
from app.settings import Settings
from tests.contract import tree

FOLDER = "infra/k8s/"
KUBERNETES = "1.33"  # the oldest release in support
Manifest = dict[str, Any]
MANIFESTS: list[Manifest] = [
    part for path in tree.files() if path.startswith(FOLDER) for part in yaml.safe_load_all(tree.read(path)) if part
]
WORKLOADS = [part for part in MANIFESTS if part["kind"] in {"Deployment", "StatefulSet", "Job"}]


def name(part: Manifest) -> str:
    return f"{part['kind']}/{part['metadata']['name']}"


def named(wanted: str) -> Manifest:
    return next(part for part in MANIFESTS if name(part) == wanted)


def pod(part: Manifest) -> Manifest:
    spec: Manifest = part["spec"]["template"]["spec"]
    return spec


def containers(part: Manifest) -> list[Manifest]:
    return [*pod(part).get("initContainers", []), *pod(part)["containers"]]


def broken(container: Manifest) -> list[str]:
    """The rules a container does not keep."""
    context = container.get("securityContext", {})
    resources = container.get("resources", {})
    rules = {
        "pinned": re.fullmatch(r"afluente-\w+:\d+\.\d+\.\d+", container["image"]),
        "read-only": context.get("readOnlyRootFilesystem") is True,
        "no escalation": context.get("allowPrivilegeEscalation") is False,
        "no capabilities": context.get("capabilities", {}).get("drop") == ["ALL"],
        "requests": {"cpu", "memory"} == set(resources.get("requests", {})),
        "limits": {"cpu", "memory"} == set(resources.get("limits", {})),
    }
    return [rule for rule, kept in rules.items() if not kept]


@pytest.mark.parametrize("part", MANIFESTS, ids=name)
def test_each_manifest_is_valid_by_the_schemas_of_kubernetes(part: Manifest) -> None:
    """The API server accepts the manifest: no unknown field, no wrong type."""
    kubernetes_validate.validate(part, KUBERNETES, strict=True)


def test_a_typing_error_in_a_manifest_would_be_seen() -> None:
    """The check above can fail."""
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(MANIFESTS[0] | {"specs": {}}, KUBERNETES, strict=True)


@pytest.mark.parametrize("part", WORKLOADS, ids=name)
def test_each_workload_is_hardened(part: Manifest) -> None:
    """No root, no writable root file system, no token of the API, bounded memory: what `restricted` asks and more."""
    assert [broken(container) for container in containers(part)] == [[]] * len(containers(part))
    assert pod(part)["securityContext"]["runAsNonRoot"] is True
    assert pod(part)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("field", ["securityContext", "resources"])
def test_the_hardening_rules_see_a_planted_fault(field: str) -> None:
    """A check that cannot fail protects nothing."""
    container = dict(containers(WORKLOADS[0])[0])
    del container[field]
    assert broken(container)


@pytest.mark.parametrize("part", WORKLOADS, ids=name)
def test_selectors_find_the_pods_they_mean(part: Manifest) -> None:
    """A workload, its disruption budget and its service agree on the labels of the pod."""
    labels = part["spec"]["template"]["metadata"]["labels"]
    for other in MANIFESTS:
        if other["metadata"]["name"] != part["metadata"]["name"] or other["kind"] == "Job":
            continue
        selector = other["spec"].get("selector", {})
        assert dict(selector.get("matchLabels", {}) or (selector if other["kind"] == "Service" else {})).items() <= (
            labels.items()
        )


def test_settings_in_the_manifests_are_settings_of_the_code() -> None:
    """A setting renamed in the code is renamed here, or a pod silently runs on a default."""
    known = {f"AFLUENTE_{field.upper()}" for field in Settings.model_fields}
    text = "".join(tree.read(path) for path in tree.files() if path.startswith(FOLDER))
    assert set(re.findall(r"AFLUENTE_[A-Z_]+", text)) <= known


def test_a_worker_keeps_its_name_its_state_and_its_time_to_drain() -> None:
    """A restarted pod is the same static member with the same state, and finishes its batch before it ends."""
    worker = named("StatefulSet/worker")
    env = {entry["name"]: entry for entry in containers(worker)[0]["env"]}
    assert env["AFLUENTE_WORKER_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert [claim["metadata"]["name"] for claim in worker["spec"]["volumeClaimTemplates"]] == ["state"]
    assert pod(worker)["terminationGracePeriodSeconds"] > Settings.model_fields["drain_timeout_s"].default


def test_an_edge_is_given_time_to_leave_its_balancer() -> None:
    """SIGTERM comes at once and is not followed by SIGKILL before the edge has told, let go and answered."""
    edge = named("Deployment/edge")
    assert "lifecycle" not in containers(edge)[0]  # a preStop would only keep the edge from telling
    needed_s = Settings.model_fields["edge_drain_s"].default + LETTING_GO_S + DRAIN_S
    assert pod(edge)["terminationGracePeriodSeconds"] > needed_s
    assert containers(edge)[0]["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_the_secret_is_a_template() -> None:
    """No value of a secret is part of the repository."""
    secrets = [part for part in MANIFESTS if part["kind"] == "Secret"]
    assert secrets
    assert {value for part in secrets for value in part["stringData"].values()} == {""}


def test_only_what_serves_nobody_is_the_owner_of_the_tables() -> None:
    """Row-level security holds for the edge because its role owns nothing; the comparison crosses tenants by nature."""
    for part in WORKLOADS:
        for container in containers(part):
            named_secrets = {source.get("secretRef", {}).get("name") for source in container["envFrom"]}
            assert ("afluente-owner" in named_secrets) is (container["name"] in {"migrate", "reconcile"})


def test_the_network_is_closed_by_default() -> None:
    """A pod that is taken over reaches only what a policy names."""
    policy = named("NetworkPolicy/deny-by-default")["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_edge_scales_and_never_goes_away_as_a_whole() -> None:
    """Two edges at least, one always, and the autoscaler owns their number."""
    assert named("HorizontalPodAutoscaler/edge")["spec"]["minReplicas"] >= 2
    assert named("PodDisruptionBudget/edge")["spec"]["minAvailable"] >= 1
    assert "replicas" not in named("Deployment/edge")["spec"]
