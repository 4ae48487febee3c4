"""The tasks of the tests of Celery; the worker and whoever sends connect by importing them, as applications do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery  # type: ignore[import-untyped, unused-ignore]
from celery.signals import worker_process_init  # type: ignore[import-untyped, unused-ignore]
from opentelemetry import trace
from opentelemetry.context import attach
from opentelemetry.trace import set_span_in_context

import otel_agentbus as agentbus
from otel_agentbus.adapters import celery as adapter

URL = os.environ.get("CELERY_URL", "memory://")
app = Celery("tasks", broker=URL, backend=os.environ.get("CELERY_URL", "cache+memory://"))
app.conf.update(
    task_protocol=int(os.environ.get("CELERY_PROTOCOL", "2")),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    result_expires=60,
)


def instrument_theirs() -> None:
    """OpenTelemetry's own instrumentation, beside ours; in each process of a pool, as it wants to be."""
    from opentelemetry.instrumentation import celery

    theirs: Any = celery.CeleryInstrumentor  # which has no types
    theirs().instrument()
    worker_process_init.connect(lambda **_: theirs().instrument(), weak=False)


if "CELERY_URL" in os.environ:
    ALSO = os.environ.get("CELERY_ALSO")
    agentbus.connect(set_global=ALSO is not None)
    if ALSO == "theirs first":
        instrument_theirs()
    adapter.instrument()
    if ALSO == "ours first":
        instrument_theirs()


def task(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Celery's decorator, which has no types."""
    made: Callable[[Callable[..., Any]], Any] = app.task(**options)
    return made


@task()
def research(topic: str) -> str:
    with agentbus.agent("researcher", topic=topic) as run, run.llm("gpt-5-mini", provider="openai"):
        return f"words about {topic}"


@task()
def research_on(words: Any, topic: str) -> str:
    with agentbus.agent("editor", topic=topic, got=str(words)):
        return f"{words}, {topic}"


@task(bind=True, max_retries=3, default_retry_delay=0)
def fail_three_times(self: Any) -> int:
    with agentbus.agent("researcher"):
        if self.request.retries < 3:
            raise self.retry(countdown=0)
        return int(self.request.retries)


@task(autoretry_for=(ValueError,), retry_kwargs={"max_retries": 1, "countdown": 0})
def fail_once_by_itself(path: str) -> str:
    with agentbus.agent("researcher"):
        if not Path(path).exists():
            Path(path).touch()
            raise ValueError("not yet")
        return "done"


@task(bind=True, max_retries=1)
def retried_in_a_chain(self: Any) -> str:
    with agentbus.agent("researcher"):
        pass
    if not self.request.retries:
        raise self.retry(countdown=0)
    return "retried"


@task()
def leak() -> int:
    """Leaves a run open, another pushed, and a span of somebody's current."""
    with agentbus.agent("leaking"):
        pass
    agentbus.agent("abandoned").start()
    agentbus.Invocation.root(agent="pushed").push()
    attach(set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))))
    return os.getpid()


@task()
def where() -> int:
    with agentbus.agent("researcher"):
        return os.getpid()


@task()
def fails() -> None:
    with agentbus.agent("researcher"):
        raise ValueError("it is so")


@task()
def delegate(topic: str) -> None:
    """Sends another task from a tool."""
    with agentbus.agent("middle") as run, run.tool("delegate further"):
        research.delay(topic)


@task()
def call_in_place(topic: str) -> None:
    """Calls another task where it is."""
    with agentbus.agent("middle"):
        research.apply((topic,))


@task()
def die(told: str) -> None:
    """Runs an agent, then kills its process, with another run open."""
    with agentbus.agent("done before"):
        pass
    with agentbus.agent("open"):
        Path(told).touch()
        os.kill(os.getpid(), signal.SIGKILL)


@task()
def last_words(told: str) -> None:
    with agentbus.agent("researcher"):
        pass
    Path(told).touch()


@task()
def hang(told: str) -> None:
    """Goes on until somebody ends the process."""
    with agentbus.agent("done before"):
        pass
    with agentbus.agent("hanging"):
        Path(told).touch()
        time.sleep(60)
