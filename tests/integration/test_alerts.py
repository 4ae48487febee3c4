"""Every alert rule, provoked in a real Prometheus that scrapes the real Collector, and silent where all is well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from otel_agentbus.telemetry import instruments as m
from otel_agentbus.telemetry import names

from .backends import PROMETHEUS_CONFIG, Alert, Collector, Prometheus, eventually
from .conftest import required
from .plain_sdk import Measurement, measure
from .test_command_line import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .backends import Jaeger

PATIENCE = 20.0  # seconds until a scrape and an evaluation must have come

MODEL = {names.PROVIDER: "openai", names.REQUEST_MODEL: "gpt-5-mini", names.AGENT_NAME: "planner"}
OK, ERROR = {names.OUTCOME: "ok"}, {names.OUTCOME: "error"}
AGENT = {names.AGENT_NAME: "planner"}
TOOL = {names.TOOL_NAME: "search", **AGENT}

HEALTHY = [
    *(Measurement(m.AGENT_RUNS, number, AGENT | outcome) for number, outcome in ((100, OK), (2, ERROR))),
    *(Measurement(m.LLM_CALLS, number, MODEL | outcome) for number, outcome in ((200, OK), (4, ERROR))),
    *(Measurement(m.TOOL_CALLS, number, TOOL | outcome) for number, outcome in ((100, OK), (4, ERROR))),
    Measurement(m.COST_SPENT, 1.0, MODEL | {names.COST_SOURCE: "priced"}),
    Measurement(m.BUDGET_USED, 0.79, {names.BUDGET: "daily"}),
    Measurement(m.BUDGET_THRESHOLDS, 1, {names.BUDGET: "daily", names.THRESHOLD: "0.5"}),
    Measurement(m.AGENT_ACTIVE, 3, AGENT),
    Measurement(m.HEARTBEATS, 10, {}),
    Measurement(m.SPANS_OPEN, 3, {}),
    Measurement(m.HEALTH["events.emitted"], 1000, {}),
    Measurement(m.HEALTH["spans.exported"], 500, {}),
    *(
        Measurement(m.HEALTH[key], 0, {})
        for key in ("events.dropped", "spans.dropped", "spans.rejected", "spans.spooled")
    ),
    Measurement(m.DEPLOYMENTS, 3, {names.DEPLOYMENT_STATUS: "succeeded"}),
    Measurement(m.DEPLOYMENT_OPEN, 0, {}),
    Measurement(m.RECOVERY_OPEN, 0, {}),
]

# What makes each alert speak, by the alert and the case.
ILLS: dict[tuple[str, str], list[Measurement]] = {
    ("AgentBudgetNearlyUsed", "at 80 %"): [Measurement(m.BUDGET_USED, 0.8, {names.BUDGET: "daily"})],
    ("AgentBudgetExceeded", "now"): [Measurement(m.BUDGET_USED, 1.0, {names.BUDGET: "daily"})],
    ("AgentBudgetExceeded", "between two exports"): [
        Measurement(m.BUDGET_THRESHOLDS, 1, {names.BUDGET: "per-run", names.THRESHOLD: "1"})
    ],
    ("AgentBudgetExceeded", "by half"): [
        Measurement(m.BUDGET_THRESHOLDS, 1, {names.BUDGET: "per-run", names.THRESHOLD: "1.5"})
    ],
    ("AgentCallsUnpriced", "unknown"): [
        Measurement(m.LLM_CALLS, 1, MODEL | OK),
        Measurement(m.UNPRICED_CALLS, 1, MODEL | {names.REASON: "unknown_model"}),
    ],
    ("AgentCallsUnpriced", "without usage"): [
        Measurement(m.LLM_CALLS, 5, MODEL | OK),
        Measurement(m.UNPRICED_CALLS, 1, MODEL | {names.REASON: "no_usage"}),
    ],
    ("AgentRunsFailing", "half of them"): [
        Measurement(m.AGENT_RUNS, 5, AGENT | OK),
        Measurement(m.AGENT_RUNS, 5, AGENT | ERROR),
    ],
    ("AgentRunsFailing", "all of them"): [Measurement(m.AGENT_RUNS, 5, AGENT | ERROR)],
    ("AgentModelCallsFailing", "every fourth"): [
        Measurement(m.LLM_CALLS, 15, MODEL | OK),
        Measurement(m.LLM_CALLS, 5, MODEL | ERROR),
    ],
    ("AgentToolCallsFailing", "half of them"): [
        Measurement(m.TOOL_CALLS, 10, TOOL | OK),
        Measurement(m.TOOL_CALLS, 10, TOOL | ERROR),
    ],
    ("AgentEventsDropped", "one"): [Measurement(m.HEALTH["events.dropped"], 1, {names.REASON: "ring_full"})],
    ("AgentSpansLost", "dropped"): [Measurement(m.HEALTH["spans.dropped"], 1, {})],
    ("AgentSpansLost", "rejected"): [Measurement(m.HEALTH["spans.rejected"], 1, {})],
    ("AgentSpoolGrowing", "one"): [Measurement(m.HEALTH["spans.spooled"], 1, {})],
    ("AgentDeploymentNotRecovered", "one"): [Measurement(m.RECOVERY_OPEN, 1, {})],
    ("AgentDeploymentUnfinished", "one"): [Measurement(m.DEPLOYMENT_OPEN, 1, {})],
}
#: What no measurement provokes, but that nothing is measured any more.
SILENCE = {"AgentTelemetryEndpointDown", "AgentRunsVanished", "AgentServiceSilent"}


@pytest.fixture(scope="module")
def healthy(collector: Collector) -> str:
    """The service of a program that is well."""
    measure(collector, "healthy", HEALTHY)
    return "healthy"


@pytest.fixture(scope="module")
def ills(collector: Collector, healthy: str) -> dict[tuple[str, str], str]:
    """The services of programs each of which has one thing that an alert is about."""
    services = {ill: f"ill-{number}" for number, ill in enumerate(ILLS)}
    for ill, service in services.items():
        measure(collector, service, ILLS[ill])
    return services


@pytest.fixture
def own_collector(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[Collector]:
    """A Collector that may be stopped."""
    server = Collector(required("collector"), tmp_path_factory.mktemp("collector"), jaeger)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_prometheus(tmp_path_factory: pytest.TempPathFactory, own_collector: Collector) -> Iterator[Prometheus]:
    """A Prometheus that scrapes it."""
    server = Prometheus(required("prometheus"), tmp_path_factory.mktemp("prometheus"), own_collector)
    server.start()
    yield server
    server.stop()


def test_prometheus_loads_all_rules(prometheus: Prometheus) -> None:
    """Each rule of the file is there and has been evaluated without an error."""
    shipped = yaml.safe_load((PROMETHEUS_CONFIG.parent / "alerts.yml").read_text())
    written = [rule["alert"] for group in shipped["groups"] for rule in group["rules"]]
    rules = eventually(prometheus.rules, lambda found: all(rule.health != "unknown" for rule in found), PATIENCE)
    loaded = sorted((rule.name, rule.health, rule.last_error) for rule in rules)
    assert loaded == [(name, "ok", "") for name in sorted(written)]


def test_each_alert_is_provoked_here(prometheus: Prometheus) -> None:
    """No rule is without a test."""
    assert {rule.name for rule in prometheus.rules()} == {alert for alert, _case in ILLS} | SILENCE


@pytest.mark.parametrize(("alert", "case"), ILLS)
def test_an_ill_is_told(alert: str, case: str, prometheus: Prometheus, ills: dict[tuple[str, str], str]) -> None:
    """The one alert that it is about, with a text in which nothing is missing."""
    told = alerts_of(prometheus, ills[alert, case])
    assert [each.labels["alertname"] for each in told] == [alert]
    (text,) = (each.annotations["summary"] + each.annotations["description"] for each in told)
    assert ills[alert, case] in text
    assert "<" not in text  # neither "<no value>" nor "<error expanding template"


def test_a_program_that_is_well_is_left_alone(
    prometheus: Prometheus, healthy: str, ills: dict[tuple[str, str], str]
) -> None:
    """A few errors, a budget in use, runs that go on and a spool that is empty are no alert."""
    assert all(alerts_of(prometheus, service) for service in ills.values())  # they came later, and have been judged
    assert prometheus.query(f'agentbus_agent_active{{job="{healthy}"}}'), "it is seen"
    assert all_alerts(prometheus, healthy) == []


def test_the_demo_is_left_alone(collector: Collector, prometheus: Prometheus, tmp_path: Path) -> None:
    """Where the budget is ample and all has a price: a refused call or a failing tool are usual."""
    service, budgets, prices = "demo-without-alerts", tmp_path / "budgets.toml", tmp_path / "prices.toml"
    budgets.write_text('[[budget]]\nname = "ample"\ntokens = 1_000_000_000\n')
    prices.write_text('[[price]]\nprovider = "ollama"\nmodel = "*"\ninput = 0\noutput = 0\n')
    done = run(
        "demo",
        "--fast",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.otlp_http_endpoint,
        OTEL_SERVICE_NAME=service,
        AGENTBUS_BUDGETS=str(budgets),
        AGENTBUS_PRICES=str(prices),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = eventually(lambda: prometheus.query(f'agentbus_agent_runs_total{{job="{service}"}}'), bool, PATIENCE)
    assert seen
    # a program that is ill came later, and has been judged
    measure(collector, "after-the-demo", [Measurement(m.RECOVERY_OPEN, 1, {})])
    assert alerts_of(prometheus, "after-the-demo")
    assert all_alerts(prometheus, service) == []


def test_silence_is_told(own_collector: Collector, own_prometheus: Prometheus) -> None:
    """A Collector that is gone, then programs that are gone: who had runs, and who had a keep-alive loop."""
    for service, measurements in {
        "killed": [Measurement(m.AGENT_ACTIVE, 2, AGENT)],
        "stopped": [Measurement(m.HEARTBEATS, 20, {}), Measurement(m.AGENT_ACTIVE, 0, AGENT)],
        "ended": [Measurement(m.HEARTBEATS, 1, {}), Measurement(m.AGENT_ACTIVE, 0, AGENT)],
    }.items():
        measure(own_collector, service, measurements)
        assert eventually(lambda: own_prometheus.query(f'{{job="{service}"}}'), bool, PATIENCE)  # noqa: B023 - called here
    assert names_of(own_prometheus) == set()

    own_collector.stop()  # and with it the whole page
    endpoint_down = {("AgentTelemetryEndpointDown", "collector")}
    assert eventually(lambda: names_of(own_prometheus), bool, PATIENCE) == endpoint_down

    own_collector.start()  # the page is back, the programs are not
    silent = {("AgentRunsVanished", "killed"), ("AgentServiceSilent", "stopped")}
    assert eventually(lambda: names_of(own_prometheus), lambda found: found == silent, PATIENCE) == silent


def names_of(prometheus: Prometheus) -> set[tuple[str, str]]:
    """The alerts that are pending or firing, with the services that they are about."""
    return {(alert.labels["alertname"], alert.labels["job"]) for rule in prometheus.rules() for alert in rule.alerts}


def all_alerts(prometheus: Prometheus, service: str) -> list[Alert]:
    """What is pending or firing about this service now."""
    return [alert for rule in prometheus.rules() for alert in rule.alerts if alert.labels.get("job") == service]


def alerts_of(prometheus: Prometheus, service: str) -> list[Alert]:
    """What is pending or firing about this service, once there is something."""
    return eventually(lambda: all_alerts(prometheus, service), bool, PATIENCE)
