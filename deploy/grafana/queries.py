"""PromQL for the panels, made from the table of instruments, so that names and labels are those that are emitted.

Totals are `increase(... anchored)`: the counter's own values at both ends of the range, resets included, and nothing
extrapolated, so that a sum of money is what was spent to the last cent. Counters must begin at 0 for that, which is
the Collector's and Prometheus' business (`docker-compose.yml` has the flags).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from otel_agentbus.telemetry import names
from otel_agentbus.telemetry.instruments import Metric

#: What a counter has counted in the chosen time, in the time between two points of a line, and on the day that begins.
RANGE = "$__range] anchored"
RATE = "$__rate_interval]"
DAY = "1d] anchored offset -1d"

#: The attributes by which a dashboard's user chooses; where a metric has one, each query of it is filtered.
VARIABLES: Final = {names.AGENT_NAME: "agent", names.REQUEST_MODEL: "model"}

#: One metric, or several with the same labels, of which the first that has a series says what it is. So each call
#: counts once, also where the conventions' flavour "both" writes it into two.
Measure: TypeAlias = Metric | tuple[Metric, ...]


class Query(NamedTuple):
    """An expression, and what its series are called; `{{label}}` stands for the value of a label."""

    expr: str
    legend: str = "__auto"

    def times(self, factor: int) -> Query:
        """The same in another unit: 60 makes a rate one per minute."""
        return Query(f"{self.expr} * {factor}", self.legend)

    def named(self, legend: str) -> Query:
        """The same under a name of its own."""
        return Query(self.expr, legend)


def prometheus_name(metric: Metric) -> str:
    """What Prometheus calls an instrument; of a histogram, without `_bucket`, `_sum` and `_count`."""
    unit = {"s": "_seconds", "1": "_ratio" if metric.kind == "gauge" else ""}.get(metric.unit, "")
    return metric.name.replace(".", "_") + unit + ("_total" if metric.kind == "counter" else "")


def label(attribute: str) -> str:
    """What Prometheus calls an attribute."""
    return attribute.replace(".", "_")


def series(metric: Metric, part: str = "", **where: str) -> str:
    """The series of a metric that the variables let through; `where` narrows them further, by the end of a label."""
    chosen = {label(key): f"${name}" for key, name in VARIABLES.items() if key in metric.attributes}
    narrowed = {_label(metric, end): value for end, value in where.items()}
    filters = ",".join(f'{key}=~"{value}"' for key, value in {"job": "$service", **chosen, **narrowed}.items())
    return f"{prometheus_name(metric)}{part}{{{filters}}}"


def total(measure: Measure, *by: str, part: str = "", time: str = RANGE, **where: str) -> Query:
    """What a counter has counted in the chosen time, to the last unit."""
    return Query(f"sum{_by(by)}({_change('increase', measure, part, time, where)})", _legend(by))


def per_day(measure: Measure, *by: str, **where: str) -> Query:
    """What a counter has counted on each day; a point stands where its day begins, today's grows."""
    return total(measure, *by, time=DAY, **where)


def per_second(measure: Measure, *by: str, **where: str) -> Query:
    """How fast a counter rises."""
    return Query(f"sum{_by(by)}({_change('rate', measure, '', RATE, where)})", _legend(by))


def per_minute(measure: Measure, *by: str, **where: str) -> Query:
    """How fast a counter rises, for what is too rare to be told by the second."""
    return per_second(measure, *by, **where).times(60)


def current(metric: Metric, *by: str) -> Query:
    """What a level says now, all processes together."""
    return Query(f"sum{_by(by)}({series(metric)})", _legend(by))


def highest(metric: Metric, *by: str) -> Query:
    """What a gauge says now, where it says most."""
    return Query(f"max{_by(by)}({series(metric)})", _legend(by))


def share(part: Query, whole: Query) -> Query:
    """Which part of a whole: 0 where there is no part, nothing where there is no whole."""
    return Query(f"({part.expr} or {whole.expr} * 0) / ({whole.expr} > 0)", part.legend)


def both(one: Query, other: Query) -> Query:
    """The sum of two numbers, of which one may be missing."""
    return Query(f"(({one.expr} or vector(0)) + ({other.expr} or vector(0)))")


def quantile(share: float, measure: Measure, *by: str, time: str = RATE) -> Query:
    """A percentile of what histograms have observed."""
    change = _change("rate" if time == RATE else "increase", measure, "_bucket", time, {})
    legend = f"{_legend(by)} p{share * 100:g}" if by else f"p{share * 100:g}"
    return Query(f"histogram_quantile({share}, sum{_by(('le', *by))}({change}))", legend)


def quantiles(measure: Measure, time: str = RATE) -> tuple[Query, ...]:
    """Median, 95th and 99th percentile."""
    return tuple(quantile(each, measure, time=time) for each in (0.5, 0.95, 0.99))


def _change(function: str, measure: Measure, part: str, time: str, where: Mapping[str, str]) -> str:
    metrics = (measure,) if isinstance(measure, Metric) else measure
    return " or ".join(f"{function}({series(metric, part, **where)}[{time})" for metric in metrics)


def _label(metric: Metric, end: str) -> str:
    """The metric's one label that ends so."""
    (found,) = (key for key in map(label, metric.attributes) if f"_{key}".endswith(f"_{end}"))
    return found


def _by(attributes: tuple[str, ...]) -> str:
    return f" by ({', '.join(map(label, attributes))}) " if attributes else ""


def _legend(attributes: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{label(attribute)}}}}}" for attribute in attributes) or "__auto"
