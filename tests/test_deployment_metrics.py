"""DORA's measures: four events paired by their deploy_id, whatever is late, lost or told twice, and commits' times."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus import testing
from otel_agentbus.events import (
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Event,
    HeartbeatTick,
    RecoveryCompleted,
)
from otel_agentbus.telemetry import commits, deployment_metrics
from otel_agentbus.telemetry.metrics import MetricsBridge

from .test_metrics_bridge import Meter, Points

SECOND = 1_000_000_000
#: When the deployments of these tests begin.
NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def at(seconds: float) -> int:
    return int(NOON.timestamp()) * SECOND + round(seconds * SECOND)


def started(seconds: float, deploy_id: str = "1") -> Event:
    return DeploymentStarted(deploy_id=deploy_id, time_ns=at(seconds))


def completed(seconds: float, deploy_id: str = "1") -> Event:
    return DeploymentCompleted(deploy_id=deploy_id, commit_sha=f"sha {deploy_id}", time_ns=at(seconds))


def failed(seconds: float, deploy_id: str = "1") -> Event:
    return DeploymentFailed(deploy_id=deploy_id, reason="no quota", time_ns=at(seconds))


def recovered(seconds: float, deploy_id: str = "1") -> Event:
    return RecoveryCompleted(deploy_id=deploy_id, time_ns=at(seconds))


def told(*events: Event, **options: Any) -> dict[str, Points]:
    """What is read once a bridge has had these events."""
    meter = Meter()
    feed(meter.bridge(**options), events)
    return meter.read()


def feed(bridge: MetricsBridge, events: Iterable[Event]) -> None:
    for event in events:
        bridge(event)
    assert bridge.settle(10.0)


SUCCEEDED = {
    "agentbus.deployments": {"status=succeeded": 1},
    "agentbus.deployment.duration": {"status=succeeded": (1, 30.0)},
    "agentbus.deployment.open": {"": 0},
}
RESTORED = {
    "agentbus.deployments": {"status=failed": 1},
    "agentbus.deployment.duration": {"status=failed": (1, 10.0)},
    "agentbus.deployment.open": {"": 0},
    "agentbus.recovery.time": {"": (1, 300.0)},
    "agentbus.recovery.open": {"": 0},
}


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_a_deployment_lasts_from_its_start_to_its_end() -> None:
    assert told(started(0), completed(30)) == SUCCEEDED


def test_the_time_to_restore_is_that_from_the_failure_to_the_recovery() -> None:
    assert told(started(0), failed(10), recovered(310)) == RESTORED


def test_ids_are_told_apart_to_their_last_letter_however_long_they_are() -> None:
    one, other = "x" * 10_000 + "1", "x" * 10_000 + "2"
    read = told(started(0, one), started(5, other), failed(10, one), failed(10, other), recovered(310, one))
    assert read["agentbus.deployment.duration"] == {"status=failed": (2, 15.0)}
    assert read["agentbus.recovery.time"] == {"": (1, 300.0)}
    assert (read["agentbus.deployment.open"], read["agentbus.recovery.open"]) == ({"": 0}, {"": 1})


def test_deployments_at_the_same_time_are_not_mixed_up() -> None:
    events = [started(0, "a"), started(5, "b"), completed(20, "b"), failed(40, "a"), recovered(50, "a")]
    assert told(*events) == {
        "agentbus.deployments": {"status=succeeded": 1, "status=failed": 1},
        "agentbus.deployment.duration": {"status=succeeded": (1, 15.0), "status=failed": (1, 40.0)},
        "agentbus.deployment.open": {"": 0},
        "agentbus.recovery.time": {"": (1, 10.0)},
        "agentbus.recovery.open": {"": 0},
    }


def test_what_has_no_end_yet_is_open() -> None:
    assert told(started(0, "a"), started(1, "b"), started(2, "c"), failed(3, "c"), failed(4, "d")) == {
        "agentbus.deployments": {"status=failed": 2},
        "agentbus.deployment.duration": {"status=failed": (1, 1.0)},
        "agentbus.deployment.open": {"": 2},
        "agentbus.recovery.open": {"": 2},
    }


def test_an_end_without_a_start_is_counted_and_not_timed() -> None:
    assert told(completed(30, "a"), failed(30, "b"), recovered(40, "c")) == {
        "agentbus.deployments": {"status=succeeded": 1, "status=failed": 1},
        "agentbus.recovery.open": {"": 1},
    }


def test_a_deployment_that_is_deployed_again_counts_again() -> None:
    assert told(started(0), completed(30), started(100), completed(107)) == {
        "agentbus.deployments": {"status=succeeded": 2},
        "agentbus.deployment.duration": {"status=succeeded": (2, 37.0)},
        "agentbus.deployment.open": {"": 0},
    }


def test_what_completed_and_turns_out_to_have_failed_counts_in_both_and_can_recover() -> None:
    assert told(started(0), completed(30), failed(600), recovered(900)) == {
        "agentbus.deployments": {"status=succeeded": 1, "status=failed": 1},
        "agentbus.deployment.duration": {"status=succeeded": (1, 30.0)},
        "agentbus.deployment.open": {"": 0},
        "agentbus.recovery.time": {"": (1, 300.0)},
        "agentbus.recovery.open": {"": 0},
    }


def test_what_fails_again_before_it_recovers_is_broken_since_the_first_failure() -> None:
    read = told(started(0), failed(10), started(20), failed(30), recovered(310))
    assert read["agentbus.recovery.time"] == {"": (1, 300.0)}
    assert read["agentbus.deployments"] == {"status=failed": 2}
    assert read["agentbus.recovery.open"] == {"": 0}


# -- duplicates and disorder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_in_whatever_order_a_success_is_told_it_is_the_same(order: tuple[int, ...]) -> None:
    events = [started(0), completed(30)]
    read = told(*(events[index] for index in order))
    assert {name: points for name, points in read.items() if name != "agentbus.deployment.open"} == {
        name: points for name, points in SUCCEEDED.items() if name != "agentbus.deployment.open"
    }
    assert read.get("agentbus.deployment.open", {"": 0}) == {"": 0}


@given(st.permutations([started(0), failed(10), recovered(310)] * 3))
def test_in_whatever_order_and_however_often_a_failure_is_told_it_counts_once(events: list[Event]) -> None:
    read = told(*events)
    for level in ("agentbus.deployment.open", "agentbus.recovery.open"):
        assert read.pop(level, {"": 0}) == {"": 0}
    assert read == {name: points for name, points in RESTORED.items() if not name.endswith(".open")}


@given(st.permutations([started(0, "a"), completed(30, "a"), started(5, "b"), completed(65, "b")] * 2))
def test_a_commit_is_asked_for_once_for_each_deployment(events: list[Event]) -> None:
    asked = []

    def commit_times(sha: str) -> float:
        asked.append(sha)
        return NOON.timestamp() - 60

    read = told(*events, commit_times=commit_times)
    assert sorted(asked) == ["sha a", "sha b"]
    assert read["agentbus.deployments"] == {"status=succeeded": 2}
    assert read["agentbus.deployment.duration"] == {"status=succeeded": (2, 90.0)}
    assert read["agentbus.deployment.lead_time"] == {"": (2, 215.0)}


def test_events_without_times_are_counted_and_not_timed() -> None:
    assert told(
        DeploymentStarted(deploy_id="1"), DeploymentFailed(deploy_id="1", reason="r"), RecoveryCompleted(deploy_id="1")
    ) == {
        "agentbus.deployments": {"status=failed": 1},
        "agentbus.deployment.open": {"": 0},
        "agentbus.recovery.open": {"": 0},
    }


# -- bounds, restarts and forks ---------------------------------------------------------------------------------------


def test_starts_whose_ends_never_come_are_bounded_and_given_up_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_metrics, "OPEN_DEPLOYMENTS", 3)
    read = told(*(started(number, str(number)) for number in range(10)))
    assert read == {
        "agentbus.deployment.open": {"": 3},
        "agentbus.metrics.discarded": {"reason=open_too_long": 7},
    }


def test_after_a_restart_what_began_before_is_counted_and_not_timed_and_nothing_stays_open() -> None:
    before, after = Meter(), Meter()
    bridge = before.bridge()
    feed(bridge, [started(0, "a"), started(0, "b"), failed(5, "b")])
    bridge.close()
    feed(after.bridge(), [completed(30, "a"), recovered(60, "b")])
    assert before.read() == {
        "agentbus.deployments": {"status=failed": 1},
        "agentbus.deployment.duration": {"status=failed": (1, 5.0)},
        "agentbus.deployment.open": {"": 0},
        "agentbus.recovery.open": {"": 0},
    }
    assert after.read() == {"agentbus.deployments": {"status=succeeded": 1}}


def test_a_bridge_on_the_same_provider_goes_on_counting() -> None:
    meter = Meter()
    for _ in range(2):
        bridge = meter.bridge()
        feed(bridge, [started(0), completed(30)])
        bridge.close()
    assert meter.read()["agentbus.deployments"] == {"status=succeeded": 2}


def test_the_child_of_a_fork_begins_with_nothing() -> None:
    meter = Meter()
    bridge = meter.bridge(commit_times=lambda _sha: NOON.timestamp())
    feed(bridge, [started(0, "a"), started(0, "b"), failed(10, "b"), completed(20, "c")])
    bridge.forget()
    feed(bridge, [completed(30, "a"), recovered(40, "b"), completed(20, "c")])
    assert meter.read()["agentbus.deployments"] == {"status=succeeded": 2}
    assert "agentbus.deployment.open" not in meter.read()


# -- lead times -------------------------------------------------------------------------------------------------------

HOUR_BEFORE = NOON - timedelta(hours=1)


@pytest.mark.parametrize(
    "made",
    [
        HOUR_BEFORE,
        HOUR_BEFORE.astimezone(timezone(timedelta(hours=5, minutes=30))),
        HOUR_BEFORE.timestamp(),
        int(HOUR_BEFORE.timestamp()),
        Decimal(int(HOUR_BEFORE.timestamp())),
    ],
)
def test_the_lead_time_is_that_from_the_commit_to_the_end_of_its_deployment(made: Any) -> None:
    read = told(started(0), completed(30), commit_times=lambda _sha: made)
    assert read == SUCCEEDED | {"agentbus.deployment.lead_time": {"": (1, 3630.0)}}


def test_an_unknown_commit_has_no_lead_time() -> None:
    assert told(started(0), completed(30), commit_times=lambda _sha: None) == SUCCEEDED


def raising(_sha: str) -> float:
    raise LookupError("no such commit")


def leaving(_sha: str) -> float:
    raise SystemExit(1)


@pytest.mark.parametrize(
    "commit_times",
    [
        raising,
        leaving,
        lambda _sha: HOUR_BEFORE.replace(tzinfo=None),  # an hour before noon, but where?
        lambda _sha: True,
        lambda _sha: float("nan"),
        lambda _sha: float("inf"),
        lambda _sha: "2026-10-01",
        lambda _sha: HOUR_BEFORE.timestamp() * 1000,  # milliseconds
        lambda _sha: NOON + timedelta(days=1),
    ],
)
def test_a_resolver_that_fails_costs_one_measurement_which_is_counted(
    commit_times: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    read = told(started(0), completed(30), completed(50, "2"), commit_times=commit_times)
    assert read["agentbus.deployments"] == {"status=succeeded": 2}
    assert read["agentbus.metrics.discarded"] == {"reason=commit_time": 2}
    assert "agentbus.deployment.lead_time" not in read
    assert len(caplog.records) <= 1


def test_a_deployment_without_a_commit_asks_nobody() -> None:
    asked: list[str] = []
    told(DeploymentCompleted(deploy_id="1", commit_sha=""), failed(0, "2"), commit_times=asked.append)
    assert asked == []


class Slow:
    """A resolver that answers when it is allowed to or, if it has some, after so many seconds."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def __call__(self, _sha: str) -> datetime:
        self.asked.set()
        assert self.may_answer.wait(self._seconds or 30) or self._seconds
        return HOUR_BEFORE


def test_a_slow_resolver_holds_up_nothing_and_its_answer_is_measured() -> None:
    meter, slow = Meter(), Slow()
    bridge = meter.bridge(commit_times=slow)
    bridge(completed(0))
    assert slow.asked.wait(30)
    bridge(HeartbeatTick())
    assert not bridge.settle(0.001)
    assert meter.read() == {"agentbus.deployments": {"status=succeeded": 1}, "agentbus.heartbeats": {"": 1}}
    slow.may_answer.set()
    assert bridge.settle(30)
    assert meter.read()["agentbus.deployment.lead_time"] == {"": (1, 3600.0)}


def test_what_a_slow_resolver_cannot_take_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "ROOM", 3)
    meter, slow = Meter(), Slow()
    bridge = meter.bridge(commit_times=slow)
    bridge(completed(0, "first"))
    assert slow.asked.wait(30)
    for number in range(5):
        bridge(completed(0, str(number)))
    slow.may_answer.set()
    assert bridge.settle(30)
    read = meter.read()
    assert read["agentbus.deployment.lead_time"] == {"": (4, 14_400.0)}
    assert read["agentbus.metrics.discarded"] == {"reason=commit_time": 2}


def test_a_resolver_that_is_asked_for_long_is_asked_by_one_thread_that_goes_when_it_is_done() -> None:
    meter = Meter()
    names = set()

    def commit_times(_sha: str) -> float:
        names.add(threading.current_thread().name)
        return NOON.timestamp()

    bridge = meter.bridge(commit_times=commit_times)
    feed(bridge, [completed(1, str(number)) for number in range(200)])
    assert meter.read()["agentbus.deployment.lead_time"] == {"": (200, 200.0)}
    assert names == {"otel-agentbus-commits"}
    assert testing.wait_until(lambda: names.isdisjoint(thread.name for thread in threading.enumerate()))


def test_where_no_thread_can_be_started_any_more_the_resolver_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    meter = Meter()
    bridge = meter.bridge(commit_times=lambda _sha: HOUR_BEFORE)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    feed(bridge, [started(0), completed(30)])
    assert meter.read() == SUCCEEDED | {"agentbus.deployment.lead_time": {"": (1, 3630.0)}}


def test_a_resolver_may_flush_the_bus_that_asks_it() -> None:
    flushed = []

    def commit_times(_sha: str) -> datetime:
        flushed.append(seen.bus.flush(1.0))
        return HOUR_BEFORE

    with testing.capture(commit_times=commit_times) as seen:
        seen.bus.emit(completed(0))
        assert testing.wait_until(lambda: bool(seen.metric("agentbus.deployment.lead_time")), 30)
    assert len(flushed) == 1  # it has come back, though not all was done: its own answer was missing


def test_a_bus_asks_the_resolver_that_it_was_connected_with() -> None:
    with testing.capture(commit_times={"sha 1": HOUR_BEFORE}.get) as seen:
        for event in (started(0), completed(30), completed(40, "unknown")):
            seen.bus.emit(event)
        assert testing.wait_until(lambda: bool(seen.metric("agentbus.deployment.lead_time")), 30)
        assert seen.metric("agentbus.deployment.lead_time") == {(): (1, 3630.0)}
