"""RQ with real workers and a real Redis: whose child a queued agent is, and that no horse takes anything with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Queue, Retry, SimpleWorker, Worker
from rq.command import send_stop_job_command
from rq.job import Job, JobStatus
from rq.repeat import Repeat
from rq.results import Result
from rq.version import VERSION

import otel_agentbus as agentbus
from otel_agentbus import jobs, testing
from otel_agentbus.adapters import rq as adapter
from otel_agentbus.telemetry.spool import spools
from otel_agentbus.testing import wait_until

from ..receivers import HttpReceiver, Reply, closed_port
from .backends import Jaeger
from .queued import Place, arrived, going_on, place_of, run_to_end, wait_for

JOBS = "tests.integration.programs.rq_jobs"
OURS = "otel_agentbus.adapters.rq"
PROGRAM = ["-m", "tests.integration.programs.rq_worker"]
CLASSES = ["--job-class", f"{OURS}.AgentBusJob", "--worker-class"]

#: Every way in: RQ as it is, observed by `instrument`; the command line with our classes, and with the job's only.
WAYS = {
    "Worker": lambda url: [*PROGRAM, "Worker", url],
    "SimpleWorker": lambda url: [*PROGRAM, "SimpleWorker", url],
    "SpawnWorker": lambda url: [*PROGRAM, "SpawnWorker", url],
    "rq worker": lambda url: ["-m", "rq.cli", "worker", "-u", url, "--burst", *CLASSES, f"{OURS}.AgentBusWorker"],
    "rq worker -c": lambda url: [
        *("-m", "rq.cli", "worker", "-u", url, "--burst", "-c", "tests.integration.programs.rq_settings")
    ],
    "rq worker, simple": lambda url: [
        *("-m", "rq.cli", "worker", "-u", url, "--burst", *CLASSES, f"{OURS}.AgentBusSimpleWorker")
    ],
    "job class only": lambda url: ["-m", "rq.cli", "worker", "-u", url, "--burst", *CLASSES[:2]],
    "worker pool": lambda url: [
        *("-m", "rq.cli", "worker-pool", "-u", url, "--burst", "-n", "2", *CLASSES, f"{OURS}.AgentBusWorker")
    ],
}


#: Before 3.0 a spawned horse has a worker and jobs of RQ's own classes, whatever those of its worker are.
SINCE_3 = pytest.mark.skipif(VERSION < "3", reason="RQ 3 does that")


def ways(*names: str) -> pytest.MarkDecorator:
    """A test for each of these ways."""
    return pytest.mark.parametrize(
        "way", [pytest.param(name, marks=[SINCE_3] if name == "SpawnWorker" else []) for name in names]
    )


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(connection: Redis) -> Iterator[Queue]:
    """A queue as an application has it, observed."""
    observing = adapter.instrument()
    yield Queue(connection=connection)
    observing.off()


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as made:
        yield made


def enqueue(queue: Queue, job: str, *args: Any, **named: Any) -> tuple[Job, Place]:
    """Enqueue a job from a tool of an agent; gives the job, and where the tool's span is."""
    with testing.capture() as seen:
        with agentbus.agent("planner") as run, run.tool("delegate"):
            made = queue.enqueue(f"{JOBS}.{job}", *args, **named)
        return made, place_of(seen.span("execute_tool delegate"))


def counted(text: str) -> int:
    with agentbus.agent("counter"):
        return len(text)


def work(url: str, receiver: HttpReceiver, way: str = "Worker", **more: str) -> str:
    return run_to_end(WAYS[way](url), receiver.url, 60.0, **more)


@ways(*WAYS)
def test_a_queued_agent_is_a_child_of_the_tool_that_has_enqueued_it(
    way: str, queue: Queue, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = enqueue(queue, "research", "otters", style="wet", meta={"mine": 1})
    work(redis_url, receiver, way)
    spans = arrived(receiver)
    (agent,) = arrived(receiver, "invoke_agent researcher")
    assert {span.name for span in spans} == {"invoke_agent researcher", "chat gpt-5-mini"}
    assert {span.place.trace_id for span in spans} == {tool.trace_id}
    assert (agent.parent, agent.links, agent.attempt) == (tool.span_id, (), 1)
    assert job.return_value(refresh=True) == "wet words about otters"
    assert job.get_status() == JobStatus.FINISHED
    assert {key: value for key, value in job.get_meta().items() if key != adapter.META} == {"mine": 1}


@ways("Worker", "SimpleWorker", "job class only")
def test_an_agent_in_a_coroutine_is_a_child_too(way: str, queue: Queue, redis_url: str, receiver: HttpReceiver) -> None:
    job, tool = enqueue(queue, "research_async", "otters")
    work(redis_url, receiver, way)
    (agent,) = arrived(receiver)
    assert (agent.place.trace_id, agent.parent) == (tool.trace_id, tool.span_id)
    assert job.return_value(refresh=True) == "awaited words about otters"


@ways("Worker", "SimpleWorker", "SpawnWorker", "job class only")
def test_a_retry_is_a_root_of_its_own_that_links_to_the_enqueuer_and_knows_its_attempt(
    way: str, queue: Queue, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = enqueue(queue, "fail_while_retries_are_left", retry=Retry(max=2))
    work(redis_url, receiver, way)
    first, second, third = arrived(receiver)
    assert [span.attempt for span in (first, second, third)] == [1, 2, 3]
    assert (first.place.trace_id, first.parent, first.links) == (tool.trace_id, tool.span_id, ())
    assert [(span.parent, span.links) for span in (second, third)] == [(None, (tool,)), (None, (tool,))]
    assert len({span.place.trace_id for span in (first, second, third)}) == 3
    assert job.get_status() == JobStatus.FINISHED


def test_a_retry_that_a_job_asks_for_is_linked_too(queue: Queue, redis_url: str, receiver: HttpReceiver) -> None:
    job, tool = enqueue(queue, "ask_for_a_retry_once")
    work(redis_url, receiver)
    first, second = arrived(receiver)
    assert [(span.parent, span.links, span.attempt) for span in (first, second)] == [
        (tool.span_id, (), 1),
        (None, (tool,), 2),
    ]
    assert job.return_value(refresh=True) == "done"


def test_what_is_requeued_by_hand_or_repeated_is_linked(queue: Queue, redis_url: str, receiver: HttpReceiver) -> None:
    job, tool = enqueue(queue, "fail", "as told")
    work(redis_url, receiver)
    Job.fetch(job.id, connection=queue.connection).requeue()
    work(redis_url, receiver)
    first, again = arrived(receiver)
    assert [(span.parent, span.links, span.attempt) for span in (first, again)] == [
        (tool.span_id, (), 1),
        (None, (tool,), 2),
    ]
    _, tool = enqueue(queue, "research", "otters", repeat=Repeat(times=1))
    work(redis_url, receiver)
    first, again = arrived(receiver, "invoke_agent researcher")[2:]
    assert [(span.parent, span.links, span.attempt) for span in (first, again)] == [
        (tool.span_id, (), 1),
        (None, (tool,), 1),
    ]


@ways("Worker", "SimpleWorker", "rq worker, simple", "job class only")
def test_nothing_of_one_job_leaks_into_the_next(way: str, queue: Queue, redis_url: str, receiver: HttpReceiver) -> None:
    enqueue(queue, "abandon")
    queue.enqueue(f"{JOBS}.research", "owls")
    _, tool = enqueue(queue, "research", "otters")
    work(redis_url, receiver, way)
    alone, child = arrived(receiver, "invoke_agent researcher")
    assert (alone.parent, alone.links) == (None, ())
    assert (child.place.trace_id, child.parent) == (tool.trace_id, tool.span_id)


@pytest.mark.parametrize("garbage", [7, "x", {"agentbus": 7, "traceparent": "00-0-0-00", "retries": "many"}, [1], None])
def test_with_garbage_for_metadata_the_job_runs_and_its_agent_is_a_root(
    garbage: Any, queue: Queue, redis_url: str, receiver: HttpReceiver
) -> None:
    job = queue.enqueue(f"{JOBS}.research", "otters", meta={adapter.META: garbage})
    work(redis_url, receiver)
    (agent,) = arrived(receiver, "invoke_agent researcher")
    assert (agent.parent, agent.links, agent.attempt) == (None, (), 1)
    assert job.return_value(refresh=True) == "dry words about otters"


@ways("Worker", "SimpleWorker", "job class only")
def test_the_exception_of_a_job_is_its_own(way: str, queue: Queue, redis_url: str, receiver: HttpReceiver) -> None:
    job, tool = enqueue(queue, "fail", "as told")
    work(redis_url, receiver, way)
    result = job.latest_result()
    assert result is not None
    assert (job.get_status(), result.type) == (JobStatus.FAILED, Result.Type.FAILED)
    assert "ValueError: as told" in str(result.exc_string)
    (agent,) = arrived(receiver)
    assert (agent.parent, agent.attributes["agentbus.outcome"], agent.attributes["error.type"]) == (
        tool.span_id,
        "error",
        "ValueError",
    )


@ways("Worker", "SimpleWorker", "SpawnWorker", "rq worker", "rq worker -c")
def test_the_agents_of_callbacks_belong_to_the_job(
    way: str, queue: Queue, redis_url: str, receiver: HttpReceiver
) -> None:
    callbacks = {"on_success": Callback(f"{JOBS}.on_success"), "on_failure": Callback(f"{JOBS}.on_failure")}
    _, good = enqueue(queue, "research", "otters", **callbacks)
    _, bad = enqueue(queue, "fail", "as told", **callbacks)
    work(redis_url, receiver, way)
    (reporter,) = arrived(receiver, "invoke_agent reporter")
    (undertaker,) = arrived(receiver, "invoke_agent undertaker")
    assert [(span.place.trace_id, span.parent) for span in (reporter, undertaker)] == [
        (good.trace_id, good.span_id),
        (bad.trace_id, bad.span_id),
    ]


@ways("Worker", "SimpleWorker", "job class only")
def test_a_job_that_takes_too_long_is_ended_and_told(
    way: str, queue: Queue, redis_url: str, receiver: HttpReceiver
) -> None:
    seconds = 6 if way == "job class only" else 1  # there a horse imports the job's module first
    job, tool = enqueue(queue, "sleep_for_long", job_timeout=seconds)
    work(redis_url, receiver, way)
    assert job.get_status() == JobStatus.FAILED
    (agent,) = arrived(receiver)
    assert (agent.parent, agent.attributes["error.type"]) == (tool.span_id, "rq.timeouts.JobTimeoutException")


def test_a_horse_that_is_killed_fails_its_job_and_the_next_attempt_is_linked(
    queue: Queue, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    job, tool = enqueue(queue, "be_killed", retry=Retry(max=1))
    said = work(redis_url, receiver, AGENTBUS_JOURNAL=str(tmp_path / "journal"), AGENTBUS_JOURNAL_SYNC="event")
    assert job.get_status() == JobStatus.FAILED
    assert "terminated unexpectedly" in said
    run_to_end(["-m", "otel_agentbus", "recover", str(tmp_path / "journal")], receiver.url)
    first, second = arrived(receiver)
    assert [(span.parent, span.links, span.attempt) for span in (first, second)] == [
        (tool.span_id, (), 1),
        (None, (tool,), 2),
    ]


def test_a_job_that_is_stopped_ends_as_rq_ends_it(
    queue: Queue, connection: Redis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, _ = enqueue(queue, "sleep_for_long")
    with going_on([*WAYS["Worker"](redis_url), "stay"], receiver.url):
        wait_until(lambda: job.get_status() == JobStatus.STARTED, 30)
        wait_until(lambda: bool(Worker.all(connection)[0].get_current_job_id()), 30)
        send_stop_job_command(connection, job.id)
        wait_until(lambda: job.get_status() == JobStatus.STOPPED, 30)
        after, tool = enqueue(queue, "research", "otters")
        wait_until(lambda: after.get_status() == JobStatus.FINISHED, 30)
    assert [span.parent for span in wait_for(receiver, "invoke_agent researcher")] == [tool.span_id]


def test_an_agent_of_a_job_enqueues_another_from_its_tool(queue: Queue, redis_url: str, receiver: HttpReceiver) -> None:
    _, tool = enqueue(queue, "delegate", redis_url, "default")
    work(redis_url, receiver)
    (editor,) = arrived(receiver, "invoke_agent editor")
    (hand_on,) = arrived(receiver, "execute_tool hand_on")
    (researcher,) = arrived(receiver, "invoke_agent researcher")
    assert [editor.parent, hand_on.parent, researcher.parent] == [
        tool.span_id,
        editor.place.span_id,
        hand_on.place.span_id,
    ]
    assert {span.place.trace_id for span in arrived(receiver)} == {tool.trace_id}


@pytest.mark.parametrize(("way", "count"), [("Worker", 50), ("rq worker", 10), ("job class only", 10)])
def test_short_lived_horses_lose_nothing(way: str, count: int, queue: Queue, redis_url: str, jaeger: Jaeger) -> None:
    with testing.capture() as seen:
        with agentbus.agent("planner") as run, run.tool("delegate"):
            made = queue.enqueue_many([Queue.prepare_data(f"{JOBS}.research", (number,)) for number in range(count)])
        tool = place_of(seen.span("execute_tool delegate"))
    run_to_end(WAYS[way](redis_url), jaeger.otlp_http_endpoint, timeout=240)
    spans = jaeger.trace(tool.trace_id, spans=2 * count)
    agents = [span for span in spans if span.name == "invoke_agent researcher"]
    assert {job.get_status() for job in made} == {JobStatus.FINISHED}
    assert len(spans) == 2 * count
    assert [span.parent_span_id for span in agents] == [tool.span_id] * count
    assert {span.parent_span_id for span in spans if span not in agents} == {span.span_id for span in agents}


@ways("Worker", "SimpleWorker", "job class only")
def test_with_a_dead_endpoint_jobs_run_and_what_they_told_is_kept(
    way: str, queue: Queue, redis_url: str, tmp_path: Path
) -> None:
    made = [enqueue(queue, "research", number)[0] for number in range(3)]
    with closed_port() as port:
        run_to_end(
            WAYS[way](redis_url),
            f"http://127.0.0.1:{port}",
            AGENTBUS_SPOOL_DIR=str(tmp_path / "spool"),
            AGENTBUS_EXIT_TIMEOUT="2",
        )
    assert [job.return_value(refresh=True) for job in made] == [f"dry words about {number}" for number in range(3)]
    assert sum(found.waiting for found in spools(tmp_path / "spool")) == 6


@ways("Worker", "job class only")
def test_a_flush_that_takes_long_does_not_count_for_the_timeout_of_the_job(
    way: str, queue: Queue, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    receiver.replies["/v1/traces"] = Reply(hang=True)
    job, _ = enqueue(queue, "research", "otters", job_timeout=4)
    said = work(redis_url, receiver, way, AGENTBUS_EXIT_TIMEOUT="6", AGENTBUS_SPOOL_DIR=str(tmp_path / "spool"))
    assert (job.get_status(), job.return_value(refresh=True)) == (JobStatus.FINISHED, "dry words about otters"), said
    assert receiver.of("/v1/traces")
    if way == "Worker":  # closes its horses' bus, which keeps what did not leave
        assert sum(found.waiting for found in spools(tmp_path / "spool")) == 2


def test_off_leaves_rq_as_it_was_found() -> None:
    before = {name: vars(Job)[name] for name in ("create", "perform")}
    worker = next(kind for kind in Worker.__mro__ if "perform_job" in vars(kind))
    before_job = vars(worker)["perform_job"]
    first, second = adapter.instrument(), adapter.instrument()
    assert vars(Job)["create"] is not before["create"]
    second.off()
    first.off()
    second.off()
    assert {name: vars(Job)[name] for name in ("create", "perform")} == before
    assert vars(worker)["perform_job"] is before_job


def test_off_below_a_wrapper_of_somebody_else_only_passes_through(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Job.perform
    observing = adapter.instrument()
    ours = Job.perform
    seen: list[str] = []

    def theirs(job: Job) -> Any:
        seen.append(job.id)
        return ours(job)

    setattr(Job, "perform", theirs)  # noqa: B010 - as others do
    try:
        observing.off()
        assert Job.perform is theirs
        begun: list[object] = []
        monkeypatch.setattr(jobs, "begin", begun.append)
        job = Queue(connection=connection, is_async=False).enqueue(len, "four")
        assert (job.return_value(), seen, job.meta) == (4, [job.id], {})
        assert begun == []
    finally:
        setattr(Job, "perform", original)  # noqa: B010


def test_a_simple_worker_is_in_no_run_after_a_job_that_has_left_one(queue: Queue) -> None:
    with testing.capture():
        job = queue.enqueue(left_behind)
        SimpleWorker([queue], connection=queue.connection).work(burst=True)
        assert job.get_status() == JobStatus.FINISHED
        assert agentbus.current() is None


def left_behind() -> None:
    agentbus.Invocation.root(agent="pushed").push()


def test_the_clock_of_a_job_stands_still_while_it_is_flushed(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float] = []
    monkeypatch.setattr(jobs, "end", lambda begun, flush: left.append(signal.getitimer(signal.ITIMER_REAL)[0]))
    job = adapter.AgentBusJob.create(len, ("four",), connection=connection)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        assert job.perform() == 4
        assert left == [0.0]
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_queue_without_workers_performs_where_it_enqueues(connection: Redis) -> None:
    observing = adapter.instrument()
    try:
        with testing.capture() as seen:
            with agentbus.agent("planner") as run, run.tool("delegate"):
                queue = Queue(connection=connection, is_async=False)
                job = queue.enqueue(counted, "four")
                assert agentbus.current() is run.invocation
            assert seen.tree() == "invoke_agent planner\n└─ execute_tool delegate\n   └─ invoke_agent counter"
        assert job.return_value() == 4
    finally:
        observing.off()


@SINCE_3
def test_metadata_that_cannot_be_read_stays_as_it_is(
    queue: Queue, connection: Redis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, _ = enqueue(queue, "fail_while_retries_are_left", retry=Retry(max=1))
    connection.hset(job.key, "meta", "not a pickle")
    work(redis_url, receiver)
    assert [(span.parent, span.links, span.attempt) for span in arrived(receiver)] == [(None, (), 1), (None, (), 2)]
    assert connection.hgetall(job.key)[b"meta"] == b"not a pickle"  # type: ignore[index]  # not awaited
    assert job.get_status() == JobStatus.FINISHED


def test_the_metadata_that_was_given_is_not_changed(queue: Queue) -> None:
    given = {"mine": 1}
    with agentbus.agent("planner") as run:
        job = queue.enqueue(len, "four", meta=given)
    assert given == {"mine": 1}
    assert job.get_meta()["mine"] == 1
    carried = agentbus.extract(job.get_meta()[adapter.META]).invocation
    assert carried is not None
    assert (carried.id, carried.agent) == (run.invocation.id, "planner")


def test_without_a_run_nothing_is_added(queue: Queue) -> None:
    assert queue.enqueue(len, "four").get_meta() == {}


def test_two_workers_at_the_same_time_mix_nothing_up(queue: Queue, redis_url: str, receiver: HttpReceiver) -> None:
    made = [enqueue(queue, "research", number) for number in range(10)]
    with going_on([*WAYS["Worker"](redis_url), "stay"], receiver.url):
        work(redis_url, receiver, "SimpleWorker")
        wait_until(lambda: all(job.get_status() == JobStatus.FINISHED for job, _ in made), 60)
    agents = wait_for(receiver, "invoke_agent researcher", 10)
    assert sorted((span.place.trace_id, str(span.parent)) for span in agents) == sorted(
        (tool.trace_id, tool.span_id) for _, tool in made
    )
