"""Each source's events in the order of their `seq`, each once, whatever order they come in."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus.events import DomainEvent, Event
from otel_agentbus.telemetry.ordering import GAP_EVENTS, GAP_NS, SOURCES, Ordering


def numbered(seq: int | None, source: str | None = "s", time_ns: int | None = None) -> Event:
    return DomainEvent(name="n", source=source, seq=seq, time_ns=time_ns)


def pushed(ordering: Ordering, seqs: Iterable[int], source: str = "s", now_ns: int = 0) -> list[int | None]:
    return [event.seq for seq in seqs for event in ordering.push(numbered(seq, source), now_ns)]


def seqs_of(events: Iterable[Event]) -> list[int | None]:
    return [event.seq for event in events]


def test_events_in_order_pass_at_once() -> None:
    ordering = Ordering()
    assert pushed(ordering, range(5)) == [0, 1, 2, 3, 4]
    assert (ordering.held, ordering.duplicates, ordering.skipped) == (0, 0, 0)


def test_what_comes_too_early_waits_for_its_turn() -> None:
    ordering = Ordering()
    assert pushed(ordering, [2, 1]) == []
    assert ordering.held == 2
    assert pushed(ordering, [0]) == [0, 1, 2]
    assert ordering.held == 0


def test_an_event_without_source_or_number_has_no_order_and_no_double() -> None:
    ordering = Ordering()
    pushed(ordering, [3])
    one = numbered(None)
    other = numbered(7, source=None)
    assert list(ordering.push(one, 0)) == [one]
    assert list(ordering.push(one, 0)) == [one]
    assert list(ordering.push(other, 0)) == [other]
    assert ordering.duplicates == 0


def test_what_is_below_the_watermark_or_held_already_is_a_duplicate() -> None:
    ordering = Ordering()
    pushed(ordering, [0, 1, 2])
    assert pushed(ordering, [0, 1, 2, 5, 5, 5]) == []
    assert ordering.duplicates == 5
    assert pushed(ordering, [3, 4]) == [3, 4, 5]


def test_a_gap_is_waited_for_and_then_skipped() -> None:
    ordering = Ordering()
    assert pushed(ordering, [0, 3, 4], now_ns=1000) == [0]
    assert seqs_of(ordering.expire(1000 + GAP_NS - 1)) == []
    assert seqs_of(ordering.expire(1000 + GAP_NS)) == [3, 4]
    assert ordering.skipped == 2
    assert pushed(ordering, [1, 2], now_ns=2000 + GAP_NS) == []
    assert ordering.duplicates == 2  # too late: what stands behind them has been applied


def test_a_second_gap_has_a_time_of_its_own() -> None:
    ordering = Ordering()
    pushed(ordering, [1, 3], now_ns=0)
    assert seqs_of(ordering.expire(GAP_NS)) == [1]
    assert seqs_of(ordering.expire(GAP_NS + 1)) == []
    assert seqs_of(ordering.expire(2 * GAP_NS)) == [3]


def test_no_more_than_the_bound_is_held_behind_a_gap() -> None:
    ordering = Ordering()
    given = pushed(ordering, range(1, GAP_EVENTS + 2))
    assert given == list(range(1, GAP_EVENTS + 2))
    assert (ordering.held, ordering.skipped) == (0, 1)


def test_sources_do_not_wait_for_each_other() -> None:
    ordering = Ordering()
    assert pushed(ordering, [1], "a") == []
    assert pushed(ordering, [0, 1, 2], "b") == [0, 1, 2]
    assert pushed(ordering, [0], "a") == [0, 1]


def test_draining_gives_the_sources_by_the_time_of_their_first_event_each_in_its_own_order() -> None:
    ordering = Ordering()
    for source, seq, at_ns in [("b", 5, 30), ("b", 3, 20), ("a", 9, 25), ("c", 2, 10), ("a", 4, 40)]:
        assert not list(ordering.push(numbered(seq, source, at_ns), 0))
    assert [(event.source, event.seq) for event in ordering.drain()] == [
        ("c", 2),
        ("b", 3),
        ("b", 5),
        ("a", 4),
        ("a", 9),
    ]
    assert (ordering.held, ordering.skipped) == (0, 2 + 3 + 1 + 4 + 4)


def test_after_draining_the_source_goes_on_where_it_is() -> None:
    ordering = Ordering()
    pushed(ordering, [0, 5])
    assert seqs_of(ordering.drain()) == [5]
    assert pushed(ordering, [6, 2]) == [6]
    assert ordering.duplicates == 1


def test_an_event_that_is_pushed_while_another_is_being_applied_has_its_turn() -> None:
    """A span processor may emit from within `on_end`: the bridge is then entered again by its own thread."""
    ordering = Ordering()
    pushed(ordering, [2])
    applied: list[int | None] = []
    for event in ordering.push(numbered(0), 0):
        applied.append(event.seq)
        applied += pushed(ordering, [1])
    assert applied == [0, 1, 2]
    assert (ordering.held, ordering.duplicates, ordering.skipped) == (0, 0, 0)


def test_sources_that_come_and_go_are_forgotten_but_for_the_last_ones() -> None:
    ordering = Ordering()
    for number in range(SOURCES + 100):
        assert pushed(ordering, [0], f"s{number}") == [0]
    assert len(ordering) == SOURCES
    assert pushed(ordering, [0], f"s{SOURCES + 99}") == []  # a duplicate: this one is remembered


def test_a_source_that_goes_on_is_not_forgotten_for_newer_ones() -> None:
    ordering = Ordering()
    pushed(ordering, [0], "steady")
    for number in range(SOURCES + 100):
        pushed(ordering, [0], f"s{number}")
        pushed(ordering, [number + 1], "steady")
    assert pushed(ordering, [5], "steady") == []
    assert ordering.duplicates == 1


@given(st.integers(0, 60), st.integers(0, 2**32), st.lists(st.integers(0, 59), max_size=40))
def test_any_permutation_with_doubles_gives_each_event_once_in_order(length: int, seed: int, twice: list[int]) -> None:
    mixed = [*range(length), *(seq for seq in twice if seq < length)]
    random.Random(seed).shuffle(mixed)
    ordering = Ordering()
    assert pushed(ordering, mixed) == list(range(length))
    assert ordering.duplicates == len(mixed) - length
    assert (ordering.held, ordering.skipped) == (0, 0)


@given(st.sets(st.integers(0, 80)), st.integers(0, 2**32), st.lists(st.sampled_from(["expire", "push"]), max_size=80))
def test_whatever_is_lost_the_rest_comes_in_order_and_every_number_is_accounted_for(
    kept: set[int], seed: int, steps: list[str]
) -> None:
    waiting = sorted(kept)
    random.Random(seed).shuffle(waiting)
    ordering = Ordering()
    applied: list[int | None] = []
    now_ns = 0
    for step in [*steps, *["push"] * len(waiting)]:
        now_ns += GAP_NS // 2
        if step == "expire":
            applied += seqs_of(ordering.expire(now_ns))
        elif waiting:
            applied += pushed(ordering, [waiting.pop()], now_ns=now_ns)
    applied += seqs_of(ordering.drain())
    assert applied == sorted(applied, key=lambda seq: -1 if seq is None else seq)
    assert len(applied) == len(set(applied)) == len(kept) - ordering.duplicates  # the late ones are below the watermark
    if kept:
        assert len(applied) + ordering.skipped == max(kept) + 1


@pytest.mark.parametrize("seq", [-1, -(2**70)])
def test_a_number_below_zero_is_nothing_new(seq: int) -> None:
    ordering = Ordering()
    assert pushed(ordering, [seq]) == []
    assert ordering.duplicates == 1
