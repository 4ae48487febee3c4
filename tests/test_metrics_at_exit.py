"""What a short program measured is whole in its last export: links to its traces, and times that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import Settings
from otel_agentbus.events import DeploymentCompleted
from tests.receivers import HttpReceiver, forget_environment

from .test_deployment_metrics import HOUR_BEFORE, Slow, at


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    forget_environment(monkeypatch)
    monkeypatch.setenv("AGENTBUS_EXIT_TIMEOUT", "30")
    with HttpReceiver() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def histogram(receiver: HttpReceiver, name: str, export: int = -1) -> list[Any]:
    """The points of a histogram in an export, the last one by default."""
    message = receiver.of("/v1/metrics")[export].message
    metrics = [metric for rm in message.resource_metrics for sm in rm.scope_metrics for metric in sm.metrics]
    return [point for metric in metrics if metric.name == name for point in metric.histogram.data_points]


@pytest.mark.parametrize("flushes", [0, 1, 2])
def test_the_last_export_still_links_to_the_trace(receiver: HttpReceiver, flushes: int) -> None:
    with agentbus.connect(settings=Settings()) as bus:
        with agentbus.agent("planner") as run, run.llm(provider="p", model="m") as call:
            call.record(input_tokens=1, output_tokens=1)
        for _ in range(flushes):
            assert bus.flush()
    spans = [
        span
        for request in receiver.of("/v1/traces")
        for rs in request.message.resource_spans
        for ss in rs.scope_spans
        for span in ss.spans
    ]
    by_name = {span.name: (span.trace_id, span.span_id) for span in spans}
    for metric, name in (
        ("gen_ai.client.operation.duration", "chat m"),
        ("gen_ai.invoke_agent.duration", "invoke_agent planner"),
    ):
        (point,) = histogram(receiver, metric)
        assert [(linked.trace_id, linked.span_id) for linked in point.exemplars] == [by_name[name]]


def _and_flush(bus: agentbus.Bus) -> None:
    assert bus.flush(30)


@pytest.mark.parametrize("then", [_and_flush, lambda _bus: None], ids=["flush", "exit"])
def test_the_time_of_a_commit_is_waited_for(receiver: HttpReceiver, then: Callable[[agentbus.Bus], None]) -> None:
    slow = Slow(seconds=0.5)
    with agentbus.connect(settings=Settings(), commit_times=slow) as bus:
        bus.emit(DeploymentCompleted(deploy_id="1", commit_sha="abc", time_ns=at(0)))
        then(bus)
        exported = len(receiver.of("/v1/metrics"))
    (point,) = histogram(receiver, "agentbus.deployment.lead_time", exported - 1 if then is _and_flush else -1)
    assert (point.count, point.sum) == (1, (at(0) / 1e9) - HOUR_BEFORE.timestamp())
