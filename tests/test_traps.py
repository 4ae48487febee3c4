"""The traps: from what was observed to one sentence each."""

from __future__ import annotations

from typing import Any

import pytest

from otel_agentbus.cli.traps import Facts, findings
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.probe import Answer, Outcome
from otel_agentbus.values import Protocol, Signal
from tests.receivers import forget_environment


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


def answer(
    outcome: Outcome, signal: Signal = "traces", endpoint: str = "", protocol: Protocol = "http/protobuf", **more: Any
) -> Answer:
    return Answer(signal, protocol, endpoint or f"http://h:4318/v1/{signal}", outcome, **more)


def problems(*given: Answer, settings: dict[str, object] | None = None, **facts: Any) -> list[str]:
    made = Settings(**({"endpoint": "http://h:4318", "service_name": "shop"} | (settings or {})))
    return [found.sentence for found in findings(Facts(made, given, **facts)) if found.level == "problem"]


def hints(*given: Answer, settings: dict[str, object] | None = None, **facts: Any) -> list[str]:
    made = Settings(**({"endpoint": "http://h:4318", "service_name": "shop"} | (settings or {})))
    return [found.sentence for found in findings(Facts(made, given, **facts)) if found.level == "hint"]


GOOD = (answer("accepted"), answer("accepted", "metrics"))


def test_accepted_probes_are_no_problem() -> None:
    assert problems(*GOOD) == []


@pytest.mark.parametrize(
    ("given", "settings", "sentence"),
    [
        (
            answer("broken", speaks="http/2"),
            {},
            (
                "http://h:4318 is a gRPC port, but OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf: "
                "set it to grpc, or set OTEL_EXPORTER_OTLP_ENDPOINT to the HTTP port, usually 4318."
            ),
        ),
        (
            answer("broken", endpoint="h:4317", protocol="grpc", speaks="http/1"),
            {"endpoint": "h:4317", "traces_protocol": "grpc", "insecure": True},
            (
                "h:4317 is an HTTP port, but OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is grpc: "
                "set it to http/protobuf, or set OTEL_EXPORTER_OTLP_ENDPOINT to the gRPC port, usually 4317."
            ),
        ),
        (
            answer("broken", protocol="grpc", words="Trying to connect an http1.x server"),
            {"protocol": "grpc"},
            (
                "http://h:4318 is an HTTP port, but OTEL_EXPORTER_OTLP_PROTOCOL is grpc: "
                "set it to http/protobuf, or set OTEL_EXPORTER_OTLP_ENDPOINT to the gRPC port, usually 4317."
            ),
        ),
        (
            answer("refused", endpoint="http://h:4318", code="404"),
            {"traces_endpoint": "http://h:4318"},
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is used as it stands, without /v1/traces: "
                "append that, or set OTEL_EXPORTER_OTLP_ENDPOINT."
            ),
        ),
        (
            answer("refused", endpoint="http://h:4318/v1/traces/v1/traces", code="404"),
            {"endpoint": "http://h:4318/v1/traces"},
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT is a base URL, to which /v1/traces is appended once more "
                "(/v1/traces/v1/traces): cut its own /v1/... off, "
                "or call the variable OTEL_EXPORTER_OTLP_TRACES_ENDPOINT."
            ),
        ),
        (
            answer("refused", code="401", words="who?"),
            {"traces_headers": "a=b"},
            (
                "http://h:4318/v1/traces refused traces with 401 (who?): check the key in "
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS."
            ),
        ),
        (
            answer("refused", code="404"),
            {},
            (
                "http://h:4318/v1/traces refused traces with 404: it is no OTLP receiver for traces; "
                "check OTEL_EXPORTER_OTLP_ENDPOINT."
            ),
        ),
        (
            answer("refused", code="503"),
            {},
            "http://h:4318/v1/traces refused traces with 503: it is overloaded or not ready; try again.",
        ),
        (
            answer("refused", code="400", words="bad"),
            {},
            "http://h:4318/v1/traces refused traces with 400 (bad): its words say why.",
        ),
        (
            answer("partial", rejected=1, words="too old"),
            {},
            (
                "http://h:4318/v1/traces took the traces and rejected 1 of them (too old): "
                "the receiver's own settings say why."
            ),
        ),
        (
            answer("redirected", code="301", words="https://h/v1/traces"),
            {},
            (
                "http://h:4318/v1/traces redirects with 301 (https://h/v1/traces), which exporters do not follow "
                "and take for success: set OTEL_EXPORTER_OTLP_ENDPOINT to the final URL."
            ),
        ),
        (
            answer("timeout", seconds=10.0),
            {},
            (
                "http://h:4318/v1/traces did not answer within 10.0 s: is the receiver healthy, "
                "and is a firewall or proxy between?"
            ),
        ),
        (
            answer("closed"),
            {},
            (
                "Nothing listens at http://h:4318: start the receiver or correct OTEL_EXPORTER_OTLP_ENDPOINT; "
                "inside a container, localhost is the container itself."
            ),
        ),
        (answer("unresolved"), {}, "The host of http://h:4318 is unknown: correct OTEL_EXPORTER_OTLP_ENDPOINT."),
        (
            answer("tls", words="certificate verify failed"),
            {},
            (
                "TLS to http://h:4318 failed (certificate verify failed): "
                "set OTEL_EXPORTER_OTLP_CERTIFICATE to the certificate authority's PEM file."
            ),
        ),
        (
            answer("tls", words="wrong version number"),
            {},
            (
                "TLS to http://h:4318 failed (wrong version number): "
                "if it is a plain-text port, write http:// instead of https://."
            ),
        ),
        (
            answer("tls", endpoint="h:4317", protocol="grpc"),
            {"endpoint": "h:4317", "protocol": "grpc"},
            (
                "TLS to h:4317 failed: gRPC without a scheme means TLS; write http:// or set "
                "OTEL_EXPORTER_OTLP_INSECURE=true."
            ),
        ),
        (
            answer("broken", words="reset"),
            {},
            "http://h:4318/v1/traces broke the connection (reset): is it an OTLP receiver for http/protobuf?",
        ),
    ],
)
def test_a_bad_answer_is_explained_in_one_sentence_with_its_remedy(
    given: Answer, settings: dict[str, object], sentence: str
) -> None:
    assert problems(given, settings=settings) == [sentence]


@pytest.mark.parametrize(("protocol", "code"), [("http/protobuf", "404"), ("grpc", "UNIMPLEMENTED")])
def test_a_receiver_of_spans_only_is_recognised(protocol: Protocol, code: str) -> None:
    refused = answer("refused", "metrics", endpoint="http://h:4318", protocol=protocol, code=code)
    assert problems(answer("accepted"), refused, settings={"protocol": protocol}) == [
        (
            f"http://h:4318 takes spans but no metrics ({code}), as Jaeger does: set OTEL_METRICS_EXPORTER=none, "
            "or send metrics to a Collector with OTEL_EXPORTER_OTLP_METRICS_ENDPOINT."
        )
    ]


def test_one_cause_for_both_signals_is_told_once() -> None:
    assert len(problems(answer("closed"), answer("closed", "metrics"))) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"endpoint": None},
            (
                "Nothing leaves the process, because neither an endpoint nor an exporter is set: "
                "set OTEL_EXPORTER_OTLP_ENDPOINT, for example to http://localhost:4318."
            ),
        ),
        (
            {"traces_exporter": "none", "metrics_exporter": "none"},
            (
                "An endpoint is set, but OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER are none, so that nothing "
                "leaves: unset them."
            ),
        ),
        ({"sdk_disabled": True}, "OTEL_SDK_DISABLED is true, so that nothing is made and nothing leaves: unset it."),
        (
            {"timeout": 10_000},
            "OTEL_EXPORTER_OTLP_TIMEOUT is in seconds in Python, and 10000 s are 2.8 h: set it to 10.",
        ),
        (
            {"metrics_timeout": 30_000},
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT is in seconds in Python, and 30000 s are 8.3 h: set it to 10.",
        ),
    ],
)
def test_a_wrong_setup_is_told_without_any_probe(settings: dict[str, object], sentence: str) -> None:
    assert problems(settings=settings) == [sentence]


def test_a_framework_that_connect_would_refuse_is_told() -> None:
    adapters = {"pydantic-ai": None, "crewai": "1.0"}
    assert problems(*GOOD, instrumented=("pydantic-ai", "crewai", "xyz"), adapters=adapters) == [
        "AGENTBUS_INSTRUMENT names pydantic-ai, which is not installed: connect() will refuse it; take it out.",
        (
            "AGENTBUS_INSTRUMENT names xyz, which has no adapter (there are: pydantic-ai, crewai): "
            "connect() will refuse it; take it out."
        ),
    ]


def test_nothing_is_wrong_without_variables_where_the_application_has_a_provider() -> None:
    assert problems(settings={"endpoint": None}, application_endpoints=()) == []


def test_hints_explain_missing_spans_missing_flushes_and_missing_names() -> None:
    assert hints(*GOOD, adapters={"pydantic-ai": "2.68.0", "crewai": None}, settings={"service_name": None}) == [
        (
            "The endpoint works; if your program's spans are missing, nothing was emitted there: "
            "call connect() in that process, with these variables, before the run begins."
        ),
        "AGENTBUS_INSTRUMENT is none: pydantic-ai is installed and not observed; set AGENTBUS_INSTRUMENT=pydantic-ai.",
        (
            "Spans wait up to 5 s and metrics up to 60 s for their batch: end with `with connect():` or close(); "
            "os._exit and SIGKILL lose what waits."
        ),
        "OTEL_SERVICE_NAME is not set: your service is called unknown_service in the backend.",
    ]


def test_a_signal_that_is_switched_off_is_a_hint() -> None:
    assert (
        "OTEL_METRICS_EXPORTER is none: no metrics leave, although an endpoint is set; unset it if you want them."
        in hints(answer("accepted"), settings={"metrics_exporter": "none"})
    )
    assert problems(answer("accepted"), settings={"metrics_exporter": "none"}) == []


def test_two_pipelines_to_one_endpoint_are_a_hint() -> None:
    assert (
        "The application's own provider exports to http://h:4318/v1/traces, too: call connect() after that provider is "
        "set, and it is used; called before, there are two pipelines to one endpoint."
    ) in hints(*GOOD, application_endpoints=("http://h:4318/v1/traces", "http://elsewhere"))


def test_a_second_observer_is_a_hint_where_installed_and_a_problem_where_active() -> None:
    installed = (
        "httpx",
        "opentelemetry-instrumentation-httpx",
        "openinference-instrumentation-pydantic-ai",
        "logfire",
        "opentelemetry-instrumentation-openai-v2",
    )
    instrumented: dict[str, Any] = {"instrumented": ("pydantic-ai",), "distributions": installed}
    suspicious = [sentence.partition(" is ")[0] for sentence in hints(*GOOD, **instrumented) if "twice" in sentence]
    assert suspicious == [
        "openinference-instrumentation-pydantic-ai",
        "logfire",
        "opentelemetry-instrumentation-openai-v2",
    ]
    assert problems(*GOOD, **instrumented) == []
    assert hints(*GOOD, distributions=installed)[2:] == []
    assert problems(*GOOD, **instrumented, auto_instrumented=True)[0] == (
        "openinference-instrumentation-pydantic-ai is active through opentelemetry-instrument beside "
        "AGENTBUS_INSTRUMENT=pydantic-ai, so that calls may be counted twice: "
        "name pydantic-ai in OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, or unset ours."
    )


def test_a_second_observer_whose_spans_are_read_counts_nothing_twice() -> None:
    installed = ("logfire", "openinference-instrumentation-langchain", "opentelemetry-instrumentation-openai-v2")
    told: dict[str, Any] = {
        "instrumented": ("langchain", "otel"),
        "distributions": installed,
        "auto_instrumented": True,
    }
    once = "is installed: if it is active, its spans are read (adapter otel), and each call counts once."
    assert [sentence for sentence in hints(*GOOD, **told) if "if it is active" in sentence] == [
        f"logfire {once}",
        (
            "openinference-instrumentation-langchain is installed: if it is active, it is silent for us, because the "
            "adapter langchain tells the same."
        ),
        f"opentelemetry-instrumentation-openai-v2 {once}",
    ]
    assert problems(*GOOD, **told) == []


def test_problems_come_first() -> None:
    found = findings(Facts(Settings(endpoint="http://h:1"), (answer("closed"), answer("accepted", "metrics"))))
    assert [finding.level for finding in found] == sorted((finding.level for finding in found), reverse=True)
    assert found[0].level == "problem"
