"""What relay workers count is exact and there once, wherever batches are cut and whenever workers are killed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import Histogram, MetricsData, Sum

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import AgentEnd, AgentStart, CacheMiss, Error, Event, LlmRequest, LlmResponse, ToolCall
from otel_agentbus.recording import Opening
from otel_agentbus.relay import counting, series
from otel_agentbus.relay.counting import ShardCounting, lasting
from otel_agentbus.relay.series import Name, Series, Total, totals
from otel_agentbus.relay.stored_metrics import StoredMetrics, metrics_data
from otel_agentbus.relay.worker_metrics import RelayNumbers, watch
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.accounts import Account, RunAccount
from otel_agentbus.telemetry.usage import Usage
from otel_agentbus.testing import wait_until

from .receivers import HttpReceiver, closed_port
from .test_metrics_bridge import Meter, Points

SETTINGS = Settings()
SERVICE = "crm"


def opening(source: str = "s1", **resource: Any) -> Opening:
    return Opening(source=source, resource={"service.name": SERVICE, **resource})


class Shard:
    """The counters of one shard, added up as the store does, and what its worker has kept of open trees."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, int | str]] = {}

    def add(self, counters: Mapping[str, Mapping[str, int]]) -> None:
        for name, fields in counters.items():
            here = self.stored.setdefault(name, {})
            for field, number in fields.items():
                here[field] = int(here.get(field, 0)) + number

    def counters(self) -> Mapping[str, Mapping[str, int | str]]:
        return self.stored


def told(found: Iterable[Total]) -> dict[str, Points]:
    """The totals as `Meter.read` says what an SDK's reader has read."""

    def metrics() -> Iterator[tuple[str, Any]]:
        for of_resource in metrics_data(found, 1, 2, "relay").resource_metrics:
            for metric in of_resource.scope_metrics[0].metrics:
                yield metric.name, metric

    meter = Meter()
    meter._metrics = lambda: [metric for _, metric in metrics()]  # type: ignore[method-assign]
    return meter.read()


def once(events: Iterable[Event]) -> dict[str, Points]:
    """What one bridge says that is fed once, without what a living process is."""
    meter = Meter()
    bridge = meter.bridge(entered=True)
    for event in events:
        bridge(event)
    read = meter.read()
    return {name: points for name, points in read.items() if name not in ("agentbus.agent.active",)}


def work(shard: Shard, events: Sequence[Event], cuts: Sequence[int], killed: Sequence[bool]) -> None:
    """Relay workers, one after the other: each acknowledges batches, until it is killed before one of them.

    Who takes over feeds all that was acknowledged again, as if every tree were open, and reads on from there.
    """
    done, counted = 0, ShardCounting(SETTINGS, shard.stored)
    batches = iter(zip([*cuts, len(events)], [*killed, False], strict=True))
    for size, is_killed in batches:
        batch = events[done : done + size]
        for event in batch:
            counted.count(event, opening())
        if is_killed:
            counted = ShardCounting(SETTINGS, shard.stored)
            with counted.quiet():
                for event in events[:done]:
                    counted.count(event, opening())
        else:
            shard.add(counted.taken())
            done += len(batch)
    for event in events[done:]:
        counted.count(event, opening())
    shard.add(counted.taken())


def exactly(shard: Shard) -> dict[Name, tuple[int, bool, dict[int, int]]]:
    """The sum of each series in its smallest unit, whether it is one of decimals, and its buckets."""
    return {
        total.name: (total.whole * 10**18 + total.units, total.decimal, total.buckets)
        for total in totals([shard.stored])
    }


# -- any events, cut and killed anywhere ------------------------------------------------------------------------------
#: Amounts that floats add up exactly, too, so that what the SDK says can be compared to the last place.
AMOUNTS = st.integers(0, 10**8).map(lambda number: number / 1024)
MONEY = st.none() | AMOUNTS
SECONDS = AMOUNTS
TOKENS = st.integers(0, 10**9)
RUNS = st.sampled_from(["r1", "r2", "r3"])


@st.composite
def responses(draw: st.DrawFn) -> LlmResponse:
    cost = draw(MONEY)
    run = draw(RUNS)
    event = LlmResponse(
        model_provider="openai",
        model=draw(st.sampled_from(["gpt", "mini"])),
        duration=draw(SECONDS),
        success=draw(st.booleans()),
        call_id=draw(st.sampled_from([None, "c1", "c2"])),
        agent="planner",
        invocation_id=run,
        root_invocation_id=run,
        source="s1",
    )
    duplicate = draw(st.sampled_from([None, None, None, "call_id"]))
    usage = Usage(draw(TOKENS), draw(TOKENS), None, None, None)
    event.account = Account(usage, cost, "no_usage" if cost is None else "priced", draw(SECONDS), duplicate)
    return event


@st.composite
def runs(draw: st.DrawFn) -> AgentStart | AgentEnd:
    run = draw(RUNS)
    place: dict[str, Any] = {"agent": "planner", "invocation_id": run, "root_invocation_id": run, "source": "s1"}
    time_ns = draw(st.integers(0, 10**12))
    if draw(st.booleans()):
        return AgentStart(**place, time_ns=time_ns, model="gpt")
    end = AgentEnd(**place, time_ns=time_ns, duration=draw(st.none() | SECONDS))
    end.account = RunAccount(draw(st.integers(0, 200)), 1, draw(st.sampled_from([(), ("tokens",)])))
    return end


REQUESTS = st.builds(
    LlmRequest,
    model_provider=st.just("openai"),
    model=st.just("gpt"),
    messages_count=st.just(1),
    operation=st.sampled_from(["chat", "embeddings"]),
    call_id=st.sampled_from([None, "c1", "c2"]),
    invocation_id=RUNS,
    source=st.just("s1"),
)
OTHERS = st.one_of(
    st.builds(ToolCall, tool=st.sampled_from(["search", "send"]), duration=SECONDS, success=st.booleans()),
    st.builds(Error, component=st.sampled_from(["gateway", "tools"]), message=st.just("m")),
    st.builds(CacheMiss, cache_type=st.just("answers")),
)


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    events: list[Event] = list(draw(st.lists(st.one_of(responses(), runs(), REQUESTS, OTHERS), max_size=30)))
    for seq, event in enumerate(events):
        event.seq = seq
    return events


@settings(max_examples=200, deadline=None)
@given(streams(), st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=12))
def test_wherever_batches_are_cut_and_workers_killed_the_store_says_what_one_bridge_says(
    events: list[Event], cuts: list[tuple[int, bool]]
) -> None:
    shard = Shard()
    work(shard, events, [size for size, _ in cuts], [killed for _, killed in cuts])
    one_go = Shard()
    work(one_go, events, (), ())
    assert told(totals([shard.stored])) == once(events)
    assert exactly(shard) == exactly(one_go)


@settings(max_examples=100, deadline=None)
@given(streams(), st.integers(1, 4))
def test_shards_add_up_to_one_stream(events: list[Event], number: int) -> None:
    """Runs are spread over shards, and stay whole there."""
    shards = [Shard() for _ in range(number)]
    for index, shard in enumerate(shards):
        work(shard, [event for event in events if hash(event.invocation_id) % number == index], [3], [False])
    assert told(totals(shard.stored for shard in shards)) == once(events)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 10**6, allow_nan=False).map(lambda value: round(value, 12)), min_size=1, max_size=60))
def test_sums_are_those_that_a_hand_adds_up(costs: list[float]) -> None:
    events: list[Event] = []
    for cost in costs:
        event = LlmResponse(model_provider="openai", model="gpt", duration=cost, success=True)
        event.account = Account(Usage(1, 1, None, None, None), cost, "priced")
        events.append(event)
    shard = Shard()
    work(shard, events, [5] * 20, [False, True] * 10)
    exact = float(sum(Decimal(repr(cost)) for cost in costs))
    found = {total.name.metric: total for total in totals([shard.stored])}
    assert found["agentbus.cost.spent"].sum == exact
    assert found["gen_ai.client.operation.duration"].sum == exact


def test_ten_million_billionths_of_a_dollar_beside_a_million_of_dollars_are_all_there() -> None:
    sums, store = Series(Name((), "agentbus.cost.spent", "counter", "{USD}", (), ())), Shard()
    sums.add(1e6)
    for _ in range(1000):
        sums.add(1e-9)
    portion = dict(sums.taken())
    store.add({series.SERIES: {f"{sums.digest} {sums.text}": 0}, series.COUNTS: portion})
    for _ in range(1000):
        sums.add(1e-9)
    thousand = dict(sums.taken())
    for _ in range(9_999):
        store.add({series.COUNTS: thousand})
    (total,) = totals([store.stored])
    assert total.sum == 1_000_000.01
    assert total.whole * 10**18 + total.units == 10**24 + 10**16


def test_events_that_are_fed_again_make_known_what_is_open_and_count_nothing() -> None:
    run: dict[str, Any] = {"agent": "planner", "invocation_id": "r", "source": "s1"}
    counted = ShardCounting(SETTINGS)
    with counted.quiet():
        counted.count(AgentStart(**run, seq=0, time_ns=1_000_000_000, model="gpt"), opening())
        counted.count(Error(component="gateway", message="m", source="s1", seq=1), opening())
    assert counted.taken() == {}
    counted.count(AgentEnd(**run, seq=2, time_ns=3_000_000_000), opening())
    shard = Shard()
    shard.add(counted.taken())
    assert told(totals([shard.stored])) == {
        "agentbus.agent.runs": {"agent=planner outcome=ok": 1},
        "gen_ai.invoke_agent.duration": {"agent=planner model=gpt": (1, 2.0)},
    }


def test_what_was_taken_is_not_taken_again() -> None:
    counted = ShardCounting(SETTINGS)
    counted.count(CacheMiss(cache_type="answers"), opening())
    first = counted.taken()
    assert (set(first), counted.taken()) == ({series.SERIES, series.COUNTS, series.BEGAN}, {})
    counted.count(CacheMiss(cache_type="answers"), opening())
    assert counted.taken() == {series.SERIES: {}, series.COUNTS: first[series.COUNTS]}


def test_the_beginning_stays_that_of_the_first_worker() -> None:
    shard = Shard()
    work(shard, [CacheMiss(cache_type="answers")], (), ())
    first = series.began([shard.stored])
    work(shard, [CacheMiss(cache_type="answers")], (), ())
    assert first is not None
    assert (series.began([shard.stored]), series.began([{}])) == (first, None)
    assert series.began([shard.stored, {series.BEGAN: {"5": 0}}, {}]) == 5


# -- bounds -----------------------------------------------------------------------------------------------------------
def test_the_beginning_is_told_by_the_clock_that_all_workers_share() -> None:
    counted = ShardCounting(SETTINGS)
    counted.count(CacheMiss(source="s1", seq=0, cache_type="semantic"), opening())
    assert series.began([counted.taken(5)]) == 5


def test_names_are_bounded_however_often_the_shard_changes_its_worker() -> None:
    shard = Shard()
    for worker in range(5):
        counted = ShardCounting(SETTINGS, shard.stored)
        for number in range(150):
            counted.count(Error(component=f"component {worker} {number}", message="m"), opening())
        shard.add(counted.taken())
    read = told(totals([shard.stored]))
    errors = read["agentbus.errors"]
    assert sum(errors.values()) == 750
    assert len(errors) == 201
    assert errors["component=other"] == 550
    assert read["agentbus.metrics.overflowed"] == {"": 550}


def test_names_that_are_folded_again_when_fed_again_are_not_counted_twice() -> None:
    events = [Error(component=f"component {number}", message="m") for number in range(300)]
    counted = ShardCounting(SETTINGS)
    with counted.quiet():
        for event in events:
            counted.count(event, opening())
    counted.count(Error(component="one more", message="m"), opening())
    shard = Shard()
    shard.add(counted.taken())
    assert told(totals([shard.stored])) == {
        "agentbus.errors": {"component=other": 1},
        "agentbus.metrics.overflowed": {"": 1},
    }


def test_sets_of_names_beyond_the_bound_are_one_series_and_the_sum_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "SETS", 4)
    shard = Shard()
    for worker in range(3):
        events = [ToolCall(tool=f"t{worker}{n}", duration=1.0, success=True) for n in range(3)]
        work(shard, events, (), ())
    calls = [total for total in totals([shard.stored]) if total.name.metric == "agentbus.tool.calls"]
    assert len(calls) == 5
    assert {total.name.attributes: total.sum for total in calls}[counting.OVERFLOW] == 5
    assert sum(total.sum for total in calls) == 9


def test_series_do_not_grow_with_processes() -> None:
    shard = Shard()
    counted = ShardCounting(SETTINGS, shard.stored)
    for number in range(30):
        here = opening(
            f"s{number}",
            **{
                "service.instance.id": f"i{number}",
                "process.pid": number,
                "host.name": f"h{number}",
                "k8s.pod.name": f"p{number}",
                "container.id": f"c{number}",
                "telemetry.sdk.version": f"1.{number}",
                "service.namespace": "sales",
                "deployment.environment.name": "prod",
                "team": ("a", "b"),
            },
        )
        counted.count(CacheMiss(cache_type="answers", source=here.source), here)
    shard.add(counted.taken())
    (total,) = totals([shard.stored])
    assert total.sum == 30
    assert total.name.resource == (
        ("deployment.environment.name", "prod"),
        ("service.name", SERVICE),
        ("service.namespace", "sales"),
        ("team", ("a", "b")),
    )


def test_resources_beyond_the_bound_are_told_by_their_service_and_then_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "RESOURCES", 2)
    shard = Shard()
    for build in range(4):  # each by a worker of its own
        counted = ShardCounting(SETTINGS, shard.stored)
        counted.count(CacheMiss(cache_type="answers"), opening(f"s{build}", build=build))
        shard.add(counted.taken())
    counted = ShardCounting(SETTINGS, shard.stored)
    for service in ("b", "c", "d"):
        here = Opening(source=service, resource={"service.name": service})
        counted.count(CacheMiss(cache_type="answers"), here)
    shard.add(counted.taken())
    assert {total.name.resource: total.sum for total in totals([shard.stored])} == {
        (("build", 0), ("service.name", SERVICE)): 1,
        (("build", 1), ("service.name", SERVICE)): 1,
        (("service.name", SERVICE),): 2,
        (("service.name", "b"),): 1,
        (("service.name", "other"),): 2,
    }


def test_what_a_process_says_of_itself_is_no_part_of_a_resource() -> None:
    kept = {"service.name": "crm", "service.version": "1", "cloud.region": "eu", "hosting": "own", "weight": 0.5}
    own = dict.fromkeys(
        ("host.id", "host.name", "process.command_line", "os.type", "faas.instance", "k8s.node.name"), "x"
    )
    assert lasting(kept | own | {"raw": b"x"}) == tuple(sorted((kept | {"raw": "b'x'"}).items()))


# -- what is exported -------------------------------------------------------------------------------------------------
class Kept:
    """A store with two shards; `away` it does not answer."""

    def __init__(self, *shards: Shard) -> None:
        self.parts = shards
        self.away = False
        self.at_ms = 2_000_000_000_000
        self.owner = ""

    @property
    def shards(self) -> int:
        return len(self.parts)

    def shard(self, number: int) -> Shard:
        if self.away:
            raise OSError("away")
        return self.parts[number]

    def turn(self, what: str, worker: str, seconds: float) -> bool:
        if self.away:
            raise OSError("away")
        self.owner = self.owner or worker
        mine = self.owner == worker
        if seconds < 0.01:
            self.owner = ""
        return mine

    def now_ms(self) -> int:
        self.at_ms += 1000
        return self.at_ms


def sent(receiver: HttpReceiver) -> list[dict[str, float]]:
    """The sums of each export, by metric."""
    exports = []
    for request in receiver.of("/v1/metrics"):
        found = {}
        for of_resource in request.message.resource_metrics:
            for metric in of_resource.scope_metrics[0].metrics:
                for point in metric.sum.data_points or metric.histogram.data_points:
                    assert 0 < point.start_time_unix_nano < point.time_unix_nano
                    found[metric.name] = getattr(point, "as_int", 0) or getattr(point, "sum", 0)
        exports.append(found)
    return exports


def sending_to(receiver: HttpReceiver, **changes: Any) -> Settings:
    return Settings(endpoint=f"http://127.0.0.1:{receiver.port}", **changes)


def test_a_worker_that_takes_over_continues_the_same_sums() -> None:
    shards = Shard(), Shard()
    with HttpReceiver() as receiver:
        for worker in ("one", "two"):
            for shard in shards:
                work(shard, [ToolCall(tool="t", duration=0.1, success=True)], (), ())
            stored = StoredMetrics(Kept(*shards), sending_to(receiver), name="agentbus/relay", worker=worker)
            assert stored.close(5.0)
        first, second = receiver.of("/v1/metrics")
        assert sent(receiver) == [
            {"agentbus.tool.calls": 2, "gen_ai.execute_tool.duration": 0.2},
            {"agentbus.tool.calls": 4, "gen_ai.execute_tool.duration": 0.4},
        ]
    starts = []
    for request in (first, second):
        (of_resource,) = request.message.resource_metrics
        told_of = {attribute.key: attribute.value.string_value for attribute in of_resource.resource.attributes}
        assert told_of == {"service.name": SERVICE, "service.instance.id": "agentbus/relay"}
        starts.append(of_resource.scope_metrics[0].metrics[0].sum.data_points[0].start_time_unix_nano)
    assert starts[0] == starts[1]


def test_only_the_worker_whose_turn_it_is_exports_in_the_background() -> None:
    shard = Shard()
    work(shard, [CacheMiss(cache_type="answers")], (), ())
    store = Kept(shard)
    with HttpReceiver() as receiver:
        quick = sending_to(receiver, metric_interval_ms=10)
        one, two = (StoredMetrics(store, quick, name="n", worker=worker) for worker in ("one", "two"))
        store.owner = "one"
        one.start()
        two.start()
        assert wait_until(lambda: one.exports >= 3)
        assert two.exports == 0
        one.close(5.0)
        assert wait_until(lambda: two.exports > 0)
        two.close(5.0)


def test_an_endpoint_or_a_store_that_is_away_costs_an_export_and_nothing_else() -> None:
    shard = Shard()
    work(shard, [CacheMiss(cache_type="answers")], (), ())
    store = Kept(shard)
    with HttpReceiver() as receiver:
        stored = StoredMetrics(store, sending_to(receiver), name="n", worker="w")
        store.away = True
        assert not stored.export()
        store.away = False
        assert stored.export()
        assert (stored.exports, stored.failures) == (2, 1)
        assert stored.close(5.0)
        assert sent(receiver) == [{"agentbus.cache.misses": 1}] * 2
    with closed_port() as port:
        unheard = StoredMetrics(store, Settings(endpoint=f"http://127.0.0.1:{port}"), name="n", worker="w")
        assert not unheard.close(1.0)


def test_nothing_is_exported_before_anything_was_counted() -> None:
    with HttpReceiver() as receiver:
        stored = StoredMetrics(Kept(Shard()), sending_to(receiver), name="n", worker="w")
        assert stored.close(5.0)
        assert receiver.of("/v1/metrics") == []


def test_where_delta_is_preferred_a_relay_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    with pytest.raises(ConfigurationError, match=r"TEMPORALITY_PREFERENCE asks for delta.*cumulativetodelta"):
        StoredMetrics(Kept(), Settings(endpoint="http://localhost:4318"), name="n", worker="w")


def test_without_an_endpoint_a_relay_does_not_count() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        StoredMetrics(Kept(), Settings(), name="n", worker="w")


def test_series_are_sums_and_histograms_as_the_instruments_say() -> None:
    shard = Shard()
    work(shard, [ToolCall(tool="t", duration=0.1, success=True)], (), ())
    data = metrics_data(totals([shard.stored]), 1, 2, "n")
    assert isinstance(data, MetricsData)
    (of_resource,) = data.resource_metrics
    calls, seconds = of_resource.scope_metrics[0].metrics
    assert isinstance(calls.data, Sum)
    assert isinstance(seconds.data, Histogram)
    assert (calls.name, calls.unit, calls.description) == (
        *("agentbus.tool.calls", "{call}"),
        "Tool calls that ended, by outcome.",
    )
    assert calls.data.is_monotonic
    (point,) = seconds.data.data_points
    assert (point.count, sum(point.bucket_counts), point.bucket_counts[4]) == (1, 1, 1)
    assert (len(point.bucket_counts), point.attributes) == (15, {"gen_ai.tool.name": "t"})


def test_what_a_later_version_has_counted_is_left_to_it() -> None:
    shard = Shard()
    shard.add({series.SERIES: {'ab ["new","form"]': 0}, series.COUNTS: {"ab.n": 3, "cd.n": 4}})
    assert totals([shard.stored]) == []


# -- how a worker is --------------------------------------------------------------------------------------------------
def test_a_worker_is_asked_once_for_each_collection_and_says_nothing_while_the_store_is_away() -> None:
    meter = Meter()
    asked: list[int] = []

    def read() -> RelayNumbers:
        asked.append(len(asked))
        if len(asked) == 2:
            raise OSError("away")
        return RelayNumbers(events=10, spans=4, open_runs=3, lag=0, trimmed=None)

    watch(meter.provider, "g", read)
    group = (("agentbus.relay.group", "g"),)

    def read_now() -> dict[str, dict[Any, Any]]:
        return {
            metric.name: {tuple(point.attributes.items()): point.value for point in metric.data.data_points}
            for metric in meter._metrics()
        }

    assert read_now() == {
        "agentbus.relay.events": {group: 10},
        "agentbus.relay.spans": {group: 4},
        "agentbus.relay.open_runs": {group: 3},
        "agentbus.relay.lag": {group: 0},
    }
    assert read_now() == {}
    assert len(read_now()) == 4
    assert len(asked) == 3
