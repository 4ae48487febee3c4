"""Workers of `relay --metrics` are killed while events flow: the Collector's Prometheus page has the events' sums."""

from __future__ import annotations

import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import pytest
import redis

from otel_agentbus.events import AgentEnd, AgentStart, CacheHit, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.journal.redis import RedisJournal
from otel_agentbus.recording import Opening
from otel_agentbus.recording.records import record_of
from otel_agentbus.telemetry.ledger import Ledger
from otel_agentbus.testing import wait_until

from .backends import Collector, eventually
from .metrics import Metrics
from .redis_server import Redis
from .test_relay import PATIENCE_S, Running, lag

RUNS = 2_000
SOURCES = 4
KILLS = 8
#: Events that are fed between two kills, about.
PORTION = 400

AGENTS, MODELS, TOOLS = ("planner", "writer", "critic"), ("gpt", "mini"), ("search", "send", "score")


@dataclass(frozen=True)
class Run:
    """One run of the plan: a model call and a tool call."""

    number: int

    @property
    def place(self) -> dict[str, Any]:
        run = f"run {self.number}"
        return {"invocation_id": run, "root_invocation_id": run, "agent": AGENTS[self.number % 3]}

    @property
    def model(self) -> str:
        return MODELS[self.number % 2]

    @property
    def cost(self) -> float:
        return round(0.1 + self.number * 1e-9, 12)

    @property
    def seconds(self) -> float:
        return round(0.003 * (self.number % 997) + 0.0001, 6)

    def events(self) -> Iterator[Event]:
        place = self.place
        call: dict[str, Any] = {"model_provider": "openai", "model": self.model, "call_id": "c"}
        yield AgentStart(**place, model=self.model)
        yield CacheHit(**place, cache_type="answers", tokens_saved=self.number)
        yield LlmRequest(**place, **call, messages_count=1)
        yield LlmResponse(
            **place,
            **call,
            duration=self.seconds,
            success=True,
            cost_usd=self.cost,
            input_tokens=self.number,
            output_tokens=7,
        )
        yield ToolCallStart(**place, tool=TOOLS[self.number % 3], tool_call_id="t")
        failed = self.number % 10 == 0
        yield ToolCall(
            **place,
            tool=TOOLS[self.number % 3],
            tool_call_id="t",
            duration=self.seconds,
            success=not failed,
            error_type="TimeoutError" if failed else None,
        )
        yield AgentEnd(**place)  # its duration is that from its start, wherever that was read


PLAN = [Run(number) for number in range(RUNS)]


class Emitters:
    """Four processes without meters, as the broker sees them: the runs of each interleave, sixteen at a time."""

    def __init__(self, url: str, service: str) -> None:
        self._url = url
        self._journal = RedisJournal(url)
        self._service = service
        self._sources = [f"{service}-{number}" for number in range(SOURCES)]
        self._told = self._tell()
        self.events = 0

    def feed(self, number: int) -> bool:
        """Write so many events; whether there are more."""
        found = list(islice(self._told, number))
        for start in range(0, len(found), 100):
            part = found[start : start + 100]
            keys = [event.root_invocation_id or "" for event in part]
            self._journal.append_many(
                [record_of(event) for event in part], keys, [event.source or "" for event in part]
            )
        self.events += len(found)
        return len(found) == number

    def _tell(self) -> Iterator[Event]:
        self._open()
        chance, seqs, ledgers = random.Random(5), Counter[str](), {name: Ledger() for name in self._sources}
        waiting = iter(PLAN)
        open_runs = [run.events() for run in islice(waiting, 16)]
        owners = {id(events): self._sources[index % SOURCES] for index, events in enumerate(open_runs)}
        clock = 1_763_700_000_000_000_000
        while open_runs:
            events = chance.choice(open_runs)
            source = owners[id(events)]
            event = next(events, None)
            if event is None:
                open_runs.remove(events)
                begun = next(waiting, None)
                if begun is not None:
                    open_runs.append(fresh := begun.events())
                    owners[id(fresh)] = source
                continue
            clock += 1_000_000
            event.source, event.seq, event.time_ns = source, seqs[source], clock
            seqs[source] += 1
            yield ledgers[source].enter(event)

    def _open(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            for number, source in enumerate(self._sources):
                resource = {
                    "service.name": self._service,
                    "service.instance.id": str(uuid.uuid4()),
                    "process.pid": number,
                }
                client.set(f"agentbus:opening:{source}", Opening(source=source, resource=resource).write())


@dataclass(frozen=True)
class Counted:
    """What the page says of one service."""

    service: str
    page: Metrics

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for sample in self.page.select(name, job=self.service, **labels):
            key = sample.labels.get(label, "")
            found[key] = found.get(key, 0) + sample.value
        return found

    def total(self, name: str, **labels: str) -> float:
        return self.page.total(name, job=self.service, **labels)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, redis_server: Redis, collector: Collector) -> Iterator[Counted]:
    """Two workers share the work; one of them is killed and replaced, again and again, then the rest is worked off."""
    service = f"relayed-{uuid.uuid4().hex[:8]}"
    directory, redis_url = tmp_path_factory.mktemp("relayed"), redis_server.url
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    emitters = Emitters(redis_url, service)
    running: list[Running] = []

    def worker(*options: str) -> Running:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp_http_endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
            "OTEL_SERVICE_NAME": f"{service}-relay",
            "AGENTBUS_SPOOL_DIR": str(directory / "spool"),
        }
        options = ("--from", redis_url, "--lease", "1", "--metrics", *options)
        running.append(Running(directory, variables, "otel_agentbus", "relay", *options))
        return running[-1]

    chance = random.Random(7)
    emitters.feed(PORTION)
    workers = [worker(), worker()]
    assert wait_until(lambda: lag(redis_url) < emitters.events, PATIENCE_S)
    for _ in range(KILLS):
        emitters.feed(PORTION)
        before = lag(redis_url)
        assert wait_until(lambda before=before: lag(redis_url) < before, PATIENCE_S)  # type: ignore[misc]
        time.sleep(chance.random() * 0.2)  # somewhere between reading, exporting and acknowledging
        victim = chance.randrange(2)
        assert workers[victim].end(signal.SIGKILL) == -signal.SIGKILL
        workers[victim] = worker()
    while emitters.feed(PORTION):
        pass
    assert eventually(lambda: lag(redis_url), lambda left: left == 0, PATIENCE_S) == 0
    for each in workers:
        assert each.end() == 0, each.err
    assert worker("--until-empty").popen.wait(PATIENCE_S) == 0
    page = eventually(collector.scrape, lambda page: page.total("agentbus_agent_runs_total", job=service) >= RUNS, 15.0)
    yield Counted(service, page)
    for each in running:
        if each.popen.poll() is None:
            each.popen.kill()
        each.popen.communicate()


def test_the_page_has_the_sums_of_the_events_however_often_workers_were_killed(counted: Counted) -> None:
    assert counted.by("agentbus_agent_runs_total", "gen_ai_agent_name") == Counter(run.place["agent"] for run in PLAN)
    assert counted.by("agentbus_llm_calls_total", "gen_ai_request_model") == Counter(run.model for run in PLAN)
    assert counted.by("agentbus_tool_calls_total", "agentbus_outcome") == {"ok": RUNS * 9 // 10, "error": RUNS // 10}
    tokens = counted.by("agentbus_tokens_used_total", "gen_ai_token_type")
    assert tokens == {"input": sum(run.number for run in PLAN), "output": 7 * RUNS}
    assert counted.total("agentbus_cache_hits_total") == RUNS
    assert counted.total("agentbus_cache_tokens_saved_total") == sum(run.number for run in PLAN)
    cost = Fraction(counted.total("agentbus_cost_spent_total"))
    by_agent = counted.by("agentbus_cost_spent_total", "gen_ai_agent_name")
    assert abs(cost - sum(Fraction(repr(run.cost)) for run in PLAN)) < Fraction(1, 10**9)
    for agent, spent in by_agent.items():
        exact = sum(Fraction(repr(run.cost)) for run in PLAN if run.place["agent"] == agent)
        assert abs(Fraction(spent) - exact) < Fraction(1, 10**9), agent


def test_histograms_are_whole_and_runs_are_timed_across_takeovers(counted: Counted) -> None:
    seconds = sum(Fraction(repr(run.seconds)) for run in PLAN)
    for name in ("gen_ai_client_operation_duration_seconds", "gen_ai_execute_tool_duration_seconds"):
        assert counted.total(f"{name}_count") == RUNS
        assert abs(Fraction(counted.total(f"{name}_sum")) - seconds) < Fraction(1, 10**9)
        for bound in (0.08, 0.64, 2.56):
            wanted = sum(run.seconds <= bound for run in PLAN)
            assert counted.total(f"{name}_bucket", le=f"{bound:g}") == wanted
    assert counted.total("gen_ai_invoke_agent_duration_seconds_count") == RUNS


def test_series_are_those_of_the_service_and_levels_are_left_out(counted: Counted) -> None:
    series = counted.page.select("agentbus_agent_runs_total", job=counted.service)
    assert {sample.labels["instance"] for sample in series} == {"agentbus/relay"}
    assert len(series) == len(AGENTS)
    assert counted.page.select("agentbus_agent_active", job=counted.service) == []
    own = counted.page.select("agentbus_relay_events_total", job=f"{counted.service}-relay")
    assert {sample.labels["agentbus_relay_group"] for sample in own} == {"relay"}
