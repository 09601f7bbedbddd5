"""Dashboards and alerts ask for metrics that exist, in queries that parse, and every alert says what to do."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from app.telemetry import cdc_metrics, metrics
from tests.contract import tree

ALERTS: list[dict[str, Any]] = yaml.safe_load(tree.read("infra/prometheus/alerts.yml"))["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads(tree.read("infra/grafana/dashboards/afluente.json"))
PROMETHEUS: dict[str, Any] = yaml.safe_load(tree.read("infra/prometheus/prometheus.yml"))
RUNBOOK = "docs/RUNBOOK.md"
PAGES = "docs/runbooks/"
SECTIONS = ["Symptom", "Meaning", "First look", "What to do"]
SERIES = "tests/contract/alerts/alerts.test.yml"
# Labels that Prometheus adds to what it scrapes, and the one of a histogram's buckets.
SCRAPE_LABELS = {"job", "instance", "le"}
OWN_SERIES = {"up"}


def expressions() -> Iterator[str]:
    """Every query of the dashboard and the alerts, with Grafana's variables filled in."""
    yield from (rule["expr"] for rule in ALERTS)
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m").replace("$pipeline", ".*")


def series(expression: str) -> set[str]:
    """The names of the series a query reads."""
    names: set[str] = set()

    def visit(node: promql_parser.Expr) -> bool:
        selector = getattr(node, "vector_selector", node)
        if isinstance(selector, promql_parser.VectorSelector) and selector.name:
            names.add(selector.name)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names


def catalogue() -> dict[str, set[str]]:
    """Series name -> its labels, of every metric the code declares."""
    found: dict[str, set[str]] = {}
    for metric in (*vars(metrics).values(), *vars(cdc_metrics).values()):
        if not hasattr(metric, "describe") or not hasattr(metric, "_labelnames"):
            continue
        labels = set(metric._labelnames)
        for family in metric.describe():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            found |= {family.name + suffix: labels for suffix in suffixes}
    return found


@pytest.mark.parametrize("expression", list(expressions()))
def test_each_query_parses_and_reads_only_metrics_that_exist(expression: str) -> None:
    """A metric renamed in the code is renamed in its panels and alerts, or they show nothing when it matters."""
    assert series(expression) <= set(catalogue()) | OWN_SERIES


@pytest.mark.parametrize("expression", list(expressions()))
def test_each_query_groups_by_labels_that_exist(expression: str) -> None:
    """A label renamed in the code would fold every line of a panel into one."""
    known = SCRAPE_LABELS.union(*(catalogue().get(name, set()) for name in series(expression)))
    grouped = {name.strip() for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(",")}
    matched = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|=)", expression))
    assert grouped | matched <= known


def test_every_metric_of_the_code_is_on_the_dashboard_or_in_an_alert() -> None:
    """A number nobody looks at is either missing from the dashboard or not worth counting."""
    used = set().union(*map(series, expressions()))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in catalogue()}
    assert families - {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} == set()


def test_a_metric_that_does_not_exist_would_be_seen() -> None:
    """The check over the queries can fail."""
    assert series("sum(rate(afluente_no_such_total[5m]))") == {"afluente_no_such_total"}
    assert "afluente_no_such_total" not in catalogue()


def test_every_alert_has_its_page_and_links_to_it() -> None:
    """Whoever is woken up finds behind the alert's link what it means, what to look at and what to do."""
    for rule in ALERTS:
        page = rule["annotations"]["runbook"]
        assert page == f"{PAGES}{rule['alert']}.md"
        text = tree.read(page)
        assert text.startswith(f"# {rule['alert']}: ")
        assert re.findall(r"(?m)^## (.+)$", text) == SECTIONS
    names = {rule["alert"] for rule in ALERTS}
    assert {path.removeprefix(PAGES).removesuffix(".md") for path in tree.files() if path.startswith(PAGES)} == names
    assert set(re.findall(r"\(runbooks/(\w+)\.md\)", tree.read(RUNBOOK))) == names


def promtool(*arguments: str) -> str:
    """Prometheus' own tool, of the Debian package prometheus. Its complaint when it has one."""
    tool = shutil.which("promtool")
    assert tool, "promtool is missing: apt-get install prometheus"
    done = subprocess.run([tool, *arguments], cwd=tree.ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_prometheus_accepts_the_rules() -> None:
    """The alerts are valid for Prometheus itself."""
    assert promtool("check", "rules", "infra/prometheus/alerts.yml") == ""


def test_every_alert_rings_on_its_series_and_only_then() -> None:
    """On made-up series each alert is silent before the fault, fires after it, and all are silent when all is well."""
    assert promtool("test", "rules", SERIES) == ""
    tried = {part["name"] for part in yaml.safe_load(tree.read(SERIES))["tests"]}
    assert {rule["alert"] for rule in ALERTS} <= tried


def test_a_rule_that_never_rings_would_be_seen(tmp_path: Path) -> None:
    """The trial above can fail: a limit that nothing reaches is reported."""
    for name in ("infra/prometheus/alerts.yml", SERIES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(tree.read(name).replace("== 0", "== 7"))
    assert "FAILED" in promtool("test", "rules", str(tmp_path / SERIES))


def test_every_alert_says_how_urgent_it_is_and_what_happens() -> None:
    """An alert either wakes a person or opens a ticket, and its first line is a sentence."""
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]


def test_panels_are_told_apart_and_explained() -> None:
    """Each panel has an id of its own, a place of its own and a sentence that says how to read it."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels)


def test_prometheus_scrapes_the_services_of_the_compose_file() -> None:
    """A worker added to the compose file is scraped too, on the port it listens on."""
    services = yaml.safe_load(tree.read("docker-compose.yml"))["services"]
    targets = {t for s in PROMETHEUS["scrape_configs"] for c in s.get("static_configs", ()) for t in c["targets"]}
    workers = {f"{name}:8081" for name in services if name.startswith("worker-")}
    assert targets == workers | {"edge:8000"}
    found = [c for s in PROMETHEUS["scrape_configs"] for c in s.get("dns_sd_configs", ())]
    watch = services["cdc-watch"]
    assert [(c["names"], c["port"]) for c in found] == [(["cdc-watch"], 8084), (["reconcile"], 8085)]
    assert watch["command"] == ["cdc", "watch"]
    assert services["reconcile"]["command"][-3:] == ["--port", "8085", "--json"]


def test_the_dashboard_reads_the_provisioned_source() -> None:
    """The dashboard works as shipped: its source is the one that is provisioned beside it."""
    sources = yaml.safe_load(tree.read("infra/grafana/provisioning/datasources/prometheus.yml"))["datasources"]
    uids = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())}
    assert uids == {source["uid"] for source in sources}
