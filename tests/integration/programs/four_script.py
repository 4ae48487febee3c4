"""The last of four processes: a plain script, which takes carriers from a list in Redis and goes on by `resume`."""

from __future__ import annotations

import json
import os
import signal
import threading

from redis import Redis

import otel_agentbus as agentbus

URL = os.environ["TEST_REDIS_URL"]


def archive(number: int, carrier: dict[str, str]) -> None:
    with agentbus.resume(carrier), agentbus.agent("archivist", number=number) as run, run.tool("file", number=number):
        pass


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with agentbus.connect(), Redis.from_url(URL, decode_responses=True) as redis:
        while not stop.is_set():
            taken = redis.blpop(["four:script"], 1)
            if taken is None:
                continue
            handed = json.loads(taken[1])
            archive(handed["number"], handed["carrier"])
            redis.rpush(f"four:done:{handed['number']}", "done")
            redis.rpush("four:done", handed["number"])


if __name__ == "__main__":
    main()
