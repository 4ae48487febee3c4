"""arq with real workers and a real Redis: whose child a queued agent is, and that many jobs of one loop stay apart."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from arq import ArqRedis, Worker, connections, create_pool
from arq.connections import RedisSettings
from arq.jobs import Job, JobStatus

import otel_agentbus as agentbus
from otel_agentbus import testing
from otel_agentbus.adapters import arq as adapter
from otel_agentbus.telemetry.spool import spools

from ..receivers import HttpReceiver, closed_port
from .backends import Jaeger
from .queued import Place, arrived, going_on, place_of, run_to_end, wait_for

PROGRAMS = "tests.integration.programs"
WAYS = {"observed": f"{PROGRAMS}.arq_jobs.Observed", "instrumented": f"{PROGRAMS}.arq_instrumented.Instrumented"}


@asynccontextmanager
async def opened(url: str, **how: Any) -> AsyncIterator[ArqRedis]:
    made = await create_pool(RedisSettings.from_dsn(url), **how)
    try:
        yield made
    finally:
        await made.aclose(close_connection_pool=True)


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with opened(redis_url, job_serializer=adapter.carrying()) as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as made:
        yield made


async def enqueue(pool: ArqRedis, job: str, *args: Any, **named: Any) -> tuple[Job, Place]:
    """Enqueue a job from a tool of an agent; gives the job, and where the tool's span is."""
    with testing.capture() as seen:
        async with agentbus.agent("planner") as run, run.tool("delegate"):
            made = await pool.enqueue_job(job, *args, **named)
        assert made is not None
        return made, place_of(seen.span("execute_tool delegate"))


def command(settings: str, *more: str) -> list[str]:
    return ["-m", "arq", settings, *more]


async def work(url: str, endpoint: str, way: str = "observed", **more: str) -> str:
    """Let a worker do all that there is to do."""
    told = command(WAYS.get(way, way), "--burst")
    return await asyncio.to_thread(run_to_end, told, endpoint, 60.0, TEST_REDIS_URL=url, **more)


async def until(condition: Callable[[], Any], timeout: float = 30.0) -> None:
    """Wait in this loop until an asynchronous condition holds."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.02)


def has(job: Job, status: JobStatus) -> Callable[[], Any]:
    async def holds() -> bool:
        return await job.status() == status

    return holds


@pytest.mark.parametrize("way", WAYS)
async def test_a_queued_agent_is_a_child_of_the_tool_that_has_enqueued_it(
    way: str, pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = await enqueue(pool, "research", "otters", style="wet")
    await work(redis_url, receiver.url, way)
    spans = arrived(receiver)
    (agent,) = arrived(receiver, "invoke_agent researcher")
    assert {span.name for span in spans} == {"invoke_agent researcher", "chat gpt-5-mini"}
    assert {span.place.trace_id for span in spans} == {tool.trace_id}
    assert (agent.parent, agent.links, agent.attempt) == (tool.span_id, (), 1)
    assert await job.result(timeout=1) == "wet words about otters"


@pytest.mark.parametrize("way", WAYS)
async def test_retries_are_roots_of_their_own_that_link_to_the_enqueuer_and_know_their_attempt(
    way: str, pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = await enqueue(pool, "fail_twice")
    await work(redis_url, receiver.url, way)
    first, second, third = arrived(receiver)
    assert [span.attempt for span in (first, second, third)] == [1, 2, 3]
    assert (first.place.trace_id, first.parent, first.links) == (tool.trace_id, tool.span_id, ())
    assert [(span.parent, span.links) for span in (second, third)] == [(None, (tool,)), (None, (tool,))]
    assert await job.result(timeout=1) == 3


@pytest.mark.parametrize("way", WAYS)
async def test_many_jobs_at_once_in_one_loop_stay_apart(
    way: str, pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    made = [await enqueue(pool, "overlap", number, 50) for number in range(50)]
    await work(redis_url, receiver.url, way)
    for number, (job, tool) in enumerate(made):
        (agent,) = arrived(receiver, f"invoke_agent overlapping {number}")
        (below,) = arrived(receiver, f"invoke_agent below {number}")
        assert (agent.place.trace_id, agent.parent) == (tool.trace_id, tool.span_id)
        assert (below.place.trace_id, below.parent) == (tool.trace_id, agent.place.span_id)
        assert await job.result(timeout=1) == number


async def test_fifty_jobs_lose_nothing(pool: ArqRedis, redis_url: str, jaeger: Jaeger) -> None:
    with testing.capture() as seen:
        async with agentbus.agent("planner") as run, run.tool("delegate"):
            for number in range(50):
                await pool.enqueue_job("research", number)
        tool = place_of(seen.span("execute_tool delegate"))
    await work(redis_url, jaeger.otlp_http_endpoint)
    spans = await asyncio.to_thread(jaeger.trace, tool.trace_id, 100)
    agents = [span for span in spans if span.name == "invoke_agent researcher"]
    assert len(spans) == 100
    assert [span.parent_span_id for span in agents] == [tool.span_id] * 50
    assert {span.parent_span_id for span in spans if span not in agents} == {span.span_id for span in agents}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_of_one_job_leaks_into_the_next(
    way: str, pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    await enqueue(pool, "abandon")
    await pool.enqueue_job("research", "owls")
    _, tool = await enqueue(pool, "research", "otters")
    await work(redis_url, receiver.url, way)
    agents = arrived(receiver, "invoke_agent researcher")
    assert sorted((str(span.parent), span.links) for span in agents) == sorted([("None", ()), (tool.span_id, ())])


@pytest.mark.parametrize("garbage", [7, "x", {"agentbus": 7, "traceparent": "00-0-0-00"}, [1], None])
async def test_with_garbage_the_job_runs_and_its_agent_is_a_root(
    garbage: Any, redis_url: str, receiver: HttpReceiver
) -> None:
    def with_garbage(data: dict[str, Any]) -> bytes:
        return pickle.dumps({**data, adapter.ENTRY: garbage})

    async with opened(redis_url, job_serializer=with_garbage) as pool:
        job = await pool.enqueue_job("research", "otters")
        assert job is not None
        await work(redis_url, receiver.url)
        (agent,) = arrived(receiver, "invoke_agent researcher")
        assert (agent.parent, agent.links) == (None, ())
        assert await job.result(timeout=1) == "dry words about otters"


async def test_a_worker_that_knows_nothing_of_it_runs_the_job(
    pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, _ = await enqueue(pool, "research", "otters")
    info = await job.info()
    assert info is not None
    assert (info.function, info.args, info.kwargs) == ("research", ("otters",), {})
    await work(redis_url, receiver.url, f"{PROGRAMS}.arq_jobs.Unaware")
    assert await job.result(timeout=1) == "dry words about otters"
    assert [span.parent for span in arrived(receiver, "invoke_agent researcher")] == [None]


@pytest.mark.parametrize("way", WAYS)
async def test_the_exception_of_a_job_is_its_own(
    way: str, pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = await enqueue(pool, "fail", "as told")
    await work(redis_url, receiver.url, way)
    with pytest.raises(ValueError, match="as told"):
        await job.result(timeout=1)
    (agent,) = arrived(receiver)
    assert (agent.parent, agent.attributes["error.type"]) == (tool.span_id, "ValueError")


async def test_a_job_that_takes_too_long_is_ended_and_told(
    pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = await enqueue(pool, "sleep_for_long")
    await work(redis_url, receiver.url)
    with pytest.raises(TimeoutError):
        await job.result(timeout=1)
    (agent,) = arrived(receiver)
    assert (agent.parent, agent.attributes["agentbus.outcome"]) == (tool.span_id, "cancelled")


async def test_a_job_that_is_aborted_ends_as_arq_ends_it(
    pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = await enqueue(pool, "sleep_at_first")
    with going_on(command(WAYS["observed"]), receiver.url, TEST_REDIS_URL=redis_url):
        await until(has(job, JobStatus.in_progress))
        assert await job.abort(timeout=30) is True
        after, later = await enqueue(pool, "research", "otters")
        assert await after.result(timeout=30) == "dry words about otters"
        await asyncio.sleep(0)
    agents = await asyncio.to_thread(wait_for, receiver, "invoke_agent researcher", 2)
    assert [(span.parent, span.attributes["agentbus.outcome"]) for span in agents] == [
        (tool.span_id, "cancelled"),
        (later.span_id, "ok"),
    ]


async def test_a_worker_that_is_told_to_end_loses_nothing_and_the_next_one_links(
    pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    job, tool = await enqueue(pool, "sleep_at_first")
    slow = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with going_on(command(WAYS["observed"]), receiver.url, TEST_REDIS_URL=redis_url, **slow):
        await until(has(job, JobStatus.in_progress))
        await asyncio.sleep(0.2)  # the job's own task begins after that mark
    await work(redis_url, receiver.url)
    first, second = arrived(receiver)
    assert [
        (span.parent, span.links, span.attempt, span.attributes["agentbus.outcome"]) for span in (first, second)
    ] == [
        (tool.span_id, (), 1, "cancelled"),
        (None, (tool,), 2, "ok"),
    ]
    assert await job.result(timeout=1) == 2


async def test_a_cron_job_is_a_root(pool: ArqRedis, redis_url: str, receiver: HttpReceiver) -> None:
    with going_on(command(f"{PROGRAMS}.arq_jobs.Timetable"), receiver.url, TEST_REDIS_URL=redis_url):
        await until(lambda: pool.exists("ticked"))
    (agent,) = arrived(receiver)
    assert (agent.name, agent.parent, agent.links, agent.attempt) == ("invoke_agent ticker", None, (), 1)


@pytest.mark.parametrize("way", WAYS)
async def test_the_hooks_of_the_application_are_called_inside_the_job(
    way: str, pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    _, tool = await enqueue(pool, "research", "otters", _job_id="hooked")
    await work(redis_url, receiver.url, way)
    for name in ("usher", "researcher", "cleaner"):
        (agent,) = arrived(receiver, f"invoke_agent {name}")
        assert (agent.place.trace_id, agent.parent) == (tool.trace_id, tool.span_id)


@pytest.mark.parametrize("way", WAYS)
async def test_an_agent_of_a_job_enqueues_another_from_its_tool(
    way: str, pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    _, tool = await enqueue(pool, "delegate")
    await work(redis_url, receiver.url, way)
    (editor,) = arrived(receiver, "invoke_agent editor")
    (hand_on,) = arrived(receiver, "execute_tool hand_on")
    (researcher,) = arrived(receiver, "invoke_agent researcher")
    assert [editor.parent, hand_on.parent, researcher.parent] == [
        tool.span_id,
        editor.place.span_id,
        hand_on.place.span_id,
    ]


async def test_an_id_that_is_given_again_has_nothing_of_the_job_before(
    pool: ArqRedis, redis_url: str, receiver: HttpReceiver
) -> None:
    for _ in range(2):
        job, tool = await enqueue(pool, "research", "otters", _job_id="same")
        await work(redis_url, receiver.url)
        assert arrived(receiver, "invoke_agent researcher")[-1].parent == tool.span_id
        await pool.delete(f"arq:result:{job.job_id}")
    await pool.enqueue_job("research", "otters", _job_id="same")
    await work(redis_url, receiver.url)
    assert arrived(receiver, "invoke_agent researcher")[-1].parent is None


async def test_with_a_dead_endpoint_jobs_run_and_what_they_told_is_kept(
    pool: ArqRedis, redis_url: str, tmp_path: Path
) -> None:
    made = [(await enqueue(pool, "research", number))[0] for number in range(3)]
    spool = tmp_path / "spool"
    with closed_port() as port:
        await work(redis_url, f"http://127.0.0.1:{port}", AGENTBUS_SPOOL_DIR=str(spool), AGENTBUS_EXIT_TIMEOUT="2")
    assert [await job.result(timeout=1) for job in made] == [f"dry words about {number}" for number in range(3)]
    assert sum(found.waiting for found in spools(spool)) == 6


class Strict:
    """A serializer that takes what it knows, and nothing else."""

    KNOWN = frozenset(["t", "f", "a", "k", "et"])

    def __call__(self, data: dict[str, Any]) -> bytes:
        if not self.KNOWN.issuperset(data):
            raise TypeError(f"unknown: {sorted(set(data) - self.KNOWN)}")
        return json.dumps(data).encode()


def as_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()


@pytest.mark.parametrize(("serializer", "parents"), [(as_json, 1), (Strict(), 0)])
async def test_serializers_of_the_application_are_asked_and_never_fail_by_us(
    serializer: Any, parents: int, redis_url: str
) -> None:
    theirs = {"job_serializer": as_json, "job_deserializer": json.loads}
    async with opened(redis_url, job_serializer=adapter.carrying(serializer), job_deserializer=json.loads) as pool:
        with testing.capture() as seen:
            async with agentbus.agent("planner"):
                job = await pool.enqueue_job("research", "otters")
            await work_here(**adapter.observed({"functions": [research], "redis_pool": pool, **theirs}))
            assert seen.tree().count("└─") == parents
            assert len(seen.spans) == 2
        assert job is not None
        assert await job.result(timeout=1) == "about otters"


async def work_here(**settings: Any) -> None:
    """A worker in this process, in a task of its own."""
    worker = Worker(**{"burst": True, "handle_signals": False, "poll_delay": 0.01, **settings})
    await asyncio.create_task(worker.async_run())


async def research(ctx: dict[Any, Any], topic: str) -> str:
    async with agentbus.agent("researcher"):
        return f"about {topic}"


async def test_off_leaves_arq_as_it_was_found_and_workers_that_were_made_observe_no_more(redis_url: str) -> None:
    found = vars(connections)["serialize_job"], vars(Worker)["__init__"]
    first, second = adapter.instrument(), adapter.instrument()
    async with opened(redis_url) as pool:
        worker = Worker([research], redis_pool=pool, burst=True, handle_signals=False, poll_delay=0.01)
        with testing.capture() as seen:
            async with agentbus.agent("planner"):
                await pool.enqueue_job("research", "otters")
            second.off()
            first.off()
            second.off()
            assert (vars(connections)["serialize_job"], vars(Worker)["__init__"]) == found
            await asyncio.create_task(worker.async_run())
            assert seen.tree() == "invoke_agent planner\ninvoke_agent researcher"
            async with agentbus.agent("planner"):
                await pool.enqueue_job("research", "otters")
            (key,) = await pool.keys("arq:job:*")
            assert set(pickle.loads(await pool.get(key) or b"")) == Strict.KNOWN


async def test_without_a_run_nothing_is_added(pool: ArqRedis) -> None:
    await pool.enqueue_job("research", "otters", _job_id="alone")
    stored = pickle.loads(await pool.get("arq:job:alone") or b"")
    assert set(stored) == Strict.KNOWN
