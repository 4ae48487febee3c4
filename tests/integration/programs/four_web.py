"""The first of four processes: a web service whose agent hands its work to a Celery task, `four_web PORT`.

The bus closes with the application's lifespan: uvicorn ends itself by the signal that it was given, without exit hooks.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from celery import Celery  # type: ignore[import-untyped, unused-ignore]
from fastapi import FastAPI
from redis.asyncio import Redis

import otel_agentbus as agentbus

URL = os.environ["TEST_REDIS_URL"]
PATIENCE_S = 120

tasks = Celery("web", broker=URL, set_as_current=False)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with agentbus.connect():
        async with Redis.from_url(URL) as app.state.redis:
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/healthy")
async def healthy() -> None: ...


@app.get("/answer")
async def answer(number: int, *, wait: bool) -> str:
    """One request; it may wait for all that it has set off, or answer at once and leave the rest to the others."""
    async with agentbus.agent("front desk", number=number) as run:
        with run.llm("gpt-5-mini", provider="openai", number=number) as call:
            call.record(input_tokens=number, output_tokens=1)
        with run.tool("delegate", number=number):
            await asyncio.to_thread(tasks.send_task, "four.research", (number,))
            if wait:
                assert await app.state.redis.blpop([f"four:done:{number}"], PATIENCE_S)
    return run.invocation.root_id


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
