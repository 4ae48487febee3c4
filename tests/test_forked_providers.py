"""Providers in a forked child: it has exporters of its own, and sends nothing of its parent's."""

from __future__ import annotations

import os

import pytest

from tests.receivers import GrpcReceiver, HttpReceiver, forget_environment, in_a_process_of_its_own


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


FORKING = """
import json, os, sys
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.providers import build
from tests.receivers import flush, shut_down
from opentelemetry import trace

def emit(pipeline, name):
    pipeline.tracer_provider.get_tracer("t").start_span(name).end()
    pipeline.meter_provider.get_meter("m").create_counter(name).add(1)

pipeline = build(Settings())
emit(pipeline, "parent-before")
assert flush(pipeline), pipeline.deliveries
emit(pipeline, "parent-queued")
child = os.fork()
if child == 0:
    try:
        pipeline.abandon()
        emit(pipeline, "inherited")
        fresh = build(Settings())
        emit(fresh, "child")
        trace.get_tracer("app").start_span("through-the-global-one").end()
        flushed = flush(fresh)
        shut_down(fresh, 10)
        os._exit(0 if flushed else 1)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(2)
_, status = os.waitpid(child, 0)
flushed = flush(pipeline)
shut_down(pipeline, 10)
print(json.dumps([os.waitstatus_to_exitcode(status), flushed]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("is_global", ["0", "1"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_forked_child_builds_exporters_of_its_own_and_sends_nothing_of_its_parents(
    protocol: str, is_global: str
) -> None:
    with HttpReceiver() as by_http, GrpcReceiver() as by_grpc:
        endpoint = f"http://{by_grpc.address}" if protocol == "grpc" else by_http.url
        done = in_a_process_of_its_own(
            FORKING,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            AGENTBUS_SET_GLOBAL=is_global,
        )
        messages = [message for signal, message, _ in by_grpc.received if signal == "traces"]
        messages += [request.message for request in by_http.of("/v1/traces")]
        points = [message for signal, message, _ in by_grpc.received if signal == "metrics"]
        points += [request.message for request in by_http.of("/v1/metrics")]
    assert done == [0, True]
    names = [
        span.name
        for message in messages
        for of_resource in message.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]
    through = (
        ["through-the-global-one"] if is_global == "1" else []
    )  # once: what was the parent's leads to the child's now
    assert sorted(names) == sorted(["parent-before", "parent-queued", "child", *through])
    children = [
        {metric.name for of_scope in of_resource.scope_metrics for metric in of_scope.metrics}
        for message in points
        for of_resource in message.resource_metrics
    ]
    assert {"child"} in children
    assert not any({"child", "parent-before"} <= one or "inherited" in one for one in children)
