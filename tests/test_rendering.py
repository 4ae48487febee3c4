"""Anything -> JSON: always valid, always bounded, never raising, and cut where it hurts least."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_agentbus.events import JSON
from otel_agentbus.telemetry.rendering import dumps, safe_json, safe_text
from otel_agentbus.telemetry.truncation import MIN_BYTES, fitted
from tests import hostile

anything = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


def nodes(value: JSON) -> int:
    if isinstance(value, list):
        return 1 + sum(map(nodes, value))
    return 1 + sum(map(nodes, value.values())) if isinstance(value, dict) else 1


@pytest.mark.parametrize("index", range(len(hostile.oddities())))
def test_every_oddity_becomes_json_that_can_be_encoded(index: int) -> None:
    text = dumps(safe_json(hostile.oddities()[index]))
    text.encode()
    json.loads(text, parse_constant=pytest.fail)


@anything
@given(hostile.values)
def test_whatever_comes_becomes_json_that_can_be_encoded(value: Any) -> None:
    copied = safe_json(value, 2000, 500)
    text = dumps(copied)
    text.encode()
    assert json.loads(text, parse_constant=pytest.fail) == copied
    # The marker of each cut comes on top of the budget.
    assert len(text) < 2000 + 200 * nodes(copied)


def test_what_json_can_say_is_copied_as_it_is() -> None:
    value = {"a": [1, 2.5, True, None, "text"], "b": {"c": {}}, "d": []}
    assert safe_json(value) == value
    assert safe_json(value) is not value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (hostile.Record(), {"name": "record", "inner": None, "many": [1, 2]}),
        (hostile.Model(), {"name": "model", "password": "**********", "inner": None}),
        (hostile.Point(1, 2), {"x": 1, "y": 2}),
        (hostile.Colour.BLUE, "2"),
        (hostile.Colour.RED, "red"),
        (hostile.BrokenDict(a=1), {"a": 1}),
        ({1: "a", "1": "b"}, {"1": "a", "1#2": "b"}),
        (b"bytes", "bytes"),
        (b"\xff\xfe", "//4="),
        (float("nan"), "nan"),
        (1 << 63, "9223372036854775808"),
        ((1 << 63) - 1, (1 << 63) - 1),
        (10**5000, "[int of 16610 bits]"),
        (dt.timedelta(seconds=90), "0:01:30"),
        (dt.date(2026, 11, 21), "2026-11-21"),
        (Decimal("1.50"), "1.50"),
        (ValueError("oops"), "ValueError: oops"),
        (hostile.Text("text"), "text"),
        (hostile.Broken(), "[unreadable Broken: RuntimeError]"),
        ([b"x", {"k": hostile.Broken()}], ["x", {"k": "[unreadable Broken: RuntimeError]"}]),
        ("\ud83d\ude00 \ud800", "😀 \ufffd"),
        (hostile.cycle(), [1, {"again": "[cycle]"}]),
        (dict, "<dict>"),
    ],
    ids=map(str, range(23)),
)
def test_what_json_cannot_say_is_told_in_its_words(value: object, expected: JSON) -> None:
    assert safe_json(value) == expected


def test_an_iterator_is_not_consumed() -> None:
    numbers = iter([1, 2, 3])
    safe_json({"numbers": numbers})
    assert list(numbers) == [1, 2, 3]


def test_a_value_that_is_shared_but_no_cycle_is_copied_twice() -> None:
    shared = [1]
    assert safe_json([shared, shared]) == [[1], [1]]


def test_a_prompt_of_ten_megabytes_leaves_its_head_without_half_a_word() -> None:
    text = "some words " * 1_000_000
    copied = safe_json(text, 1000, 100)
    assert copied == text[:99] + "…[truncated 10999901 of 11000000 chars]"


def test_a_million_items_and_keys_leave_as_many_as_the_budget_has_room_for() -> None:
    items = safe_json(list(range(1_000_000)))
    assert isinstance(items, list)
    assert len(items) < 20_002
    assert items[-1] == f"…[truncated {1_000_000 - len(items) + 1} of 1000000 items]"
    keys = safe_json(dict.fromkeys(range(100_000)), 100, 100)
    assert isinstance(keys, dict)
    assert list(keys.items())[-1] == ("…", f"[truncated {100_000 - len(keys) + 1} of 100000 keys]")


def test_what_is_nested_without_end_is_cut_at_a_depth() -> None:
    assert dumps(safe_json(hostile.deep())).count("[") < 30


def test_a_clean_name_is_returned_as_it_is() -> None:
    for name in ("gpt-5-mini", "Zoë", "", "x" * 1024):
        assert safe_text(name) is name


def test_different_names_stay_different() -> None:
    names = ["a" * 2000, "a" * 2001, "\ud800", "\ud801", "é" * 2000, "é" * 2001, 7, None, hostile.Text("t")]
    safe = [safe_text(name) for name in names]
    assert len(set(safe)) == len(names)
    assert all(len(name.encode()) <= 1024 for name in safe)


@anything
@given(hostile.values)
def test_any_name_can_be_encoded_and_has_a_bound(value: Any) -> None:
    assert len(safe_text(value).encode()) <= 1024


@anything
@given(hostile.values, st.integers(MIN_BYTES, 3000))
def test_what_is_cut_is_valid_json_of_its_shape_within_the_bound(value: Any, max_bytes: int) -> None:
    copied = safe_json(value, 20_000, 10_000)
    kept, text = fitted(copied, max_bytes)
    assert len(text.encode()) <= max_bytes
    assert json.loads(text) == kept
    assert (kept is copied) == (len(dumps(copied).encode()) <= max_bytes)
    assert type(kept) is type(copied) or not isinstance(copied, (list, dict))


def test_long_leaves_are_cut_to_one_length_and_short_ones_stay() -> None:
    value: JSON = {"short": "kept as it is", "long": "z" * 5000, "longer": ["y" * 9000], "number": 7}
    kept, text = fitted(value, 1000)
    assert len(text) <= 1000
    assert isinstance(kept, dict)
    assert isinstance(kept["long"], str)
    cut = 5000 - kept["long"].count("z")
    assert kept == {
        "short": "kept as it is",
        "long": "z" * (5000 - cut) + f"…[truncated {cut} of 5000 chars]",
        "longer": ["y" * (5000 - cut) + f"…[truncated {9000 - 5000 + cut} of 9000 chars]"],
        "number": 7,
    }
    assert len(text) > 950


def test_a_second_cut_still_tells_the_first_length() -> None:
    once, _ = fitted("x" * 10_000, 2000)
    twice, _ = fitted(once, 500)
    assert isinstance(twice, str)
    assert twice.endswith(f"…[truncated {10_000 - twice.count('x')} of 10000 chars]")


def test_long_lists_and_objects_lose_items_where_that_is_said() -> None:
    assert fitted(["item"] * 1000, 300)[0] == [*["item"] * 16, "…[truncated 984 of 1000 items]"]
    kept, _ = fitted({f"key {number}": number for number in range(1000)}, 300)
    assert isinstance(kept, dict)
    assert list(kept.items())[-1] == ("…", "[truncated 984 of 1000 keys]")


def test_the_data_of_a_blob_goes_before_any_text_is_cut() -> None:
    said = "a text that is a good deal longer than what is never cut, so that it could be cut" * 2
    blob: JSON = {"type": "blob", "modality": "image", "content": "A" * 9000}
    assert fitted([{"role": "user", "parts": [{"type": "text", "content": said}, blob]}], 500)[0] == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": said},
                {"type": "blob", "modality": "image", "content": "…[truncated 9000 of 9000 chars]"},
            ],
        }
    ]


def test_of_many_messages_the_first_and_the_last_stay() -> None:
    messages: JSON = [{"role": "user", "parts": [{"type": "text", "content": f"{n}"}]} for n in range(500)]
    kept, _ = fitted(messages, 700)
    assert isinstance(kept, list)
    assert isinstance(messages, list)
    assert kept[0] == messages[0]
    assert kept[1] == {"role": "…", "parts": [{"type": "text", "content": "…[truncated 492 of 500 messages]"}]}
    assert kept[2:] == messages[-7:]
