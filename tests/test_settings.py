"""The settings: every value, from the environment and from arguments, right, wrong and contradictory."""

from __future__ import annotations

import pytest

from otel_agentbus import settings as module
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.targets import Origin
from tests.readme import settings_table
from tests.receivers import forget_environment

OTLP = "OTEL_EXPORTER_OTLP_"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


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


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_every_variable_with_its_default_and_its_meaning() -> None:
    text = settings_table()
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
