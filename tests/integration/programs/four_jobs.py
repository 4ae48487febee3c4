"""The third of four processes, of RQ: a job whose agent hands on to a plain script. Read by `rq worker -c` as well."""

from __future__ import annotations

import json
import os

from redis import Redis

import otel_agentbus as agentbus

URL = os.environ["TEST_REDIS_URL"]

agentbus.connect(instrument="rq")


def write(number: int) -> None:
    with agentbus.agent("writer", number=number) as run:
        with run.llm("gpt-5-mini", provider="openai", number=number) as call:
            call.record(input_tokens=number, output_tokens=3)
        with run.tool("look up", number=number):
            pass
        with Redis.from_url(URL) as redis:
            redis.rpush("four:script", json.dumps({"number": number, "carrier": dict(agentbus.inject())}))
