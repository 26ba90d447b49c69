"""Alerts and dashboards: they parse, they ask for metrics that exist, and alerts wake people when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tests.charts.chart import CHART, ROOT, Render

ALERTS = YAML(typ="safe").load(CHART / "alerts.yaml")
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
QUERIES = [target["expr"] for board in DASHBOARDS.values() for panel in board["panels"] for target in panel["targets"]]
EVERYTHING = ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool, of Prometheus, is not on the PATH")


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def metrics_of_the_code() -> set[str]:
    """Names of all metrics that the operator, the heads and the ranks serve."""
    code = [ROOT / "trainer/windlass/training/sinks.py", ROOT / "trainer/windlass/engine/pods/metrics.py"]
    code += (ROOT / "operator/windlass_operator").rglob("*.py")
    text = "".join(path.read_text() for path in code).replace("{PREFIX}", "windlass_operator")
    return set(re.findall(r'"(windlass_[a-z_]+)"', text))


def metrics_in(query: str) -> set[str]:
    """Names of a query's metrics, as the code has them."""
    return {
        re.sub(r"_(total|bucket|sum|count|info)$", "", name) for name in re.findall(r"windlass_[a-z_]+[a-z]", query)
    }


def test_alerts_and_dashboards_ask_for_metrics_that_exist() -> None:
    asked = set().union(*(metrics_in(query) for query in QUERIES + [rule["expr"] for rule in RULES]))
    assert len(asked) > 25
    assert asked - metrics_of_the_code() == set()


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("check", "rules", CHART / "alerts.yaml")
    promtool("test", "rules", ROOT / "tests/charts/alerts.test.yaml")


def test_every_alert_has_a_test_and_a_line_in_the_documentation() -> None:
    names = {rule["alert"] for rule in RULES}
    assert names == set(re.findall(r"alertname: (\w+)", (ROOT / "tests/charts/alerts.test.yaml").read_text()))
    assert names == set(re.findall(r"`(Windlass[A-Z]\w+)`", (ROOT / "docs/operator.md").read_text()))


def test_the_documentation_lists_the_metrics_of_operator_and_heads() -> None:
    page = (ROOT / "docs/operator.md").read_text()
    listed = {name.removesuffix("_total") for name in re.findall(r"`(windlass_(?:operator|job)_\w+)`", page)}
    assert listed == {name for name in metrics_of_the_code() if re.match(r"windlass_(operator|job)_", name)}


@needs_promtool
def test_the_queries_of_the_dashboards_parse(tmp_path: Path) -> None:
    variables = {"$__rate_interval": "5m", "$namespace": ".*", "$job": ".*"}
    rules = []
    for number, query in enumerate(QUERIES):
        for name, value in variables.items():
            query = query.replace(name, value)
        rules.append({"record": f"query:{number}", "expr": query})
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("check", "rules", file)


@pytest.mark.parametrize("board", DASHBOARDS.values(), ids=DASHBOARDS)
def test_the_panels_of_a_dashboard_have_titles_and_places_of_their_own(board: dict[str, Any]) -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24, "a dashboard is 24 columns wide"
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    assert {variable["name"] for variable in board["templating"]["list"]} >= {"datasource", "namespace"}


def test_monitoring_is_made_when_asked_for_and_not_else(render: Render) -> None:
    kinds = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"}
    assert not kinds & {item["kind"] for item in render()}

    labels = [f"monitoring.{part}.labels.release=prometheus" for part in EVERYTHING]
    objects = render(*(f"monitoring.{part}.create=true" for part in EVERYTHING), *labels)
    made = [item for item in objects if item["kind"] in kinds]
    assert {item["kind"] for item in made} == kinds
    assert all(item["metadata"]["labels"]["release"] == "prometheus" for item in made)
    assert objects.one("PrometheusRule")["spec"] == ALERTS
    shown = {name: json.loads(text) for item in objects.of("ConfigMap") for name, text in item["data"].items()}
    assert shown == {f"windlass-{name}.json": board for name, board in DASHBOARDS.items()}


def test_the_monitors_find_the_operators_service_and_all_jobs_pods(render: Render) -> None:
    values = ("monitoring.serviceMonitor.create=true", "monitoring.podMonitor.create=true")
    objects = render(*values)
    service, monitor = objects.one("Service"), objects.one("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]

    pods = objects.one("PodMonitor", "windlass-operator-jobs")["spec"]
    assert pods["jobLabel"] == "windlass.dev/job", "so that a job's metrics have its name, as on one machine"
    assert pods["namespaceSelector"] == {"any": True}
    some = render(*values, "watchNamespaces={team-a}").one("PodMonitor", "windlass-operator-jobs")["spec"]
    assert some["namespaceSelector"] == {"matchNames": ["team-a"]}
