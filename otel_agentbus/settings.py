"""The settings: every variable that this package obeys, and what it says.

A constructor argument beats the environment; an argument of None and an empty variable count as not given. Whatever is
wrong raises one `ConfigurationError` with a sentence for each variable, before any exporter sees it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from platformdirs import user_state_path
from pydantic import Field, PrivateAttr, SecretBytes, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from otel_agentbus import environment, values
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.targets import Origin, Target
from otel_agentbus.values import Protocol, Signal

_HTTP: Protocol = "http/protobuf"


def _setting(default: object, variable: str, meaning: str) -> Any:  # the type stands at the field
    return Field(default=default, description=meaning, json_schema_extra={"variable": variable})


def _otlp(default: object, suffix: str, meaning: str) -> Any:
    return _setting(default, f"OTEL_EXPORTER_OTLP_{suffix}", meaning)


def _instead(name: Signal, suffix: str) -> Any:
    return _otlp(None, f"{name.upper()}_{suffix}", f"The same for {name} only; replaces the one above.")


def variable_of(name: str) -> str:
    """The environment variable of a field."""
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)  # every field is made by _setting
    return str(extra["variable"])


class _Environment(PydanticBaseSettingsSource):
    """The variables that are set and not empty, under the names of their fields."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return environment.variable(variable_of(field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: environment.variable(variable_of(name)) for name in Settings.model_fields}
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """What `connect()` needs to know. Immutable; made from arguments first, then from the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    # fmt: off
    validate_events: values.Flag = _setting(False, "AGENTBUS_VALIDATE",
        "Validate every emitted event against the contract; for development.")
    id_key: values.Key = _setting(SecretBytes(b""), "AGENTBUS_ID_KEY",
        "A secret that makes trace and span ids unguessable from invocation ids.")
    conventions: values.Flavour = _setting("1.41", "AGENTBUS_CONVENTIONS",
        "The flavour of the GenAI semantic conventions: 1.41, 2026-10 or both.")
    aliases: values.Aliases = _setting((), "AGENTBUS_ALIASES",
        "Backends whose own names for cost, session and kind spans have besides: langfuse, openinference ...")
    grace: values.Grace = _setting(2.0, "AGENTBUS_GRACE",
        "Seconds that an end waits for its start, and an open start for its end.")
    content_max_bytes: values.Count = _setting(65_536, "AGENTBUS_CONTENT_MAX_BYTES",
        "The longest captured content of one attribute, in bytes of JSON.")
    error_text: values.Flag = _setting(True, "AGENTBUS_ERROR_TEXT",
        "Export the (scrubbed) texts of errors; off leaves only their types.")
    exit_timeout: values.Seconds = _setting(2.0, "AGENTBUS_EXIT_TIMEOUT",
        "Seconds that the end of the process may take for what is still queued.")
    set_global: values.Flag = _setting(False, "AGENTBUS_SET_GLOBAL",
        "Install the providers that we build as OpenTelemetry's global ones.")
    instrument: values.Instruments = _setting((), "AGENTBUS_INSTRUMENT",
        "Frameworks to instrument at connect(): none, auto, or names such as pydantic-ai.")
    prices: values.TomlFile = _setting(None, "AGENTBUS_PRICES",
        "A TOML file of your own unit prices, for contracts and local models; they win over the public list.")
    budgets: values.TomlFile = _setting(None, "AGENTBUS_BUDGETS",
        "A TOML file of budgets: what a run, a day or an agent may spend.")
    summary: values.Flag = _setting(False, "AGENTBUS_SUMMARY",
        "Print calls, tokens, cost and latency by agent and model on standard error at the end.")
    spool_dir: values.Directory = _setting(None, "AGENTBUS_SPOOL_DIR",
        "Where spans wait that the endpoint does not take; off keeps none. Unset: under the user's state directory.")
    spool_max_bytes: values.Count = _setting(268_435_456, "AGENTBUS_SPOOL_MAX_BYTES",
        "Bytes that may wait there; beyond it the oldest are dropped and counted.")
    spool_max_age: values.Seconds = _setting(604_800.0, "AGENTBUS_SPOOL_MAX_AGE",
        "Seconds that spans may wait there; a week.")
    journal: values.Directory = _setting(None, "AGENTBUS_JOURNAL",
        "A directory in which every event is written down, for recover, replay, tail, tree and stats.")
    journal_sync: values.JournalSync = _setting("batch", "AGENTBUS_JOURNAL_SYNC",
        "event: written before emit returns, so that SIGKILL loses none. batch: by a thread of its own, every 20 ms.")
    journal_max_bytes: values.Count = _setting(1_073_741_824, "AGENTBUS_JOURNAL_MAX_BYTES",
        "Bytes of the journal; beyond it the oldest are dropped and counted.")
    journal_max_age: values.Seconds = _setting(2_592_000.0, "AGENTBUS_JOURNAL_MAX_AGE",
        "Seconds that events stay in the journal; thirty days.")
    recover: values.Flag = _setting(False, "AGENTBUS_RECOVER",
        "At connect(), send what processes that were killed have left in the journal.")
    run_ttl: values.Seconds = _setting(86_400.0, "AGENTBUS_RUN_TTL",
        "For relay and replay: seconds after its last event at which an open run counts as interrupted.")
    flush_on_sigterm: values.Flag = _setting(False, "AGENTBUS_FLUSH_ON_SIGTERM",
        "Close before an unhandled SIGTERM ends the process, which else loses what waits in memory.")
    flush_on_root_end: values.Flag = _setting(False, "AGENTBUS_FLUSH_ON_ROOT_END",
        "Deliver what was emitted whenever the outermost run of this process, or a job, ends; it waits for that.")
    baggage: values.BaggageNames = _setting((), "AGENTBUS_BAGGAGE",
        "Baggage entries that carriers may take to other processes, by name; unset: none.")
    broker: values.Broker = _setting(None, "AGENTBUS_BROKER",
        "A Redis that takes the events, such as redis://localhost:6379/0; `otel-agentbus relay` makes their spans.")
    broker_name: values.BrokerName = _setting("agentbus", "AGENTBUS_BROKER_NAME",
        "How the keys in that Redis begin, where several share it.")
    broker_shards: values.Shards = _setting(8, "AGENTBUS_BROKER_SHARDS",
        "Streams over which runs are spread: as many relay workers can share the work. Set once, by who comes first.")
    broker_max_events: values.Count = _setting(1_000_000, "AGENTBUS_BROKER_MAX_EVENTS",
        "Events that may wait in that Redis, all streams together; beyond it the oldest are dropped and counted.")
    queue_size: values.Count = _setting(65_536, "AGENTBUS_QUEUE_SIZE",
        "Events that may wait for the background pump; beyond it the oldest are dropped and counted.")
    max_open_spans: values.Count = _setting(10_000, "AGENTBUS_MAX_OPEN_SPANS",
        "Spans that may be open at once; beyond it the longest idle is closed and counted.")
    capture_content: values.Captured = _setting("NO_CONTENT", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        "Where prompts, answers, arguments and results go: NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT.")

    sdk_disabled: values.OtelFlag = _setting(False, "OTEL_SDK_DISABLED",
        "true switches all telemetry off; no argument switches it on again.")
    traces_exporter: values.Exporters = _setting(None, "OTEL_TRACES_EXPORTER",
        "Where spans go: otlp, console (standard output), otlp,console or none; unset: otlp if an endpoint is set.")
    metrics_exporter: values.Exporters = _setting(None, "OTEL_METRICS_EXPORTER",
        "Where metrics go: otlp, console (standard output), otlp,console or none; unset: otlp if an endpoint is set.")

    protocol: values.Wire = _otlp(_HTTP, "PROTOCOL",
        "How OTLP is spoken: http/protobuf (port 4318) or grpc (port 4317).")
    traces_protocol: values.Wire = _instead("traces", "PROTOCOL")
    metrics_protocol: values.Wire = _instead("metrics", "PROTOCOL")
    endpoint: values.Text = _otlp(None, "ENDPOINT",
        "The base URL of the OTLP receiver, such as http://localhost:4318; over HTTP, /v1/traces is appended.")
    traces_endpoint: values.Text = _otlp(None, "TRACES_ENDPOINT",
        "The URL for spans, used as it stands: over HTTP it must hold /v1/traces.")
    metrics_endpoint: values.Text = _otlp(None, "METRICS_ENDPOINT",
        "The URL for metrics, used as it stands: over HTTP it must hold /v1/metrics.")
    headers: values.Headers = _otlp(None, "HEADERS",
        "Headers (gRPC: metadata) of each export, such as authorization=Bearer%20key; never shown.")
    traces_headers: values.Headers = _instead("traces", "HEADERS")
    metrics_headers: values.Headers = _instead("metrics", "HEADERS")
    timeout: values.Seconds = _otlp(10.0, "TIMEOUT",
        "Seconds (in Python, not milliseconds) that one export may take, retries included.")
    traces_timeout: values.OptionalSeconds = _instead("traces", "TIMEOUT")
    metrics_timeout: values.OptionalSeconds = _instead("metrics", "TIMEOUT")
    compression: values.Squeeze = _otlp("none", "COMPRESSION", "gzip, deflate (HTTP only) or none.")
    traces_compression: values.Squeeze = _instead("traces", "COMPRESSION")
    metrics_compression: values.Squeeze = _instead("metrics", "COMPRESSION")
    certificate: values.File = _otlp(None, "CERTIFICATE", "The PEM file of the certificate authority to trust.")
    traces_certificate: values.File = _instead("traces", "CERTIFICATE")
    metrics_certificate: values.File = _instead("metrics", "CERTIFICATE")
    client_key: values.File = _otlp(None, "CLIENT_KEY", "The PEM file of our private key, for mutual TLS.")
    traces_client_key: values.File = _instead("traces", "CLIENT_KEY")
    metrics_client_key: values.File = _instead("metrics", "CLIENT_KEY")
    client_certificate: values.File = _otlp(None, "CLIENT_CERTIFICATE",
        "The PEM file of our certificate, for mutual TLS.")
    traces_client_certificate: values.File = _instead("traces", "CLIENT_CERTIFICATE")
    metrics_client_certificate: values.File = _instead("metrics", "CLIENT_CERTIFICATE")
    insecure: values.OptionalFlag = _otlp(False, "INSECURE",
        "Plain text over gRPC where the endpoint has no scheme; with http:// or https:// the scheme decides.")
    traces_insecure: values.OptionalFlag = _instead("traces", "INSECURE")
    metrics_insecure: values.OptionalFlag = _instead("metrics", "INSECURE")

    service_name: values.Text = _setting(None, "OTEL_SERVICE_NAME",
        "The name of your service in the backend; unset: the SDK's unknown_service.")
    resource_attributes: values.Attributes = _setting((), "OTEL_RESOURCE_ATTRIBUTES",
        "What describes your service: name=value,name=value.")
    sampler: values.Sampler = _setting("parentbased_always_on", "OTEL_TRACES_SAMPLER",
        "Which traces are kept: always_on, always_off, traceidratio, or parentbased_ and one of these.")
    sampler_arg: values.Text = _setting(None, "OTEL_TRACES_SAMPLER_ARG",
        "The share of traces that the ratio samplers keep, 0 to 1; unset: 1.")
    bsp_max_queue_size: values.Count = _setting(16_384, "OTEL_BSP_MAX_QUEUE_SIZE",
        "Ended spans that may wait for export in memory; beyond it the oldest go to the spool.")
    bsp_max_export_batch_size: values.Count = _setting(512, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "Spans in one export; at most the queue.")
    bsp_schedule_delay_ms: values.Millis = _setting(5_000.0, "OTEL_BSP_SCHEDULE_DELAY",
        "Milliseconds between two exports of spans.")
    bsp_export_timeout_ms: values.Millis = _setting(30_000.0, "OTEL_BSP_EXPORT_TIMEOUT",
        "Handed to the SDK, which does not use it: set OTEL_EXPORTER_OTLP_TIMEOUT.")
    metric_interval_ms: values.Millis = _setting(60_000.0, "OTEL_METRIC_EXPORT_INTERVAL",
        "Milliseconds between two exports of metrics.")
    metric_timeout_ms: values.Millis = _setting(30_000.0, "OTEL_METRIC_EXPORT_TIMEOUT",
        "Milliseconds that one collection of metrics may take.")
    span_event_limit: values.Limit = _setting(1_000, "OTEL_SPAN_EVENT_COUNT_LIMIT",
        "Events of one span; the SDK's own default is 128.")
    span_link_limit: values.Limit = _setting(128, "OTEL_SPAN_LINK_COUNT_LIMIT", "Links of one span.")
    attribute_limit: values.Limit = _setting(128, "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "Attributes of one span, span event or link.")
    span_attribute_limit: values.Limit = _setting(None, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "The same for spans only; we set fewer than 100.")
    event_attribute_limit: values.Limit = _setting(None, "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
        "The same for span events only.")
    link_attribute_limit: values.Limit = _setting(None, "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "The same for links only.")
    attribute_length_limit: values.Limit = _setting(None, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "Characters of one attribute; the SDK cuts captured JSON in the middle.")
    span_attribute_length_limit: values.Limit = _setting(None, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "The same for attributes of spans only.")
    # fmt: on

    _arguments: frozenset[str] = PrivateAttr(default=frozenset())

    def __init__(self, **arguments: object) -> None:
        """Read and check everything; what is wrong raises `ConfigurationError`, a sentence for each setting."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if (environment.variable("OTEL_SDK_DISABLED") or "").lower() == "true":
            given.pop("sdk_disabled", None)  # the SDK reads this one by itself
        try:
            super().__init__(**given)  # type: ignore[arg-type]  # its own options are not for our callers
        except ValidationError as error:
            complaints = {str(detail["loc"][0]): detail for detail in reversed(error.errors())}
            sentences = [_complaint(name, detail, given) for name, detail in complaints.items()]
            raise ConfigurationError("\n".join(reversed(sentences))) from None
        self._arguments = frozenset(given)
        _raise_all(
            [
                problem
                for signal in values.SIGNALS
                if self.origin(self.deciding(signal, "protocol")).kind
                != "default"  # else the endpoint may be another's
                for problem in self._contradictions(signal)
            ]
        )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: object, **_others: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then our own reading of the environment."""
        return init_settings, _Environment(settings_cls)

    @field_validator("sampler_arg")
    @classmethod
    def _share(cls, text: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("sampler") in values.RATIO_SAMPLERS and not values.is_share(text or ""):
            raise ValueError("set it to a number from 0 to 1, such as 0.1")
        return text

    @field_validator("journal")
    @classmethod
    def _no_journal(cls, directory: str | None) -> str | None:
        return None if directory == values.OFF else directory

    @field_validator("bsp_max_export_batch_size")
    @classmethod
    def _batch(cls, size: int, info: ValidationInfo) -> int:
        if size > info.data.get("bsp_max_queue_size", size):
            raise ValueError("set it to at most OTEL_BSP_MAX_QUEUE_SIZE, or raise that one")
        return size

    def __eq__(self, other: object) -> bool:
        """Equal in every value, wherever it comes from."""
        return isinstance(other, Settings) and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(tuple(value for _, value in self))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return ((name, self.shown(name)) for name in Settings.model_fields if self.origin(name).kind != "default")

    def origin(self, name: str) -> Origin:
        """Where the value of this field comes from."""
        kind: Literal["environment", "argument", "default"] = "default"
        if name in self._arguments:
            kind = "argument"
        elif name in self.model_fields_set:
            kind = "environment"
        return Origin(kind, variable_of(name))

    def shown(self, name: str) -> str:
        """The value of this field as it may be shown: secrets are masked."""
        return values.shown(name, getattr(self, name))

    def deciding(self, signal: Signal, setting: str) -> str:
        """The field that decides for this signal: its own (`traces_endpoint`) if set, else the one for both."""
        own = f"{signal}_{setting}"
        return setting if getattr(self, own) is None else own

    def exporters(self, signal: Signal) -> tuple[str, ...]:
        """The exporters of this signal (otlp, console); none without an endpoint or an exporter variable."""
        named: tuple[str, ...] | None = self.traces_exporter if signal == "traces" else self.metrics_exporter
        if self.sdk_disabled or named == ():
            return ()
        return named or (("otlp",) if self._deciding_value(signal, "endpoint") else ())

    @property
    def relays(self) -> bool:
        """Whether spans are made by a relay, from the events that the broker takes, and none by this process."""
        return self.broker is not None and self.traces_exporter is None and not self.sdk_disabled

    @property
    def spool(self) -> Path | None:
        """The directory of the spools; None where they are off."""
        if self.spool_dir is None:
            try:
                return user_state_path("otel-agentbus") / "spool"
            except RuntimeError:  # nobody's home: a user id without a name, and HOME is not set
                return None
        return None if self.spool_dir == values.OFF else Path(self.spool_dir)

    @property
    def exports_traces(self) -> bool:
        """Whether spans leave the process through a pipeline of our own."""
        return bool(self.exporters("traces"))

    @property
    def exports_metrics(self) -> bool:
        """Whether metrics leave the process through a pipeline of our own."""
        return bool(self.exporters("metrics"))

    def target(self, signal: Signal) -> Target:
        """Where this signal goes over OTLP; settings that contradict one another raise `ConfigurationError`."""
        _raise_all(list(self._contradictions(signal)))
        protocol = self._protocol(signal)
        endpoint = self._endpoint(signal, protocol)
        headers = values.revealed(self._deciding_value(signal, "headers"))
        scheme, separator, _ = endpoint.partition("://")
        plugin = f"OTEL_PYTHON_EXPORTER_OTLP_{protocol[:4].upper()}_%sCREDENTIAL_PROVIDER"
        return Target(
            signal=signal,
            protocol=protocol,
            endpoint=endpoint,
            timeout=float(self._deciding_value(signal, "timeout")),
            compression=self._deciding_value(signal, "compression"),
            insecure=scheme == "http" if separator else bool(self._deciding_value(signal, "insecure")),
            certificate=self._deciding_value(signal, "certificate"),
            client_key=self._deciding_value(signal, "client_key"),
            client_certificate=self._deciding_value(signal, "client_certificate"),
            credential_provider=environment.variable(plugin % "")
            or environment.variable(plugin % f"{signal.upper()}_"),
            headers=headers,
            withheld=frozenset(environment.headers(signal) - {name for name, _ in headers}),
        )

    def _deciding_value(self, signal: Signal, setting: str) -> Any:
        return getattr(self, self.deciding(signal, setting))

    def _protocol(self, signal: Signal) -> Protocol:
        return self._deciding_value(signal, "protocol") or _HTTP

    def _endpoint(self, signal: Signal, protocol: Protocol) -> str:
        url = str(self._deciding_value(signal, "endpoint") or f"http://localhost:{4318 if protocol == _HTTP else 4317}")
        if protocol != _HTTP or self.deciding(signal, "endpoint") != "endpoint":
            return url
        parts = urlsplit(url)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/v1/{signal}"))

    def _contradictions(self, signal: Signal) -> Iterator[str]:
        """What is right by itself and wrong together, a sentence each."""
        protocol = self._protocol(signal)
        key, certificate = (self._deciding_value(signal, setting) for setting in ("client_key", "client_certificate"))
        for setting, problem in (
            ("endpoint", values.misfit(self._deciding_value(signal, "endpoint"), protocol)),
            ("headers", values.unsendable(values.revealed(self._deciding_value(signal, "headers")), protocol)),
            ("compression", values.squeezed(self._deciding_value(signal, "compression"), protocol)),
            ("client_key", values.unpaired(key, certificate, protocol)),
        ):
            if problem:
                name = self.deciding(signal, setting)
                yield f"{_spoken(name, self._arguments)} is {self.shown(name)}: {problem}."
        own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT"
        set_to = environment.as_it_stands(own)
        if protocol == "grpc" and set_to is not None and not values.is_number(set_to):
            yield f"{own} is {set_to!r}: the gRPC exporter reads it by itself and fails on that; unset it."


def _raise_all(problems: list[str]) -> None:
    if problems:
        raise ConfigurationError("\n".join(dict.fromkeys(problems)))


def _complaint(name: str, detail: ErrorDetails, given: Mapping[str, object]) -> str:
    """One sentence: the variable, its value and the remedy."""
    field_info = Settings.model_fields.get(name)
    if field_info is None:
        close = difflib.get_close_matches(name, Settings.model_fields, 1)
        return f"Settings has no {name}{f'; did you mean {close[0]}?' if close else '.'}"
    value = given.get(name, environment.variable(variable_of(name)))
    return values.complaint(_spoken(name, given), values.quoted(name, value), field_info.metadata, detail)


def _spoken(name: str, arguments: Mapping[str, object] | frozenset[str]) -> str:
    variable = variable_of(name)
    return f"{name} (an argument; its variable is {variable})" if name in arguments else variable
