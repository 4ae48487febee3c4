"""What a variable may say: wrong values in one sentence each, and headers as the exporters read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.util.re import parse_env_headers

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from tests.receivers import forget_environment

OTLP = "OTEL_EXPORTER_OTLP_"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


def complaints(**arguments: object) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        Settings(**arguments)
    return str(raised.value).splitlines()


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
                "parentbased_always_off, traceidratio, parentbased_traceidratio, "
                "or install the package that brings this sampler."
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
            "32768",
            "is '32768': set it to at most OTEL_BSP_MAX_QUEUE_SIZE, or raise that one.",
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
