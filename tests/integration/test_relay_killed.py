"""Workers of the relay are killed at random while events flow: every tree is whole, and no token is missing.

AGENTBUS_RELAY_EVENTS says how many events (50,000, which two busy cores do in a minute; it holds for 200,000 as well).
Redis hangs for some seconds meanwhile, and the Collector is away for some. Each fixture is one such run; the tests look
at what came of it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import redis

from otel_agentbus.journal.redis import RedisJournal
from otel_agentbus.testing import wait_until

from .backends import Collector, Jaeger, eventually
from .conftest import required
from .flapping import DirectCollector
from .metrics import Metrics
from .programs import relay_troupe
from .programs.relay_troupe import LONG, PRICES, Agent, Call, Planned, Tool, run_of, spans_of
from .redis_server import Redis
from .relay_fleet import LEASE_S, SHARDS, WORKERS, Fleet
from .test_relay import Running
from .troupes import IDS, trace_id

EVENTS = int(os.environ.get("AGENTBUS_RELAY_EVENTS") or 50_000)
#: Where the relay counts, which is tested at length elsewhere.
FEWER = 20_000 if EVENTS >= 200_000 else EVENTS // 5
#: Events per second of all processes together: what two cores emit and relay at the same time.
RATE = 6_000
#: Seconds that a run takes at least, so that there is something to be killed.
SECONDS = 8
PROCESSES = 4
#: After so many kills Redis hangs, and the Collector is away; for so many seconds.
HANGS_AT, HANGS_S = 2, 3.0
AWAY_AT, AWAY_S = 4, 4.0
PATIENCE_S = 60.0
#: Seconds that the processes and the workers may take for all.
LONGEST_S = 60.0 + EVENTS / 1000
#: USD per token, as the list of prices says it.
INPUT, OUTPUT = Fraction("0.3") / 10**6, Fraction("1.7") / 10**6


class Lasting(DirectCollector):
    """A Collector that says that it took spans when they are in Jaeger and in a file; the file outlasts it."""

    def __init__(self, binary: Path, directory: Path, jaeger: Jaeger) -> None:
        repeated = Collector(binary, directory, jaeger).additions
        super().__init__(binary, directory, jaeger)
        self.additions = {**repeated, **self.additions, "exporters::file::append": "true"}
        self.written = Path(self.additions["exporters::file::path"])


# -- the run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What all processes of a run do."""

    name: str
    events: int

    def runs(self) -> list[Agent]:
        """The runs of all processes, which are as many in each."""
        found: list[Agent] = []
        events = number = 0
        while events < self.events or number <= LONG:
            runs = [run_of(self.name, process, number) for process in range(PROCESSES)]
            events += 2 * sum(1 for run in runs for _ in spans_of(run))
            found += runs
            number += 1
        return found


@dataclass
class Sent:
    """A span as the Collector got it: what was sent of it first, and how often each content was sent."""

    span: dict[str, Any]
    contents: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Ran:
    """A run is over: what was planned, what the processes and workers said, and where what came of it is to be seen."""

    service: str
    runs: list[Agent]
    planned: list[tuple[str, Planned]]
    emitters: list[dict[str, Any]]
    codes: list[int]
    kills: int
    told_again: int
    orphaned_s: list[float]
    sent: dict[tuple[str, str], Sent]
    page: Metrics
    redis_url: str


@dataclass
class Scene:
    """The servers and processes of one run."""

    directory: Path
    url: str
    server: Redis
    collector: Lasting
    plan: Plan
    counted_by_relay: bool

    def play(self) -> Iterator[Ran]:
        """The whole of it."""
        runs = self.plan.runs()
        planned = [(run.id, span) for run in runs for span in spans_of(run)]
        options = ("--metrics",) if self.counted_by_relay else ()
        fleet = Fleet(self.url, self.directory, self._variables(of_relay=True), *options, longest_s=LONGEST_S)
        emitters = [self._emitter(process, len(runs) // PROCESSES) for process in range(PROCESSES)]
        try:
            self._disturb(fleet, emitters)
            said = self._finish(fleet, emitters)
            assert wait_until(lambda: not fleet.lag(), PATIENCE_S), fleet.lag()
            calls = sum(isinstance(span.what, Call) for _, span in planned)
            page = eventually(
                self.collector.scrape,
                lambda page: page.total("agentbus_llm_calls_total", job=self.plan.name) >= calls,
                20.0,
            )
            codes = fleet.end()
        finally:
            for running in (*emitters, *fleet.workers, *fleet.dead):
                running.popen.kill()
                running.popen.wait()
        self.collector.stop()
        sent = read(self.collector.written)
        again = sum(1 for each in sent.values() if each.contents.total() > 1)
        print(
            f"{2 * len(planned):,} events, {fleet.kills} kills, {fleet.told_again:,} events told again, "
            f"{again:,} of {len(sent):,} spans sent again; shards "
            f"without an owner for {' '.join(f'{seconds:.1f}' for seconds in sorted(fleet.orphaned_s))} s"
        )
        yield Ran(
            self.plan.name,
            runs,
            planned,
            said,
            codes,
            fleet.kills,
            fleet.told_again,
            fleet.orphaned_s,
            sent,
            page,
            self.url,
        )

    def _disturb(self, fleet: Fleet, emitters: list[Running]) -> None:
        """While the processes emit: kills, and once each a Redis that hangs and a Collector that is away."""
        hung = away = False
        while fleet.kills <= AWAY_AT or not all("done" in emitter.out for emitter in emitters):
            fleet.step()
            assert all(emitter.popen.poll() is None for emitter in emitters), [each.err for each in emitters]
            if fleet.kills >= HANGS_AT and not hung:
                hung = True
                self._hang()
                fleet.forget()
            if fleet.kills >= AWAY_AT and not away:
                away = True
                with self._collector_away():
                    until = time.monotonic() + AWAY_S
                    while time.monotonic() < until:
                        fleet.step()
                fleet.forget()

    def _hang(self) -> None:
        self.server.pause()
        time.sleep(HANGS_S)
        self.server.go_on()

    @contextmanager
    def _collector_away(self) -> Iterator[None]:
        self.collector.stop()
        yield
        self.collector.start()

    def _finish(self, fleet: Fleet, emitters: list[Running]) -> list[dict[str, Any]]:
        """The runs that are open all the time end, when no worker has them in memory any more."""
        fleet.kill_all()
        for emitter in emitters:
            assert emitter.popen.stdin is not None
            emitter.popen.stdin.close()
        while any(emitter.popen.poll() is None for emitter in emitters) or fleet.lag():
            fleet.step()
        assert [emitter.popen.returncode for emitter in emitters] == [0] * PROCESSES, [each.err for each in emitters]
        return [json.loads(emitter.out.splitlines()[-1]) for emitter in emitters]

    def _emitter(self, process: int, runs: int) -> Running:
        rate = min(RATE, self.plan.events / SECONDS) / PROCESSES
        arguments = (self.plan.name, process, PROCESSES, runs, rate, self.directory)
        return Running(self.directory, self._variables(of_relay=False), relay_troupe.__name__, *map(str, arguments))

    def _variables(self, *, of_relay: bool) -> dict[str, str]:
        metrics = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.otlp_http_endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        }
        if of_relay:
            return {**metrics, "OTEL_SERVICE_NAME": f"{self.plan.name}-relay"}
        prices = self.directory / "prices.toml"
        prices.write_text(PRICES)
        return {
            **({"OTEL_METRICS_EXPORTER": "none"} if self.counted_by_relay else metrics),
            "AGENTBUS_BROKER": self.url,
            "AGENTBUS_EXIT_TIMEOUT": "60",
            "AGENTBUS_PRICES": str(prices),
            "AGENTBUS_SPOOL_DIR": str(self.directory / "spool"),
            "OTEL_SERVICE_NAME": self.plan.name,
        }


def read(path: Path) -> dict[tuple[str, str], Sent]:
    """Every copy of every span that was sent."""
    found: dict[tuple[str, str], Sent] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            for resource in json.loads(line)["resourceSpans"]:
                whose = json.dumps(resource.get("resource"), sort_keys=True)
                for scope in resource["scopeSpans"]:
                    about = f"{whose} {json.dumps(scope.get('scope'), sort_keys=True)} "
                    for span in scope["spans"]:
                        sent = found.setdefault((span["traceId"], span["spanId"]), Sent(span))
                        sent.contents[about + json.dumps(span, sort_keys=True)] += 1
    path.unlink()  # it is large
    return found


@pytest.fixture(scope="module", params=["counted by the emitters", "counted by the relay"])
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: Redis, jaeger: Jaeger
) -> Iterator[Ran]:
    """One run; each emits, and is relayed, under a name of its own."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    directory = tmp_path_factory.mktemp("relay_killed")
    collector = Lasting(required("collector"), directory, jaeger)
    collector.start()
    by_relay = request.param == "counted by the relay"
    plan = Plan(f"killed-{uuid.uuid4().hex[:8]}", FEWER if by_relay else EVENTS)
    try:
        yield from Scene(directory, redis_server.url, redis_server, collector, plan, by_relay).play()
    finally:
        redis_server.go_on()
        if collector.is_up:
            collector.stop()


# -- what came of it ---------------------------------------------------------------------------------------------------


def span_id(root: str, key: tuple[str, str, str] | None) -> str | None:
    """The id of a planned span, as hex."""
    if key is None:
        return None
    kind, run, local = key
    return f"{IDS.span_id(root, kind, run, local):016x}"


def test_everything_was_emitted_and_is_with_the_broker(ran: Ran) -> None:
    health = [said["health"] for said in ran.emitters]
    assert [said["closed"] for said in ran.emitters] == [True] * PROCESSES
    assert sum(each["events"]["emitted"] for each in health) == 2 * len(ran.planned)
    assert [each["broker"]["written"] for each in health] == [each["events"]["emitted"] for each in health]
    assert [(each["broker"]["dropped"], each["broker"]["kept"]) for each in health] == [({}, 0)] * PROCESSES


def test_workers_were_killed_meanwhile_and_the_last_ones_ended_in_peace(ran: Ran) -> None:
    assert ran.kills > AWAY_AT + WORKERS
    assert ran.told_again > 0
    assert ran.codes == [0] * WORKERS


def test_every_tree_is_whole_in_jaeger(ran: Ran, jaeger: Jaeger) -> None:
    wanted: dict[str, Counter[tuple[str | None, str | None]]] = defaultdict(Counter)
    for root, span in ran.planned:
        wanted[root][span_id(root, span.key), span_id(root, span.parent)] += 1

    def wrong(root: str) -> bool:
        return Counter(jaeger.places(trace_id(root))) != wanted[root]

    with ThreadPoolExecutor(4) as threads:
        found = [root for root, is_wrong in zip(wanted, threads.map(wrong, wanted), strict=True) if is_wrong]
    assert len(wanted) == len(ran.runs)
    assert found == []


def test_every_span_is_there_with_its_own_name_outcome_and_tokens(ran: Ran) -> None:
    wanted = {}
    for root, span in ran.planned:
        fails = isinstance(span.what, (Call, Tool)) and span.what.fails
        tokens = span.what.input if isinstance(span.what, Call) else None
        wanted[trace_id(root), span_id(root, span.key)] = (span.name, "error" if fails else "ok", tokens)
    found = {place: told_by(sent.span) for place, sent in ran.sent.items()}
    assert dict(found.items() ^ wanted.items()) == {}


def told_by(span: dict[str, Any]) -> tuple[str, Any, int | None]:
    """A span's name, its outcome, and a model call's tokens."""
    said = {each["key"]: each["value"] for each in span["attributes"]}
    tokens = said.get("gen_ai.usage.input_tokens") if span["name"].startswith("chat ") else None
    return (
        span["name"],
        said["agentbus.outcome"]["stringValue"],
        None if tokens is None else int(tokens["intValue"]),
    )


def test_no_span_was_sent_with_two_contents(ran: Ran) -> None:
    assert {place: sent.contents for place, sent in ran.sent.items() if len(sent.contents) > 1} == {}


def test_the_metrics_are_the_sums_of_the_events(ran: Ran) -> None:
    def by(name: str, label: str) -> dict[str, float]:
        found: defaultdict[str, float] = defaultdict(float)
        for sample in ran.page.select(name, job=ran.service):
            found[sample.labels.get(label, "")] += sample.value
        return dict(found)

    def outcomes(kind: type[Call | Tool]) -> dict[str, int]:
        whats = [span.what for _, span in ran.planned]
        return dict(Counter("error" if what.fails else "ok" for what in whats if isinstance(what, kind)))

    calls = [span.what for _, span in ran.planned if isinstance(span.what, Call)]
    agents = [span.what.name for _, span in ran.planned if isinstance(span.what, Agent)]
    assert by("agentbus_tokens_used_total", "gen_ai_token_type") == {
        "input": sum(call.input for call in calls),
        "output": sum(call.output for call in calls),
    }
    assert by("agentbus_agent_runs_total", "gen_ai_agent_name") == Counter(agents)
    assert by("agentbus_llm_calls_total", "agentbus_outcome") == outcomes(Call)
    assert by("agentbus_tool_calls_total", "agentbus_outcome") == outcomes(Tool)
    spent = by("agentbus_cost_spent_total", "gen_ai_request_model")
    reported = sum(Fraction(call.cost) for call in calls if call.cost is not None)
    listed = sum(call.input * INPUT + call.output * OUTPUT for call in calls if call.cost is None)
    assert abs(Fraction(spent.pop("gpt-5-mini")) - reported) < Fraction(1, 10**9)
    assert abs(Fraction(spent.pop("house-1")) - listed) < Fraction(1, 10**9)
    assert spent == {}


def test_nothing_is_left_in_redis(ran: Ran) -> None:
    journal = RedisJournal(ran.redis_url)
    shards = [journal.shard(number) for number in range(SHARDS)]
    left = [(shard.lag(), shard.open_trees(), shard.owner(), shard.trimmed(), shard.letters()) for shard in shards]
    assert left == [(0, 0, None, 0, [])] * SHARDS
    assert wait_until(lambda: journal.workers(LEASE_S) == [], PATIENCE_S)  # those that were killed are forgotten
    with redis.Redis.from_url(ran.redis_url, decode_responses=True) as client:
        streams = list(client.scan_iter(_type="stream"))
        assert [client.xlen(stream) for stream in streams] == [0] * len(streams)
        assert list(client.scan_iter(_type="list")) == []  # neither a tree nor a letter


def test_shards_of_the_dead_found_another_worker_soon(ran: Ran) -> None:
    """Loosely: the machine is busy, and a worker that has just begun is killed as well."""
    assert len(ran.orphaned_s) >= WORKERS
    assert median(ran.orphaned_s) < LEASE_S + 3.0
    assert max(ran.orphaned_s) < 3 * (LEASE_S + 3.0)
