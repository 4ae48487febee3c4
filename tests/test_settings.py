"""The settings: every value, from the environment and from arguments, right, wrong and contradictory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.util.re import parse_env_headers

from otel_agentbus import settings as module
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Origin, Settings, Target
from otel_agentbus.values import Signal

OTLP = "OTEL_EXPORTER_OTLP_"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "AGENTBUS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def pem(tmp_path: Path) -> str:
    file = tmp_path / "some.pem"
    file.write_text("")
    return str(file)


def complaints(**arguments: object) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        Settings(**arguments)
    return str(raised.value).splitlines()


def test_without_variables_every_setting_has_its_default_and_nothing_is_exported() -> None:
    made = Settings()
    assert {made.origin(name).kind for name in Settings.model_fields} == {"default"}
    assert (made.exporters("traces"), made.exporters("metrics")) == ((), ())
    assert (made.exports_traces, made.exports_metrics) == (False, False)


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("AGENTBUS_VALIDATE", "1", "validate_events", True),
        ("AGENTBUS_VALIDATE", " Yes ", "validate_events", True),
        ("AGENTBUS_CONVENTIONS", "2026-10", "conventions", "2026-10"),
        ("AGENTBUS_CONVENTIONS", "BOTH", "conventions", "both"),
        ("AGENTBUS_GRACE", "0", "grace", 0.0),
        ("AGENTBUS_CONTENT_MAX_BYTES", "1024", "content_max_bytes", 1024),
        ("AGENTBUS_ERROR_TEXT", "off", "error_text", False),
        ("AGENTBUS_EXIT_TIMEOUT", "0.5", "exit_timeout", 0.5),
        ("AGENTBUS_SET_GLOBAL", "true", "set_global", True),
        ("AGENTBUS_INSTRUMENT", "none", "instrument", ()),
        ("AGENTBUS_INSTRUMENT", "auto", "instrument", ("auto",)),
        ("AGENTBUS_INSTRUMENT", "Pydantic-AI, crewai,", "instrument", ("pydantic-ai", "crewai")),
        ("AGENTBUS_QUEUE_SIZE", "10", "queue_size", 10),
        ("AGENTBUS_MAX_OPEN_SPANS", "10", "max_open_spans", 10),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "span_and_event", "capture_content", "SPAN_AND_EVENT"),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true", "capture_content", "SPAN_ONLY"),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "False", "capture_content", "NO_CONTENT"),
        ("OTEL_SDK_DISABLED", "TRUE", "sdk_disabled", True),
        ("OTEL_TRACES_EXPORTER", "otlp,console", "traces_exporter", ("otlp", "console")),
        ("OTEL_METRICS_EXPORTER", "none", "metrics_exporter", ()),
        (f"{OTLP}PROTOCOL", "grpc", "protocol", "grpc"),
        (f"{OTLP}TRACES_PROTOCOL", "http/protobuf", "traces_protocol", "http/protobuf"),
        (f"{OTLP}ENDPOINT", "http://collector:4318", "endpoint", "http://collector:4318"),
        (f"{OTLP}METRICS_ENDPOINT", "http://m:1/v1/metrics", "metrics_endpoint", "http://m:1/v1/metrics"),
        (f"{OTLP}TIMEOUT", "2.5", "timeout", 2.5),
        (f"{OTLP}COMPRESSION", "GZIP", "compression", "gzip"),
        (f"{OTLP}INSECURE", "true", "insecure", True),
        ("OTEL_SERVICE_NAME", "shop", "service_name", "shop"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1, b=x%2Cy=z", "resource_attributes", (("a", "1"), ("b", "x,y=z"))),
        ("OTEL_TRACES_SAMPLER", "Always_Off", "sampler", "always_off"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25", "sampler_arg", "0.25"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10", "bsp_max_queue_size", 10),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10", "bsp_max_export_batch_size", 10),
        ("OTEL_BSP_SCHEDULE_DELAY", "100", "bsp_schedule_delay_ms", 100.0),
        ("OTEL_BSP_EXPORT_TIMEOUT", "100", "bsp_export_timeout_ms", 100.0),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100", "metric_interval_ms", 100.0),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "100", "metric_timeout_ms", 100.0),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0", "span_event_limit", 0),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "99", "attribute_length_limit", 99),
    ],
)
def test_a_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, name: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    made = Settings()
    assert getattr(made, name) == value
    assert made.origin(name) == Origin("environment", variable)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(module.variable_of(name), text)
    assert Settings() == Settings(**{name: None})
    assert Settings().origin(name).kind == "default"


def test_an_argument_beats_the_environment_and_none_is_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTBUS_GRACE", "5")
    monkeypatch.setenv("AGENTBUS_INSTRUMENT", "auto")
    made = Settings(grace=1, instrument=None, set_global=True)
    assert (made.grace, made.instrument, made.set_global) == (1.0, ("auto",), True)
    assert made.origin("grace") == Origin("argument", "AGENTBUS_GRACE")
    assert made.origin("instrument") == Origin("environment", "AGENTBUS_INSTRUMENT")
    assert made.origin("id_key") == Origin("default", "AGENTBUS_ID_KEY")


def test_no_argument_switches_a_disabled_sdk_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    made = Settings(sdk_disabled=False, traces_exporter="otlp", metrics_exporter="console")
    assert made.origin("sdk_disabled").kind == "environment"
    assert (made.exports_traces, made.exports_metrics) == (False, False)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().grace = 3.0


def test_equal_values_are_equal_settings_wherever_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    by_argument = Settings(grace=5, headers={"a": "b"})
    assert by_argument != Settings()
    monkeypatch.setenv("AGENTBUS_GRACE", "5.0")
    monkeypatch.setenv(f"{OTLP}HEADERS", "a=b")
    assert by_argument == Settings()
    assert hash(by_argument) == hash(Settings())


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("AGENTBUS_GRACE", "soon", "is 'soon': set it to a number of seconds, 0 or more, such as 2.5, or unset it."),
        ("AGENTBUS_GRACE", "-1", "is '-1': set it to a number of seconds, 0 or more, such as 2.5, or unset it."),
        ("AGENTBUS_EXIT_TIMEOUT", "inf", "is 'inf': set it to a number of seconds above 0, such as 2.5, or unset it."),
        ("AGENTBUS_QUEUE_SIZE", "0", "is '0': set it to a whole number, 1 or more, or unset it."),
        ("AGENTBUS_QUEUE_SIZE", "1e3", "is '1e3': set it to a whole number, 1 or more, or unset it."),
        ("AGENTBUS_VALIDATE", "maybe", "is 'maybe': set it to true or false, or unset it."),
        ("AGENTBUS_CONVENTIONS", "1.42", "is '1.42': set it to 1.41, 2026-10 or both, or unset it."),
        (
            "AGENTBUS_INSTRUMENT",
            "auto,crewai",
            (
                "is 'auto,crewai': none and auto stand alone; "
                "name the frameworks, such as pydantic-ai, or write one of the two."
            ),
        ),
        ("AGENTBUS_ID_KEY", "k" * 65, "is (hidden): it has 65 bytes; give at most 64."),
        (
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
            "all",
            "is 'all': set it to NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, true or false, or unset it.",
        ),
        (
            "OTEL_SDK_DISABLED",
            "1",
            "is '1': set it to true or false; OpenTelemetry takes every other word for false.",
        ),
        *(
            (
                f"OTEL_{signal}_EXPORTER",
                text,
                (
                    f"is '{text}': set it to otlp, to console, to otlp,console or to none; "
                    "for others pass your own provider."
                ),
            )
            for signal in ("TRACES", "METRICS")
            for text in ("jaeger", "none,otlp", ",", "otlp;console")
        ),
        (
            f"{OTLP}PROTOCOL",
            "http/json",
            "is 'http/json': set it to grpc or http/protobuf; Python has no http/json, or unset it.",
        ),
        (f"{OTLP}TIMEOUT", "10s", "is '10s': set it to a number of seconds above 0, such as 2.5, or unset it."),
        (f"{OTLP}METRICS_TIMEOUT", "0", "is '0': set it to a number of seconds above 0, such as 2.5, or unset it."),
        (f"{OTLP}COMPRESSION", "zstd", "is 'zstd': set it to gzip, deflate or none, or unset it."),
        (
            f"{OTLP}INSECURE",
            "1",
            "is '1': set it to true or false; OpenTelemetry takes every other word for false.",
        ),
        (
            f"{OTLP}CERTIFICATE",
            "/no/such.pem",
            "is '/no/such.pem': there is no such file that can be read; give the path of a PEM file.",
        ),
        (
            f"{OTLP}HEADERS",
            "Authorization: Bearer s3cret",
            "is (hidden): entry 1 is not name=value; separate entries by commas and percent-encode values.",
        ),
        (
            f"{OTLP}TRACES_HEADERS",
            "a=1,authorization=Basic s3cret;x",
            (
                "is (hidden): the value of authorization holds a character to be percent-encoded, "
                "such as %3B for a semicolon."
            ),
        ),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "team",
            "is 'team': write name=value,name=value, with a comma inside a value as %2C.",
        ),
        (
            "OTEL_TRACES_SAMPLER",
            "sometimes",
            (
                "is 'sometimes': set it to one of always_on, always_off, parentbased_always_on, "
                "parentbased_always_off, traceidratio, parentbased_traceidratio, or install the package that brings this sampler."
            ),
        ),
        (
            "OTEL_BSP_SCHEDULE_DELAY",
            "5s",
            "is '5s': set it to a number of milliseconds above 0, such as 5000, or unset it.",
        ),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1", "is '-1': set it to a whole number, 0 or more, or unset it."),
        (
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "4096",
            "is '4096': set it to at most OTEL_BSP_MAX_QUEUE_SIZE, or raise that one.",
        ),
    ],
)
def test_a_wrong_variable_is_one_sentence_with_its_name_its_value_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, text)
    assert complaints() == [f"{variable} {sentence}"]


def test_a_wrong_argument_is_named_with_its_variable() -> None:
    assert complaints(grace="soon") == [
        (
            "grace (an argument; its variable is AGENTBUS_GRACE) is 'soon': "
            "set it to a number of seconds, 0 or more, such as 2.5, or unset it."
        )
    ]


def test_an_unknown_argument_is_told_its_nearest_name() -> None:
    assert complaints(gracee=1) == ["Settings has no gracee; did you mean grace?"]
    assert complaints(xyzzy=1) == ["Settings has no xyzzy."]


def test_several_wrong_settings_are_told_in_one_error_and_without_a_traceback_of_pydantic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AGENTBUS_GRACE", "soon")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "2")
    with pytest.raises(ConfigurationError) as raised:
        Settings(queue_size=0)
    assert str(raised.value).splitlines() == [
        "AGENTBUS_GRACE is 'soon': set it to a number of seconds, 0 or more, such as 2.5, or unset it.",
        (
            "queue_size (an argument; its variable is AGENTBUS_QUEUE_SIZE) is 0: "
            "set it to a whole number, 1 or more, or unset it."
        ),
        "OTEL_TRACES_SAMPLER_ARG is '2': set it to a number from 0 to 1, such as 0.1.",
    ]
    assert raised.value.__suppress_context__


@given(st.one_of(st.floats(), st.text(max_size=5)))
def test_a_ratio_sampler_takes_exactly_the_numbers_from_zero_to_one(argument: float | str) -> None:
    try:
        share = float(argument)
    except ValueError:
        share = math.nan
    text = str(argument)
    if 0 <= share <= 1:
        assert Settings(sampler="traceidratio", sampler_arg=text).sampler_arg == text
    else:
        with pytest.raises(ConfigurationError, match="from 0 to 1"):
            Settings(sampler="parentbased_traceidratio", sampler_arg=text)


def test_samplers_without_a_share_ignore_the_argument() -> None:
    assert Settings(sampler="always_on", sampler_arg="whatever").sampler_arg == "whatever"


def test_a_smaller_queue_alone_is_no_contradiction() -> None:
    assert Settings(bsp_max_queue_size=100).bsp_max_queue_size == 100


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_representation_and_in_no_error() -> None:
    secret = "s3cr3t"
    made = Settings(
        id_key=secret,
        headers={"authorization": f"Bearer {secret}"},
        traces_headers=f"x-key={secret}",
        endpoint=f"http://user:{secret}@host:1/?key={secret}",
    )
    target = made.target("traces")
    shown = [repr(made), str(made), repr(target), target.shown, *(made.shown(name) for name in Settings.model_fields)]
    shown += complaints(
        id_key=secret * 20, headers=f"a={secret};", traces_headers=secret, endpoint=made.endpoint, grace=-1
    )
    assert [text for text in shown if secret in text] == []
    assert made.shown("headers") == "authorization=***"
    assert made.shown("id_key") == "***"
    assert made.shown("endpoint") == "http://***@host:1/?***"
    assert made.id_key.get_secret_value() == secret.encode()
    assert target.headers == (("x-key", secret),)


def test_a_representation_tells_what_was_set() -> None:
    assert repr(Settings(grace=1, traces_exporter="none", set_global=True)) == (
        "Settings(grace='1', set_global='true', traces_exporter='none')"
    )


# -- exporters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "traces", "metrics"),
    [
        ({"endpoint": "http://h:1"}, ("otlp",), ("otlp",)),
        ({"traces_endpoint": "http://h:1/v1/traces"}, ("otlp",), ()),
        ({"metrics_endpoint": "http://h:1/v1/metrics"}, (), ("otlp",)),
        ({"traces_exporter": "otlp"}, ("otlp",), ()),
        ({"traces_exporter": "console"}, ("console",), ()),
        ({"endpoint": "http://h:1", "metrics_exporter": "none"}, ("otlp",), ()),
        ({"endpoint": "http://h:1", "traces_exporter": "console,otlp"}, ("console", "otlp"), ("otlp",)),
        ({"endpoint": "http://h:1", "sdk_disabled": True}, (), ()),
        ({"traces_headers": "a=b", "protocol": "grpc"}, (), ()),
    ],
)
def test_something_is_exported_exactly_when_an_endpoint_or_an_exporter_is_set(
    arguments: dict[str, object], traces: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    made = Settings(**arguments)
    assert (made.exporters("traces"), made.exporters("metrics")) == (traces, metrics)
    assert (made.exports_traces, made.exports_metrics) == (bool(traces), bool(metrics))


def test_an_exporter_that_an_application_may_have_installed_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp_proto_grpc")
    assert Settings().exporters("traces") == ("otlp_proto_grpc",)


# -- targets -----------------------------------------------------------------------------------------------------------


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


@given(st.text(alphabet='abK=, ;%2C0"\\\n-/', max_size=24))
def test_headers_are_read_as_the_official_exporters_read_them_or_refused_where_they_drop_some(text: str) -> None:
    entries = [entry for entry in text.split(",") if entry.strip()]
    try:
        made = Settings(headers=text)
    except ConfigurationError:
        assert len(parse_env_headers(text, liberal=True)) < len(entries)
    else:
        assert dict(made.headers.get_secret_value() if made.headers else ()) == dict(
            parse_env_headers(text, liberal=True)
        )


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_every_variable_with_its_default_and_its_meaning() -> None:
    text = module.table()
    assert [name for name in Settings.model_fields if f"`{module.variable_of(name)}`" not in text] == []
    assert text.splitlines()[:3] == [
        "| Variable | Argument | Default | Meaning |",
        "|---|---|---|---|",
        (
            "| `AGENTBUS_VALIDATE` | `validate_events` | false | "
            "Validate every emitted event against the contract; for development. |"
        ),
    ]
    assert all(line.count("|") == 5 for line in text.splitlines())
    assert (
        "| `OTEL_EXPORTER_OTLP_HEADERS` | `headers` | unset | Headers (gRPC: metadata) of each export, such as "
        "authorization=Bearer%20key; never shown. For one signal: `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, "
        "`OTEL_EXPORTER_OTLP_METRICS_HEADERS`. |"
    ) in text


def test_every_setting_is_explained_in_one_sentence() -> None:
    meanings = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert {name for name, meaning in meanings.items() if not meaning.endswith(".") or len(meaning) < 15} == set()
