"""What is wrong, and the remedy: pure functions from what `doctor` has observed to one sentence for each trap."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from otel_agentbus.adapters.scopes import silent
from otel_agentbus.values import SIGNALS, Signal

if TYPE_CHECKING:
    from otel_agentbus.settings import Settings
    from otel_agentbus.telemetry.probe import Answer

#: Packages that count the model calls of many frameworks at once, beside those named after one framework.
_FOR_MANY = frozenset({"langfuse", "langtrace-python-sdk", "logfire", "openlit", "traceloop-sdk"})
_FOR_ONE = re.compile(r"(?:opentelemetry|openinference)-instrumentation-(.+)")
#: The frameworks and models among what instrumentations exist for; those of httpx or a database count nothing twice.
_MODELS = re.compile(
    r"agno|anthropic|autogen|bedrock|beeai|claude|cohere|crewai|dspy|google-adk|google-gen|groq|guardrails|haystack|"
    r"instructor|lang|litellm|llama|mcp|mistralai|ollama|openai|pydantic|replicate|sagemaker|smolagents|together|"
    r"transformers|vertexai|voyageai|watsonx|writer"
)
#: The adapter that reads the spans of all others.
READER = "otel"
_NO_METRICS = frozenset({"404", "405", "501", "UNIMPLEMENTED"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What was observed."""

    settings: Settings
    answers: tuple[Answer, ...] = ()
    #: The frameworks that there is an adapter for, with the installed version.
    adapters: Mapping[str, str | None] = field(default_factory=dict)
    #: Those of them that `connect()` will observe.
    instrumented: tuple[str, ...] = ()
    #: Every installed distribution, lower case.
    distributions: tuple[str, ...] = ()
    #: Where the providers that are already global in this process export to; None where there are none.
    application_endpoints: tuple[str, ...] | None = None
    #: Whether `opentelemetry-instrument` runs this process.
    auto_instrumented: bool = False

    def answer(self, signal: Signal) -> Answer | None:
        """What came back on this signal's probe."""
        return next((answer for answer in self.answers if answer.signal == signal), None)


@dataclass(frozen=True, slots=True)
class Finding:
    """One trap: a problem makes `doctor` fail, a hint does not."""

    level: Literal["problem", "hint"]
    sentence: str


def findings(facts: Facts) -> list[Finding]:
    """Everything that is worth saying, problems first."""
    wrong = (nothing_leaves, bad_answers, timeout_in_milliseconds, no_such_adapter, wired_twice)
    found = [finding for trap in (*wrong, half_exported, nothing_emitted, no_flush) for finding in trap(facts)]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.level != "problem")


def _problem(sentence: str) -> Finding:
    return Finding("problem", sentence)


def _hint(sentence: str) -> Finding:
    return Finding("hint", sentence)


def _variable(facts: Facts, signal: Signal, setting: str) -> str:
    return facts.settings.origin(facts.settings.deciding(signal, setting)).variable


def nothing_leaves(facts: Facts) -> Iterator[Finding]:
    """Nothing is exported at all."""
    settings = facts.settings
    sent = settings.exports_traces or settings.exports_metrics or settings.relays
    if sent or facts.application_endpoints is not None:
        return
    endpoint = settings.endpoint or settings.traces_endpoint or settings.metrics_endpoint
    if settings.sdk_disabled:
        yield _problem("OTEL_SDK_DISABLED is true, so that nothing is made and nothing leaves: unset it.")
    elif endpoint:
        yield _problem(
            "An endpoint is set, but OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER are none, so that nothing leaves: "
            "unset them."
        )
    else:
        yield _problem(
            "Nothing leaves the process, because neither an endpoint nor an exporter is set: "
            "set OTEL_EXPORTER_OTLP_ENDPOINT, for example to http://localhost:4318."
        )


def half_exported(facts: Facts) -> Iterator[Finding]:
    """An endpoint is set for both signals, and one of them is switched off."""
    for signal in SIGNALS:
        off = getattr(facts.settings, f"{signal}_exporter") == ()
        other = facts.settings.exports_metrics if signal == "traces" else facts.settings.exports_traces
        if off and other:
            variable = f"OTEL_{signal.upper()}_EXPORTER"
            yield _hint(
                f"{variable} is none: no {signal} leave, although an endpoint is set; unset it if you want them."
            )


def bad_answers(facts: Facts) -> Iterator[Finding]:
    """What the endpoint did with the probes, each explained by the most telling trap."""
    for answer in facts.answers:
        if answer.outcome != "accepted":
            sentences = (trap(facts, answer) for trap in (crossed_ports, base_or_signal_url, no_metrics_here, _plainly))
            yield _problem(next(sentence for sentence in sentences if sentence))


def _host(answer: Answer) -> str:
    """The endpoint without its path, so that one cause for both signals is told once."""
    scheme, separator, rest = answer.endpoint.rpartition("://")
    return f"{scheme}{separator}{rest.partition('/')[0]}"


def crossed_ports(facts: Facts, answer: Answer) -> str | None:
    """HTTP spoken to a gRPC port, or gRPC to an HTTP port; told by what the port speaks, not by its number."""
    variable, endpoint = _variable(facts, answer.signal, "endpoint"), _host(answer)
    protocol = _variable(facts, answer.signal, "protocol")
    if answer.protocol == "http/protobuf" and answer.speaks == "http/2":
        return (
            f"{endpoint} is a gRPC port, but {protocol} is http/protobuf: "
            f"set it to grpc, or set {variable} to the HTTP port, usually 4318."
        )
    if answer.protocol == "grpc" and (answer.speaks == "http/1" or "http1" in answer.words):
        return (
            f"{endpoint} is an HTTP port, but {protocol} is grpc: "
            f"set it to http/protobuf, or set {variable} to the gRPC port, usually 4317."
        )
    return None


def base_or_signal_url(facts: Facts, answer: Answer) -> str | None:
    """A signal's URL without its path, or a base URL that already has one."""
    if answer.protocol == "grpc" or answer.outcome not in {"refused", "redirected", "broken"}:
        return None
    variable, path = _variable(facts, answer.signal, "endpoint"), urlsplit(answer.endpoint).path.rstrip("/")
    wanted = f"/v1/{answer.signal}"
    if variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
        base = re.sub(r"/v1/(traces|metrics|logs)/?$", "", path.removesuffix(wanted))
        if base != path.removesuffix(wanted):
            return (
                f"{variable} is a base URL, to which {wanted} is appended once more ({path}): "
                f"cut its own /v1/... off, or call the variable OTEL_EXPORTER_OTLP_{answer.signal.upper()}_ENDPOINT."
            )
        return None
    if not path.endswith(wanted):
        return f"{variable} is used as it stands, without {wanted}: append that, or set OTEL_EXPORTER_OTLP_ENDPOINT."
    return None


def no_metrics_here(facts: Facts, answer: Answer) -> str | None:
    """A receiver of spans only, as Jaeger is."""
    spans = facts.answer("traces")
    if answer.signal != "metrics" or answer.code not in _NO_METRICS or spans is None or spans.outcome != "accepted":
        return None
    return (
        f"{answer.endpoint} takes spans but no metrics ({answer.code}), as Jaeger does: "
        f"set OTEL_METRICS_EXPORTER=none, or send metrics to a Collector with OTEL_EXPORTER_OTLP_METRICS_ENDPOINT."
    )


def _plainly(facts: Facts, answer: Answer) -> str:
    variable = _variable(facts, answer.signal, "endpoint")
    said = f" ({textwrap.shorten(answer.words, 120, placeholder='…')})" if answer.words else ""
    what, endpoint, host = answer.signal, answer.endpoint, _host(answer)
    return {
        "partial": f"{endpoint} took the {what} and rejected {answer.rejected} of them{said}: "
        "the receiver's own settings say why.",
        "refused": f"{endpoint} refused {what} with {answer.code}{said}: {_after_refusal(facts, answer)}.",
        "redirected": f"{endpoint} redirects with {answer.code}{said}, which exporters do not follow and take for "
        f"success: set {variable} to the final URL.",
        "timeout": f"{endpoint} did not answer within {answer.seconds:.1f} s{said}: is the receiver healthy, "
        "and is a firewall or proxy between?",
        "closed": f"Nothing listens at {host}: start the receiver or correct {variable}; "
        "inside a container, localhost is the container itself.",
        "unresolved": f"The host of {host} is unknown{said}: correct {variable}.",
        "tls": f"TLS to {host} failed{said}: {_after_tls(facts, answer)}.",
        "broken": f"{endpoint} broke the connection{said}: is it an OTLP receiver for {answer.protocol}?",
    }[answer.outcome]


def _after_refusal(facts: Facts, answer: Answer) -> str:
    headers = _variable(facts, answer.signal, "headers")
    if answer.code in {"401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"}:
        return f"check the key in {headers}"
    if answer.code in {"404", "405", "501", "UNIMPLEMENTED"}:
        return f"it is no OTLP receiver for {answer.signal}; check {_variable(facts, answer.signal, 'endpoint')}"
    if answer.code in {"429", "502", "503", "504", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}:
        return "it is overloaded or not ready; try again"
    return "its words say why"


def _after_tls(facts: Facts, answer: Answer) -> str:
    if "certificate" in answer.words.lower() and "verify" in answer.words.lower():
        return f"set {_variable(facts, answer.signal, 'certificate')} to the certificate authority's PEM file"
    if "://" in answer.endpoint:
        return "if it is a plain-text port, write http:// instead of https://"
    return f"gRPC without a scheme means TLS; write http:// or set {_variable(facts, answer.signal, 'insecure')}=true"


def timeout_in_milliseconds(facts: Facts) -> Iterator[Finding]:
    """Ten thousand seconds where ten were meant."""
    for signal in SIGNALS:
        name = facts.settings.deciding(signal, "timeout")
        seconds = float(getattr(facts.settings, name))
        if seconds >= 1_000:
            variable = facts.settings.origin(name).variable
            yield _problem(
                f"{variable} is in seconds in Python, and {seconds:g} s are {seconds / 3600:.1f} h: set it to 10."
            )


def no_such_adapter(facts: Facts) -> Iterator[Finding]:
    """What `connect()` will refuse to instrument."""
    for name in facts.instrumented if facts.adapters else ():
        if facts.adapters.get(name) is None:
            known = ", ".join(facts.adapters)
            why = "is not installed" if name in facts.adapters else f"has no adapter (there are: {known})"
            yield _problem(f"AGENTBUS_INSTRUMENT names {name}, which {why}: connect() will refuse it; take it out.")


def wired_twice(facts: Facts) -> Iterator[Finding]:
    """Two pipelines to one endpoint, or two observers of one framework."""
    ours = {answer.endpoint for answer in facts.answers}
    for endpoint in sorted(ours & set(facts.application_endpoints or ())):
        yield _hint(
            f"The application's own provider exports to {endpoint}, too: call connect() after that provider is set, "
            "and it is used; called before, there are two pipelines to one endpoint."
        )
    if facts.instrumented:
        for name in facts.distributions:
            yield from _second_observer(facts, name)


def _second_observer(facts: Facts, name: str) -> Iterator[Finding]:
    one = _FOR_ONE.fullmatch(name)
    if name not in _FOR_MANY and not (one and _MODELS.match(one[1])):
        return
    if READER in facts.instrumented:
        yield _hint(_read_once(facts, name, "" if one is None else one[1].replace("-", "_")))
        return
    ours = ", ".join(facts.instrumented)
    if one and facts.auto_instrumented:
        yield _problem(
            f"{name} is active through opentelemetry-instrument beside AGENTBUS_INSTRUMENT={ours}, so that calls may "
            f"be counted twice: name {one[1]} in OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, or unset ours."
        )
    else:
        yield _hint(
            f"{name} is installed: if it is active beside AGENTBUS_INSTRUMENT={ours}, calls may be counted twice."
        )


def _read_once(facts: Facts, name: str, what: str) -> str:
    """What becomes of another observer's spans where they are read as events."""
    ours = silent(f"opentelemetry.instrumentation.{what}", facts.instrumented) if what else None
    if ours is not None:
        return f"{name} is installed: if it is active, it is silent for us, because the adapter {ours} tells the same."
    return f"{name} is installed: if it is active, its spans are read (adapter {READER}), and each call counts once."


def nothing_emitted(facts: Facts) -> Iterator[Finding]:
    """The way is open and nobody walks it."""
    if not any(answer.outcome == "accepted" for answer in facts.answers):
        return
    yield _hint(
        "The endpoint works; if your program's spans are missing, nothing was emitted there: "
        "call connect() in that process, with these variables, before the run begins."
    )
    idle = [name for name, version in facts.adapters.items() if version and name not in facts.instrumented]
    if idle and not facts.instrumented:
        names = ",".join(idle)
        yield _hint(
            f"AGENTBUS_INSTRUMENT is none: {names} is installed and not observed; set AGENTBUS_INSTRUMENT={names}."
        )


def no_flush(facts: Facts) -> Iterator[Finding]:
    """A program that ends before its batches left."""
    settings = facts.settings
    if not settings.exports_traces and not settings.exports_metrics:
        return
    spans, points = settings.bsp_schedule_delay_ms / 1000, settings.metric_interval_ms / 1000
    yield _hint(
        f"Spans wait up to {spans:g} s and metrics up to {points:g} s for their batch: end with `with connect():` or "
        "close(); os._exit and SIGKILL lose what waits."
    )
    attributes = dict(settings.resource_attributes)
    if not settings.service_name and "service.name" not in attributes:
        yield _hint("OTEL_SERVICE_NAME is not set: your service is called unknown_service in the backend.")
