"""The jobs of the tests of RQ; whoever performs them connects by importing them, as applications do."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import rq
from redis import Redis
from rq import get_current_job

import otel_agentbus as agentbus

agentbus.connect()


def research(topic: str, style: str = "dry") -> str:
    with agentbus.agent("researcher") as run, run.llm("gpt-5-mini", provider="openai"):
        return f"{style} words about {topic}"


async def research_async(topic: str) -> str:
    async with agentbus.agent("researcher"):
        return f"awaited words about {topic}"


def fail(why: str) -> None:
    with agentbus.agent("researcher"):
        raise ValueError(why)


def fail_while_retries_are_left() -> int | None:
    job = get_current_job()
    assert job is not None
    with agentbus.agent("researcher"):
        if job.retries_left:
            raise ValueError("not yet")
        return job.retries_left


def ask_for_a_retry_once() -> Any:
    job = get_current_job()
    assert job is not None
    with agentbus.agent("researcher"):
        return "done" if job.number_of_retries else rq.Retry(max=2)


def abandon() -> None:
    """Leaves a run open, and current."""
    agentbus.agent("abandoned").__enter__()
    agentbus.Invocation.root(agent="pushed").push()


def sleep_for_long() -> None:
    with agentbus.agent("researcher"):
        time.sleep(60)


def be_killed() -> None:
    with agentbus.agent("researcher"):
        os.kill(os.getpid(), signal.SIGKILL)


def delegate(url: str, queue: str) -> str:
    """Enqueues another job from a tool of its agent."""
    with Redis.from_url(url) as connection, agentbus.agent("editor") as run, run.tool("hand_on"):
        return str(rq.Queue(queue, connection=connection).enqueue(f"{__name__}.research", "owls").id)


def on_success(job: Any, connection: Any, result: Any) -> None:
    with agentbus.agent("reporter"):
        pass


def on_failure(job: Any, connection: Any, kind: Any, error: Any, traceback: Any) -> None:
    with agentbus.agent("undertaker"):
        pass
