"""Workers of the relay as processes, between a real Redis and a real Collector: killed, stopped, held up, started."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from otel_agentbus import Settings
from otel_agentbus.events import LlmResponse
from otel_agentbus.journal.redis import Lease, RedisJournal, ShardLog
from otel_agentbus.recording import record_of
from otel_agentbus.relay import Relayed, relay
from otel_agentbus.testing import wait_until

from ..bridging import bridged
from ..receivers import HttpReceiver, Reply
from ..relaying import encoded, key_of, opening
from ..test_permutations import Program
from .backends import Collector, Jaeger
from .programs import fed, troupe
from .programs.troupe import SPANS, THREADS, Line
from .redis_server import Redis
from .troupes import ROOT, environment, span_id, trace_id

LEASE_S = 1.0
SHARDS = 8
PATIENCE_S = 60.0
TRACES = "/v1/traces"


class Running:
    """A program as a process; what it says goes to files."""

    def __init__(self, directory: Path, variables: dict[str, str], *arguments: str) -> None:
        self._out, self._err = (directory / f"{uuid.uuid4().hex}.{name}" for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=environment(variables),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        self.popen.communicate(timeout=PATIENCE_S)
        return self.popen.returncode

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code, when it has ended upon this signal."""
        self.popen.send_signal(number)
        return self.wait()


class Workers:
    """Workers and emitters of one broker, which end with the test."""

    def __init__(self, directory: Path, url: str, endpoint: str) -> None:
        self.url = url
        self._directory = directory
        self._endpoint = endpoint
        self._running: list[Running] = []

    def worker(self, *options: str) -> Running:
        """A worker of the relay."""
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": self._endpoint}
        return self._run(variables, "otel_agentbus", "relay", "--from", self.url, "--lease", str(LEASE_S), *options)

    def troupe(self, name: str, runs: int) -> Running:
        """Agents of a process, whose events go to the broker."""
        return self._run({}, fed.__name__, self.url, name, str(runs), str(self._telling(name)))

    def paused(self, name: str) -> Running:
        """One run that waits for us."""
        return self._run({}, fed.__name__, self.url, name, "paused")

    def told(self, name: str) -> list[Line]:
        path = self._telling(name)
        return troupe.read(path) if path.exists() else []

    def _telling(self, name: str) -> Path:
        return self._directory / f"{name}.told"

    def _run(self, variables: dict[str, str], *arguments: str) -> Running:
        variables = {"AGENTBUS_SPOOL_DIR": str(self._directory / "spool"), **variables}
        self._running.append(Running(self._directory, variables, *arguments))
        return self._running[-1]

    def end(self) -> None:
        for running in self._running:
            running.popen.kill()
            running.popen.communicate()


@pytest.fixture
def workers(tmp_path: Path, redis_url: str, collector: Collector) -> Iterator[Workers]:
    found = Workers(tmp_path, redis_url, collector.otlp_http_endpoint)
    yield found
    found.end()


def owners(url: str, group: str = "relay") -> list[str | None]:
    journal = RedisJournal(url, group=group)
    return [journal.shard(number).owner() for number in range(SHARDS)]


def lag(url: str, group: str = "relay") -> int:
    journal = RedisJournal(url, group=group)
    return sum(journal.shard(number).lag() for number in range(SHARDS))


def shared_by(url: str, number: int) -> bool:
    """Whether so many workers have a fair share each."""
    found = [owner for owner in owners(url) if owner is not None]
    return len(found) == SHARDS and sorted(map(found.count, set(found))) == [SHARDS // number] * number


def unexpected(jaeger: Jaeger, lines: list[Line]) -> dict[str, set[str]]:
    """By root, the spans that were told of and are not in Jaeger, and the other way round."""
    wanted: dict[str, set[str]] = {}
    for line in lines:
        if line.root:
            wanted.setdefault(line.root, set()).add(span_id(line))
    have = {root: {place for place, _ in jaeger.places(trace_id(root))} for root in wanted}
    return {root: ids ^ have[root] for root, ids in wanted.items() if ids != have[root]}


def contents(collector: Collector, roots: set[str], directory: Path) -> dict[str, set[str]]:
    """What the Collector was sent of each span of these trees: one content, however often it was sent."""
    collector.otlp_json_lines(path := directory / "spans.jsonl", *map(trace_id, roots))
    found: dict[str, set[str]] = {}
    for text in path.read_text().splitlines():
        for resource in json.loads(text)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    said = json.dumps([resource.get("resource"), span], sort_keys=True)
                    found.setdefault(span["spanId"], set()).add(said)
    return found


class Named(Program):
    """A random program whose runs have names of their own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        super().__init__(seed, 3)

    def fresh(self, kind: str) -> str:
        return f"{super().fresh(kind)} of {self.seed}"


def write(url: str, seed: int = 5) -> dict[bytes, bytes]:
    """Write the events of a random program; gives the spans that a live process makes of them."""
    program = Named(seed)
    for emitter in program.emitters:
        name = f"{emitter.name}-{seed}"
        for event in emitter.events:
            event.source = name
        journal = RedisJournal(url, opening=lambda name=name: (name, opening(name)))  # type: ignore[misc]
        if emitter.events:
            keys = [key_of(event) for event in emitter.events]
            journal.append_many([record_of(event) for event in emitter.events], keys, [name] * len(keys))
    return encoded(bridged().feed(program.events).closed())


def received(receiver: HttpReceiver) -> dict[bytes, bytes]:
    """What arrived, each span by its id."""
    found: dict[bytes, bytes] = {}
    for request in receiver.of(TRACES):
        for of_resource in request.message.resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    data = span.SerializeToString(deterministic=True)
                    assert found.setdefault(span.span_id, data) == data
    return found


@contextmanager
def relaying(url: str, endpoint: str, interval_ms: float = 60_000.0, **options: Any) -> Iterator[threading.Event]:
    """A worker in a thread; what it has done is asserted on by what it has sent."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        settings = Settings(endpoint=endpoint, metric_interval_ms=interval_ms)
        working = thread.submit(relay, url, settings=settings, lease=LEASE_S, stop=stop, **options)
        try:
            yield stop
        finally:
            stop.set()
            working.result(PATIENCE_S)


def until_empty(url: str, receiver: HttpReceiver, **options: Any) -> Relayed:
    return relay(url, settings=Settings(endpoint=receiver.url), until_empty=True, **options)


def test_two_workers_share_and_one_takes_over_what_a_killed_one_had(
    workers: Workers, jaeger: Jaeger, collector: Collector, tmp_path: Path
) -> None:
    names = [f"shared-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    first, second = workers.worker(), workers.worker()
    assert wait_until(lambda: shared_by(workers.url, 2), PATIENCE_S)
    emitters = [workers.troupe(name, 20) for name in names]
    assert wait_until(lambda: all(len(workers.told(name)) > 200 for name in names), PATIENCE_S)
    first.popen.kill()
    assert [emitter.wait() for emitter in emitters] == [0, 0]
    assert wait_until(lambda: not lag(workers.url), PATIENCE_S)
    assert len(set(owners(workers.url))) == 1
    assert second.end() == 0
    lines = [line for name in names for line in workers.told(name)]
    roots = {line.root for line in lines if line.root}
    assert len(roots) == 2 * THREADS * 20
    assert wait_until(lambda: not unexpected(jaeger, lines), PATIENCE_S), unexpected(jaeger, lines)
    sent = contents(collector, roots, tmp_path)
    assert len(sent) == len(roots) * SPANS
    assert {span: said for span, said in sent.items() if len(said) > 1} == {}


def test_a_worker_that_was_away_for_too_long_leaves_its_shards_to_others(redis_url: str, tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        found = Workers(tmp_path, redis_url, receiver.url)
        try:
            first, second = found.worker(), found.worker()
            assert wait_until(lambda: shared_by(redis_url, 2), PATIENCE_S)
            first.popen.send_signal(signal.SIGSTOP)
            wanted = write(redis_url, 5)
            assert wait_until(lambda: not lag(redis_url) and len(set(owners(redis_url))) == 1, PATIENCE_S)
            first.popen.send_signal(signal.SIGCONT)
            wanted |= write(redis_url, 6)
            assert wait_until(lambda: shared_by(redis_url, 2) and not lag(redis_url), PATIENCE_S)
            assert (first.end(), second.end()) == (0, 0)
            assert received(receiver).keys() == wanted.keys()
        finally:
            found.end()


def test_a_run_that_pauses_is_whole_however_often_workers_change(workers: Workers, jaeger: Jaeger) -> None:
    name = f"paused-{uuid.uuid4().hex[:8]}"
    emitter = workers.paused(name)
    for _ in range(2):
        worker = workers.worker()
        assert wait_until(lambda: "paused" in emitter.out and not lag(workers.url), PATIENCE_S)
        assert wait_until(lambda: None not in owners(workers.url), PATIENCE_S)
        assert worker.end() == 0
    emitter.popen.communicate(b"\n", timeout=PATIENCE_S)
    assert emitter.popen.returncode == 0
    worker = workers.worker("--until-empty")
    assert worker.wait() == 0
    spans = {span.span_id: span for span in jaeger.trace(trace_id(name), spans=5)}
    rows = sorted(
        (span.name, spans[span.parent_span_id].name if span.parent_span_id else "") for span in spans.values()
    )
    assert rows == [
        ("chat m", "invoke_agent late"),
        ("execute_tool wait", "invoke_agent planner"),
        ("invoke_agent early", "execute_tool wait"),
        ("invoke_agent late", "execute_tool wait"),
        ("invoke_agent planner", ""),
    ]
    outcomes = {span.attributes.get("agentbus.outcome") for span in spans.values()}
    assert outcomes == {"ok"}
    assert "4 spans of 1 run sent, 0 of them interrupted; " in worker.out


def test_nothing_is_acknowledged_while_the_endpoint_is_down_and_all_is_delivered_then(redis_url: str) -> None:
    wanted = write(redis_url)
    events = lag(redis_url)
    with HttpReceiver({TRACES: Reply(503)}) as receiver:
        with relaying(redis_url, receiver.url):
            assert wait_until(lambda: len(receiver.received) > 2, PATIENCE_S)
            assert lag(redis_url) == events
            assert len(set(owners(redis_url))) == 1
            receiver.replies.clear()
            assert wait_until(lambda: not lag(redis_url), PATIENCE_S)
        assert received(receiver).keys() == wanted.keys()


def test_a_worker_that_is_stopped_while_the_endpoint_is_down_leaves_all_to_others(redis_url: str) -> None:
    wanted = write(redis_url)
    events = lag(redis_url)
    with HttpReceiver({TRACES: Reply(503)}) as receiver:
        with relaying(redis_url, receiver.url):
            assert wait_until(lambda: len(receiver.received) > 2, PATIENCE_S)
        assert (lag(redis_url), set(owners(redis_url))) == (events, {None})
        receiver.replies.clear()
        receiver.received.clear()
        done = until_empty(redis_url, receiver)
        assert (done.events, done.spans, done.refused) == (events, len(wanted), 0)
        assert received(receiver).keys() == wanted.keys()


def test_what_is_refused_for_good_is_kept_as_letters_and_blocks_nothing(redis_url: str) -> None:
    wanted = write(redis_url)
    with HttpReceiver({TRACES: Reply(400, b"no")}) as receiver:
        done = until_empty(redis_url, receiver)
    assert (done.spans, done.refused, lag(redis_url)) == (0, len(wanted), 0)
    journal = RedisJournal(redis_url)
    letters = [letter for number in range(SHARDS) for letter in journal.shard(number).letters()]
    assert sum(json.loads(letter.partition(b"\n")[0])["spans"] for letter in letters) == len(wanted)


def test_each_group_reads_everything(redis_url: str) -> None:
    with HttpReceiver() as receiver:
        for group in ("relay", "other"):  # a group that has never been there begins with what nobody has dropped yet
            until_empty(redis_url, receiver, group=group)
    wanted = write(redis_url)
    for group in ("relay", "other"):
        with HttpReceiver() as receiver:
            until_empty(redis_url, receiver, group=group)
            assert received(receiver).keys() == wanted.keys()
    with HttpReceiver() as receiver:
        assert until_empty(redis_url, receiver) == Relayed()


def test_a_broker_that_is_away_is_waited_for(
    redis_url: str, redis_server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpReceiver() as receiver, relaying(redis_url, receiver.url):
        assert wait_until(lambda: None not in owners(redis_url), PATIENCE_S)
        redis_server.kill()
        assert wait_until(lambda: "does not answer" in caplog.text, PATIENCE_S)
        redis_server.start()
        wanted = write(redis_url)
        assert wait_until(lambda: received(receiver).keys() == wanted.keys(), PATIENCE_S)
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again") == 1


def test_a_shard_that_is_no_stream_holds_up_no_other(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    seeds = range(20, 32)
    wanted = {key: data for seed in seeds for key, data in write(redis_url, seed).items()}
    with redis.Redis.from_url(redis_url) as client, HttpReceiver() as receiver:
        broken = max((f"{{agentbus:{number}}}:events" for number in range(SHARDS)), key=client.xlen)
        client.rename(broken, "kept")
        client.set(broken, "no stream")
        with relaying(redis_url, receiver.url):
            assert wait_until(lambda: not waiting(client, broken), PATIENCE_S)
            assert 0 < len(received(receiver)) < len(wanted)
            client.rename("kept", broken)
            assert wait_until(lambda: received(receiver).keys() == wanted.keys(), PATIENCE_S)
    assert "WRONGTYPE" in caplog.text


def waiting(client: Any, broken: str) -> int:
    """How many entries are in the streams but this one."""
    streams = [f"{{agentbus:{number}}}:events" for number in range(SHARDS)]
    return sum(client.xlen(stream) for stream in streams if stream != broken)


def test_what_was_claimed_before_redis_failed_is_worked_off(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {key: data for seed in range(20, 32) for key, data in write(redis_url, seed).items()}
    claim, asked = ShardLog.claim, Counter[str]()

    def fails(shard: ShardLog, worker: str, seconds: float) -> Lease | None:
        asked[worker] += 1
        if asked[worker] == SHARDS // 2:
            raise OSError(errno.ETIMEDOUT, "no answer")
        return claim(shard, worker, seconds)

    monkeypatch.setattr(ShardLog, "claim", fails)
    with HttpReceiver() as receiver:
        with relaying(redis_url, receiver.url):
            assert wait_until(lambda: not lag(redis_url), PATIENCE_S)
        assert received(receiver).keys() == wanted.keys()


def test_metrics_are_counted_once_whoever_reads_and_however_often(redis_url: str) -> None:
    calls = sum(isinstance(event, LlmResponse) for seed in (5, 6) for event in Named(seed).events)
    assert calls > 10
    with HttpReceiver({TRACES: Reply(503)}) as receiver:
        write(redis_url, 5)
        write(redis_url, 6)
        for replies in ({TRACES: Reply(503)}, {}):  # the first worker reads, and delivers nothing
            receiver.replies = replies
            with relaying(redis_url, receiver.url, interval_ms=100.0, metrics=True):
                assert wait_until(lambda: counted(receiver) == calls or len(receiver.of(TRACES)) > 2, PATIENCE_S)
        with relaying(redis_url, receiver.url, interval_ms=100.0, metrics=True):
            assert wait_until(lambda: counted(receiver) == calls, PATIENCE_S), counted(receiver)
        assert not lag(redis_url)


def counted(receiver: HttpReceiver) -> float:
    """How many model calls the endpoint was told of last."""
    found = 0.0
    for request in receiver.of("/v1/metrics"):
        for of_resource in request.message.resource_metrics:
            for metric in of_resource.scope_metrics[0].metrics:
                if metric.name == "agentbus.llm.calls":
                    found = sum(point.as_int or point.as_double for point in metric.sum.data_points)
    return found


def test_a_worker_that_is_stopped_ends_with_0_and_lets_go(workers: Workers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        worker = workers.worker()
        assert wait_until(lambda: None not in owners(workers.url), PATIENCE_S)
        assert worker.end(number) == 0
        assert set(owners(workers.url)) == {None}
        assert worker.out == "0 spans of 0 runs sent, 0 of them interrupted; 0 events.\n"


def test_the_status_says_of_each_shard_who_has_it_and_what_waits(workers: Workers) -> None:
    write(workers.url)
    events = lag(workers.url)
    status = workers.worker("--status")
    assert status.wait() == 0
    assert status.out.startswith("Group relay\n")
    assert re.search(rf"^total +{events} +\S+ +0 +0 +0$", status.out, re.MULTILINE)
    worker = workers.worker("--group", "second")
    assert wait_until(lambda: None not in owners(workers.url, "second") and not lag(workers.url, "second"), PATIENCE_S)
    status = workers.worker("--status")
    assert status.wait() == 0
    (owner,) = set(owners(workers.url, "second"))
    assert status.out.startswith("Group second\n")
    assert status.out.count(str(owner)) == SHARDS
    assert re.search(r"^total +0 +0 +0 +0$", status.out, re.MULTILINE)
    assert worker.end() == 0


def test_a_broker_that_is_not_there_is_a_sentence_and_2(tmp_path: Path) -> None:
    found = Running(tmp_path, {}, "otel_agentbus", "relay", "--status", "--from", "redis://127.0.0.1:9/0")
    assert found.wait() == 2
    assert found.err.startswith("The broker redis://127.0.0.1:9/0 does not answer")
    found = Running(tmp_path, {}, "otel_agentbus", "relay", "--from", "redis://127.0.0.1:9/0")
    assert found.wait() == 2
    assert found.err.startswith("There is nowhere to send spans to: ")
    found = Running(tmp_path, {}, "otel_agentbus", "relay")
    assert found.wait() == 2
    assert found.err.startswith("Which broker?")
