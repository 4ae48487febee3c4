"""The second of four processes, of Celery: a task whose agent enqueues an RQ job from a tool."""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-untyped, unused-ignore]
from redis import Redis
from rq import Queue

import otel_agentbus as agentbus

URL = os.environ["TEST_REDIS_URL"]

app = Celery("tasks", broker=URL, set_as_current=False)
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
queue = Queue(connection=Redis.from_url(URL))

agentbus.connect()


@app.task(name="four.research")  # type: ignore[untyped-decorator, unused-ignore]
def research(number: int) -> None:
    with agentbus.agent("researcher", number=number) as run:
        with run.llm("claude-haiku-4-5", provider="anthropic", number=number) as call:
            call.record(input_tokens=number, output_tokens=2)
        with run.tool("hand over", number=number):
            queue.enqueue("tests.integration.programs.four_jobs.write", number)
