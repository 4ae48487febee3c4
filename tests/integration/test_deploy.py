"""docker-compose.yml and what it mounts, checked without a Docker engine: by Compose, Prometheus and the Collector."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel, Field

from .backends import COMPOSE_FILE, REPOSITORY, Collector, Prometheus, eventually
from .build_backends import BACKENDS
from .plain_sdk import ATTRIBUTES, METRICS, count_everything

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "agents.json"
SERVICES = ("collector", "grafana", "jaeger", "prometheus")

# The image that belongs to what the tests build: module versions are not release versions, and Jaeger's modules end
# with 1.76.0 (2.13.0); the image is newer, for its pages.
RELEASES = {"jaeger": {"1.76.0": "2.20.0"}, "prometheus": {"0.313.5": "v3.13.5"}, "collector": {"0.155.0": "0.155.0"}}


class Port(BaseModel):
    """A published port, as Compose reads it."""

    host_ip: str = ""
    published: str
    target: int


class Healthcheck(BaseModel):
    """A container's health check."""

    test: list[str]


class Volume(BaseModel):
    """A mounted file or directory."""

    type: str
    source: str
    read_only: bool = False


class Service(BaseModel):
    """One service, as Compose reads it."""

    image: str
    healthcheck: Healthcheck
    ports: list[Port]
    volumes: list[Volume] = []
    environment: dict[str, str] = {}


class Project(BaseModel):
    """The whole file, as Compose reads it."""

    services: dict[str, Service]


class Target(BaseModel):
    """A query of a panel."""

    expr: str


class Panel(BaseModel):
    """A panel of the dashboard; a row has no queries."""

    title: str
    type: str
    targets: list[Target] = []


class Dashboard(BaseModel):
    """What the tests read of the dashboard."""

    uid: str
    schema_version: int = Field(alias="schemaVersion")
    panels: list[Panel]

    def queries(self) -> Iterator[tuple[str, str]]:
        """The queries by the title of their panel."""
        return ((panel.title, target.expr) for panel in self.panels for target in panel.targets)


@pytest.fixture(scope="module")
def project(compose: list[str]) -> Project:
    """docker-compose.yml, after Compose has found nothing wrong with it."""
    command = [*compose, "-f", str(COMPOSE_FILE), "config", "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, "Compose warns"
    return Project.model_validate_json(result.stdout)


@pytest.fixture(scope="module")
def dashboard() -> Dashboard:
    return Dashboard.model_validate_json(DASHBOARD.read_text())


def test_the_stack_is_collector_jaeger_prometheus_and_grafana(project: Project) -> None:
    """Compose accepts the file and finds four services, each with a health check."""
    assert tuple(sorted(project.services)) == SERVICES
    assert all(service.healthcheck.test[0] == "CMD" for service in project.services.values())


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_pinned_to_a_release(project: Project, service: str) -> None:
    """No image is a moving target."""
    assert re.fullmatch(r"[a-z0-9/-]+:v?\d+\.\d+\.\d+", project.services[service].image)


@pytest.mark.parametrize("backend", sorted(RELEASES))
def test_an_image_is_the_version_that_the_tests_build(project: Project, backend: str) -> None:
    """What is tested here is what runs there."""
    _name, tag = project.services[backend].image.split(":")
    assert tag == RELEASES[backend][BACKENDS[backend].version]


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_on_loopback_alone(project: Project, service: str) -> None:
    """Nothing of the stack can be reached from another machine."""
    ports = project.services[service].ports
    assert ports
    assert {port.host_ip for port in ports} == {"127.0.0.1"}


def test_an_application_finds_otlp_where_it_expects_it(project: Project) -> None:
    """The endpoints that the README names are the published ones."""
    published = {port.published: port.target for port in project.services["collector"].ports}
    assert (published["4317"], published["4318"]) == (4317, 4318)


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_exists_and_is_read_only(project: Project, service: str) -> None:
    """Docker would make an empty directory of a missing file, and the service would start without its configuration."""
    for volume in project.services[service].volumes:
        assert REPOSITORY.joinpath(volume.source).exists()
        assert volume.read_only


def test_grafana_fetches_nothing(project: Project) -> None:
    """No plugin, no update check and no news: the stack works without internet."""
    environment = project.services["grafana"].environment
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    assert "GF_INSTALL_PLUGINS" not in environment
    assert all(value == "false" for name, value in environment.items() if "CHECK_FOR" in name or "FEED" in name)


def test_the_dashboard_needs_no_plugin(dashboard: Dashboard) -> None:
    """All panels are of kinds that are part of Grafana."""
    assert {panel.type for panel in dashboard.panels} <= {"row", "stat", "timeseries", "bargauge"}
    rows = [panel.title for panel in dashboard.panels if panel.type == "row"]
    assert rows == ["Tokens and cost", "Latency", "Errors"]


def test_the_dashboard_asks_for_metrics_and_labels_that_exist(dashboard: Dashboard) -> None:
    """Every name in a query is a metric of the design as Prometheus calls it, every label an attribute of one."""
    known = {metric.prometheus + (metric.instrument == "histogram") * "_bucket" for metric in METRICS}
    labels = {"le", "job", *(name.replace(".", "_") for name in ATTRIBUTES)}
    for title, query in dashboard.queries():
        assert set(re.findall(r"\b(?:agentbus|gen_ai)_\w+(?=\{)", query)) <= known, title
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        matched = set(re.findall(r"[{,](\w+)=", query))
        assert grouped | matched <= labels, title


def test_every_panel_shows_a_program_that_ran_for_a_moment(
    dashboard: Dashboard, collector: Collector, prometheus: Prometheus
) -> None:
    """A program that exports once and ends, as a demo does, is seen in all panels, by Prometheus itself."""
    service = "deploy"
    count_everything(collector, "http", service, amount=0.25)
    for title, query in dashboard.queries():
        series = _shown(prometheus, query, service, time_range="1h")
        assert any(value > 0 for _labels, value in series), f"{title}: {query} gives {series}"


def test_totals_are_exact(dashboard: Dashboard, collector: Collector, prometheus: Prometheus) -> None:
    """Sums of tokens and money over a time are what was counted in it, not an extrapolation."""
    service = "totals"
    count_everything(collector, "http", service, amount=0.125)
    query = next(query for title, query in dashboard.queries() if title == "Cost")
    for time_range in ("1m", "1h"):
        assert _shown(prometheus, query, service, time_range) == [({}, 0.125)]


def _shown(prometheus: Prometheus, query: str, service: str, time_range: str) -> list[tuple[dict[str, str], float]]:
    """What a panel shows of a service, once there is something."""
    for variable, value in {"$__rate_interval": "1m", "$__range": time_range, "$service": service}.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return eventually(
        lambda: prometheus.query(query), lambda series: any(value > 0 for _labels, value in series), timeout=15
    )
