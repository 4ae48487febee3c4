"""Every query of the dashboards, asked of a real Prometheus that scrapes the real Collector."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from otel_agentbus.telemetry import instruments as m
from otel_agentbus.telemetry import names
from tests.measured import family

from .backends import REPOSITORY, Collector, Prometheus, eventually
from .plain_sdk import Measurement, every_measurement, measure
from .test_command_line import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_agentbus.telemetry.instruments import Metric

DASHBOARDS = REPOSITORY / "deploy" / "grafana" / "dashboards"
DAY = 86_400
PATIENCE = 20.0  # seconds until a scrape must have brought what was exported

Series = list[tuple[dict[str, str], float]]

# What the demo has nothing of, and the plain SDK alone feeds to the dashboards: the demo tells everything once, and its
# endpoint takes it. The shorter this list the better.
NOT_IN_THE_DEMO: tuple[Metric, ...] = (
    m.CALLS_DUPLICATE,
    m.USAGE_MISMATCH,
    m.DISCARDED,
    m.OVERFLOWED,
    m.HEALTH["events.late"],
    *m.RELAY.values(),  # a relay's own; it has no broker
)
#: No run of the demo fails as a whole, so that this panel is empty, while its metric is there.
EMPTY_IN_THE_DEMO = {"Failed runs by error"}

PRICES = """
[[price]]
model = "gpt-5-mini"
input = 0.25
output = 2.00
"""
BUDGETS = """
[[budget]]
name = "tiny"
usd = 0.0001

[[budget]]
name = "tokens"
tokens = 1_000_000
"""


class Asked(NamedTuple):
    """One query of one panel."""

    board: str
    panel: str
    expr: str
    daily: bool

    def of(self, service: str, time_range: str = "1h", agent: str = ".*", model: str = ".*") -> str:
        """The query as Grafana sends it."""
        seconds = {"1m": 60, "1h": 3600}[time_range]
        values = {"__rate_interval": "1m", "__range_s": str(seconds), "__range": time_range}
        values |= {"service": service, "agent": agent, "model": model}
        return re.sub(r"\$(\w+)", lambda found: values[found[1]], self.expr)

    def moment(self) -> float | None:
        """When to ask: daily bars have points where days begin, all others one now."""
        return time.time() // DAY * DAY if self.daily else None

    def asks_for(self, *metrics: Metric) -> bool:
        """Whether one of these metrics is in it."""
        return bool(set(re.findall(r"\w+?(?=(?:_bucket|_count)?\{)", self.expr)) & set(map(family, metrics)))


def _asked() -> Iterator[Asked]:
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield Asked(path.stem, panel["title"], target["expr"], panel.get("interval") == "1d")


def panel(board: str, title: str) -> Asked:
    """The query of a panel that has but one."""
    (found,) = (asked for asked in ASKED if (asked.board, asked.panel) == (board, title))
    return found


ASKED = tuple(_asked())
IN_THE_DEMO = [
    asked for asked in ASKED if not asked.asks_for(*NOT_IN_THE_DEMO) and asked.panel not in EMPTY_IN_THE_DEMO
]


def _name(asked: Asked) -> str:
    return f"{asked.board}-{asked.panel}"


@pytest.fixture(scope="module")
def plain(collector: Collector) -> str:
    """The service of a program that measured everything, in the flavour of the conventions that is the default."""
    measure(collector, "everything", every_measurement(2.0, "1.41"))
    return "everything"


@pytest.fixture(scope="module")
def demo(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The service of the demo, which has run, with prices and budgets, and has ended."""
    service = "demo-on-dashboards"
    directory = tmp_path_factory.mktemp("demo")
    for file, text in {"prices.toml": PRICES, "budgets.toml": BUDGETS}.items():
        (directory / file).write_text(text)
    done = run(
        "demo",
        "--fast",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.otlp_http_endpoint,
        OTEL_SERVICE_NAME=service,
        AGENTBUS_PRICES=str(directory / "prices.toml"),
        AGENTBUS_BUDGETS=str(directory / "budgets.toml"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return service


@pytest.mark.parametrize("asked", ASKED, ids=_name)
def test_a_query_shows_what_was_measured(asked: Asked, prometheus: Prometheus, plain: str) -> None:
    """A program that measures everything once and ends is seen by each query of each panel."""
    series = shown(prometheus, asked, plain, _is_positive)
    assert _is_positive(series), f"{asked.of(plain)} gives {series}"


@pytest.mark.parametrize("asked", IN_THE_DEMO, ids=_name)
def test_a_query_shows_the_demo(asked: Asked, prometheus: Prometheus, demo: str) -> None:
    """What the demo does is seen in all panels about it, be it a 0."""
    series = shown(prometheus, asked, demo, _is_known)
    assert _is_known(series), f"{asked.of(demo)} gives {series}"


def test_what_the_demo_does_not_have_is_listed_rightly(prometheus: Prometheus, demo: str) -> None:
    """Who teaches the demo more learns here what to strike off the list."""
    shown(prometheus, panel("overview", "Agent runs"), demo, _is_known)  # its metrics have come, all at once
    there = {
        metric.name
        for metric in NOT_IN_THE_DEMO
        if prometheus.query(f'{{__name__=~"{family(metric)}.*",job="{demo}"}}')
    }
    assert there == set()


def test_variables_offer_what_there_is(prometheus: Prometheus, plain: str) -> None:
    """Each choice at the top of a dashboard has the values of its label."""
    shown(prometheus, panel("overview", "Agent runs"), plain, _is_known)
    offered = {}
    for path in DASHBOARDS.glob("*.json"):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert found is not None
                offered[variable["name"]] = set(prometheus.label_values(found[2], found[1].replace("$service", plain)))
    assert plain in offered.pop("service")
    assert offered == {"agent": {"planner", "researcher"}, "model": {"gpt-5-mini", "claude-haiku-4-5"}}


# -- right numbers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("time_range", ["1m", "1h"])
def test_totals_are_exact(time_range: str, collector: Collector, prometheus: Prometheus) -> None:
    """Money over a time is what was spent in it, not an extrapolation; each program of a service counts."""
    service = f"totals-{time_range}"
    for amount in (0.125, 0.0625):
        measure(collector, service, [Measurement(m.COST_SPENT, amount, {names.AGENT_NAME: "planner"})])
    series = shown(prometheus, panel("cost", "Cost"), service, lambda found: found == [({}, 0.1875)], time_range)
    assert series == [({}, 0.1875)]


@pytest.mark.parametrize("second", [0.125, 0.5])
def test_totals_survive_restarts(second: float, collector: Collector, prometheus: Prometheus) -> None:
    """A process that is started again under the same instance id counts from 0: less than before, or more."""
    service = f"restarts-{second}"
    cost = panel("cost", "Cost")
    measure(collector, service, [Measurement(m.COST_SPENT, 0.25, {})], instance="pod-1")
    assert _is_positive(shown(prometheus, cost, service, _is_positive))
    measure(collector, service, [Measurement(m.COST_SPENT, second, {})], instance="pod-1")
    both: Series = [({}, 0.25 + second)]
    assert shown(prometheus, cost, service, lambda found: found == both) == both


def test_a_day_has_a_bar_of_what_it_cost(collector: Collector, prometheus: Prometheus) -> None:
    """The bar of today, which is not over, is what was spent so far."""
    service, bars = "days", panel("cost", "Cost by day and agent")
    for agent, amount in {"planner": 0.25, "writer": 0.5}.items():
        measure(collector, service, [Measurement(m.COST_SPENT, amount, {names.AGENT_NAME: agent})])
    spent = [({"gen_ai_agent_name": "planner"}, 0.25), ({"gen_ai_agent_name": "writer"}, 0.5)]
    assert sorted(shown(prometheus, bars, service, lambda found: len(found) == 2), key=str) == spent


def test_who_chooses_an_agent_sees_that_agent(collector: Collector, prometheus: Prometheus) -> None:
    """The variables reach all that has an agent or a model."""
    service, cost = "chosen", panel("cost", "Cost")
    both = [
        Measurement(m.COST_SPENT, 0.25, {names.AGENT_NAME: "planner", names.REQUEST_MODEL: "gpt-5-mini"}),
        Measurement(m.COST_SPENT, 0.5, {names.AGENT_NAME: "writer", names.REQUEST_MODEL: "claude-haiku-4-5"}),
    ]
    measure(collector, service, both)
    assert shown(prometheus, cost, service, _is_positive) == [({}, 0.75)]
    assert prometheus.query(cost.of(service, agent="(planner|critic)")) == [({}, 0.25)]
    assert prometheus.query(cost.of(service, model="claude-haiku-4-5")) == [({}, 0.5)]


def test_deployments_are_counted_as_dora_does(collector: Collector, prometheus: Prometheus) -> None:
    """Three succeed and one fails within an hour: 72 a day, of which a quarter fails."""
    service = "dora"
    ended = [("succeeded", 3.0), ("failed", 1.0)]
    measure(
        collector,
        service,
        [Measurement(m.DEPLOYMENTS, number, {names.DEPLOYMENT_STATUS: status}) for status, number in ended],
    )
    frequency = shown(prometheus, panel("delivery", "Deployments per day"), service, _is_positive)
    assert [value for _labels, value in frequency] == [pytest.approx(72.0)]
    assert prometheus.query(panel("delivery", "Change failure rate").of(service)) == [({}, 0.25)]


def test_nothing_failed_is_no_gap(collector: Collector, prometheus: Prometheus) -> None:
    """Without a single error there is no series of errors; the share of errors is 0 all the same."""
    service = "flawless"
    ok = {names.AGENT_NAME: "planner", names.OUTCOME: "ok"}
    measure(collector, service, [Measurement(m.AGENT_RUNS, 5, ok)])
    assert shown(prometheus, panel("overview", "Failed runs"), service, _is_known) == [({}, 0.0)]
    by_agent = prometheus.query(panel("latency", "Error rate by agent").of(service))
    assert by_agent == [({"gen_ai_agent_name": "planner"}, 0.0)]


@pytest.mark.parametrize("flavours", [("1.41",), ("2026-10",), ("1.41", "2026-10")], ids="+".join)
def test_no_flavour_counts_a_call_twice(
    flavours: tuple[str, ...], collector: Collector, prometheus: Prometheus
) -> None:
    """Each call is in one histogram or in two, by the flavour of the conventions; it counts once."""
    service = f"flavour-{'-'.join(flavours)}"
    failed = {names.REQUEST_MODEL: "gpt-5-mini", names.ERROR_TYPE: "TimeoutError"}
    histograms = {"1.41": m.OPERATION_DURATION, "2026-10": m.INFERENCE_DURATION}
    measure(collector, service, [Measurement(histograms[flavour], 1.0, failed) for flavour in flavours])
    series = shown(prometheus, panel("latency", "Failed model calls by error"), service, _is_positive)
    assert series == [({"error_type": "TimeoutError"}, 1.0)]
    (slowest,) = prometheus.query(panel("latency", "Model calls, p95").of(service))
    assert 0.64 < slowest[1] < 1.28  # the bucket of one second


def test_percentiles_lead_to_traces(collector: Collector, prometheus: Prometheus) -> None:
    """What is drawn from histograms has exemplars, with the ids of the traces in which it was measured."""
    service = "exemplars"
    trace_id = measure(collector, service, every_measurement(1.0, "1.41"))
    for board, title in (("latency", "Agent runs"), ("latency", "Model calls"), ("latency", "Tool calls")):
        asked = next(each for each in ASKED if (each.board, each.panel) == (board, title))
        query = asked.of(service)
        found = eventually(lambda query=query: prometheus.exemplars(query), bool, PATIENCE)  # type: ignore[misc]
        assert {labels["trace_id"] for labels in found} == {f"{trace_id:032x}"}


def shown(
    prometheus: Prometheus,
    asked: Asked,
    service: str,
    is_enough: Callable[[Series], bool],
    time_range: str = "1h",
) -> Series:
    """What a panel shows of a service, once that is enough."""
    return eventually(lambda: prometheus.query(asked.of(service, time_range), asked.moment()), is_enough, PATIENCE)


def _is_positive(series: Series) -> bool:
    return any(value > 0 for _labels, value in series)


def _is_known(series: Series) -> bool:
    return any(value >= 0 for _labels, value in series)  # NaN is neither
