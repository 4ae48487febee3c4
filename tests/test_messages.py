"""Messages as people have them become the parts schema of the conventions, and the official JSON Schema agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_agentbus.events import JSON
from otel_agentbus.telemetry.messages import (
    arguments,
    copied,
    input_messages,
    output_messages,
    system_instructions,
)
from otel_agentbus.telemetry.rendering import BoundedCopy, safe_json
from otel_agentbus.telemetry.truncation import fitted
from tests import hostile

SCHEMAS = Path(__file__).parents[1] / "../shared/conformance/data/docs/gen-ai"
anything = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


def conforms(kind: str, value: JSON) -> None:
    """Hold a value against the schema of v1.41 of the conventions."""
    path = SCHEMAS / f"gen-ai-{kind}.json"
    if not path.exists():
        pytest.skip("the JSON schemas of the GenAI conventions are not beside this repository")
    jsonschema.Draft202012Validator(json.loads(path.read_text())).validate(value)


def text(said: str) -> dict[str, JSON]:
    return {"type": "text", "content": said}


@pytest.mark.parametrize(
    ("given_messages", "expected"),
    [
        pytest.param("hello", [{"role": "user", "parts": [text("hello")]}], id="a string"),
        pytest.param(
            [{"role": "system", "content": "be kind"}, {"role": "user", "name": "bob", "content": "hi"}],
            [
                {"role": "system", "parts": [text("be kind")]},
                {"role": "user", "parts": [text("hi")], "name": "bob"},
            ],
            id="role and content",
        ),
        pytest.param(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this?"},
                        {"type": "image_url", "image_url": {"url": "https://x.example/cat.png"}},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                        {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "wav"}},
                        {"type": "file", "file": {"file_id": "f-1"}},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "parts": [
                        text("what is this?"),
                        {"type": "uri", "modality": "image", "uri": "https://x.example/cat.png"},
                        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AAAA"},
                        {"type": "blob", "modality": "audio", "mime_type": "wav", "content": "BBBB"},
                        {"type": "file", "modality": "document", "file_id": "f-1"},
                    ],
                }
            ],
            id="OpenAI's content list",
        ),
        pytest.param(
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"city": "Rome"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": '{"sun": true}'},
                {"role": "tool", "tool_call_id": "c2", "content": "rainy"},
            ],
            [
                {
                    "role": "assistant",
                    "parts": [{"type": "tool_call", "name": "get", "id": "c1", "arguments": {"city": "Rome"}}],
                },
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": {"sun": True}}]},
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c2", "response": "rainy"}]},
            ],
            id="OpenAI's tool calls",
        ),
        pytest.param(
            [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "x"},
                        {"type": "text", "text": "let me see"},
                        {"type": "tool_use", "id": "t1", "name": "get", "input": {"city": "Rome"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "CC"}},
                        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.jpg"}},
                    ],
                },
            ],
            [
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "reasoning", "content": "hm"},
                        text("let me see"),
                        {"type": "tool_call", "name": "get", "id": "t1", "arguments": {"city": "Rome"}},
                    ],
                },
                {
                    "role": "user",
                    "parts": [
                        {"type": "tool_call_response", "id": "t1", "response": [{"type": "text", "text": "sunny"}]},
                        {"type": "blob", "modality": "image", "mime_type": "image/jpeg", "content": "CC"},
                        {"type": "uri", "modality": "image", "uri": "https://x.example/a.jpg"},
                    ],
                },
            ],
            id="Anthropic's blocks",
        ),
        pytest.param(
            [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "function_call", "call_id": "f1", "name": "get", "arguments": '{"a": 1}'},
                {"type": "function_call_output", "call_id": "f1", "output": "2"},
            ],
            [
                {"role": "user", "parts": [text("hi")]},
                {
                    "role": "assistant",
                    "parts": [{"type": "tool_call", "name": "get", "id": "f1", "arguments": {"a": 1}}],
                },
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "f1", "response": "2"}]},
            ],
            id="items of OpenAI's Responses",
        ),
        pytest.param(
            [{"role": "model", "parts": [{"text": "hi"}, {"function_call": {"name": "get", "args": {"a": 1}}}]}],
            [{"role": "assistant", "parts": [text("hi"), {"type": "tool_call", "name": "get", "arguments": {"a": 1}}]}],
            id="Gemini's parts",
        ),
        pytest.param(
            [{"type": "human", "content": "hi"}, {"type": "ai", "content": "hello", "tool_calls": []}],
            [{"role": "user", "parts": [text("hi")]}, {"role": "assistant", "parts": [text("hello")]}],
            id="LangChain's types",
        ),
        pytest.param(
            [{"role": "user", "parts": [text("hi"), {"type": "server_tool_call", "name": "web", "id": "s"}]}],
            [{"role": "user", "parts": [text("hi"), {"type": "server_tool_call", "name": "web", "id": "s"}]}],
            id="the schema itself",
        ),
        pytest.param(
            '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
            [{"role": "user", "parts": [text("hi")]}],
            id="the schema itself, rendered",
        ),
        pytest.param(
            [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
                {"type": "image"},
                {"inline_data": {"mime_type": "image/png", "data": "AA"}},
                {"role": "assistant", "reasoning_content": "hm", "tool_calls": ["odd"], "function_call": {"name": "f"}},
            ],
            [
                {"role": "assistant", "parts": [{"type": "reasoning", "content": "so"}]},
                {
                    "role": "user",
                    "parts": [
                        {"type": "image"},
                        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AA"},
                    ],
                },
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "reasoning", "content": "hm"},
                        text("odd"),
                        {"type": "tool_call", "name": "f"},
                    ],
                },
            ],
            id="parts without a message and odd ones",
        ),
        pytest.param({"score": 87}, [{"role": "user", "parts": [text('{"score":87}')]}], id="some object"),
        pytest.param([1, None], [{"role": "user", "parts": [text("1"), text("null")]}], id="some list"),
        pytest.param([], [{"role": "user", "parts": []}], id="nothing"),
        pytest.param(
            [{"role": "user", "content": "hi", "refusal": "no", "extra": {"kept": True}, "empty": []}],
            [{"role": "user", "parts": [text("hi")], "refusal": "no", "extra": {"kept": True}}],
            id="keys of its own",
        ),
    ],
)
def test_messages_in_the_shapes_that_people_have(given_messages: JSON, expected: JSON) -> None:
    found = input_messages(copied(given_messages, BoundedCopy(10_000, 5_000)))
    assert found == expected
    conforms("input-messages", found)


def test_an_answer_has_the_finish_reason_of_its_choice() -> None:
    answers: JSON = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    found = output_messages(answers, ["tool_calls", "max_tokens"], success=True)
    assert found == [
        {"role": "assistant", "parts": [text("a")], "finish_reason": "tool_call"},
        {"role": "assistant", "parts": [text("b")], "finish_reason": "length"},
    ]
    conforms("output-messages", found)


@pytest.mark.parametrize(
    ("answer", "success", "reason"),
    [
        ("text", True, "stop"),
        ("text", False, "error"),
        ({"role": "assistant", "content": "x", "stop_reason": "end_turn"}, True, "stop"),
        ({"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}, True, "length"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, True, "tool_call"),
        ({"role": "assistant", "content": "x", "finish_reason": "a_reason_of_its_own"}, True, "a_reason_of_its_own"),
    ],
)
def test_a_finish_reason_is_found_or_follows_from_what_happened(answer: JSON, success: bool, reason: str) -> None:
    found = output_messages(answer, None, success)
    assert [message["finish_reason"] for message in found if isinstance(message, dict)] == [reason]
    conforms("output-messages", found)


def test_instructions_are_parts() -> None:
    assert system_instructions("be kind") == [text("be kind")]
    assert system_instructions(["be kind", {"type": "text", "text": "and brief"}]) == [
        text("be kind"),
        text("and brief"),
    ]
    assert system_instructions({"role": "system", "content": "be kind"}) == [text("be kind")]
    assert system_instructions('[{"type":"text","content":"be kind"}]') == [text("be kind")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"city": "Rome"}', {"city": "Rome"}),
        ("{not json}", "{not json}"),
        ("[1]", "[1]"),
        ("Rome", "Rome"),
        ({"city": "Rome"}, {"city": "Rome"}),
        (None, None),
        ("{" * 100_000 + "}" * 100_000, "{" * 100_000 + "}" * 100_000),
    ],
    ids=map(str, range(7)),
)
def test_arguments_in_the_form_of_a_string_become_the_object_that_they_are(value: JSON, expected: JSON) -> None:
    assert arguments(value) == expected


def test_of_a_long_history_the_first_and_the_newest_messages_are_copied() -> None:
    history: list[JSON] = [{"role": "user", "content": f"{number:04} " + "x" * 96} for number in range(10_000)]
    found = input_messages(copied(history, BoundedCopy(1_000, 500)))
    assert found[0] == {"role": "user", "parts": [text("0000 " + "x" * 96)]}
    assert found[-1] == {"role": "user", "parts": [text("9999 " + "x" * 96)]}
    assert found[1] == {
        "role": "…",
        "parts": [text(f"…[truncated {10_000 - len(found) + 1} of 10000 messages]")],
    }


@anything
@given(hostile.values, st.integers(300, 4000))
def test_whatever_comes_conforms_to_the_schemas_also_when_it_is_cut(value: Any, max_bytes: int) -> None:
    copy = safe_json(value, 8000, 4000)
    for kind, found in (
        ("input-messages", input_messages(copied(value, BoundedCopy(8000, 4000)))),
        ("output-messages", output_messages(copy, ["stop"], success=True)),
        ("system-instructions", system_instructions(copy)),
    ):
        conforms(kind, found)
        conforms(kind, fitted(found, max_bytes)[0])
