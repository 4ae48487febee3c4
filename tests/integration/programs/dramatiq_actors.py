"""The actors of the tests of Dramatiq; the worker connects by importing them, as applications do."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Retries
from opentelemetry import trace
from opentelemetry.context import attach
from opentelemetry.trace import set_span_in_context

import otel_agentbus as agentbus
from otel_agentbus.adapters import dramatiq as adapter

URL = os.environ.get("DRAMATIQ_URL")


def redis_broker(**options: Any) -> dramatiq.Broker:
    made: dramatiq.Broker = RedisBroker(url=URL, **options)  # type: ignore[no-untyped-call]
    dramatiq.set_broker(made)
    return made


def make_broker() -> dramatiq.Broker:
    """The broker of the worker, observed in the way that the test asks for."""
    if URL is None:
        return StubBroker()
    way = os.environ.get("DRAMATIQ_ORDER", "broker first")
    if way == "by hand":
        made = redis_broker(middleware=[adapter.AgentBusMiddleware(), Retries()])
    elif way == "connected first":
        adapter.instrument()
        made = redis_broker()
    else:
        made = redis_broker()
        adapter.instrument()
    agentbus.connect()
    return made


broker = make_broker()
if os.environ.get("DRAMATIQ_ASYNC"):
    broker.add_middleware(AsyncIO())


def actor(function: Any) -> Any:
    return dramatiq.actor(broker=broker, max_retries=3, min_backoff=1, max_backoff=1)(function)


@actor
def research(topic: str) -> str:
    with agentbus.agent("researcher", topic=topic, thread=threading.get_ident()):
        return f"words about {topic}"


@actor
def research_on(topic: str, words: str) -> None:
    with agentbus.agent("editor", topic=topic, got=words):
        pass


@actor
def fail_until(path: str, times: int) -> None:
    """Fails so many times; a file has how often it was tried."""
    tried = Path(path)
    count = int(tried.read_text()) if tried.exists() else 0
    tried.write_text(str(count + 1))
    with agentbus.agent("researcher"):
        if count < times:
            raise ValueError("not yet")


@actor
def leak(told: str) -> None:
    """Leaves a run open, another pushed, and a span of somebody's current."""
    with agentbus.agent("leaking"):
        pass
    agentbus.agent("abandoned").start()
    agentbus.Invocation.root(agent="pushed").push()
    attach(set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))))
    Path(told).touch()


@actor
def delegate(topic: str) -> None:
    """Sends another message from a tool."""
    with agentbus.agent("middle") as run, run.tool("delegate further"):
        research.send(topic)


@actor
def die(told: str) -> None:
    """Runs an agent, then kills its process, with another run open."""
    with agentbus.agent("done before"):
        pass
    with agentbus.agent("open"):
        Path(told).touch()
        os.kill(os.getpid(), signal.SIGKILL)


@actor
def last_words(told: str) -> None:
    with agentbus.agent("researcher"):
        pass
    Path(told).touch()


if os.environ.get("DRAMATIQ_ASYNC"):

    @actor
    async def research_async(topic: str) -> None:
        async with agentbus.agent("researcher", topic=topic):
            await asyncio.sleep(0)
