"""An RQ worker in a process whose code is the application's: `python -m tests.integration.programs.rq_worker KIND URL`.

KIND is one of Worker and SimpleWorker (as they are, RQ observed by `instrument`) and SpawnWorker (with our classes).
It ends when no job is left, unless a third argument, `stay`, is given.
"""

from __future__ import annotations

import sys
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker, Worker

import otel_agentbus as agentbus
from otel_agentbus.adapters import rq as adapter

if __name__ == "__main__":
    kind, url, *stay = sys.argv[1:]
    agentbus.connect()
    connection = Redis.from_url(url)
    if kind == "SpawnWorker":
        queue = Queue(connection=connection, job_class=adapter.AgentBusJob)
        worker: Any = adapter.AgentBusSpawnWorker([queue], connection=connection, job_class=adapter.AgentBusJob)
    else:
        adapter.instrument()
        chosen = {"Worker": Worker, "SimpleWorker": SimpleWorker}[kind]
        worker = chosen([Queue(connection=connection)], connection=connection)
    worker.work(burst=not stay, with_scheduler=False)
