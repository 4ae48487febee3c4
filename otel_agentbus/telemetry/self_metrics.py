"""The SDK's own metrics of a span processor, for ours: its queue, and what it processed and dropped."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from opentelemetry.metrics import MeterProvider, get_meter_provider

_log = logging.getLogger("otel_agentbus")

Count = Callable[[int], object]


def _nothing(_number: int) -> None:
    pass


class ProcessorMetrics:
    """The SDK's metrics of a batching span processor; silent where they are switched off, or this SDK has others.

    `OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED` is read by the SDK itself, which knows what it takes for true.
    Nothing is raised here, whatever the meter provider does.
    """

    def __init__(self, meter_provider: MeterProvider | None, capacity: int, queue_size: Callable[[], int]) -> None:
        self._finished: Count = _nothing
        self._dropped: Count = _nothing
        self._refused: Count = _nothing
        try:
            made = _made(meter_provider, capacity)
            made.register_queue_size(queue_size)
            if "error" in inspect.signature(made.finish_items).parameters:  # as in 1.42: and nothing counts the refused
                self._finished = lambda number: made.finish_items(number, None)
            else:
                self._finished = made.finish_items
                self._refused = lambda number: made.drop_items(number, "already_shutdown")
            self._dropped = made.drop_items
        except Exception:  # noqa: BLE001 - these are internals of the SDK: where they differ, spans go without them
            _log.debug("this SDK's metrics of a span processor cannot be made", exc_info=True)

    def finished(self, number: int) -> None:
        """So many spans were handed to the exporter."""
        self._tell(self._finished, number)

    def dropped(self, number: int) -> None:
        """So many spans found no room."""
        self._tell(self._dropped, number)

    def refused(self, number: int) -> None:
        """So many spans came after the shutdown."""
        self._tell(self._refused, number)

    def _tell(self, count: Count, number: int) -> None:
        try:
            count(number)
        except Exception:  # noqa: BLE001 - this may be the thread of the agent
            _log.debug("telling of spans failed", exc_info=True)


def _made(meter_provider: MeterProvider | None, capacity: int) -> Any:
    from opentelemetry.sdk._shared_internal._processor_metrics import create_processor_metrics
    from opentelemetry.sdk.environment_variables import OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED
    from opentelemetry.sdk.environment_variables._internal import parse_boolean_environment_variable
    from opentelemetry.semconv._incubating.attributes.otel_attributes import OtelComponentTypeValues

    return create_processor_metrics(
        "traces",
        OtelComponentTypeValues.BATCHING_SPAN_PROCESSOR,
        meter_provider or get_meter_provider(),
        capacity=capacity,
        enabled=parse_boolean_environment_variable(OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED),
    )
