"""The target of a signal: its endpoint, protocol, headers and files, and what contradicts one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otel_agentbus import settings as module
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.targets import Target
from otel_agentbus.values import Signal
from tests.receivers import forget_environment

OTLP = "OTEL_EXPORTER_OTLP_"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


@pytest.fixture
def pem(tmp_path: Path) -> str:
    file = tmp_path / "some.pem"
    file.write_text("")
    return str(file)


def complaints(**arguments: object) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        Settings(**arguments)
    return str(raised.value).splitlines()


def endpoint(signal: Signal, **arguments: object) -> str:
    return Settings(**arguments).target(signal).endpoint


def test_the_target_without_any_variable_is_the_local_receiver() -> None:
    assert Settings().target("metrics") == Target(
        signal="metrics",
        protocol="http/protobuf",
        endpoint="http://localhost:4318/v1/metrics",
        timeout=10.0,
        compression="none",
        insecure=True,
        certificate=None,
        client_key=None,
        client_certificate=None,
        credential_provider=None,
        headers=(),
        withheld=frozenset(),
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"endpoint": "http://h:1"}, "http://h:1/v1/traces"),
        ({"endpoint": "http://h:1/"}, "http://h:1/v1/traces"),
        ({"endpoint": "https://h/api/otlp/"}, "https://h/api/otlp/v1/traces"),
        ({"endpoint": "https://h/otlp?key=1"}, "https://h/otlp/v1/traces?key=1"),
        ({"endpoint": "http://[::1]:4318"}, "http://[::1]:4318/v1/traces"),
        ({"endpoint": "http://h:1", "traces_endpoint": "http://t:2"}, "http://t:2"),
        ({"endpoint": "http://h:1", "metrics_endpoint": "http://m:2"}, "http://h:1/v1/traces"),
        ({"protocol": "grpc"}, "http://localhost:4317"),
        ({"endpoint": "h:4317", "protocol": "grpc"}, "h:4317"),
        ({"endpoint": "http://h:1", "traces_protocol": "grpc"}, "http://h:1"),
    ],
)
def test_over_http_a_base_url_gets_the_signals_path_and_a_signals_url_stays(
    arguments: dict[str, object], expected: str
) -> None:
    assert endpoint("traces", **arguments) == expected


def test_a_signals_own_settings_replace_the_general_ones(pem: str) -> None:
    made = Settings(
        protocol="grpc",
        endpoint="http://h:4317",
        headers="a=1,b=2",
        timeout=1,
        compression="gzip",
        certificate=pem,
        metrics_protocol="http/protobuf",
        metrics_endpoint="https://m/v1/metrics",
        metrics_headers="c=3",
        metrics_timeout=2,
        metrics_compression="deflate",
    )
    traces, metrics = made.target("traces"), made.target("metrics")
    assert (traces.protocol, traces.headers, traces.timeout, traces.compression, traces.insecure) == (
        "grpc",
        (("a", "1"), ("b", "2")),
        1.0,
        "gzip",
        True,
    )
    assert (metrics.protocol, metrics.headers, metrics.timeout, metrics.compression, metrics.insecure) == (
        "http/protobuf",
        (("c", "3"),),
        2.0,
        "deflate",
        False,
    )
    assert (traces.certificate, metrics.certificate) == (pem, pem)
    assert [made.deciding(signal, "headers") for signal in ("traces", "metrics")] == ["headers", "metrics_headers"]


@pytest.mark.parametrize(
    ("url", "insecure", "plain"),
    [
        ("http://h:1", False, True),
        ("http://h:1", True, True),
        ("https://h:1", True, False),
        ("h:1", False, False),
        ("h:1", True, True),
    ],
)
def test_over_grpc_the_scheme_decides_about_tls_and_without_one_the_variable(
    url: str, insecure: bool, plain: bool
) -> None:
    assert Settings(protocol="grpc", endpoint=url, insecure=insecure).target("traces").insecure is plain


def test_headers_that_arguments_replace_are_withheld_from_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{OTLP}HEADERS", "Authorization=Bearer%20x, tenant=1")
    assert Settings().target("traces").withheld == frozenset()
    assert Settings(headers={"Tenant": "2"}).target("traces").withheld == {"authorization"}
    monkeypatch.setenv(f"{OTLP}TRACES_HEADERS", "x=1")
    assert Settings(traces_headers="y=1").target("traces").withheld == {"x"}


def test_credential_plugins_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_METRICS_CREDENTIAL_PROVIDER", "gcp")
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER", "aws")
    made = Settings(traces_protocol="grpc")
    assert made.target("metrics").credential_provider == "gcp"
    assert made.target("traces").credential_provider == "aws"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"endpoint": "localhost:4318"},
            (
                "is localhost:4318: over HTTP write http://host:port or https://host:port, "
                "or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc."
            ),
        ),
        ({"endpoint": "http://h:port"}, "is http://h:port: it is not a URL; write it like http://localhost:4318."),
        ({"endpoint": "http://h :1"}, "is http://h :1: it is not a URL; write it like http://localhost:4318."),
        (
            {"endpoint": "ftp://h:1", "protocol": "grpc"},
            "is ftp://h:1: over gRPC write host:port, http://host:port or https://host:port.",
        ),
        ({"compression": "deflate", "protocol": "grpc"}, "is deflate: over gRPC set it to gzip or none."),
        (
            {"headers": {"x!": "1"}, "protocol": "grpc"},
            "is x!=***: grpc cannot carry a header of the name 'x!'; rename it.",
        ),
        (
            {"headers": {"x": "ü"}, "protocol": "grpc"},
            "is x=***: grpc cannot carry the value of x; it must be one line of printable ASCII.",
        ),
        (
            {"headers": "x=a%0Ab"},
            "is x=***: http/protobuf cannot carry the value of x; it must be one line of printable ASCII.",
        ),
    ],
)
def test_what_does_not_fit_its_protocol_is_told_when_that_protocol_is_chosen_or_the_target_needed(
    arguments: dict[str, Any], sentence: str
) -> None:
    name = next(iter(arguments))
    expected = [f"{name} (an argument; its variable is {module.variable_of(name)}) {sentence}"]
    protocol = arguments.pop("protocol", "http/protobuf")
    assert complaints(**arguments, protocol=protocol) == expected
    if protocol != "grpc":
        with pytest.raises(ConfigurationError) as raised:
            Settings(**arguments).target("traces")
        assert str(raised.value).splitlines() == expected


def test_an_endpoint_for_an_applications_own_grpc_exporter_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own default protocol is gRPC: with it this is a good endpoint, and we may never use it."""
    monkeypatch.setenv(f"{OTLP}ENDPOINT", "localhost:4317")
    assert Settings().endpoint == "localhost:4317"


def test_a_client_key_and_its_certificate_need_one_another(pem: str) -> None:
    assert complaints(client_key=pem, protocol="http/protobuf") == [
        (
            f"client_key (an argument; its variable is {OTLP}CLIENT_KEY) is {pem}: "
            f"a client key needs a client certificate; set {OTLP}CLIENT_CERTIFICATE too."
        )
    ]
    assert complaints(client_certificate=pem, protocol="grpc") == [
        f"{OTLP}CLIENT_KEY is unset: over gRPC a client certificate needs a key; set {OTLP}CLIENT_KEY too."
    ]
    assert Settings(client_certificate=pem).target("traces").client_certificate == pem


def test_a_timeout_on_which_the_grpc_exporter_itself_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{OTLP}TRACES_TIMEOUT", "")
    assert Settings().target("traces").timeout == 10.0
    assert complaints(protocol="grpc") == [
        f"{OTLP}TRACES_TIMEOUT is '': the gRPC exporter reads it by itself and fails on that; unset it."
    ]
