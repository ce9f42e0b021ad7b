"""Scrape configuration, rules, their unit tests and the dashboard are accepted by promtool, with our label values."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sandboxd.outcome import Outcome
from tests.deploy.files import DEPLOY, run_tool

ALERTS = DEPLOY / "prometheus/alerts.yml"
DASHBOARD = DEPLOY / "grafana/sandboxd.json"


def expressions_of_rules() -> dict[str, str]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule.get("alert") or rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def expressions_of_dashboard() -> Iterator[tuple[str, str]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]


def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    run_tool("promtool", "check", "config", "prometheus/prometheus.yml", package="prometheus")


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    run_tool("promtool", "test", "rules", "prometheus/alerts_test.yml", package="prometheus")


def test_every_alert_has_a_unit_test_that_fires_and_one_that_does_not() -> None:
    alerts = {name for name in expressions_of_rules() if not name.startswith("sandboxd:")}
    cases = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
    checks = [check for case in cases for check in case.get("alert_rule_test", ())]
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == alerts
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == alerts


def test_promtool_accepts_the_dashboard(tmp_path: Path) -> None:
    rules = []
    for number, (_, expression) in enumerate(expressions_of_dashboard()):
        expression = re.sub(r"\$__rate_interval", "1m", expression)
        rules.append({"record": f"panel:{number}", "expr": re.sub(r"\$(job|instance|binding)\b", ".*", expression)})
    assert len(rules) > 20
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run_tool("promtool", "check", "rules", str(file), package="prometheus")


def outcomes_in(expression: str) -> set[str]:
    found = re.findall(r'sandboxd_requests_total\{[^}]*outcome=~?"([^"]*)"', expression)
    return {outcome for group in found for outcome in group.split("|")}


def test_outcomes_are_those_of_the_server() -> None:
    known = {outcome.value for outcome in Outcome}
    sources = [*expressions_of_rules().items(), *expressions_of_dashboard()]
    for name, expression in sources:
        assert outcomes_in(expression) <= known, name
    callers = {Outcome.BAD_REQUEST, Outcome.NOT_FOUND, Outcome.UNAUTHORIZED, Outcome.CANCELLED, Outcome.COMPLETED}
    at_fault = known - {outcome.value for outcome in callers}
    assert outcomes_in(expressions_of_rules()["sandboxd:requests_at_fault:ratio_rate5m"]) == at_fault
    for name, expression in expressions_of_dashboard():
        if name.startswith("At fault"):
            assert outcomes_in(expression) == at_fault


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
