"""Numbers that are added up in the store, exactly: ints, and decimals as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Context, Decimal
from typing import TypeAlias

Counters: TypeAlias = dict[str, dict[str, int | str]]

#: Exact for any sum that money or time comes to.
_EXACT = Context(prec=120)


def field_of(series: str, name: str) -> str:
    """How a number of a series is called in the store."""
    return json.dumps([series, name], ensure_ascii=True, separators=(",", ":"))


def read_counters(stored: Mapping[bytes, bytes]) -> Counters:
    """The numbers of the store, by series and name."""
    found: Counters = {}
    for field, value in stored.items():
        series, name = json.loads(field)
        found.setdefault(series, {})[name] = _number(value.decode())
    return found


def _number(text: str) -> int | str:
    return text if "." in text else int(text)


def text_of(number: int | str) -> str:
    """The number as the store has it: a decimal is known by its point."""
    if isinstance(number, int):
        return str(number)
    text = format(Decimal(number), "f")
    return text if "." in text else f"{text}.0"


def added(number: int | str, more: int | str) -> int | str:
    """The sum; a decimal where one of them is."""
    if isinstance(number, int) and isinstance(more, int):
        return number + more
    return text_of(format(_EXACT.add(Decimal(number), Decimal(more)), "f"))
