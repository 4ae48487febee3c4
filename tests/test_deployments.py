"""Deployments and recoveries: paired by their id, each deployment a tree of its own."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from otel_agentbus import agent, testing
from otel_agentbus.events import (
    AgentStart,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    HeartbeatTick,
    RecoveryCompleted,
)
from otel_agentbus.telemetry.deployments import REMEMBERED
from otel_agentbus.telemetry.ids import Ids

from .bridging import Bridged, Emitter, at, bridged


def span_ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def test_a_start_and_its_completion_are_one_root_span() -> None:
    emit = Emitter()
    emit(DeploymentStarted, 1, deploy_id="d1")
    emit(DeploymentCompleted, 4, deploy_id="d1", commit_sha="abc123")
    (span,) = bridged().feed(emit.events).closed()
    assert (span.name, span.parent, span.start_time, span.end_time) == ("deployment", None, at(1), at(4))
    assert span_ids(span) == (Ids().trace_id("d1"), Ids().span_id("d1", "deployment", "", "d1", 1))
    assert (span.attributes or {})["deployment.id"] == "d1"
    assert "abc123" in (span.attributes or {}).values()
    assert span.status.status_code is StatusCode.UNSET


def test_a_failure_is_an_error_and_its_recovery_a_span_below_it_with_a_link() -> None:
    emit = Emitter()
    emit(DeploymentStarted, 1, deploy_id="d1")
    emit(DeploymentFailed, 4, deploy_id="d1", reason="probe failed")
    emit(RecoveryCompleted, 9, deploy_id="d1")
    seen = bridged().feed(emit.events)
    assert [row[:4] for row in seen.rows()] == [("deployment", None, 1, 4), ("recovery", "deployment", 4, 9)]
    deployment, recovery = seen.exporter.get_finished_spans()
    assert (deployment.status.status_code, deployment.status.description) == (StatusCode.ERROR, "probe failed")
    assert (deployment.attributes or {})["error.type"] == "_OTHER"
    assert recovery.status.status_code is StatusCode.UNSET
    assert [(link.context.trace_id, link.context.span_id) for link in recovery.links] == [span_ids(deployment)]
    assert span_ids(recovery)[0] == span_ids(deployment)[0]


def test_deployments_of_different_ids_keep_to_themselves() -> None:
    emit = Emitter()
    emit(DeploymentStarted, 1, deploy_id="d1")
    emit(DeploymentStarted, 2, deploy_id="d2")
    emit(DeploymentFailed, 3, deploy_id="d1", reason="x")
    emit(DeploymentCompleted, 4, deploy_id="d2", commit_sha="c")
    seen = bridged().feed(emit.events)
    assert [row[2:] for row in seen.rows()] == [(1, 3, "error"), (2, 4, "ok")]
    assert len({span_ids(span)[0] for span in seen.exporter.get_finished_spans()}) == 2


def test_whatever_is_told_twice_is_one_span() -> None:
    emit = Emitter()
    for _ in range(2):
        emit(DeploymentStarted, 1, deploy_id="d1")
    for _ in range(3):
        emit(DeploymentFailed, 3, deploy_id="d1", reason="x")
    for _ in range(2):
        emit(RecoveryCompleted, 5, deploy_id="d1")
    emit(DeploymentStarted, 6, deploy_id="d1")
    emit(DeploymentCompleted, 7, deploy_id="d1", commit_sha="c")
    seen = bridged().feed(emit.events)
    assert [row[:4] for row in seen.rows()] == [("deployment", None, 1, 3), ("recovery", "deployment", 3, 5)]
    assert seen.bridge.health()["duplicate"] == 1 + 2 + 1 + 2


def test_another_attempt_is_another_span_of_the_same_trace() -> None:
    emit = Emitter()
    emit(DeploymentStarted, 1, deploy_id="d1")
    emit(DeploymentFailed, 2, deploy_id="d1", reason="x")
    emit(DeploymentStarted, 3, deploy_id="d1", attempt=2)
    emit(DeploymentCompleted, 4, deploy_id="d1", commit_sha="c", attempt=2)
    seen = bridged().feed(emit.events)
    assert [row[2:] for row in seen.rows()] == [(1, 2, "error"), (3, 4, "ok")]
    spans = seen.exporter.get_finished_spans()
    assert len({span_ids(span) for span in spans}) == 2
    assert len({span_ids(span)[0] for span in spans}) == 1


def test_an_end_without_a_start_is_a_span_without_length() -> None:
    emit = Emitter()
    emit(DeploymentCompleted, 4, deploy_id="d1", commit_sha="c")
    emit(DeploymentFailed, 5, deploy_id="d2", reason="x")
    assert [row[:4] for row in bridged().feed(emit.events).rows()] == [
        ("deployment", None, 4, 4),
        ("deployment", None, 5, 5),
    ]


def test_a_start_without_an_end_is_interrupted_where_it_was_last_heard_of() -> None:
    emit = Emitter()
    emit(DeploymentStarted, 1, deploy_id="d1")
    emit(HeartbeatTick, 100)
    seen = bridged().feed(emit.events)
    assert seen.bridge.open_spans == 1
    assert seen.rows() == [("deployment", None, 1, 1, "interrupted")]
    assert seen.bridge.health()["interrupted"] == 1


def test_a_failure_without_a_recovery_leaves_nothing_open() -> None:
    emit = Emitter()
    emit(DeploymentFailed, 1, deploy_id="d1", reason="x")
    seen = bridged().feed(emit.events)
    assert seen.bridge.open_spans == 0
    assert len(seen.closed()) == 1


def test_a_recovery_that_another_process_tells_hangs_below_the_deployment_all_the_same() -> None:
    """The process that failed is gone; the one that came after it knows only the id."""
    before, after = Emitter("before"), Emitter("after")
    before(DeploymentStarted, 1, deploy_id="d1")
    before(DeploymentFailed, 2, deploy_id="d1", reason="x")
    after(RecoveryCompleted, 9, deploy_id="d1")
    (failed,) = bridged().feed(before.events).closed()
    (recovery,) = bridged().feed(after.events).closed()
    assert recovery.parent is not None
    assert (recovery.parent.trace_id, recovery.parent.span_id) == span_ids(failed)
    assert [link.context.span_id for link in recovery.links] == [span_ids(failed)[1]]
    assert (recovery.start_time, recovery.end_time) == (at(9), at(9))


def test_a_recovery_that_was_measured_backwards_has_no_length() -> None:
    emit = Emitter()
    emit(DeploymentFailed, 5, deploy_id="d1", reason="x")
    emit(RecoveryCompleted, 4, deploy_id="d1")
    assert ("recovery", "deployment", 4, 4) in [row[:4] for row in bridged().feed(emit.events).rows()]


def test_a_deployment_is_a_tree_of_its_own_even_when_an_agent_does_it() -> None:
    with testing.capture() as seen:
        with agent("deployer"):
            seen.bus.emit(DeploymentStarted(deploy_id="d1"))
        with agent("watcher"):
            seen.bus.emit(DeploymentFailed(deploy_id="d1", reason="x"))
        seen.bus.emit(RecoveryCompleted(deploy_id="d1"))
    deployment, recovery = seen.span("deployment"), seen.span("recovery")
    assert deployment.parent is None
    assert span_ids(deployment)[0] == Ids().trace_id("d1")
    assert recovery.parent is not None
    assert (recovery.parent.trace_id, recovery.parent.span_id) == span_ids(deployment)


def test_open_deployments_are_bounded() -> None:
    emit = Emitter()
    for number in range(REMEMBERED + 5):
        emit(DeploymentStarted, number, deploy_id=f"d{number}")
    seen = bridged().feed(emit.events)
    assert seen.bridge.open_spans == REMEMBERED
    assert seen.bridge.health()["interrupted"] == 5


def deployments_and_a_run(deployments_first: bool) -> Bridged:
    emit = Emitter()
    if not deployments_first:
        emit(AgentStart, 0, invocation_id="r", agent="a")
    for number in range(20):
        emit(DeploymentStarted, 1 + number, deploy_id=f"d{number}")
    if deployments_first:
        emit(AgentStart, 30, invocation_id="r", agent="a")
    return bridged(max_open_spans=20).feed(emit.events)


def test_open_deployments_count_for_the_bound_on_open_spans_and_are_evicted_in_their_turn() -> None:
    seen = deployments_and_a_run(deployments_first=True)
    assert seen.bridge.open_spans == 20
    assert [row.name for row in seen.exporter.get_finished_spans()] == ["deployment"]
    seen = deployments_and_a_run(deployments_first=False)
    assert seen.bridge.open_spans == 20
    assert [row.name for row in seen.exporter.get_finished_spans()] == ["invoke_agent a"]


def test_permuted_deployments_give_the_same_spans() -> None:
    emit = Emitter()
    emit(DeploymentStarted, 1, deploy_id="d1")
    emit(DeploymentFailed, 4, deploy_id="d1", reason="probe failed")
    emit(RecoveryCompleted, 9, deploy_id="d1")

    def facts(order: list[int]) -> list[tuple[Any, ...]]:
        spans = bridged().feed([emit.events[index] for index in order]).closed()
        return [
            (span.name, span_ids(span), span.start_time, span.end_time, dict(span.attributes or {})) for span in spans
        ]

    assert facts([2, 1, 0]) == facts([1, 2, 0]) == facts([2, 0, 1]) == facts([0, 1, 2, 2, 1, 0]) == facts([0, 1, 2])
