"""The one redaction point: what of an event may be seen outside of the process, in every mode, whatever it holds."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_agentbus.events import (
    JSON,
    KINDS,
    AgentEnd,
    AgentStart,
    CacheHit,
    ChannelMessage,
    DeploymentFailed,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    TurnComplete,
    UnknownEvent,
)
from otel_agentbus.telemetry.content import Capture, ContentPolicy
from tests import hostile
from tests.planted import ASSIGNED, TOKENS

MODES: tuple[Capture, ...] = get_args(Capture)
CAPTURING = MODES[1:]
RUN: dict[str, Any] = {"invocation_id": "run-1", "root_invocation_id": "run-1", "agent": "planner"}
SUB: dict[str, Any] = {"invocation_id": "run-2", "root_invocation_id": "run-1", "agent": "researcher"}
MODEL: dict[str, Any] = {"model_provider": "openai", "model": "gpt-5-mini"}
PROMPT = "my salary is 91234 euros"

anything = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


def request(messages: Any = None, **fields: Any) -> LlmRequest:
    return LlmRequest(**{**MODEL, "messages_count": 1, "messages": messages, **RUN, **fields})


def response(messages: Any = None, **fields: Any) -> LlmResponse:
    return LlmResponse(**{**MODEL, "duration": 1.0, "success": True, "messages": messages, **RUN, **fields})


def failed(message: str, **fields: Any) -> ToolCall:
    return ToolCall(
        **{"tool": "parse", "duration": 1.0, "success": False, "error_type": "ValueError", **RUN, **fields},
        error_message=message,
    )


def with_content(said: Any) -> list[Event]:
    """Each event that can carry content, with this in every field of it."""
    return [
        AgentStart(instructions=said, input=said, **RUN),
        request(said),
        response(said),
        ToolCallStart(tool="parse", arguments=said, **RUN),
        ToolCall(tool="parse", duration=1.0, success=True, arguments=said, result=said, **RUN),
        AgentEnd(output=said, **RUN),
    ]


CONTENT_FIELDS = ("instructions", "input", "messages", "arguments", "result", "output")


def contents(event: Event) -> dict[str, Any]:
    return {field: getattr(event, field) for field in CONTENT_FIELDS if hasattr(event, field)}


def everything(event: Event) -> str:
    return repr(dataclasses.asdict(event))


# -- events with nothing in them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_event_without_content_is_the_same_object(mode: Capture) -> None:
    policy = ContentPolicy(mode)
    events = [
        AgentStart(model="gpt-5-mini", **RUN),
        request(call_id="c1"),
        response(call_id="c1", response_model="m", finish_reasons=["stop"], usage={"audio": 3}),
        ToolCallStart(tool="parse", tool_call_id="t1", **RUN),
        ToolCall(tool="parse", duration=1.0, success=True, **RUN),
        AgentEnd(**SUB),
        AgentEnd(tokens_used={"input_tokens": 1}, **RUN),
        TurnComplete(**RUN),
        HeartbeatTick(),
        CacheHit(cache_type="response", tokens_saved=3, **RUN),
        ChannelMessage(channel="mail", direction="inbound", **RUN),
        Error(component="c", message="oops", error_type="ValueError", **RUN),
        failed("oops"),
        DomainEvent(name="lead", data={"score": 87, "who": "somebody", "ok": True, "none": None}, **RUN),
        request(attributes={"tenant": "blue", "weight": 1.5, "nothing": None}),
    ]
    for event in [*events, *events]:
        before = everything(event)
        assert policy.apply(event) is event
        assert everything(event) == before


# -- off ------------------------------------------------------------------------------------------------------------


def test_without_capture_content_is_gone_and_the_rest_stays() -> None:
    policy = ContentPolicy()
    for event in with_content([{"role": "user", "content": PROMPT}]):
        before = everything(event)
        applied = policy.apply(event)
        assert set(contents(applied).values()) == {None}
        assert everything(event) == before
        rest = {field.name for field in dataclasses.fields(event)} - set(CONTENT_FIELDS)
        assert {name: getattr(applied, name) for name in rest} == {name: getattr(event, name) for name in rest}
        assert type(applied) is type(event)


def test_a_copy_keeps_what_an_event_carries_inside_its_process() -> None:
    event = request("hi")
    event.origin = block = object()
    assert ContentPolicy().apply(event).origin is block


CANARY = "canary-in-a-coal-mine-4711"


@st.composite
def _with_canaries(draw: st.DrawFn) -> Any:
    """Hostile content with a canary in it."""
    value: Any = draw(st.sampled_from([CANARY, f"before {CANARY} after", {CANARY: 1}, CANARY.encode()]))
    for _ in range(draw(st.integers(0, 3))):
        value = draw(
            st.sampled_from(
                [
                    [value],
                    {"content": value},
                    {"role": "user", "content": value},
                    (1, value),
                    json.dumps({"text": repr(value)}),
                    hostile.Record(inner=value),
                    hostile.Model(inner=value),
                ]
            )
        )
    return value


@anything
@given(_with_canaries(), st.lists(hostile.values, max_size=2))
def test_without_capture_no_content_is_left_anywhere_not_even_in_the_texts_of_errors(
    value: Any, others: list[Any]
) -> None:
    policy = ContentPolicy()
    said = [value, *others]
    quoted = [str(ValueError(value)), f"cannot parse {value!r}", repr(value), f"no {CANARY}", json.dumps(str(value))]
    events: list[Event] = [
        *with_content(said),
        request(None, parameters={"temperature": 0.5, "system": value, "tools": [value], "stop_it": value, "n": value}),
        request(None, attributes={"gen_ai.input.messages": value, "gen_ai.prompt.variable.x": value}),
        *(failed(text) for text in quoted),
        *(response(None, success=False, error_message=text, error_type=text) for text in quoted),
        *(Error(component="c", message=text, error_type=text, **SUB) for text in quoted),
        *(Error(component="c", message=text) for text in quoted),
        *(DeploymentFailed(deploy_id="d", reason=text, **RUN) for text in quoted),
        *(AgentEnd(error_message=text, **RUN) for text in quoted),
        response(None, attributes={"agentbus.span": span_data(quoted[0])}),
        failed(f"late: {quoted[0]}"),
    ]
    for event in events:
        assert CANARY not in everything(policy.apply(event))


def test_of_a_requests_parameters_only_settings_stay() -> None:
    parameters = {
        "temperature": 0.5,
        "max_tokens": 100,
        "stop": ["END", "\n"],
        "seed": 7,
        "reasoning_effort": "low",
        "reasoning": {"effort": "high", "summary": "private"},
        "response_format": {"type": "json_schema", "json_schema": {"private": 1}},
        "service_tier": "flex",
        "previous_response_id": "resp_1",
        "tool_choice": "auto",
        "system": "you are private",
        "tools": [{"name": "private"}],
        "top_p": "a sentence, which is private",
        "unknown": 1,
    }
    applied = ContentPolicy().apply(request(None, parameters=parameters))
    assert applied.parameters == {
        "temperature": 0.5,
        "max_tokens": 100,
        "stop": ["END", "\n"],
        "seed": 7,
        "reasoning_effort": "low",
        "reasoning": {"effort": "high"},
        "response_format": {"type": "json_schema"},
        "service_tier": "flex",
        "previous_response_id": "resp_1",
        "tool_choice": "auto",
    }
    only = request(None, parameters={"temperature": 0.5, "stop": ["END"]})
    assert ContentPolicy().apply(only).parameters == {"temperature": 0.5, "stop": ["END"]}


# -- on -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", CAPTURING)
def test_captured_content_is_rendered_as_json_in_the_schema_of_the_conventions(mode: Capture) -> None:
    policy = ContentPolicy(mode)
    start, sent, answered, called, returned, end = map(policy.apply, with_content("hi"))
    said = {"type": "text", "content": "hi"}
    assert [json.loads(text) for event in (start, sent, answered, end) for text in contents(event).values()] == [
        [said],
        [{"role": "user", "parts": [said]}],
        [{"role": "user", "parts": [said]}],
        [{"role": "assistant", "parts": [said], "finish_reason": "stop"}],
        [{"role": "assistant", "parts": [said], "finish_reason": "stop"}],
    ]
    assert contents(called) == {"arguments": '"hi"'}
    assert contents(returned) == {"arguments": '"hi"', "result": '"hi"'}


def test_arguments_and_results_are_the_json_that_they_are() -> None:
    event = ToolCall(tool="t", duration=1.0, success=True, arguments='{"city": "Zürich"}', result=[1, "ü"], **RUN)
    assert contents(ContentPolicy("SPAN_ONLY").apply(event)) == {"arguments": '{"city":"Zürich"}', "result": '[1,"ü"]'}


def test_the_finish_reasons_of_a_response_stand_in_its_messages() -> None:
    event = response([{"role": "assistant", "content": "a"}], finish_reasons=["max_tokens"])
    assert '"finish_reason":"length"' in str(ContentPolicy("SPAN_ONLY").apply(event).messages)
    event = response([{"role": "assistant", "content": "a"}], success=False)
    assert '"finish_reason":"error"' in str(ContentPolicy("SPAN_ONLY").apply(event).messages)


def test_what_the_caller_changes_later_changes_nothing() -> None:
    history = [{"role": "user", "content": "first"}]
    applied = ContentPolicy("SPAN_ONLY").apply(request(history))
    history.append({"role": "user", "content": "second"})
    assert "second" not in str(applied.messages)


@pytest.mark.parametrize("mode", CAPTURING)
def test_all_parameters_are_captured_with_the_content(mode: Capture) -> None:
    event = request(None, parameters={"temperature": 0.5, "tools": [{"name": "x"}], "api_key": "k"})
    assert ContentPolicy(mode).apply(event).parameters == {
        "temperature": 0.5,
        "tools": [{"name": "x"}],
        "api_key": "[REDACTED]",
    }


def test_content_that_is_too_long_is_cut_and_counted_and_still_is_its_schema() -> None:
    policy = ContentPolicy("SPAN_ONLY", max_bytes=500)
    applied = policy.apply(
        request([{"role": "user", "content": "word " * 10_000}, {"role": "user", "content": "short"}])
    )
    text = str(applied.messages)
    assert len(text.encode()) <= 500
    first, second = json.loads(text)
    assert first["parts"][0]["content"].startswith("word word")
    assert first["parts"][0]["content"].endswith("of 50000 chars]")
    assert second == {"role": "user", "parts": [{"type": "text", "content": "short"}]}
    assert policy.truncated == 1


def test_where_content_goes_is_told_by_the_mode() -> None:
    told = [(policy.on_spans, policy.on_events) for policy in map(ContentPolicy, MODES)]
    assert told == [(False, False), (True, False), (False, True), (True, True)]


# -- secrets --------------------------------------------------------------------------------------------------------


def planted_anywhere(secret: str, rng: random.Random) -> Any:
    value: Any = rng.choice([secret, f"look: {secret}\nthere", {"text": secret}])
    for _ in range(rng.randrange(5)):
        value = rng.choice(
            [
                [1, value, "x"],
                {"role": "user", "content": value},
                {"parts": value, "more": None},
                json.dumps({"inner": value}),
                {"type": "tool_use", "name": "t", "input": value},
            ]
        )
    return value


@pytest.mark.parametrize("mode", MODES)
def test_planted_secrets_of_every_kind_are_gone_from_content_attributes_and_errors(mode: Capture) -> None:
    rng = random.Random(7)
    secrets = {**{kind: (token, token) for kind, token in TOKENS.items()}, **ASSIGNED}
    assert len(secrets) >= 50
    for text, secret in secrets.values():
        policy = ContentPolicy(mode)
        value = planted_anywhere(text, rng)
        events = [
            *with_content(value),
            request("x", parameters={"system": value, "extra_body": {"x": value}}),
            request(None, attributes={"note": text, "nested": value, "agentbus.span": span_data(text)}),
            DomainEvent(name="lead", data={"note": text, "nested": value}, **RUN),
            UnknownEvent(name="later", fields={"note": text, "nested": value}, **RUN),
            failed(f"failed with {text}"),
            failed(json.dumps({"error": text})),
            Error(component="c", message=f"failed with {text}"),
            DeploymentFailed(deploy_id="d", reason=text),
        ]
        for event in events:
            written = everything(policy.apply(event))
            for form in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], json.dumps(json.dumps(secret))[3:-3]}:
                assert form not in written, (text, event)


@pytest.mark.parametrize("mode", MODES)
def test_a_secret_that_only_its_key_gave_away_is_not_quoted_by_an_error(mode: Capture) -> None:
    policy = ContentPolicy(mode)
    policy.apply(ToolCallStart(tool="login", arguments={"user": "bob", "password": "tiger"}, **RUN))
    applied = policy.apply(failed("cannot log in as bob with tiger"))
    assert applied.error_message == "cannot log in as bob with [REDACTED]"


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("NO_CONTENT", "could not parse: [content]"),
        ("SPAN_ONLY", f"could not parse: {PROMPT}"),
        ("EVENT_ONLY", "could not parse: [content]"),
        ("SPAN_AND_EVENT", f"could not parse: {PROMPT}"),
    ],
)
def test_the_text_of_an_error_quotes_content_only_where_spans_carry_it(mode: Capture, told: str) -> None:
    policy = ContentPolicy(mode)
    policy.apply(AgentStart(input=PROMPT, **RUN))
    text = f"could not parse: {PROMPT}"
    assert policy.apply(failed(text, **SUB)).error_message == told
    assert policy.apply(response(None, success=False, error_message=text)).error_message == told
    assert policy.apply(Error(component="c", message=text, **SUB)).message == told
    assert policy.apply(AgentEnd(error_message=text, **RUN)).error_message == told
    assert policy.apply(Error(component="c", message=text)).message == told
    assert policy.apply(DeploymentFailed(deploy_id="d", reason=text, **RUN)).reason == told
    assert policy.forgotten == 0


def test_an_event_with_both_content_and_an_error_is_looked_at_as_one() -> None:
    event = ToolCall(
        tool="t",
        duration=1.0,
        success=False,
        arguments={"q": "a question of mine"},
        error_message="no a question of mine",
    )
    assert ContentPolicy().apply(event).error_message == "no [content]"


def test_a_long_error_text_is_cut_and_no_secret_is_cut_in_half() -> None:
    policy = ContentPolicy()
    applied = policy.apply(failed("é" * 10_000))
    assert applied.error_message is not None
    assert len(applied.error_message.encode()) <= 4096
    assert applied.error_message.startswith("ééé")
    for length in range(8100, 8200):
        hidden = "a word " * 2000
        policy.apply(request(hidden))
        text = hidden[:length] + TOKENS["github personal"] + " and more" * 1000
        assert "ghp_" not in str(policy.apply(failed(text)).error_message)


def test_switched_off_no_text_of_an_error_is_left() -> None:
    policy = ContentPolicy("SPAN_ONLY", error_text=False)
    assert policy.apply(failed("secret text", error_type="a sentence of text")).error_message is None
    assert policy.apply(failed("secret text", error_type="a sentence of text")).error_type == "_OTHER"
    assert policy.apply(failed("secret text")).error_type == "ValueError"
    assert policy.apply(Error(component="c", message="secret text")).message == ""
    assert policy.apply(DeploymentFailed(deploy_id="d", reason="secret text")).reason == ""
    applied = policy.apply(response(None, attributes={"agentbus.span": span_data("secret text")}))
    assert "secret text" not in everything(applied)


def span_data(text: str) -> dict[str, JSON]:
    said: dict[str, JSON] = {
        "exception.type": "ValueError",
        "exception.message": text,
        "exception.stacktrace": f"Traceback (most recent call last):\n  File x\nValueError: {text}",
    }
    return {
        "events": [["exception", 7, said], ["my event", 8, {"n": 1}]],
        "status": ["ERROR", text],
        "links": [["00-1-2-01", {"n": 1}]],
        "name": "my span",
        "parent_attempt": 2,
    }


def test_what_user_code_said_on_its_span_keeps_its_form_and_loses_what_errors_lose() -> None:
    policy = ContentPolicy()
    policy.apply(request(PROMPT))
    applied = policy.apply(response(None, attributes={"mine": 1, "agentbus.span": span_data(f"bad: {PROMPT}")}))
    said = {
        "exception.type": "ValueError",
        "exception.message": "bad: [content]",
        "exception.stacktrace": "Traceback (most recent call last):\n  File x\nValueError: bad: [content]",
    }
    assert applied.attributes == {
        "mine": 1,
        "agentbus.span": {
            "events": [["exception", 7, said], ["my event", 8, {"n": 1}]],
            "status": ["ERROR", "bad: [content]"],
            "links": [["00-1-2-01", {"n": 1}]],
            "name": "my span",
            "parent_attempt": 2,
        },
    }


def test_the_end_of_a_long_stack_trace_is_kept() -> None:
    trace = "Traceback\n" + "  File somewhere, in something\n" * 1000 + "ValueError: the point of it"
    applied = ContentPolicy().apply(request(None, attributes={"exception.stacktrace": trace}))
    kept = applied.attributes["exception.stacktrace"]
    assert isinstance(kept, str)
    assert kept.endswith("ValueError: the point of it")
    assert len(kept.encode()) <= 4096


@anything
@given(hostile.values)
def test_span_data_of_any_form_is_made_harmless(value: Any) -> None:
    data = {
        "events": [value, [value, value, value], ["e", 1, {"k": value}]],
        "links": value,
        "status": value,
        "x": value,
    }
    applied = ContentPolicy().apply(request(None, attributes={"agentbus.span": data, "k": value}))
    json.dumps(applied.attributes, allow_nan=False).encode()
    span = applied.attributes["agentbus.span"]
    assert isinstance(span, dict)
    assert all(isinstance(event, list) and len(event) == 3 for event in span["events"])  # type: ignore[union-attr]


# -- the user's redaction -------------------------------------------------------------------------------------------


def test_the_hook_sees_scrubbed_json_under_the_fields_name_and_its_answer_counts() -> None:
    seen: list[tuple[str, JSON]] = []

    def redact(field: str, value: JSON) -> JSON:
        seen.append((field, value))
        return {"replaced": True} if field == "arguments" else value

    policy = ContentPolicy("SPAN_ONLY", redact=redact)
    applied = policy.apply(
        ToolCall(tool="t", duration=1.0, success=False, arguments={"token": "x"}, error_message="oops", **RUN)
    )
    assert seen == [("arguments", {"token": "[REDACTED]"}), ("error_message", "oops")]
    assert applied.arguments == '{"replaced":true}'
    assert applied.error_message == "oops"


def test_what_the_hook_fails_on_or_drops_is_not_exported() -> None:
    def fails(field: str, value: JSON) -> JSON:
        raise RuntimeError(f"cannot redact {value}")

    policy = ContentPolicy("SPAN_ONLY", redact=fails)
    for event in with_content("hi"):
        assert set(contents(policy.apply(event)).values()) == {None}
    assert policy.apply(failed("oops")).error_message is None
    assert policy.failures == 9
    assert ContentPolicy("SPAN_ONLY", redact=lambda field, value: None).apply(request("hi")).messages is None


def test_a_hook_may_answer_with_anything() -> None:
    for oddity in hostile.oddities():
        policy = ContentPolicy("SPAN_ONLY", redact=lambda field, value, oddity=oddity: oddity)  # type: ignore[misc]
        text = policy.apply(request("hi")).messages
        assert isinstance(text, str)
        json.loads(text)
        policy.apply(failed("oops"))


def test_without_content_the_hook_is_not_called() -> None:
    def fails(field: str, value: JSON) -> JSON:
        raise AssertionError

    policy = ContentPolicy("SPAN_ONLY", redact=fails)
    policy.apply(request(attributes={"a": "b" * 1000}))
    policy.apply(DomainEvent(name="lead", data={"a": [1]}))
    assert policy.failures == 0


# -- whatever comes -------------------------------------------------------------------------------------------------


def exported(attributes: dict[str, Any]) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    span = provider.get_tracer("t").start_span("s")
    for key, value in attributes.items():
        span.set_attribute(key, value)
    span.end()
    return list(exporter.get_finished_spans())


@pytest.fixture
def _quiet_sdk() -> Iterator[None]:
    """The SDK warns of empty keys, of which there are many here."""
    logger = logging.getLogger("opentelemetry.attributes")
    logger.disabled = True
    yield
    logger.disabled = False


def holds(value: Any, mode: Capture, max_bytes: int) -> None:
    """Put a value everywhere where one can be, and export what is left of it."""
    policy = ContentPolicy(mode, max_bytes)
    events: list[Event] = [
        *with_content(value),
        *with_content([{"role": "user", "content": value}]),
        request(None, parameters={"temperature": value, "tools": value}),
        request(None, parameters=value),
        DomainEvent(name="lead", data={"k": value}, **RUN),
        DomainEvent(name="lead", data=value, attributes=value, **RUN),
        UnknownEvent(name="later", fields=value),
        failed(value),
        Error(component=value, message=value, error_type=value),
        AgentEnd(error_type=value, tokens_used=value, **RUN),
        response(None, finish_reasons=value, usage=value, response_id=value),
    ]
    for event in events:
        applied = policy.apply(event)
        for text in contents(applied).values():
            if text is not None:
                assert isinstance(text, str)
                assert len(text.encode()) <= max_bytes
                json.loads(text, parse_constant=pytest.fail)
        payload = applied.data if isinstance(applied, DomainEvent) else {}
        said: dict[str, Any] = {**contents(applied), **applied.attributes, **payload}
        json.dumps(said, allow_nan=False).encode()
        encoded = encode_spans(exported({"event": repr(dataclasses.asdict(applied)), **said}))
        assert encoded.resource_spans[0].scope_spans[0].spans[0].attributes
    assert policy.failures == 0


@pytest.mark.usefixtures("_quiet_sdk")
@anything
@given(hostile.values, st.sampled_from(MODES), st.integers(256, 5000))
def test_whatever_comes_is_never_raised_over_and_can_be_exported(value: Any, mode: Capture, max_bytes: int) -> None:
    holds(value, mode, max_bytes)


@pytest.mark.usefixtures("_quiet_sdk")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index", range(len(hostile.oddities())))
def test_every_oddity_is_never_raised_over_and_can_be_exported(index: int, mode: Capture) -> None:
    holds(hostile.oddities()[index], mode, 1000)


@pytest.mark.usefixtures("_quiet_sdk")
@pytest.mark.parametrize("mode", MODES)
def test_what_is_huge_is_never_raised_over_and_can_be_exported(mode: Capture) -> None:
    for huge in ("x y\n" * 2_500_000, list(range(1_000_000)), {"k" * 1_000_000: b"\xff" * 1_000_000}):
        holds(huge, mode, 32_768)


@pytest.mark.parametrize(
    "field", ["agent", "invocation_id", "conversation_id", "channel", "tracestate", "parent_call_id"]
)
def test_names_and_ids_of_the_envelope_can_always_be_encoded(field: str) -> None:
    for bad in ("\ud800", "x" * 100_000, "é" * 1000, 7, hostile.Broken(), b"bytes", ["list"]):
        policy = ContentPolicy()
        event = request(**{field: bad})
        kept = getattr(policy.apply(event), field)
        assert type(kept) is str
        assert 0 < len(kept.encode()) <= 1024
        assert getattr(policy.apply(event), field) == kept


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_name_and_id_of_every_event_can_be_encoded(kind: str) -> None:
    cls: Callable[..., Event] = KINDS[kind]
    texts = {
        field.name: "\ud800 or worse"
        for field in dataclasses.fields(KINDS[kind])
        if str(field.type) in ("str", "str | None") and field.init
    }
    numbers = {
        field.name: 1
        for field in dataclasses.fields(KINDS[kind])
        if field.init and str(field.type) in ("int", "float", "bool") and field.default is dataclasses.MISSING
    }
    policy = ContentPolicy("SPAN_ONLY")
    for _ in range(2):
        everything(policy.apply(cls(**texts, **numbers))).encode()
        for name in texts:
            getattr(policy.apply(cls(**texts, **numbers)), name).encode()


def test_names_that_were_seen_before_do_not_vouch_for_others() -> None:
    policy = ContentPolicy()
    good = response(None, call_id="c", response_id="r", finish_reasons=["stop"], response_model="m")
    assert policy.apply(good) is good
    bad: Any
    for field, bad in (
        ("call_id", "\ud800"),
        ("response_id", "\ud800"),
        ("response_model", "\ud800"),
        ("finish_reasons", ["stop", "\ud800"]),
        ("model", "\ud800"),
        ("service_tier", "\ud800"),
        ("model_provider", "x" * 5000),
    ):
        applied = policy.apply(dataclasses.replace(good, **{field: bad}))
        assert len(json.dumps(getattr(applied, field), ensure_ascii=False).encode()) < 1100, field


def test_an_event_that_an_application_derived_from_ours_is_treated_as_ours_with_its_own_fields_scrubbed() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Checked(ToolCall):
        notes: Any = None

    event = Checked(tool="t", duration=1.0, success=True, arguments="hi", notes={"password": "x"}, **RUN)
    applied = ContentPolicy().apply(event)
    assert type(applied) is Checked
    assert (applied.arguments, applied.notes) == (None, {"password": "[REDACTED]"})


class Fickle(str):
    """A key that was once fine."""

    __slots__ = ("broken",)
    broken: bool

    def __hash__(self) -> int:
        if getattr(self, "broken", False):
            raise RuntimeError("no hash")
        return hash(str.__str__(self))

    __eq__ = str.__eq__


def test_an_event_that_cannot_be_treated_loses_all_that_was_said_freely_and_is_counted() -> None:
    key = Fickle("key")
    events: list[Event] = [
        response("content", success=False, error_type="ValueError", error_message="text", usage={"audio": 1}),
        request("content", parameters={"temperature": 1}, call_id="\ud800"),
        DomainEvent(name="lead", data={"said": 1}, **RUN),
        Error(component="c", message="text"),
    ]
    policy = ContentPolicy("SPAN_ONLY")
    for event in events:
        event.attributes = {key: "said"}
    key.broken = True
    first, second, third, fourth = map(policy.apply, events)
    assert first == response(None, success=False, error_type="_OTHER", outcome="error", attributes={})
    assert second == request(None, call_id="\\ud800")
    assert third == DomainEvent(name="lead", data={}, **RUN)
    assert fourth == Error(component="c", message="")
    assert policy.failures == 4


def test_what_is_no_event_at_all_is_replaced_and_counted() -> None:
    policy = ContentPolicy()
    for nothing in (None, "event", object(), hostile.Broken()):
        assert policy.apply(nothing) == UnknownEvent(name="unreadable")  # type: ignore[type-var]
    assert policy.failures == 4


def test_however_many_runs_and_names_there_are_each_is_looked_at() -> None:
    policy = ContentPolicy()
    for number in range(10_000):
        run: dict[str, Any] = {"invocation_id": f"r{number}", "root_invocation_id": f"r{number}"}
        event = request(model=f"model {number}", **run)
        assert policy.apply(event) is event
    assert policy.apply(request(model="\ud800", invocation_id="r9999")).model == "\\ud800"


def test_a_forked_child_knows_nothing_of_its_parents_runs() -> None:
    policy = ContentPolicy()
    policy.apply(request(PROMPT))
    policy.after_fork()
    assert policy.apply(failed(PROMPT)).error_message == PROMPT


def test_the_run_is_over_with_its_roots_end_but_a_late_error_still_finds_it() -> None:
    policy = ContentPolicy()
    policy.apply(request(PROMPT))
    policy.apply(AgentEnd(**RUN))
    assert policy.apply(failed(f"late: {PROMPT}")).error_message == "late: [content]"
    for number in range(40):
        run: dict[str, Any] = {"invocation_id": f"r{number}", "root_invocation_id": f"r{number}"}
        policy.apply(request("something else", **run))
        policy.apply(AgentEnd(**run))
    assert policy.apply(failed(f"late: {PROMPT}")).error_message == f"late: {PROMPT}"


@pytest.mark.parametrize("name", ["llm_tool_call", "llm_tool_result", "llm_response", "llm_error"])
def test_what_a_forwarded_run_quotes_is_content(name: str) -> None:
    """`trace_agent(agent, bus.publish)` puts arguments and results into the data of domain events."""
    data: dict[str, Any] = {"tool": "t", "args": {"a": "said"}, "result": "said", "error": "said", "tokens": 3}
    event = DomainEvent(name=name, data=data)
    off, on = ContentPolicy("NO_CONTENT").apply(event), ContentPolicy("SPAN_ONLY").apply(event)
    assert off.data == {"tool": "t", "tokens": 3}
    assert on.data == data
    assert event.data == data
    assert ContentPolicy().apply(DomainEvent(name="mine", data={"result": "won"})).data == {"result": "won"}


def test_what_a_forwarded_run_quotes_is_content_however_often_it_comes() -> None:
    policy = ContentPolicy()
    events = [DomainEvent(name="llm_tool_call", data={"tool": "t", "args": PROMPT}, **RUN) for _ in range(3)]
    assert [policy.apply(event).data for event in events] == [{"tool": "t"}] * 3
