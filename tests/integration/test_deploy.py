"""docker-compose.yml and what it mounts, checked without a Docker engine, by Compose."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from .backends import COMPOSE_FILE, PROMETHEUS_CONFIG, REPOSITORY
from .build_backends import BACKENDS

DASHBOARDS = REPOSITORY / "deploy" / "grafana" / "dashboards"
DATASOURCE = REPOSITORY / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
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
    target: str
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


@pytest.fixture(scope="module")
def project(compose: list[str]) -> Project:
    """docker-compose.yml, after Compose has found nothing wrong with it."""
    command = [*compose, "-f", str(COMPOSE_FILE), "config", "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, "Compose warns"
    return Project.model_validate_json(result.stdout)


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


def test_grafana_opens_with_a_dashboard_that_is_there(project: Project) -> None:
    """Its home is one of the mounted dashboards."""
    grafana = project.services["grafana"]
    home = Path(grafana.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    mounted = {volume.target: REPOSITORY / volume.source for volume in grafana.volumes}
    assert mounted[str(home.parent)] / home.name == DASHBOARDS / "overview.json"
    assert (DASHBOARDS / "overview.json").is_file()


def test_prometheus_finds_its_rules(project: Project) -> None:
    """What prometheus.yml names as rules is mounted beside it."""
    targets = {volume.target for volume in project.services["prometheus"].volumes}
    rule_files = yaml.safe_load(PROMETHEUS_CONFIG.read_text())["rule_files"]
    assert rule_files
    assert {f"/etc/prometheus/{name}" for name in rule_files} <= targets


def test_the_links_of_exemplars_lead_to_a_trace_in_jaeger() -> None:
    """Grafana has the id of a trace in the label `trace_id`; `$$` is what its provisioning reads as `$`."""
    (source,) = yaml.safe_load(DATASOURCE.read_text())["datasources"]
    assert source["jsonData"]["exemplarTraceIdDestinations"] == [
        {
            "name": "trace_id",
            "url": "http://localhost:16686/trace/$${__value.raw}",
            "urlDisplayLabel": "Open in Jaeger",
        }
    ]
