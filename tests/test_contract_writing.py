"""Whatever a program puts into an event is written as valid JSON, and none of the program's code is disturbed."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, ClassVar, Self
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from otel_agentbus import contract
from otel_agentbus.event_writing import write_carefully
from otel_agentbus.events import AgentEnd, DomainEvent, Event, LlmRequest, LlmResponse, ToolCall, UnknownEvent
from tests.hostile import oddities
from tests.test_contract import ANY_EVENT


def written(value: Any) -> Any:
    """What a value is, once it has been written and read by another JSON reader."""
    data = contract.write(DomainEvent(name="n", data={"value": value}))
    assert contract.read(data).name == "n"  # type: ignore[attr-defined]  # it is a domain event
    return json.loads(data, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))["data"]["value"]


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str):
    def __str__(self) -> str:
        return "something else"


@dataclass
class Hit:
    title: str
    inner: Any = None
    more: list[Any] = field(default_factory=list)


class Model(BaseModel):
    name: str
    hits: list[int] = []


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no name")


class Unhelpful(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise OSError

    def __iter__(self) -> Iterator[str]:
        raise OSError

    def __len__(self) -> int:
        return 1


RENDERED: list[tuple[Any, Any]] = [
    ((1, (2, 3)), [1, [2, 3]]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    (b"bytes", "bytes"),
    (bytearray(b"\xff\x00"), "\\xff\x00"),
    (memoryview(b"view"), "view"),
    (math.nan, "NaN"),
    ([math.inf, -math.inf], ["Infinity", "-Infinity"]),
    (2**64, 2**64),
    (-(10**300), -(10**300)),
    (1 << 20_000, hex(1 << 20_000)),
    ("lone \ud800 half", "lone � half"),
    ({"\udfff": "\ud83d\ude00"}, {"�": "😀"}),
    (timedelta(seconds=1.5), 1.5),
    (datetime(2026, 11, 21, tzinfo=UTC), "2026-11-21T00:00:00+00:00"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Decimal("1.10"), "1.10"),
    (PurePosixPath("a/b"), "a/b"),
    (Colour.RED, "red"),
    ([Level.HIGH, True], [3, True]),
    (Word("word"), "word"),
    (Hit("t", Hit("u")), {"title": "t", "inner": {"title": "u", "inner": None, "more": []}, "more": []}),
    (Model(name="m", hits=[1]), {"name": "m", "hits": [1]}),
    ({1: "one", "1": "two", None: 0, (1, 2): 3}, {"1": "one", "1'": "two", "null": 0, "[1,2]": 3}),
    ({True: "yes", 1.5: "half"}, {"true": "yes", "1.5": "half"}),
    (Broken(), "[unreadable Broken: RuntimeError]"),
    (Unhelpful(), "[unreadable Unhelpful: OSError]"),
    ([Broken(), 1], ["[unreadable Broken: RuntimeError]", 1]),
    (len, "<built-in function len>"),
    (Hit, "<class 'tests.test_contract_writing.Hit'>"),
]


@pytest.mark.parametrize(("value", "expected"), RENDERED, ids=range(len(RENDERED)))
def test_what_json_cannot_say_is_rendered(value: Any, expected: Any) -> None:
    assert written(value) == expected


def test_cycles_and_depths_are_cut() -> None:
    circle: list[Any] = [1]
    circle.append({"again": circle})
    assert written(circle) == [1, {"again": "[cycle]"}]
    deep: Any = "bottom"
    for _ in range(5000):
        deep = [deep]
    rendered, levels = written(deep), 0
    while isinstance(rendered, list):
        (rendered,) = rendered
        levels += 1
    assert (levels, rendered) == (99, "[list nested too deep]")
    shared = [1]
    assert written([shared, shared]) == [[1], [1]]


def test_what_breaks_everything_else_is_written() -> None:
    for odd in oddities():
        written(odd)
        written([odd, {"odd": odd}])


def test_iterators_are_left_to_the_program() -> None:
    stream = iter([1, 2, 3])
    assert "iterator" in written(stream)
    assert list(stream) == [1, 2, 3]


def test_ten_megabytes_are_written() -> None:
    assert written("x" * 10_000_000) == "x" * 10_000_000


def test_wrong_types_in_typed_fields_are_written_too() -> None:
    wrong: Any = {"model_provider": object, "model": None, "messages_count": {1}, "attributes": None, "attempt": True}
    assert json.loads(contract.write(LlmRequest(**wrong))) == {
        "event": "llm.request", "model_provider": "<class 'object'>", "model": None, "messages_count": [1],
        "attributes": None, "attempt": True,
    }  # fmt: skip
    nameless: Any = {"name": b"n", "data": [1]}
    assert json.loads(contract.write(DomainEvent(**nameless))) == {"event": "n", "name": "n", "data": [1]}


def test_numbers_that_are_not_finite_come_back_as_themselves_where_a_number_belongs() -> None:
    assert contract.read(contract.write(AgentEnd(cost_usd=math.inf))) == AgentEnd(cost_usd=math.inf)
    read = contract.read(contract.write(ToolCall(tool="t", duration=math.nan, success=True)))
    assert isinstance(read, ToolCall)
    assert math.isnan(read.duration)


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(st.characters()) | st.floats() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(st.characters()) | st.none(), inner)
    ),
)


@given(ANYTHING)
def test_any_value_gives_valid_json(value: Any) -> None:
    written(value)


def test_the_same_event_gives_the_same_bytes_in_every_process() -> None:
    program = """
from otel_agentbus import contract
from otel_agentbus.events import DomainEvent
tags = {f"tag {n}" for n in range(50)}
print(contract.write(DomainEvent(name="n", data={"tags": tags, "pairs": {("a", 1), ("b", 2)}})).decode())
"""
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


# What is plain is written by straight code, and the rest one value at a time: both have to say the same.


class Sly(str, enum.Enum):  # noqa: UP042 - StrEnum would not allow it
    """A string that is another one: what counts is the value of the enum."""

    ONE = "one"

    def __new__(cls, value: str) -> Self:
        member = str.__new__(cls, "not " + value)
        member._value_ = value
        return member


class Loud(int):
    def __repr__(self) -> str:
        return "loud"

    __str__ = __repr__


class Shouting(dict[str, Any]):
    def items(self) -> Any:
        raise OSError

    __iter__ = values = keys = items


class Unhashable(type):
    def __eq__(cls, other: object) -> bool:
        raise OSError


class OfAnUnhashableClass(metaclass=Unhashable):
    pass


@dataclass(slots=True, kw_only=True)
class Audited(LlmResponse):
    """An application's own idea of a kind of ours: other defaults, mutable ones, and a field without any."""

    kind: ClassVar[str] = "llm.response"
    agent: str | None = "auditor"
    attempt: int = 3
    tags: list[Any] = field(default_factory=lambda: ["new", 1.0, math.nan])
    limit: Any = 0.0
    marks: Any = field(default_factory=set)
    data: Any = None
    verdict: Any


@dataclass
class Unslotted(Event):
    kind: Any = Colour.RED  # type: ignore[misc]  # a tag that each event has for itself
    when: Any = datetime(2026, 11, 21, tzinfo=UTC)
    level: Any = Level.HIGH


def circle(around: Any) -> list[Any]:
    found: list[Any] = [around]
    found.append(found)
    return found


def nested(levels: int) -> Any:
    found: Any = {"end": [1]}
    for level in range(levels):
        found = [found] if level % 2 else {"in": found}
    return found


ODDITIES: list[Any] = [
    Colour.RED, Level.HIGH, Sly.ONE, Word("w"), Loud(7), Loud(1 << 1024), True, 1, 1.0, 0, -0.0, 3, None, {}, [], (),
    (1 << 1024) - 1, 1 << 1024, -(1 << 1024), 1 << 63, -(1 << 63) - 1, math.nan, math.inf, -math.inf, 1e16, 5e-324,
    "\ud800", "\ud83d\ude00", '\x00\x1f\x7f\u2028"\\/', b"\xff", "chat", "auditor", len, set(), {Sly.ONE, Word("w")},
    Broken(), Unhelpful(), Shouting(a=1), Hit("t"), Model(name="m"), iter([1]), MISSING, {Word("w"): 1},
    ["new", 1.0, math.nan], {"\udfff": 1}, {1: 2, "1": 3}, {Sly.ONE: 1}, {None: [(1, {2})]}, {True: b""},
    timedelta(1), Decimal("1.10"), UUID(int=1), PurePosixPath("a"), [[], ["\ud800"]], {"a": {"b": (1 << 1024,)}},
    *oddities(),
]  # fmt: skip
ODD: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, len(ODDITIES) - 1).map(lambda number: ODDITIES[number])
    | st.builds(circle, st.sampled_from([1, {}, b"", "\ud800"]))
    | st.builds(nested, st.integers(0, 130))
    | st.lists(st.integers() | st.booleans() | st.floats() | st.text(st.characters()) | st.none())
    | st.dictionaries(st.text(st.characters()), st.lists(st.integers(-(2**1030), 2**1030))),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
RESPONSE: dict[str, Any] = {"model_provider": "p", "model": "m", "duration": 1.5, "success": True}
OWN_KINDS: st.SearchStrategy[Any] = st.one_of(
    st.builds(lambda: Audited(**RESPONSE, verdict=None)),
    st.builds(Unslotted, agent=st.none()),
    st.builds(lambda: UnknownEvent(name="n", fields={"name": "m", "agent": 1, "x": None})),
)


@given(ANY_EVENT)
@settings(max_examples=500)
def test_plain_values_are_written_as_by_the_careful_way(event: Event) -> None:
    assert contract.write(event) == write_carefully(event)


@given(ANY_EVENT | OWN_KINDS, st.lists(st.tuples(st.integers(0, 40), ODD), min_size=1, max_size=4))
@settings(max_examples=1000)
def test_odd_values_in_any_field_are_written_as_by_the_careful_way(event: Event, odd: list[tuple[int, Any]]) -> None:
    names = [each.name for each in dataclass_fields(event) if each.name != "event"]
    names += ["kind"] if isinstance(event, Unslotted) else []
    for number, value in odd:
        setattr(event, names[number % len(names)], value)
    written = contract.write(event)
    assert written == write_carefully(event)
    json.loads(written, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_what_an_application_calls_unset_is_left_out_and_what_only_equals_it_is_not() -> None:
    plain = Audited(**RESPONSE, verdict=None)
    assert contract.write(plain) == (
        b'{"event":"llm.response","model_provider":"p","model":"m","duration":1.5,"success":true,"outcome":"ok",'
        b'"data":null,"verdict":null}'
    )
    told: dict[str, Any] = {"agent": None, "attempt": 3.0, "limit": 0, "tags": ("new",), "marks": frozenset()}
    assert json.loads(contract.write(Audited(**RESPONSE, verdict=[], **told))) == {
        "event": "llm.response", **RESPONSE, "outcome": "ok", "agent": None, "attempt": 3.0, "limit": 0,
        "tags": ["new"], "marks": [], "data": None, "verdict": [],
    }  # fmt: skip
    assert json.loads(contract.write(Unslotted(agent="a"))) == {"event": "red", "agent": "a"}


def test_values_that_change_while_nobody_looks_are_read_each_time() -> None:
    event = DomainEvent(name="n", attributes={"a": 1}, data={"b": [1]})
    first, odd = contract.write(event), [(b"two", {2})]
    event.attributes.clear()
    event.data["b"] = odd  # type: ignore[assignment]  # on purpose
    assert first == b'{"event":"n","attributes":{"a":1},"name":"n","data":{"b":[1]}}'
    assert contract.write(event) == b'{"event":"n","name":"n","data":{"b":[["two",[2]]]}}'


def test_values_of_a_class_that_cannot_be_compared_are_named() -> None:
    odd, name = OfAnUnhashableClass(), "[unreadable OfAnUnhashableClass: TypeError]"
    assert written([odd, {"odd": odd}]) == [name, {"odd": name}]


def test_what_was_deleted_from_an_event_is_unset() -> None:
    event = LlmRequest(model_provider="p", model="m", messages_count=2, agent="a")
    del event.model, event.agent, event.attributes
    assert contract.write(event) == b'{"event":"llm.request","model_provider":"p","messages_count":2}'
    nameless = UnknownEvent(name="n", fields={"x": 1})
    del nameless.name, nameless.fields
    assert contract.write(nameless) == b'{"event":"unknown"}'
