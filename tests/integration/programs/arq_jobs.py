"""The jobs and the workers' settings of the tests of arq: `python -m arq tests.integration.programs.arq_jobs.Observed`.

`Observed` has our decorator; `Unaware` is a worker that knows nothing of us; `Instrumented`, in `arq_instrumented`, is
one whose code is not changed.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from arq import Retry, cron, func
from arq.connections import RedisSettings

import otel_agentbus as agentbus
from otel_agentbus.adapters.arq import observed

agentbus.connect()

Context = dict[Any, Any]
REDIS = RedisSettings.from_dsn(os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:1/0"))


async def research(ctx: Context, topic: str, style: str = "dry") -> str:
    async with agentbus.agent("researcher") as run, run.llm("gpt-5-mini", provider="openai"):
        return f"{style} words about {topic}"


async def fail(ctx: Context, why: str) -> None:
    async with agentbus.agent("researcher"):
        raise ValueError(why)


async def fail_twice(ctx: Context) -> int:
    async with agentbus.agent("researcher"):
        if ctx["job_try"] < 3:
            raise Retry
        return int(ctx["job_try"])


async def overlap(ctx: Context, number: int, of: int) -> int:
    """Goes on when so many jobs have begun in this worker: then each has a sub-agent."""
    begun = ctx["begun"]
    async with agentbus.agent(f"overlapping {number}"):
        begun.append(number)
        while len(begun) < of:
            await asyncio.sleep(0.01)
        async with agentbus.agent(f"below {number}"):
            return number


async def abandon(ctx: Context) -> None:
    """Leaves a run open, and current."""
    agentbus.agent("abandoned").__enter__()
    agentbus.Invocation.root(agent="pushed").push()


async def sleep_for_long(ctx: Context) -> None:
    async with agentbus.agent("researcher"):
        await asyncio.sleep(60)


async def sleep_at_first(ctx: Context) -> int:
    async with agentbus.agent("researcher"):
        if ctx["job_try"] == 1:
            await asyncio.sleep(60)
        return int(ctx["job_try"])


async def delegate(ctx: Context) -> str:
    """Enqueues another job from a tool of its agent, by the pool that a worker gives."""
    async with agentbus.agent("editor") as run, run.tool("hand_on"):
        job = await ctx["redis"].enqueue_job("research", "owls")
        return str(job.job_id)


async def tick(ctx: Context) -> None:
    async with agentbus.agent("ticker"):
        await ctx["redis"].set("ticked", "yes")


async def before(ctx: Context) -> None:
    if ctx["job_id"] == "hooked":
        async with agentbus.agent("usher"):
            pass


async def after(ctx: Context) -> None:
    if ctx["job_id"] == "hooked":
        async with agentbus.agent("cleaner"):
            pass


async def prepare(ctx: Context) -> None:
    ctx["begun"] = []


FUNCTIONS = [
    research,
    fail,
    fail_twice,
    overlap,
    abandon,
    func(sleep_for_long, timeout=0.5),
    func(sleep_at_first, name="sleep_at_first"),
    delegate,
]


class Unaware:
    functions = FUNCTIONS
    redis_settings = REDIS
    on_startup = prepare
    max_jobs = 60
    poll_delay = 0.05
    allow_abort_jobs = True


@observed
class Observed:
    functions = FUNCTIONS
    redis_settings = REDIS
    on_startup = prepare
    on_job_start = before
    after_job_end = after
    max_jobs = 60
    poll_delay = 0.05
    allow_abort_jobs = True


@observed
class Timetable:
    cron_jobs = (cron(tick, run_at_startup=True),)
    redis_settings = REDIS
    poll_delay = 0.05
