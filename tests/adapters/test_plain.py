"""What adapters tell of the application's own values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from otel_agentbus.adapters.plain import MOST, plain


class Kind(Enum):
    TEA = "tea"


class Model(BaseModel):
    value: Any
    secret: str = Field(default="hidden", exclude=True)


@dataclass
class Holder:
    value: Any


class Broken:
    def __str__(self) -> str:
        raise ValueError("str")

    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({"a": [1, 2.5, True, None]}, {"a": [1, 2.5, True, None]}),
        (float("nan"), "nan"),
        ((date(2026, 1, 2), Path("a/b"), Decimal("1.50"), Kind.TEA), ["2026-01-02", "a/b", "1.50", "tea"]),
        (Holder(Model(value={"x": (1,)})), {"value": {"value": {"x": [1]}}}),
        ({1: {"x"}}, {"1": ["x"]}),
        ([b"xx", Broken(), Holder], ["bytes", "Broken", "type"]),
        ({Broken(): 1}, "dict"),
    ],
)
def test_values_are_told_as_json_would_write_them(value: object, expected: object) -> None:
    assert plain(value) == expected


@pytest.mark.parametrize("hold", [lambda it: it, lambda it: [it], lambda it: Model(value=it), Holder])
def test_what_can_be_read_only_once_is_not_read(hold: Callable[[Any], Any]) -> None:
    numbers = (number for number in range(3))
    assert "generator" in str(plain(hold(numbers)))
    assert list(numbers) == [0, 1, 2]


def test_what_refers_to_itself_or_is_huge_is_told_in_part() -> None:
    itself: list[Any] = []
    itself.extend([itself] * 12)
    assert str(plain(itself)).count("list") < MOST
    assert sum(len(row) for row in plain([[0] * 1000] * 1000)) < MOST


def test_a_frameworks_own_objects_are_told_in_its_way_however_deep() -> None:
    assert plain({"a": [Broken(), 1]}, lambda one: "own" if isinstance(one, Broken) else None) == {"a": ["own", 1]}
