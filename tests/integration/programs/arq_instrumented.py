"""A worker of arq whose code is the application's, observed by `instrument`: its settings are `Instrumented`."""

from __future__ import annotations

from otel_agentbus.adapters import arq as adapter

from .arq_jobs import FUNCTIONS, REDIS, after, before, prepare

adapter.instrument()


class Instrumented:
    functions = FUNCTIONS
    redis_settings = REDIS
    on_startup = prepare
    on_job_start = before
    after_job_end = after
    max_jobs = 60
    poll_delay = 0.05
    allow_abort_jobs = True
