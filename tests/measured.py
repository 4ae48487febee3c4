"""Every metric of the table of instruments, and what Prometheus calls it and its attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from otel_agentbus.telemetry import instruments
from otel_agentbus.telemetry.instruments import Metric

#: What the Collector appends for a unit; a unit in braces leaves no trace.
UNITS = {"s": "_seconds"}

#: Labels that every series has, or that a histogram's buckets have.
COMMON_LABELS = {"job", "instance"}


def _table() -> Iterator[Metric]:
    for value in vars(instruments).values():
        if isinstance(value, Metric):
            yield value
        elif isinstance(value, Mapping):
            yield from (each for each in value.values() if isinstance(each, Metric))


TABLE = tuple(_table())


def family(metric: Metric) -> str:
    """What Prometheus calls the metric: of a histogram, without `_bucket`, `_sum` and `_count`."""
    name = metric.name.replace(".", "_") + UNITS.get(metric.unit, "")
    if metric.kind == "gauge" and metric.unit == "1":
        name += "_ratio"
    return name + "_total" if metric.kind == "counter" else name


def samples(metric: Metric) -> tuple[str, ...]:
    """The names of the metric's samples."""
    ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
    return tuple(family(metric) + end for end in ends)


def labels(metric: Metric) -> set[str]:
    """The labels that the metric's series may have."""
    own = {attribute.replace(".", "_") for attribute in metric.attributes}
    return own | COMMON_LABELS | ({"le"} if metric.kind == "histogram" else set())
