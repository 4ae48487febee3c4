"""Whatever a program puts into an event is written as valid JSON, and none of the program's code is disturbed."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from otel_agentbus import contract
from otel_agentbus.events import AgentEnd, DomainEvent, LlmRequest, ToolCall
from tests.hostile import oddities


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
