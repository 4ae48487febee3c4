"""What stays home: a whole program's bytes on the wire, and its logs, searched for what must not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import testing

from .planted import TOKENS
from .receivers import HttpReceiver
from .secretive import CANARY

ROOT = Path(__file__).parent.parent


def run(capture: str | None, **more: str) -> tuple[list[Any], bytes]:
    """The requests that the program sent, and everything it said: bodies, standard output and error."""
    with HttpReceiver() as receiver:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "AGENTBUS_"))}
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        if capture is not None:
            environment["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = capture
        done = subprocess.run(
            [sys.executable, "-m", "tests.secretive"],
            cwd=ROOT,
            env=environment | more,
            capture_output=True,
            check=True,
            timeout=120,
        )
        bodies = [request.body for request in receiver.received]
        messages = [request.message for request in receiver.received]
    assert len(bodies) >= 2, "spans and metrics have come"
    return messages, b"\n".join([*bodies, done.stdout, done.stderr])


def spans_in(messages: list[Any]) -> list[Any]:
    return [
        span
        for message in messages
        for resource in getattr(message, "resource_spans", ())
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def pieces(text: str) -> list[bytes]:
    """The text, its ends and its middle: a leak may be cut."""
    words = text.split()
    return [text.encode(), " ".join(words[:3]).encode(), " ".join(words[-4:]).encode()]


@pytest.mark.parametrize("capture", [None, "NO_CONTENT", "false"])
def test_without_capture_no_content_and_no_secret_leaves_the_process(capture: str | None) -> None:
    messages, said = run(capture)
    assert len(spans_in(messages)) == 6 * len(TOKENS)
    leaks = [place for place, text in CANARY.items() if any(piece in said for piece in pieces(text))]
    assert leaks == []
    assert [kind for kind, token in TOKENS.items() if token.encode() in said] == []
    assert b"ValueError" in said, "the kind of the error is told"


def test_with_capture_the_content_is_there_and_the_secrets_are_gone() -> None:
    messages, said = run("SPAN_ONLY")
    there = ["input", "instructions", "prompt", "answer", "argument", "result", "output"]
    assert [place for place in there if CANARY[place].encode() not in said] == []
    assert [kind for kind, token in TOKENS.items() if token.encode() in said] == []
    contents = [
        attribute.value.string_value
        for span in spans_in(messages)
        for attribute in span.attributes
        if attribute.key.endswith((".messages", ".arguments", ".result", "_instructions"))
    ]
    assert len(contents) >= 8 * len(TOKENS)
    assert all(json.loads(content) for content in contents)


@pytest.mark.parametrize(("capture", "on_span", "in_event"), [("EVENT_ONLY", 0, 1), ("SPAN_AND_EVENT", 1, 1)])
def test_content_stands_where_the_mode_says(capture: str, on_span: int, in_event: int) -> None:
    messages, _ = run(capture)
    spans = [span for span in spans_in(messages) if span.name == "chat m"]
    on_spans = any(attribute.key == "gen_ai.input.messages" for span in spans for attribute in span.attributes)
    in_events = any(
        attribute.key == "gen_ai.input.messages"
        for span in spans
        for event in span.events
        for attribute in event.attributes
    )
    assert (int(on_spans), int(in_events)) == (on_span, in_event)


def test_captured_content_is_cut_to_its_bound_and_stays_json() -> None:
    messages, _ = run("SPAN_ONLY", AGENTBUS_CONTENT_MAX_BYTES="1024")
    contents = [
        attribute.value.string_value
        for span in spans_in(messages)
        for attribute in span.attributes
        if attribute.key.endswith(".messages")
    ]
    assert contents
    assert all(json.loads(content) for content in contents)
    assert max(len(content.encode()) for content in contents) <= 1100


def test_error_texts_can_be_switched_off() -> None:
    _, said = run(None, AGENTBUS_ERROR_TEXT="off")
    assert b"cannot parse" not in said
    assert b"ValueError" in said


@pytest.mark.parametrize("name", ["instructions", "input", "output", "messages", "arguments", "prompt", "output.value"])
@pytest.mark.parametrize("capture", ["NO_CONTENT", "SPAN_ONLY"])
def test_content_that_is_recorded_where_there_is_no_field_for_it_is_content_all_the_same(
    name: str, capture: str
) -> None:
    with testing.capture(capture_content=capture) as seen:
        with agentbus.llm("m") as call, agentbus.tool("t") as tool:
            if name != "messages":  # a field of a model call
                call.record(**{name: "my secret plan"})
            tool.record(**({"other": 1} if name == "arguments" else {name: "my secret plan"}), found=3)
        spans = {span.name: dict(span.attributes or {}) for span in seen.spans}
    said = [name in spans["chat m"], name in spans["execute_tool t"]]
    shown = capture == "SPAN_ONLY"
    assert said == [shown and name != "messages", shown and name != "arguments"]
    assert spans["execute_tool t"]["found"] == 3
