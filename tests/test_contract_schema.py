"""The contract as JSON Schema: what is written is valid by it, what is not an event is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from otel_agentbus import contract
from otel_agentbus.events import KINDS, DomainEvent, Event, UnknownEvent
from tests.test_contract import ANY_EVENT

SCHEMA = contract.json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_schema_is_a_valid_schema_of_draft_2020_12() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_every_kind_has_its_tag_as_a_required_constant_and_the_discriminator_leads_to_it() -> None:
    mapping = SCHEMA["discriminator"]["mapping"]
    assert SCHEMA["discriminator"]["propertyName"] == "event"
    assert mapping.keys() == KINDS.keys()
    for kind, cls in KINDS.items():
        definition = SCHEMA["$defs"][cls.__name__]
        assert mapping[kind] == f"#/$defs/{cls.__name__}"
        assert definition["properties"]["event"] == {"const": kind, "type": "string"}
        assert definition["required"][0] == "event"
    assert {ref["$ref"] for ref in SCHEMA["oneOf"]} == {*mapping.values(), "#/$defs/DomainEvent"}
    assert SCHEMA["$defs"]["LlmRequest"]["required"] == ["event", "model_provider", "model", "messages_count"]
    assert SCHEMA["$defs"]["DomainEvent"]["required"] == ["event", "name", "data"]


@given(ANY_EVENT.filter(lambda event: not isinstance(event, UnknownEvent)))
@settings(max_examples=200)
def test_whatever_is_written_is_valid(event: Event) -> None:
    VALIDATOR.validate(json.loads(contract.write(event)))


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"event": "tool.start"},
        {"event": "tool.start", "tool": 1},
        {"event": "tool.start", "tool": "t", "tol_call_id": "c1"},
        {"event": "agent.end", "outcome": "good"},
        {"event": "lead_qualified", "data": {}},
        {"event": "lead_qualified", "name": "lead_qualified"},
        {"event": "memory.recall", "duration": 1},
    ],
)
def test_what_is_not_written_by_us_is_not_valid(found: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(found)


def test_a_domain_event_may_have_the_name_of_a_kind() -> None:
    for kind in KINDS:
        VALIDATOR.validate(json.loads(contract.write(DomainEvent(name=kind, data={"a": [1, None]}))))
