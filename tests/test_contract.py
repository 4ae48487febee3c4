"""Events to JSON and back: nothing is lost, producers' dialects are read, mistakes are named."""

from __future__ import annotations

import contextlib
import json
import types
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_agentbus import contract, events
from otel_agentbus.errors import AgentBusError, UnreadableEvent
from otel_agentbus.events import (
    JSON,
    KINDS,
    AgentEnd,
    AgentStart,
    DomainEvent,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    UnknownEvent,
)
from tests.hostile import oddities

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-(2**70), 2**70)


class Model(StrEnum):
    """As applications name models."""

    MINI = "gpt-5-mini"


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=3)
ENVELOPE = {field.name for field in fields(Event)}


def strategy_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values for the type of a field."""
    if hint is JSON:
        return VALUES
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return st.one_of([strategy_of(part) for part in get_args(hint)])
    if get_origin(hint) is dict:
        return st.dictionaries(TEXT, strategy_of(get_args(hint)[1]), max_size=3)
    if get_origin(hint) is list:
        return st.lists(strategy_of(get_args(hint)[0]), max_size=3)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT,
        int: INTEGERS,
        float: FLOATS,
        bool: st.booleans(),
        type(None): st.none(),
    }
    return plain[hint]


def events_of(cls: type[Event], **given_fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls, vars(events))
    others = {f.name: strategy_of(hints[f.name]) for f in fields(cls) if f.init and f.name not in given_fields}
    return st.builds(cls, **{**others, **given_fields})


UNKNOWN_NAMES = TEXT.filter(lambda name: name not in KINDS)
UNKNOWN_FIELDS = OBJECTS.map(lambda said: {k: v for k, v in said.items() if k not in ENVELOPE | {"event", "name"}})
ANY_EVENT: st.SearchStrategy[Any] = st.one_of(
    *[events_of(cls) for cls in KINDS.values()],
    events_of(DomainEvent, name=TEXT | st.sampled_from(sorted(KINDS))),
    events_of(UnknownEvent, name=UNKNOWN_NAMES, fields=UNKNOWN_FIELDS),
)


def is_exactly(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down: 1 is not True, and not 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_exactly(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(is_exactly(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


@given(ANY_EVENT)
@settings(max_examples=500)
def test_what_is_written_is_read_again_as_it_was(event: Event) -> None:
    written = contract.write(event)
    read = contract.read(written)
    assert type(read) is type(event)
    for field in fields(event):
        assert is_exactly(getattr(read, field.name), getattr(event, field.name)), field.name
    assert contract.write(read) == written
    assert contract.read(written.decode()) == event
    assert contract.load(json.loads(written)) == event


SAID = ["event", "name", "data", "attempt", "operation", "attributes", "duration", "turn_id", "agent", "usage"]
DIALECTS = st.sampled_from(["NaN", "3", "PT1S", {"secs": 1, "nanos": 2}, "error", "tool.end", 3.0, True])


def outcome(read: Callable[[Any], Event], found: Any) -> str:
    try:
        return repr(read(found))
    except UnreadableEvent as refused:
        return f"refused: {refused}"


@given(ANY_EVENT, st.dictionaries(st.sampled_from(SAID), VALUES | DIALECTS))
@settings(max_examples=500)
def test_text_is_read_as_what_it_says_is_loaded(event: Event, further: dict[str, Any]) -> None:
    found = {**json.loads(contract.write(event)), **further}
    assert outcome(contract.read, json.dumps(found)) == outcome(contract.load, found)


@given(ANY_EVENT)
def test_what_can_be_written_and_read_is_valid(event: Event) -> None:
    contract.validate(event)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25)
def test_every_kind_makes_the_round_trip(kind: str, data: st.DataObject) -> None:
    event = data.draw(events_of(KINDS[kind]))
    assert json.loads(contract.write(event))["event"] == kind
    assert contract.read(contract.write(event)) == event


def test_what_is_unset_is_left_out_and_the_order_is_that_of_the_class() -> None:
    event = LlmResponse(
        call_id="c1", success=False, duration=1.5, model="m", model_provider="p", seq=0, input_tokens=0, usage={}
    )
    assert contract.write(event) == (
        b'{"event":"llm.response","seq":0,"model_provider":"p","model":"m","duration":1.5,"success":false,'
        b'"outcome":"error","input_tokens":0,"usage":{},"call_id":"c1"}'
    )
    assert contract.write(HeartbeatTick()) == b'{"event":"heartbeat.tick"}'
    assert contract.write(
        LlmRequest(model_provider="p", model="m", messages_count=0, attempt=2, operation="embed")
    ) == (
        b'{"event":"llm.request","attempt":2,"model_provider":"p","model":"m","messages_count":0,"operation":"embed"}'
    )


@pytest.mark.parametrize("name", ["lead_qualified", "error", "turn.complete", "domain", "unknown", ""])
def test_a_domain_event_is_known_by_its_own_name_even_if_that_is_a_tag(name: str) -> None:
    event = DomainEvent(name=name, data={"score": 87}, agent="planner")
    written = contract.write(event)
    assert json.loads(written) == {"event": name, "agent": "planner", "name": name, "data": {"score": 87}}
    assert contract.read(written) == event
    assert contract.read(contract.write(DomainEvent(name=name))) == DomainEvent(name=name)


def test_an_unknown_kind_keeps_its_fields_and_is_written_back_as_it_was_read() -> None:
    line = (
        b'{"event":"memory.recall","time_ns":7,"agent":"planner","attributes":{"a":1},'
        b'"duration":1.5,"turn_id":"t1","query":null,"name":"n","num_entries":3}'
    )
    event = contract.read(line)
    assert event == UnknownEvent(
        name="memory.recall",
        time_ns=7,
        agent="planner",
        attributes={"a": 1},
        fields={"duration": 1.5, "turn_id": "t1", "query": None, "name": "n", "num_entries": 3},
    )
    assert contract.write(event) == line


# The field sets of the events' origin, through its versions A to D.
LLM: dict[str, Any] = {"model_provider": "openai", "model": "gpt-5"}
TRIPLE: dict[str, Any] = {"channel": "cli", "agent_alias": "planner", "turn_id": "t1"}
STAMPED: dict[str, Any] = {"channel": "cli", "agent": "planner", "invocation_id": "t1"}
CHILD: dict[str, Any] = {**STAMPED, "attributes": {"parent_agent_alias": "boss"}}
SECOND = {"secs": 1, "nanos": 500_000_000}
SNAPSHOT: dict[str, JSON] = {"input": [{"role": "user", "content": "hi"}], "output_text": None, "output_tool_calls": []}
FIELD_SETS: list[tuple[dict[str, Any], Event]] = [
    ({"event": "agent.start", **LLM}, AgentStart(**LLM)),
    ({"event": "agent.start", **LLM, **TRIPLE}, AgentStart(**LLM, **STAMPED)),
    ({"event": "llm.request", **LLM, "messages_count": 2}, LlmRequest(**LLM, messages_count=2)),
    (
        {"event": "llm.request", **LLM, "messages_count": 2, **TRIPLE, "parent_agent_alias": "boss"},
        LlmRequest(**LLM, messages_count=2, **CHILD),
    ),
    (
        {"event": "llm.response", **LLM, "duration": SECOND, "success": True, "error_message": None,
         "input_tokens": 120, "output_tokens": None},
        LlmResponse(**LLM, duration=1.5, success=True, input_tokens=120),
    ),
    (
        {"event": "llm.response", **LLM, "duration": 1.5, "success": False, "error_message": "429", **TRIPLE,
         "parent_agent_alias": "boss", "messages": SNAPSHOT},
        LlmResponse(**LLM, duration=1.5, success=False, error_message="429", messages=SNAPSHOT, **CHILD),
    ),
    (
        {"event": "agent.end", **LLM, "duration": "PT1.5S", "tokens_used": 160, "cost_usd": 0.01},
        AgentEnd(**LLM, duration=1.5, tokens_used=160, cost_usd=0.01),
    ),
    (
        {"event": "agent.end", **LLM, "duration": 1.5, "tokens_used": {"input_tokens": 120, "output_tokens": 40},
         "cost_usd": None, **TRIPLE},
        AgentEnd(**LLM, duration=1.5, tokens_used={"input_tokens": 120, "output_tokens": 40}, **STAMPED),
    ),
    ({"event": "tool.start", "tool": "search", "arguments": "{}"}, ToolCallStart(tool="search", arguments="{}")),
    (
        {"event": "tool.start", "tool": "search", "tool_call_id": "c1", "arguments": None, **TRIPLE,
         "parent_agent_alias": "boss"},
        ToolCallStart(tool="search", tool_call_id="c1", **CHILD),
    ),
    (
        {"event": "tool.end", "tool": "search", "duration": 1.5, "success": True},
        ToolCall(tool="search", duration=1.5, success=True),
    ),
    (
        {"event": "tool.end", "tool": "search", "tool_call_id": "c1", "duration": timedelta(seconds=1.5),
         "success": False, "arguments": "{}", "result": "no", **TRIPLE, "parent_agent_alias": None},
        ToolCall(tool="search", tool_call_id="c1", duration=1.5, success=False, arguments="{}", result="no", **STAMPED),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "event"), FIELD_SETS, ids=[found["event"] for found, _ in FIELD_SETS])
def test_the_field_sets_of_the_producers_versions_are_read(found: dict[str, Any], event: Event) -> None:
    assert contract.load(found) == event


def test_our_names_beat_their_aliases_and_what_is_left_over_is_kept_in_the_attributes() -> None:
    found = {
        "event": "turn.complete", "invocation_id": "i", "turn_id": "t", "agent": "a", "agent_alias": "b",
        "later": [1], "note": "new", "nothing": None, "attributes": {"note": "old", "k": None},
    }  # fmt: skip
    assert contract.load(found) == KINDS["turn.complete"](
        invocation_id="i",
        agent="a",
        attributes={"note": "old", "k": None, "turn_id": "t", "agent_alias": "b", "later": [1], "event.note": "new"},
    )
    assert contract.load({"event": "x", "name": "x", "data": {}, "score": 1}) == DomainEvent(
        name="x", attributes={"score": 1}
    )


def test_null_stands_for_what_is_unset() -> None:
    found = {"event": "llm.request", **LLM, "messages_count": 1, "attempt": None, "attributes": None, "operation": None}
    assert contract.load(found) == LlmRequest(**LLM, messages_count=1)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not JSON: EOF while parsing a value at line 1 column 0"),
        (b'{"event":"heartbeat.tick"', "not JSON: EOF while parsing an object"),
        (b"\xff\xfe", "not JSON: "),
        ("[]", "an event is a JSON object, and this is of type list"),
        ("null", "an event is a JSON object, and this is null"),
        ("{}", 'an event names its kind in "event", a string, and here that is null'),
        ('{"event":7}', 'an event names its kind in "event", a string, and here that is of type int'),
        ('{"event":"error","component":"c"}', "error: field `message` is missing"),
        ('{"event":"tool.end"}', "tool.end: field `tool` is missing (and 2 more)"),
        (
            '{"event":"tool.start","tool":["secret"]}',
            "tool.start: field `tool` should be a valid string",
        ),
        (
            '{"event":"cache.hit","cache_type":"c","tokens_saved":"many"}',
            "cache.hit: field `tokens_saved` should be a valid integer, unable to parse string as an integer",
        ),
        ('{"event":"agent.end","outcome":"good"}', "should be 'ok', 'error', 'cancelled' or 'interrupted'"),
        ('{"event":"agent.end","duration":"PX"}', "agent.end: field `duration` should be a valid number"),
        ('{"event":"agent.end","duration":{"secs":"x","nanos":1}}', "agent.end: field `duration` should be a valid"),
        ('{"event":"agent.end","tokens_used":"x"}', "`tokens_used` is of none of the types that it may have"),
        ('{"event":"later","time_ns":"soon"}', "later: field `time_ns` should be a valid integer"),
        ('{"event":"agent.start","attributes":3,"x":1}', "field `attributes` should be a valid dictionary"),
    ],
)
def test_what_is_no_event_is_refused_with_one_sentence_that_shows_no_value(data: Any, sentence: str) -> None:
    with pytest.raises(UnreadableEvent) as refused:
        contract.read(data)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert isinstance(refused.value, (AgentBusError, ValueError))


@dataclass(slots=True, kw_only=True)
class Reviewed(Event):
    """A kind of an application's own."""

    kind: ClassVar[str] = "crm.reviewed"
    stars: int


@dataclass(slots=True, kw_only=True)
class Delegated(ToolCallStart):
    """What an application knows more of a kind of ours."""

    to: object


REQUEST: dict[str, Any] = {**LLM, "messages_count": 3}


@pytest.mark.parametrize(
    ("cls", "said", "sentence"),
    [
        (LlmRequest, {**REQUEST, "messages_count": "3"}, "`messages_count` should be of type int, and is of type str"),
        (
            LlmRequest,
            {**REQUEST, "messages_count": True},
            "`messages_count` should be of type int, and is of type bool",
        ),
        (
            LlmRequest,
            {**REQUEST, "messages_count": 3.0},
            "`messages_count` should be of type int, and is of type float",
        ),
        (LlmRequest, {**REQUEST, "model": None}, "llm.request: field `model` should be a valid string"),
        (LlmRequest, {**REQUEST, "messages": {"path": object()}}, "field `messages` holds what JSON cannot say"),
        (LlmRequest, {**REQUEST, "messages": (1, 2)}, "field `messages` holds what JSON cannot say"),
        (LlmRequest, {**REQUEST, "messages": iter([1])}, "field `messages` holds what JSON cannot say"),
        (LlmRequest, {**REQUEST, "messages": [(1, 2)]}, "`messages` holds what JSON cannot say"),
        (AgentEnd, {"outcome": "fine"}, "agent.end: field `outcome` should be 'ok', 'error'"),
        (AgentEnd, {"duration": float("nan")}, "agent.end: field `duration` holds what JSON cannot say"),
        (DomainEvent, {"name": "lead", "data": {1: 2}}, "lead: field `data`"),
        (Reviewed, {"stars": 5, "agent": 7}, "crm.reviewed: field `agent` should be a valid string"),
        (Delegated, {"tool": 7, "to": print}, "tool.start: field `tool` should be a valid string"),
        (str, {}, "an event is an instance of a class of `events`, and this is of type str"),
    ],
)
def test_validation_names_the_field_that_is_wrong(cls: Any, said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnreadableEvent) as refused:
        contract.validate(cls(**said))
    assert sentence in str(refused.value)


def test_validation_reads_no_iterator_and_takes_enums_for_what_they_are() -> None:
    stream = iter(["one", "two"])
    with pytest.raises(UnreadableEvent):
        contract.validate(LlmRequest(**REQUEST, messages=stream))  # type: ignore[arg-type]  # on purpose
    assert list(stream) == ["one", "two"]
    contract.validate(LlmRequest(**{**REQUEST, "model": Model.MINI}, parameters=defaultdict(list, stop=["."])))
    for odd in oddities():
        for said in ({"messages": odd}, {"model": odd}, {"attributes": {"odd": odd}}):
            with contextlib.suppress(UnreadableEvent):
                contract.validate(LlmRequest(**{**REQUEST, **said}))


def test_an_applications_own_kind_is_valid_and_comes_back_as_an_unknown_one() -> None:
    event = Reviewed(stars=5, agent="planner")
    contract.validate(event)
    assert contract.write(event) == b'{"event":"crm.reviewed","agent":"planner","stars":5}'
    assert contract.read(contract.write(event)) == UnknownEvent(
        name="crm.reviewed", agent="planner", fields={"stars": 5}
    )
